"""Claims WV10-WV10e: how the size of a value moves the weight on its token, through training (2407.01601)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from theory import attribution
from theory.calculations.attribution import MinimalPulls, TrainedPulls, WeightDerivatives
from theory.claim import TIERS, Arms, Claim, Control, Measure, Run, Tier
from theory.claims import arms
from theory.claims.exactness import EXACT, equal, evidence
from theory.claims.wv_open import QUESTION

INF = math.inf
Array = NDArray[np.float64]
Measures = tuple[Measure, ...]


# WV10: in one pass, and through a step --------------------------------------------------------------------------
_UNIT = 2.0**-53


def _earlier(run: Run, name: str) -> Array:
    """[I, ...] derivatives of the weights of the block of a value and of those before it."""
    found = np.asarray(run.arrays[name], np.float64)
    return found[:, *np.tril_indices(found.shape[-1])]


def _own(run: Run, name: str) -> Array:
    """[I, L] derivatives of the weights of the block of a value."""
    return np.diagonal(np.asarray(run.arrays[name], np.float64), axis1=1, axis2=2)


def _nothing(words: str, read: Callable[[Run], Array]) -> Measure:
    return Measure(
        f"largest derivative of a weight on <s> in log |v_<s>|, {words}",
        lambda a: max(_UNIT, float(read(a["weight_derivatives"]).max())),
        "0",
        (-INF, EXACT),
        "log",
    )


WV10 = Claim(
    id="WV10",
    source=QUESTION,
    statement="In a pass the value of <s> cannot move its own weight, nor those of earlier blocks; through a gradient "
    "step it can.",
    kind="identity",
    evidence=evidence(weight_derivatives=WeightDerivatives()),
    measures=dict.fromkeys(
        TIERS,
        (
            _nothing("in the pass, its block and those before", lambda run: _earlier(run, "in_the_pass")),
            Measure(
                "least derivative of the weights of its block after a step of gradient descent, over the rate",
                lambda a: float(_own(a["weight_derivatives"], "after_a_step").min()),
                "> 1e-5",
                (1e-5, INF),
                "log",
            ),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control(
        "after a step of gradient descent",
        measures=dict.fromkeys(TIERS, (_nothing("after a step", lambda run: _own(run, "after_a_step")),)),
    ),
    note="Networks of two blocks with LayerNorm and random weights; of the weights of later blocks nothing is said, "
    "which read what the value added.",
)


# WV10b: exact in the minimal network ----------------------------------------------------------------------------
def _minimal(pull: str) -> Callable[[Run], Array]:
    """[I, n] what is predicted of the minimal network, summed over its queries."""

    def predicted(run: Run) -> Array:
        arrays = run.arrays
        found = np.zeros_like(arrays["velocity"])
        for i, beta in enumerate(arrays["beta"]):
            counts = arrays["weight"][i] > 0
            query, weight, total, b, part = (arrays[k][i][counts] for k in ("query", "weight", "total", "b", "part"))
            a = 1 / (1 + total * np.exp(-arrays["alpha"][i][query]))
            other, value = b / total[:, None], np.broadcast_to(beta, b.shape)
            p = arrays["p"][query]
            q = p * np.exp(a[:, None] * value + (1 - a)[:, None] * other)
            seen = (a, p, q / q.sum(-1, keepdims=True), value, other)
            np.add.at(found[i], query, weight * _of(pull, *seen, part / total[:, None]))
        return found

    return predicted


def _of(pull: str, a: Array, p: Array, q: Array, value: Array, other: Array, part: Array) -> Array:
    if pull == "other":
        return attribution.other_pull(a, p, q, value, other, part)
    if pull == "quadratic":
        return attribution.quadratic_pull(a, q, value, other)
    return {"own": attribution.own_pull, "velocity": attribution.velocity}[pull](a, p, q, value, other)


def _sides(measured: str, predicted: str) -> Callable[[Arms], tuple[Array, Array]]:
    return lambda a: (a["minimal_pulls"].arrays[measured], _minimal(predicted)(a["minimal_pulls"]))


WV10B = Claim(
    id="WV10b",
    source=f"{QUESTION}, after 2410.13835, theorem 2",
    statement="How the velocity of a sink logit answers to |v_<s>| is the cross term of the restricted model, exactly "
    "so in the minimal network.",
    kind="theory",
    evidence=evidence(minimal_pulls=MinimalPulls()),
    measures=dict.fromkeys(
        TIERS,
        (
            equal("d alpha / dt", _sides("velocity", "velocity")),
            equal("d (d alpha / dt) / d log |v_<s>|", _sides("own", "own")),
            equal("d (d alpha / dt) / d log |v_k|, k another token", _sides("other", "other")),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control(
        "the value of another token in the place of that of <s>",
        measures=dict.fromkeys(TIERS, (equal("d (d alpha / dt) / d log |v_k|, as of <s>", _sides("other", "own")),)),
    ),
)


# WV10c-e: in training -------------------------------------------------------------------------------------------
# While the sink forms; later its velocity is noise around little.
STOPS = (30, 60, 100, 200, 400)
_TRAINING: Mapping[Tier, TrainedPulls] = {
    "quick": TrainedPulls(arms.SOFTMAX["quick"], STOPS),
    "paper": TrainedPulls(arms.SOFTMAX["paper"], tuple(10 * step for step in STOPS)),
}
_IN_TRAINING = {tier: {"trained_pulls": spec} for tier, spec in _TRAINING.items()}
_ANOTHER = "the value of the most frequent character that is no trigger, in the place of that of <s>"


def predicted_pull(run: Run, pull: str, mlp: str = "") -> Array:
    """[P, V + 1] what the theory makes of a network in training, by the character of the query.

    Args:
      run: evidence of `TrainedPulls`. pull: "velocity", "own", its part "quadratic", or "other".
      mlp: "_mlp_held" for values read past the MLP.
    """
    arrays = {name: np.asarray(x, np.float64) for name, x in run.arrays.items()}
    values = (arrays[f"{name}{mlp}"] for name in ("value", "other_mean", "part"))
    each = arrays["weight"] * _of(pull, arrays["a"], arrays["p"], arrays["q"], *values)
    tokens, size = run.arrays["tokens"].ravel(), arrays["p"].shape[-1]
    return np.stack([np.bincount(tokens, stop.ravel(), size) for stop in each])


def _falls(of: str, words: str) -> Measures:
    def relative(a: Arms) -> float:
        """All dormant queries together."""
        pull, velocity = (a["trained_pulls"].arrays[name].sum(1) for name in (of, "velocity"))
        return float(pull.sum() / np.abs(velocity).sum())

    return (
        Measure(
            f"d (d alpha / dt) / d log |{words}|, over |d alpha / dt|, each summed over all steps",
            relative,
            "< -1/2",
            (-INF, -0.5),
        ),
    )


WV10C = Claim(
    id="WV10c",
    source=f"{QUESTION}, after 2410.13835, theorem 2",
    statement="While a sink forms, the velocity of its logit falls with |v_<s>|: a smaller value draws more attention.",
    kind="theory",
    evidence=_IN_TRAINING,
    measures=dict.fromkeys(TIERS, _falls("own", "v_<s>")),
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control(_ANOTHER, measures=dict.fromkeys(TIERS, _falls("other", "v_k"))),
    figure="value_pull",
    note="The velocity is minus the gradient of the expected loss in the logits on <s> of the dormant queries, on one "
    "probe batch; Adam trains the network, and gradient flow is asked of it where it stands. In the quick seeds a "
    "value longer by 1% slows the sink by 1.4 to 4.4%; they differ too much for the interval of three. The paper tier "
    "has ten times the steps, as its rate is a tenth.",
)


Points = tuple[Array, Array]


def _points(of: str, mlp: str = "") -> Callable[[Arms], Points]:
    """Measured and predicted, by character and step."""

    def points(a: Arms) -> Points:
        run = a["trained_pulls"]
        return np.asarray(run.arrays[of], np.float64).ravel(), predicted_pull(run, "own", mlp).ravel()

    return points


def _quadratic(of: str) -> Callable[[Arms], Points]:
    """The same without what follows from the gradient alone, which a read-out to first order has exactly."""

    def points(a: Arms) -> Points:
        measured, predicted = _points(of)(a)
        quadratic = predicted_pull(a["trained_pulls"], "quadratic").ravel()
        return measured - (predicted - quadratic), quadratic

    return points


def _slope(words: str, points: Callable[[Arms], Points], low: float, high: float) -> Measure:
    def slope(a: Arms) -> float:
        found, expected = points(a)
        return float(found @ expected / (expected @ expected))

    return Measure(f"slope of measured on predicted, {words}", slope, f"1: {low:.3g} to {high:.3g}", (low, high))


def _correlation(words: str, points: Callable[[Arms], Points]) -> Measure:
    def correlation(a: Arms) -> float:
        return float(np.corrcoef(*points(a))[0, 1])

    return Measure(f"correlation of measured and predicted, {words}", correlation, "> 0.8", (0.8, INF))


_POINTS = "A point is d (d alpha / dt) / d log |v_<s>| of the queries that are one character, at one step."


def _as_read(of: str) -> Measures:
    return (
        _slope("all of it", _points(of), 0.8, 1.25),
        _correlation("all of it", _points(of)),
        _slope("the part of second order", _quadratic(of), 2 / 3, 1.5),
        _correlation("the part of second order", _quadratic(of)),
    )


WV10D = Claim(
    id="WV10d",
    source=f"{QUESTION}, after 2410.13835, theorem 2",
    statement="In training, too, the velocity answers to |v_<s>| by the cross term, with values as the network reads "
    "them.",
    kind="theory",
    evidence=_IN_TRAINING,
    measures=dict.fromkeys(TIERS, _as_read("own")),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control(_ANOTHER, measures=dict.fromkeys(TIERS, _as_read("other"))),
    figure="value_pull",
    note=f"{_POINTS} Values count by what they add to the logits to first order, through the MLP and the last "
    "LayerNorm; what these two bend is left out.",
)


def _mlp_held(of: str) -> Measures:
    return (_slope("the MLP held", _points(of, "_mlp_held"), 0.5, 2.0),)


WV10E = Claim(
    id="WV10e",
    source=f"{QUESTION}, after 2410.13835, theorem 2",
    statement="The restricted model, which holds the MLP, gives the size of that answer within a factor of two.",
    kind="theory",
    evidence=_IN_TRAINING,
    measures=dict.fromkeys(TIERS, _mlp_held("own")),
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control(_ANOTHER, measures=dict.fromkeys(TIERS, _mlp_held("other"))),
    figure="value_pull",
    note=f"{_POINTS} In the quick seeds the network answers 1.3 to 2.8 times as much: what the MLP makes of the value "
    "pushes, too.",
)

CLAIMS = (WV10, WV10B, WV10C, WV10D, WV10E)
