"""Claims NX-R1 to NX-R5: what random networks do on one token repeated T times (2410.10781, appendix C.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from jaxsink.attention import ReLU, RowMap, Sigmoid, SinkLogit, Softpick
from theory import repeated
from theory.calculations.repeated import DistinctFirstKey, Positions, RepeatedToken, RisingDistance, RopeHeads
from theory.claim import TIERS, Arms, Claim, Control, Measure, Spec, Tier
from theory.claims.exactness import INF, WITHIN, equal, evidence, unequal, within

SOURCE = "2410.10781, appendix C.1"
# The context and the threshold of the source's sink metric.
LENGTH, THRESHOLD = 64, 0.3
# Just below where the pointwise and the distance bound stop to exclude a sink: 1.0946 and 8.6676.
_BELOW_BOUND, _BELOW_DISTANCE_BOUND, _LARGE = 1.09, 8.66, 40.0
Array = np.ndarray

_SOFTMAX: Mapping[str, RepeatedToken] = {
    "repeat_nope": RepeatedToken(),
    "repeat_t5": RepeatedToken(positions="t5"),
    "repeat_alibi": RepeatedToken(positions="alibi"),
    "repeat_rope": RepeatedToken(positions="rope"),
    "repeat_window": RepeatedToken(positions="rope", window=8),
    "repeat_window_sinks": RepeatedToken(positions="rope", window=8, sinks=4),
}
_LEARNED = {"repeat_learned": RepeatedToken(positions="learned")}
_UNNORMALISED: Mapping[str, tuple[RowMap, Positions]] = {
    "repeat_sink_logit": (SinkLogit(), "none"),
    "repeat_sigmoid": (Sigmoid(), "none"),
    "repeat_relu_rope": (ReLU(), "rope"),
    "repeat_softpick_rope": (Softpick(), "rope"),
}


def _networks(specs: Mapping[str, RepeatedToken]) -> Mapping[Tier, Mapping[str, Spec]]:
    larger = {arm: replace(spec, layers=4, width=32, heads=4) for arm, spec in specs.items()}
    return {"quick": specs, "paper": larger}


def _joined(*parts: Mapping[Tier, Mapping[str, Spec]]) -> Mapping[Tier, Mapping[str, Spec]]:
    return {tier: {arm: spec for part in parts for arm, spec in part[tier].items()} for tier in TIERS}


# NX-R1 ----------------------------------------------------------------------------------------------------------
def _states(arm: str) -> Callable[[Arms], tuple[Array, Array]]:
    """(states of all positions, those of a context of one token)."""

    def sides(a: Arms) -> tuple[Array, Array]:
        run = a[arm].arrays
        return run["states"], repeated.one_token_states(run)[:, :, None]

    return sides


def _smallest_update(a: Arms) -> float:
    return float(min(a[arm].arrays["update"].min() for arm in _SOFTMAX))


R1 = Claim(
    id="NX-R1",
    source=SOURCE,
    statement="On a repeated token all hidden states equal those of that token alone, for NoPE, T5, ALiBi, RoPE, a "
    "sliding window, and a window with sinks.",
    kind="identity",
    evidence=_networks({**_SOFTMAX, **_LEARNED}),
    measures=dict.fromkeys(
        TIERS,
        (
            *(equal(f"hidden states, {arm}", _states(arm)) for arm in _SOFTMAX),
            # Else the states would be equal because attention does nothing.
            Measure(
                "smallest norm of what attention adds, over that of the state", _smallest_update, "> 0.01", (0.01, INF)
            ),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("learned positions", dict.fromkeys(_SOFTMAX, "repeat_learned")),
    note="Random initial weights: only that rows add up to one and that no first token is distinct is used.",
)


# NX-R2 ----------------------------------------------------------------------------------------------------------
def _spread(arm: str) -> Callable[[Arms], tuple[Array, Array]]:
    """(states of all positions, those of the first)."""

    def sides(a: Arms) -> tuple[Array, Array]:
        states = a[arm].arrays["states"]
        return states, states[:, :, :1]

    return sides


def _mass(arm: str) -> Callable[[Arms], tuple[Array, Array]]:
    """(mass of the rows of layer 1, its prediction)."""
    attention, positions = _UNNORMALISED[arm]

    def sides(a: Arms) -> tuple[Array, Array]:
        run = a[arm].arrays
        length = run["mass"].shape[-1]
        turned = repeated.rotary_scores(run["query"], run["key"], length)
        # Without positions every score is that at distance 0.
        scores = turned if positions == "rope" else np.repeat(turned[..., :1], length, axis=-1)
        match attention:
            case SinkLogit():
                # A control arm has no sink logits: it is compared with a sink logit of 0.
                sink = run["sink_logit"][:, 0] if "sink_logit" in run else np.zeros(scores.shape[:2])
                expected = repeated.sink_logit_mass(scores, sink)
            case Sigmoid():
                expected = repeated.sigmoid_mass(scores)
            case ReLU():
                expected = repeated.relu_mass(scores)
            case _:
                expected = repeated.softpick_mass(scores, Softpick().eps)
        return run["mass"], expected

    return sides


R2 = Claim(
    id="NX-R2",
    source=SOURCE + "; masses of the rows new",
    statement="Hidden states on a repeated token differ between positions for sink logits, sigmoid, ReLU with RoPE and "
    "softpick with RoPE, because the mass of a row depends on its position in a known way.",
    kind="identity",
    evidence=_networks(
        {arm: RepeatedToken(attention=row_map, positions=at) for arm, (row_map, at) in _UNNORMALISED.items()}
        | {"repeat_rope": _SOFTMAX["repeat_rope"]}
    ),
    measures=dict.fromkeys(
        TIERS,
        (
            # Six orders above the rounding that NX-R1 allows.
            *(unequal(f"hidden states and the first, {arm}", _spread(arm), 1e-6) for arm in _UNNORMALISED),
            *(equal(f"mass of the rows of layer 1, {arm}", _mass(arm)) for arm in _UNNORMALISED),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("softmax with RoPE", dict.fromkeys(_UNNORMALISED, "repeat_rope")),
    note="ReLU divides by the position, so that without RoPE its rows have equal masses, and softpick nearly so.",
)


# NX-R3 ----------------------------------------------------------------------------------------------------------
def _even(a: Arms) -> tuple[Array, Array]:
    run = a["repeat_nope"].arrays
    return run["weights"], repeated.even_weights(run["rows"], LENGTH)


def _alibi(a: Arms) -> tuple[Array, Array]:
    run = a["repeat_alibi"].arrays
    return run["weights"], repeated.alibi_weights(run["slopes"], run["rows"], LENGTH)


def _falls(a: Arms) -> float:
    last = a["repeat_alibi"].arrays["weights"][..., -1, :]
    return float(np.diff(np.log(last), axis=-1).min())


R3 = Claim(
    id="NX-R3",
    source=SOURCE,
    statement="On a repeated token NoPE attends evenly, A_{t,i} = 1/t, and ALiBi falls with the distance within a row, "
    "A_{t,i} = e^{-m(t-i)} (1 - e^{-m}) / (1 - e^{-mt}).",
    kind="identity",
    evidence=_networks({arm: _SOFTMAX[arm] for arm in ("repeat_nope", "repeat_alibi", "repeat_rope")}),
    measures=dict.fromkeys(
        TIERS,
        (
            equal("NoPE, weights", _even),
            equal("ALiBi, weights", _alibi),
            Measure(
                "ALiBi, smallest log of the weights of neighbouring keys, nearer over farther",
                _falls,
                "> 0",
                (0.0, INF),
            ),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("RoPE", {"repeat_nope": "repeat_rope", "repeat_alibi": "repeat_rope"}),
    note="Between rows ALiBi's weights at one distance do not compare: the normaliser depends on the row.",
)


# NX-R4 ----------------------------------------------------------------------------------------------------------
def _above_bound(arm: str) -> Measure:
    def extract(a: Arms) -> float:
        run = a[arm].arrays
        return float(
            np.sum(run["largest"] > WITHIN * repeated.rope_bound(run["xi"][..., None], np.arange(1, LENGTH + 1)))
        )

    return Measure(f"rows with a weight above the bound, {arm} (count)", extract, "0", (-0.5, 0.5))


def _largest_first(arm: str) -> Measure:
    def extract(a: Arms) -> float:
        return float(a[arm].arrays["first"].max())

    return Measure(f"largest mean weight on the first key, {arm}", extract, f"< {THRESHOLD}", (-INF, THRESHOLD))


def _second_row(a: Arms) -> tuple[Array, Array]:
    run = a["rope_heads"].arrays
    return run["largest"][:, 1].max(), repeated.second_row_weight(run["xi"].max())


def _first_key(a: Arms) -> tuple[Array, Array]:
    run = a["distinct_first_key"].arrays
    return run["first"], repeated.first_key_bound(run["xi"], LENGTH)


def _crossing(a: Arms) -> float:
    """xi at which the mean weight on a distinct first key passes the threshold, over the prediction."""
    run = a["distinct_first_key"].arrays
    order = np.argsort(run["xi"])
    found = np.interp(THRESHOLD, run["first"][order], run["xi"][order])
    return float(found / repeated.sink_free_xi(LENGTH, THRESHOLD))


_HEADS = evidence(
    rope_heads=RopeHeads(_BELOW_BOUND),
    rope_heads_large=RopeHeads(_LARGE),
    distinct_first_key=DistinctFirstKey(),
)
R4 = Claim(
    id="NX-R4",
    source=SOURCE + "; where the bounds are attained new",
    statement="With RoPE on a repeated token A_{t,i} <= e^{2 xi}/(e^{2 xi}+t-1), xi = |q||k|/sqrt(H), which excludes a "
    "sink at threshold .3, T = 64 for xi < 1.09; a distinct first key attains the bound in every row at once.",
    kind="theory",
    evidence=_joined(_HEADS, _networks({"repeat_rope": _SOFTMAX["repeat_rope"]})),
    measures=dict.fromkeys(
        TIERS,
        (
            _above_bound("rope_heads"),
            _above_bound("repeat_rope"),
            equal("largest weight in row 2, against 1/(1 + e^{-2 xi sin(1/2)})", _second_row),
            _largest_first("rope_heads"),
            equal("mean weight on a distinct first key, against the bound", _first_key),
            # Interpolated between heads that are .01 apart, seldom .06: .06^2 / 8 times a curvature over slope of 2.
            Measure(
                "xi at which a distinct first key becomes a sink, over 1.09", _crossing, "1", (0.998, 1.002), "log"
            ),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("RoPE heads of xi = 40", {"rope_heads": "rope_heads_large"}),
    note="On a repeated token itself no sink is possible up to xi = 8.67: see NX-R5.",
)


# NX-R5 ----------------------------------------------------------------------------------------------------------
def _distance_ratios(arm: str) -> Callable[[Arms], Array]:
    def ratios(a: Arms) -> Array:
        run = a[arm].arrays
        return run["first"] / repeated.distance_bound(run["xi"], LENGTH)

    return ratios


def _least_ratio(a: Arms) -> float:
    ratios = _distance_ratios("rising_scores")(a)
    return float(ratios[a["rising_scores"].arrays["first"] > THRESHOLD].min(initial=INF))


def _least_sink(a: Arms) -> float:
    """Smallest xi of a head with a sink over the predicted least."""
    run = a["rising_scores"].arrays
    sinks = run["xi"][run["first"] > THRESHOLD]
    return float(sinks.min(initial=INF) / repeated.distance_sink_free_xi(LENGTH, THRESHOLD))


R5 = Claim(
    id="NX-R5",
    source="new",
    statement="Where scores depend on the distance alone, as on a repeated token, and lie within 2 xi of each other, "
    "the mean weight on the first key is at most (1 + (T-1)(1 - (1 + (T-1) e^{2 xi})^{-1/(T-1)}))/T, which excludes a "
    "sink at threshold .3, T = 64 for xi < 8.67.",
    kind="theory",
    evidence=evidence(
        rope_heads_middle=RopeHeads(_BELOW_DISTANCE_BOUND),
        rising_scores=RisingDistance(),
        distinct_first_key=DistinctFirstKey(),
    ),
    measures=dict.fromkeys(
        TIERS,
        (
            within("mean weight on the first key, RoPE heads", _distance_ratios("rope_heads_middle")),
            within("mean weight on the first key, rising scores", _distance_ratios("rising_scores")),
            # The bound lets all of the T - 1 later terms be e^{2 xi}. Where each has a share x of the sum so far, that
            # is log((T - 1) x) too much in its exponent: at x = .3, 3 of 26.
            Measure("least ratio to the bound of a sink of rising scores", _least_ratio, "> 0.85", (0.85, 1.0), "log"),
            _largest_first("rope_heads_middle"),
            # A slope m gives each row a share of 1 - e^{-m}, the first ones more: a sink at the latest from
            # 2 xi = 63 log(1/.7) on, xi = 1.296 * 8.67.
            Measure("least xi of a sink of rising scores, over 8.67", _least_sink, "1 to 1.3", (1.0, 1.3), "log"),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control(
        "a first key unlike all others",
        {"rope_heads_middle": "distinct_first_key", "rising_scores": "distinct_first_key"},
    ),
    note="The pointwise bound of NX-R4 lets every row be the worst at once, which distances do not allow.",
)

CLAIMS = (R1, R2, R3, R4, R5)
