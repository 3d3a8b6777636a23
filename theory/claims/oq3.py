"""Claims OQ3a-OQ3f: what networks with and without sinks pay for rounding, eviction and other texts, at equal loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from jaxsink.attention import VARIANTS
from jaxsink.training import AdamW, TrainConfig
from theory.claim import TIERS, Arms, Claim, Control, Measure, Tier
from theory.claims import arms
from theory.costs import Costs, cost, longer_cost

SOURCE = "open question of 2410.13835; the experiment is new"
# A variant that needs a sink, and those that the theory lets do without one: names of arms and of the catalogue.
SOFTMAX = "costs_softmax"
WITHOUT: Mapping[str, str] = {
    "costs_softmax_n": "softmax-n",
    "costs_sink_logit": "sink-logit",
    "costs_sigmoid": "sigmoid",
    "costs_g1_gate": "g1-elementwise",
}
_VARIANTS: Mapping[str, str] = {SOFTMAX: "softmax", **WITHOUT}
# What eviction must cost at least (nats).
NOTICED = 1e-3
INF = math.inf

# RoPE, because texts are to be longer than those of training. At the rate of the other quick runs of three layers the
# sink takes three times as many steps.
_RUNS: Mapping[Tier, TrainConfig] = {
    "quick": replace(arms.THREE_BLOCKS, optimiser=AdamW(rate=1e-2), steps=2000, chunk_steps=50),
    "paper": replace(arms.DEEP_ADAM["paper"], batch=128, chunk_steps=100),
}
_TARGETS: Mapping[Tier, float] = {"quick": 0.06, "paper": 0.01}


def _network(tier: Tier, variant: str) -> Costs:
    run = _RUNS[tier]
    model = replace(run.model, positions="rope", attention=VARIANTS[variant].variant)
    return Costs(replace(run, model=model), _TARGETS[tier])


def _networks(*names: str) -> dict[Tier, dict[str, Costs]]:
    return {tier: {name: _network(tier, _VARIANTS[name]) for name in names} for tier in TIERS}


def _same(*measures: Measure) -> dict[Tier, tuple[Measure, ...]]:
    return dict.fromkeys(TIERS, measures)


def _of_eviction(key: str, words: str) -> dict[Tier, tuple[Measure, ...]]:
    """What the eviction of a key costs the softmax network in the late half of the text, and how much above key 1's."""

    def evicted(a: Arms, which: str) -> float:
        return cost(a[SOFTMAX], f"evicted_{which}", "late")

    return _same(
        Measure(
            f"added risk when {words} is evicted, nats in the late half",
            lambda a: evicted(a, key),
            f"> {NOTICED:g}",
            (NOTICED, INF),
        ),
        Measure(
            "the same less that when the second token is evicted",
            lambda a: evicted(a, key) - evicted(a, "1"),
            f"> {NOTICED:g}",
            (NOTICED, INF),
        ),
    )


def _of_one_scale(condition: str, words: str) -> dict[Tier, tuple[Measure, ...]]:
    """What a condition costs the softmax network, over what the rounding of its residual stream with one scale does."""
    return _same(
        Measure(
            f"cost of {words}, over that of all with one scale",
            lambda a: cost(a[SOFTMAX], condition) / cost(a[SOFTMAX], "residual_4"),
            "< 1/2",
            (-INF, 0.5),
        )
    )


def _over_softmax(condition: str) -> dict[Tier, tuple[Measure, ...]]:
    """For each variant without a sink what it pays for 4 bits and one scale, over what softmax pays for a condition."""

    def measure(arm: str) -> Measure:
        return Measure(
            f"cost with {WITHOUT[arm]} over that with softmax",
            lambda a: cost(a[arm], "residual_4") / cost(a[SOFTMAX], condition),
            "within a factor of 2",
            (0.5, 2.0),
            "log",
        )

    return _same(*map(measure, WITHOUT))


def _of_other_text(part: str, other: str) -> dict[Tier, tuple[Measure, ...]]:
    """For each network what one part of another text costs over what the other part does."""

    def measure(arm: str, variant: str) -> Measure:
        return Measure(
            f"{part} cost over {other} cost, {variant}",
            lambda a: cost(a[arm], "other_text", part.lower()) / cost(a[arm], "other_text", other.lower()),
            "> 2",
            (2.0, INF),
            "log",
        )

    return _same(*(measure(*each) for each in _VARIANTS.items()))


_EQUAL = (
    "Networks are compared where the excess risk, of texts kept apart, first falls to "
    f"{_TARGETS['quick']:g} (quick) or {_TARGETS['paper']:g} nats (paper). The figure has risk, sink and peak."
)

