"""Claims TH6a-d: growth and freezing of the sink logits in the minimal network of theorem 1 of 2410.13835."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from jaxsink.training import Adam
from theory import growth, predictions
from theory.calculations.minimal import Minimal, MinimalFlow, MinimalTraining
from theory.claim import TIERS, Arms, Claim, Control, Measure, Run, Spec, Tier
from theory.restricted import restricted_model

INF = math.inf
SOURCE = "2410.13835, theorem 2"
FLOW = {
    "quick": MinimalFlow(),
    "paper": MinimalFlow(Minimal(characters=12, triggers=2, length=16), batch=128, decades=7),
}
TRAINING = {
    "quick": MinimalTraining(),
    "paper": MinimalTraining(FLOW["paper"].minimal, batch=64, steps=20_000),
}


def _flows(tier: Tier) -> dict[str, Spec]:
    flow = FLOW[tier]
    return {
        "minimal_constant": replace(flow, value="constant"),
        "minimal_frozen": replace(flow, value="frozen"),
        "minimal_one_context": replace(flow, contexts="one"),
        "minimal_many_contexts": flow,
    }


def _only(*names: str) -> dict[Tier, dict[str, Spec]]:
    return {tier: {name: _flows(tier)[name] for name in names} for tier in TIERS}


def _slope(time: np.ndarray, alphas: np.ndarray, since: float) -> float:
    """Of the mean sink logit against log time, from the reading nearest to `since` times the last one to the end."""
    first = int(np.abs(np.log(np.maximum(time, 1e-300) / (since * time[-1]))).argmin())
    mean = alphas.mean(1)
    return float((mean[-1] - mean[first]) / np.log(time[-1] / time[first]))


def _last_decade(run: Run) -> float:
    return _slope(run.arrays["time"], run.arrays["alphas"], 0.1)


def _in_training(run: Run) -> float:
    return _slope(run.arrays["step"].astype(np.float64), run.arrays["alphas"], 1 / 3)


def _contexts(run: Run) -> growth.Contexts:
    return growth.contexts(*(run.arrays[name] for name in ("p", "query", "weight", "total", "b")))


def _correction(run: Run) -> float:
    """Size of the first correction at the end of the run: the largest 3 W / sqrt(2 pi_v Var t)."""
    seen = _contexts(run)
    scale = np.sqrt(2 * seen.pi * seen.variance * run.arrays["time"][-1])
    return float((3 * seen.crowded / seen.variance / scale).max())


def _fall(run: Run, errors: np.ndarray) -> float:
    """Error at the end over that a decade before."""
    time = run.arrays["time"]
    return float(errors[-1] / errors[np.abs(np.log10(time / time[-1]) + 1).argmin()])


# TH6a -----------------------------------------------------------------------------------------------------------
# The first correction adds half of itself to the slope: about .01 in the last decade.
_HALF = (0.48, 0.53)


def _frozen_errors(run: Run) -> np.ndarray:
    """[P] largest error of the sink logits."""
    predicted = growth.frozen_logit(_contexts(run), run.arrays["time"])
    errors: np.ndarray = np.abs(run.arrays["alphas"] - predicted).max(1)
    return errors


def _frozen(arms: Arms) -> Run:
    return arms["minimal_constant"]


TH6A = Claim(
    id="TH6a",
    source=f"{SOURCE}(a); constant, next order and law of contexts new",
    statement="With the value of <s> frozen at a constant a network's sink logits grow like 1/2 log t + r_v.",
    kind="theory",
    evidence=_only("minimal_constant", "minimal_frozen"),
    measures=dict.fromkeys(
        TIERS,
        (
            Measure("slope of the mean logit against log t", lambda a: _last_decade(_frozen(a)), "1/2", _HALF),
            # What is left out is of second order, with a factor of order one.
            Measure(
                "error at the end over the first correction squared",
                lambda a: float(_frozen_errors(_frozen(a))[-1]) / _correction(_frozen(a)) ** 2,
                "order 1",
                (-INF, 3.0),
            ),
            # It falls like log t / t; a wrong first correction would leave t^{-1/2}, .316.
            Measure(
                "error at the end over that a decade before",
                lambda a: _fall(_frozen(a), _frozen_errors(_frozen(a))),
                "1/10 to 1/8",
                (0.08, 0.16),
            ),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("a frozen value that is not constant", {"minimal_constant": "minimal_frozen"}),
    figure="network_growth",
)


# TH6b -----------------------------------------------------------------------------------------------------------
def _freezes_at(run: Run) -> np.ndarray:
    """[P] largest distance of the sink logits from the predicted freezing value."""
    a = run.arrays
    pi, b, total = np.bincount(a["query"], a["weight"]), a["b"].mean(0), a["total"].mean()
    xi = b.sum() / total
    at = predictions.freezing_logit(restricted_model(a["p"], pi, b / xi, xi), a["alpha"], a["beta"])
    distance: np.ndarray = np.abs(a["alphas"] - at).max(1)
    return distance


def _undrained(run: Run) -> float:
    """Range of beta + e^{-a} B at the end."""
    a = run.arrays
    return float(np.ptp(a["betas"][-1] + np.exp(-a["alphas"][-1].mean()) * a["b"].mean(0)))


# The solver keeps 1e-7 a step, over some hundred steps.
_SOLVED = (-INF, 1e-4)

TH6B = Claim(
    id="TH6b",
    source=f"{SOURCE}(c); the value new",
    statement="With one fixed context a network's sink logits freeze at the value that the conservation law gives.",
    kind="theory",
    evidence=_only("minimal_one_context", "minimal_many_contexts"),
    measures=dict.fromkeys(
        TIERS,
        (
            Measure(
                "slope of the mean logit against log t",
                lambda a: _last_decade(a["minimal_one_context"]),
                "0",
                (-1e-4, 1e-4),
            ),
            Measure(
                "largest distance from the freezing value at the end",
                lambda a: float(_freezes_at(a["minimal_one_context"])[-1]),
                "0",
                _SOLVED,
            ),
            Measure(
                "range of beta + e^-a B at the end (logits)",
                lambda a: _undrained(a["minimal_one_context"]),
                "0",
                _SOLVED,
            ),
            Measure(
                "largest distance from the freezing value at the start",
                lambda a: float(_freezes_at(a["minimal_one_context"])[0]),
                "> 0.1: it has some way to go",
                (0.1, INF),
                "log",
            ),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("the contexts of many sequences", {"minimal_one_context": "minimal_many_contexts"}),
    figure="network_growth",
)


# TH6c -----------------------------------------------------------------------------------------------------------
def _joint_errors(run: Run) -> np.ndarray:
    """[P] largest distance of the sink logits from 1/2 log t + r_v."""
    time, alphas = run.arrays["time"], run.arrays["alphas"]
    expected = 0.5 * np.log(time)[:, None] + growth.joint_constant(_contexts(run))[None]
    error: np.ndarray = np.abs(alphas - expected).max(1)
    return error


def _joint_error(run: Run) -> float:
    return float(_joint_errors(run)[-1]) / _correction(run)


def _joint(arms: Arms) -> Run:
    return arms["minimal_many_contexts"]


TH6C = Claim(
    id="TH6c",
    source=f"{SOURCE}; many contexts new",
    statement="Over the contexts of many sequences a network's sink logits keep growing like 1/2 log t + r_v.",
    kind="theory",
    evidence={
        tier: {**_only("minimal_many_contexts", "minimal_one_context")[tier], "minimal_sgd": TRAINING[tier]}
        for tier in TIERS
    },
    measures=dict.fromkeys(
        TIERS,
        (
            Measure("slope of the mean logit against log t", lambda a: _last_decade(_joint(a)), "1/2", _HALF),
            # The next order is that of the frozen case, with another factor of order one.
            Measure(
                "error of 1/2 log t + r_v at the end, over the first correction of the frozen case",
                lambda a: _joint_error(_joint(a)),
                "order 1",
                (-INF, 1.5),
            ),
            # It falls like t^{-1/2}, which a wrong constant would end.
            Measure(
                "error at the end over that a decade before",
                lambda a: _fall(_joint(a), _joint_errors(_joint(a))),
                "10^-1/2 = .316",
                (0.25, 0.4),
            ),
            # At t = 1.5e4 the first correction is about .1, and sequences drawn in every step add noise.
            Measure(
                "slope under SGD with fresh sequences", lambda a: _in_training(a["minimal_sgd"]), "1/2", (0.4, 0.7)
            ),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("one fixed context", {"minimal_many_contexts": "minimal_one_context"}),
    note="The flow is that of a sample of sequences, which stands for the average over fresh ones.",
    figure="network_growth",
)


# TH6d -----------------------------------------------------------------------------------------------------------
TH6D = Claim(
    id="TH6d",
    source="2410.13835, section 2.2",
    statement="Under Adam the sink logits grow more steeply than the 1/2 log t of gradient descent.",
    kind="theory",
    evidence={
        tier: {"minimal_adam": replace(TRAINING[tier], optimiser=Adam(rate=3e-3)), "minimal_sgd": TRAINING[tier]}
        for tier in TIERS
    },
    measures=dict.fromkeys(
        TIERS,
        (
            Measure(
                "slope of the mean logit against log step over the last two thirds",
                lambda a: _in_training(a["minimal_adam"]),
                "> 1, twice that of gradient descent",
                (1.0, INF),
            ),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("gradient descent", {"minimal_adam": "minimal_sgd"}),
    note="Adam's steps keep their size as the gradient falls, so the logits grow with the steps, not their logarithm.",
    figure="network_growth",
)

CLAIMS = (TH6A, TH6B, TH6C, TH6D)
