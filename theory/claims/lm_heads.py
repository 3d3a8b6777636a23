"""Claims LM2 and LM3: heads of a pretrained decoder by domain, and what zeroing them costs (2410.13835, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from theory.checkpoint import Domain, Passages
from theory.claim import TIERS, Arms, Claim, Control, Measure, Run, Tier
from theory.claims.lm import SMOLLM2_NOTE
from theory.claims.wv_arms import DRAWS
from theory.heads import RATE, Comparison, HeadZeroing, compare
from theory.profiles import rank_correlations

Array = NDArray[np.float64]

# A head that is dormant on one kind of text and active on another differs in its weight on the first token by this.
GAP = 0.2
# Passages compared with others, and their tokens. Of prose there are twice as many, for a comparison with itself.
_COUNT: dict[Tier, int] = {"quick": 8, "paper": 32}
_LENGTH: dict[Tier, int] = {"quick": 128, "paper": 256}
# Passages of each domain whose loss is measured, their tokens, and of how many blocks one has its heads zeroed.
_ZEROED: dict[Tier, tuple[int, int, int]] = {"quick": (1, 128, 10), "paper": (16, 128, 1)}


def _passages(model: str, domain: Domain, bos: bool = False) -> dict[Tier, Passages]:
    twice = 2 if domain == "prose" else 1
    return {tier: Passages(model, domain, twice * _COUNT[tier], _LENGTH[tier], bos=bos) for tier in TIERS}


_HEADS: dict[str, dict[Tier, Passages]] = {
    "heads_prose": _passages("smollm2-135m", "prose"),
    "heads_code": _passages("smollm2-135m", "code"),
    "heads_documentation": _passages("smollm2-135m", "documentation"),
    "heads_random": _passages("smollm2-135m", "random"),
    "heads_repeated": _passages("smollm2-135m", "repeated"),
    "heads_prose_begun": _passages("smollm2-135m", "prose", bos=True),
    "heads_code_begun": _passages("smollm2-135m", "code", bos=True),
    "heads_glassllm_prose": _passages("glassllm", "prose"),
    "heads_glassllm_code": _passages("glassllm", "code"),
}


def _arms(*names: str) -> dict[Tier, dict[str, Passages]]:
    return {tier: {name: _HEADS[name][tier] for name in names} for tier in TIERS}


def sink_mass(run: Run) -> Array:
    """[B, L, N], mean weight of the later queries on the first token."""
    return np.asarray(run.arrays["weight_by_head"][..., 0], np.float64)


def between(a: Arms, first: str, second: str) -> Comparison:
    """The heads compared between two arms, on as many passages of each."""
    one, other = sink_mass(a[first]), sink_mass(a[second])
    count = min(len(one), len(other))
    return compare(one[:count], other[:count])


def halves(a: Arms, arm: str) -> Comparison:
    """The heads compared between two halves of the passages of one arm."""
    masses = sink_mass(a[arm])
    return compare(masses[: len(masses) // 2], masses[len(masses) // 2 :])


def _domains(a: Arms) -> Comparison:
    return between(a, "heads_prose", "heads_code")


def _share(comparison: Callable[[Arms], Comparison], words: str) -> Measure:
    return Measure(
        f"share of heads that differ in their weight on the first token, {words}",
        lambda a: float(comparison(a).differs().mean()),
        "> 0.05",
        (0.05, math.inf),
    )


def _count(counts: Callable[[Arms], float], words: str) -> Measure:
    return Measure(f"heads that differ by {GAP:g} or more, {words}", counts, "> 2", (2.0, math.inf))


def _turn(comparison: Callable[[Arms], Comparison], words: str) -> dict[Tier, tuple[Measure, ...]]:
    """What it means that heads turn with what is compared."""
    count = _count(lambda a: float(comparison(a).differs(GAP).sum()), words)
    return dict.fromkeys(TIERS, (_share(comparison, words), count))


def _glassllm(a: Arms) -> float:
    return float(between(a, "heads_glassllm_prose", "heads_glassllm_code").differs(GAP).sum())


_TEST = (
    f"Heads differ by a permutation test over passages, exact in the quick tier, at a false-discovery rate of {RATE:g}"
)

LM2 = Claim(
    id="LM2",
    source="2410.13835, section 4",
    statement="Some heads of a pretrained decoder are dormant on prose and active on code, or the other way round.",
    kind="checkpoint",
    evidence=_arms(*(arm for arm in _HEADS if not arm.endswith("_begun"))),
    measures=_turn(_domains, "prose and code"),
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control(
        "two halves of the prose; and prose and code in a decoder without a sink (glassllm)",
        measures=dict.fromkeys(
            TIERS,
            (
                _share(lambda a: halves(a, "heads_prose"), "two halves of the prose"),
                _count(
                    lambda a: max(float(halves(a, "heads_prose").differs(GAP).sum()), _glassllm(a)),
                    "two halves of the prose, or prose and code in glassllm, whichever has more",
                ),
            ),
        ),
    ),
    figure="head_domains",
    note=(
        f"{SMOLLM2_NOTE} {_TEST}. Passages of code begin with other tokens than those of prose, and how much a first "
        "token is attended to hangs on what it is, too: whole blocks differ. LM2c leaves that out."
    ),
)


def _begun(a: Arms) -> Comparison:
    return between(a, "heads_prose_begun", "heads_code_begun")


def _begun_halves(a: Arms) -> Comparison:
    return halves(a, "heads_prose_begun")


LM2C = Claim(
    id="LM2c",
    source="2410.13835, section 4; one first token for all is new",
    statement="It is the text that turns heads, and not its first token: they also differ where every passage begins "
    "with the same one.",
    kind="checkpoint",
    evidence=_arms("heads_prose_begun", "heads_code_begun"),
    measures=_turn(_begun, "prose and code"),
    expected={"quick": "supported", "paper": "inconclusive"},
    control=Control("two halves of the prose", measures=_turn(_begun_halves, "two halves of the prose")),
    figure="head_domains",
    note=(
        "SmolLM2-135M-Instruct in 4 bits, behind the token that its tokenizer begins a text with, which it was not "
        f"made to need. {DRAWS} {_TEST}. In passages twice as long (paper) fewer heads reach the gap: 4 to 14."
    ),
)


def _rise(first: str) -> Callable[[Arms], float]:
    """Share of the heads that differ from prose whose weight on the first token is larger in that arm."""

    def share(a: Arms) -> float:
        found = between(a, first, "heads_prose")
        gaps = found.gap[found.differs()]
        return float((gaps > 0).mean()) if gaps.size else math.nan

    return share


def _mean_rise(a: Arms, arm: str) -> float:
    return float(between(a, arm, "heads_prose").gap.mean())


LM2B = Claim(
    id="LM2b",
    source="new; after 2410.13835, section 4",
    statement="On random tokens, of which no head can make anything, heads are more dormant than on prose.",
    kind="checkpoint",
    evidence=_arms("heads_prose", "heads_random", "heads_repeated"),
    measures=dict.fromkeys(
        TIERS,
        (
            Measure(
                "weight on the first token, random tokens minus prose, mean over heads",
                lambda a: _mean_rise(a, "heads_random"),
                "> 0",
                (0.0, math.inf),
            ),
            Measure(
                "share of the heads that differ which give it more on random tokens",
                _rise("heads_random"),
                "> 0.5",
                (0.5, math.inf),
            ),
        ),
    ),
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control("one token repeated, which takes the sink away", swap={"heads_random": "heads_repeated"}),
    figure="head_domains",
    note=f"{SMOLLM2_NOTE} {_TEST}.",
)

# Zeroing -------------------------------------------------------------------------------------------------------
# Random pairings of sink masses and costs that the control of LM3b is the mean of.
_SHUFFLES = 50
_ARMS = ("zeroed_prose", "zeroed_code")
_DOMAINS: tuple[Domain, ...] = ("prose", "code")
_EVIDENCE: dict[Tier, dict[str, HeadZeroing]] = {
    tier: {
        arm: HeadZeroing(Passages("smollm2-135m", domain, count, length), every)
        for arm, domain in zip(_ARMS, _DOMAINS, strict=True)
    }
    for tier, (count, length, every) in _ZEROED.items()
}


def _both(a: Arms, name: str) -> Array:
    """[2, Z N], what is measured of every head in either domain, means over passages."""
    return np.stack([np.asarray(a[arm].arrays[name], np.float64).mean(0).ravel() for arm in _ARMS])


def _sink_mass(a: Arms) -> Array:
    return _both(a, "sink_mass")


def _cheapness(a: Arms) -> Array:
    return -_both(a, "divergence")


def _correlation(a: Arms, dormancy: Callable[[Arms], Array], within: bool = False) -> float:
    """Mean over domains, or within blocks over domains and blocks."""
    heads = a[_ARMS[0]].arrays["sink_mass"].shape[-1]
    pair = dormancy(a), _both(a, "divergence")
    return float(rank_correlations(*(x.reshape(-1, heads) if within else x for x in pair)).mean())


def _thirds(dormancy: Array, effects: Array) -> tuple[float, float]:
    """Mean effects of the most dormant third of heads, and of the least dormant one."""
    order = np.argsort(dormancy, axis=None)
    third = order.size // 3
    return float(effects.ravel()[order[-third:]].mean()), float(effects.ravel()[order[:third]].mean())


def _ratio(a: Arms, dormancy: Callable[[Arms], Array]) -> float:
    dormant, active = _thirds(dormancy(a), _both(a, "divergence"))
    return dormant / active


def _costs_nothing(dormancy: Callable[[Arms], Array], words: str) -> tuple[Measure, ...]:
    return (
        Measure(
            f"rank correlation of {words} and expected cost over heads, mean over domains",
            lambda a: _correlation(a, dormancy),
            "< -0.3",
            (-math.inf, -0.3),
        ),
        Measure(
            "the same within a block, mean over blocks and domains",
            lambda a: _correlation(a, dormancy, within=True),
            "< -0.3",
            (-math.inf, -0.3),
        ),
        Measure(
            f"mean expected cost, third of heads with most {words} over that with least",
            lambda a: _ratio(a, dormancy),
            "< 0.3",
            (0.0, 0.3),
            scale="log",
        ),
        Measure(
            f"mean change of the loss (nats), third of heads with most {words}",
            lambda a: _thirds(dormancy(a), _both(a, "cost"))[0],
            "-0.01 to 0.01",
            (-0.01, 0.01),
        ),
    )


_EXPECTED = (
    "The expected cost is the divergence of the model with the zeroed head from the whole one: the change of the loss "
    "if the next tokens were drawn from the whole model"
)
_SUBSET = "In the quick tier only the heads of every tenth block, the last one's among them, are zeroed."

LM3 = Claim(
    id="LM3",
    source="2410.13835, section 4",
    statement="Zeroing a dormant head costs next to nothing beside zeroing an active one.",
    kind="checkpoint",
    evidence=_EVIDENCE,
    measures=dict.fromkeys(TIERS, _costs_nothing(_sink_mass, "sink mass")),
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control(
        "heads ranked by their expected cost itself, where the same measures must hold",
        measures=dict.fromkeys(TIERS, _costs_nothing(_cheapness, "cheapness")),
        expected="supported",
    ),
    figure="head_costs",
    note=(
        f"{SMOLLM2_NOTE} Prose and code. {_EXPECTED}. Dormant heads cost a fifth as much with all heads and 16 "
        f"passages a seed (paper); in the quick tier it is .34 to .45, which three seeds leave undecided. {_SUBSET}"
    ),
)


def _paired(masses: Array, effects: Array, shuffles: int) -> Iterator[tuple[Array, Array]]:
    """The heads as they are, or so many times each with another head's effects."""
    if not shuffles:
        yield masses, effects
    rng = np.random.default_rng(0)
    for _ in range(shuffles):
        yield masses, rng.permutation(effects, axis=-1)


def _shift(shuffles: int) -> tuple[Measure, ...]:
    def correlation(a: Arms) -> float:
        masses, logs = _both(a, "sink_mass"), np.log(_both(a, "divergence"))
        pairs = _paired(masses[0] - masses[1], logs[0] - logs[1], shuffles)
        return float(np.mean([rank_correlations(*pair) for pair in pairs]))

    return (
        Measure(
            "rank correlation over heads of the difference in sink mass, prose minus code, with the ratio of costs",
            correlation,
            "< -0.2",
            (-math.inf, -0.2),
        ),
    )


LM3B = Claim(
    id="LM3b",
    source="2410.13835, section 4",
    statement="A head costs more in that domain, prose or code, in which it is the more active.",
    kind="checkpoint",
    evidence=_EVIDENCE,
    measures=dict.fromkeys(TIERS, _shift(0)),
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control(
        f"each head's difference in sink mass beside the expected costs of another, mean of {_SHUFFLES} such pairings",
        measures=dict.fromkeys(TIERS, _shift(_SHUFFLES)),
    ),
    figure="head_costs",
    note=f"{SMOLLM2_NOTE} {_EXPECTED}. {_SUBSET}",
)

CLAIMS = (LM2, LM2B, LM2C, LM3, LM3B)