OQ3A = Claim(
    id="OQ3a",
    source=SOURCE,
    statement="A network with softmax attention pays for the eviction of <s> from its cache, and not for that of the "
    "next token.",
    kind="training",
    evidence=_networks(*_VARIANTS),
    measures=_of_eviction("0", "<s>"),
    expected=dict.fromkeys(TIERS, "refuted"),
    control=Control(
        "the token before each query, which copies need",
        measures=_of_eviction("previous", "it"),
        expected="supported",
    ),
    figure="sink_costs",
    note="The evicted key is hidden from the late half of the text in all blocks. At equal loss the sink of softmax is "
    "1.3 to 9 times even attention (quick) or 10 to 13 (paper), and yet its eviction costs no seed .0015 nats. "
    f"{_EQUAL}",
)

OQ3B = Claim(
    id="OQ3b",
    source=SOURCE,
    statement="What one scale for all 4-bit activations costs a softmax network is the fault of the residual peak of "
    "<s>: without <s> it is less than half.",
    kind="training",
    evidence=_networks(*_VARIANTS),
    measures=_of_one_scale("residual_4_rest", "all but <s> with one scale"),
    expected=dict.fromkeys(TIERS, "refuted"),
    control=Control(
        "a scale for each token, which no peak can spoil",
        measures=_of_one_scale("residual_4_token", "a scale for each token"),
        expected="supported",
    ),
    figure="sink_costs",
    note="Rounded is the residual stream after each block; one scale is that of all tokens of the batch.",
)

OQ3C = Claim(
    id="OQ3c",
    source=SOURCE,
    statement="One scale for all 4-bit activations costs networks without a sink as much as a softmax network, within "
    "a factor of two.",
    kind="training",
    evidence=_networks(*_VARIANTS),
    measures=_over_softmax("residual_4"),
    expected={"quick": "supported", "paper": "refuted"},
    control=Control("a scale for each token in the softmax network alone", measures=_over_softmax("residual_4_token")),
    figure="sink_costs",
    note="As OQ3b. At the paper's size sigmoid attention pays a hundred times as much as all others.",
)

OQ3D = Claim(
    id="OQ3d",
    source=SOURCE,
    statement="Texts twice as long as those of training cost sigmoid attention, which has no normaliser, more than "
    "twice what they cost softmax.",
    kind="training",
    evidence=_networks(*_VARIANTS),
    measures=_same(
        Measure(
            "cost of texts twice as long (nats), sigmoid's less twice softmax's",
            lambda a: longer_cost(a["costs_sigmoid"], 2) - 2 * longer_cost(a[SOFTMAX], 2),
            "> 0",
            (0.0, INF),
        )
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("softmax and sigmoid exchanged", {SOFTMAX: "costs_sigmoid", "costs_sigmoid": SOFTMAX}),
    figure="sink_costs",
    note="Rotary positions; the risk of the late half of the text above that of a text as in training. It may be "
    "nothing for softmax, so that the two are subtracted and not divided.",
)

OQ3E = Claim(
    id="OQ3e",
    source=SOURCE,
    statement="Text of another chain costs copies more than twice what it costs bigrams, with a sink and without.",
    kind="training",
    evidence=_networks(*_VARIANTS),
    measures=_of_other_text("Backcopy", "Bigram"),
    expected={"quick": "supported", "paper": "inconclusive"},
    control=Control("copies and bigrams exchanged", measures=_of_other_text("Bigram", "Backcopy")),
    figure="sink_costs",
    note="Ordinary characters exchange their parts by one permutation and triggers keep theirs; the risk is that "
    "against the law of the training's chain. At the paper's size sigmoid attention, whose copies cost 2 to 4 times as "
    "much as bigrams, leaves it undecided.",
)

OQ3F = Claim(
    id="OQ3f",
    source=SOURCE,
    statement="What one scale for all 4-bit activations costs a softmax network is the fault of few channels: with a "
    "scale for each channel it is less than half.",
    kind="training",
    evidence=_networks(*_VARIANTS),
    measures=_of_one_scale("residual_4_channel", "a scale for each channel"),
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control(
        "one scale for all but <s>",
        measures=_of_one_scale("residual_4_rest", "all but <s> with one scale"),
    ),
    figure="sink_costs",
    note="Rounded is the residual stream after each block; a channel is one of its places, over all tokens. "
    "In the quick tier it is .10 to .84 of the cost with one scale, a third on average.",
)

CLAIMS = (OQ3A, OQ3B, OQ3C, OQ3D, OQ3E, OQ3F)
