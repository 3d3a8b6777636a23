"""Claims BB10a-c: sink and drain reinforce each other, so that cutting one arrow stops what it leads to."""

from __future__ import annotations

import math

import numpy as np

from theory.claim import Arms, Claim, Control, Measure, Run
from theory.claims import arms
from theory.claims.readings import Curve, curve

SOURCE = "2410.13835, section 2"
INF = math.inf
Measures = tuple[Measure, ...]
Steps = tuple[float, float]
# What is compared is a mean over these steps, all of them after the fast phase.
QUICK: Steps = (400, 1200)
PAPER: Steps = (1000, 10_000)


def mean_between(run: Run, name: str, steps: Steps) -> float:
    """Mean of a curve of block 0 between two steps: log points lie closer at first, but steps count alike."""
    at: Curve = np.linspace(*steps, 101)
    return float(np.interp(at, curve(run, "step"), curve(run, name, 0)).mean())


def _over(name: str, arm: str, other: str, steps: Steps, predicted: str, tolerance: Steps, words: str) -> Measure:
    def ratio(a: Arms) -> float:
        return mean_between(a[arm], name, steps) / mean_between(a[other], name, steps)

    return Measure(words, ratio, predicted, tolerance, "log")


# BB10a ----------------------------------------------------------------------------------------------------------
def _no_drain(steps: Steps) -> Measures:
    def last_over_first(a: Arms) -> float:
        run = a["attention_uniform"]
        return mean_between(run, "value_norm_start", steps) / float(curve(run, "value_norm_start", 0)[0])

    return (
        Measure("late over first |W_O v_<s>| under even attention", last_over_first, "> 1", (1.0, INF), "log"),
        _over(
            "value_ratio",
            "attention_uniform",
            "softmax",
            steps,
            "> 1.5",
            (1.5, INF),
            "late Val ratio of <s> under even attention, over that of the free run",
        ),
    )


BB10A = Claim(
    id="BB10a",
    source=SOURCE,
    statement="Attention drains the value: where attention to <s> is forced to be even, its value does not drain.",
    kind="training",
    evidence=arms.by_tier(
        attention_uniform=arms.ATTENTION_UNIFORM, softmax=arms.SOFTMAX, norm_held_late=arms.NORM_HELD_LATE
    ),
    measures={"quick": _no_drain(QUICK), "paper": _no_drain(PAPER)},
    expected={"quick": "supported", "paper": "supported"},
    control=Control(
        "a cut that leaves attention free: the norm held after the drain", {"attention_uniform": "norm_held_late"}
    ),
    figure="interventions",
    note="Late is the mean over the steps after the fast phase. The run under even attention is trained from the start "
    "like the free one, and measured with its attention forced.",
)


# BB10b ----------------------------------------------------------------------------------------------------------
def _small_value_draws(steps: Steps) -> Measures:
    def attention(arm: str, other: str, predicted: str, tolerance: Steps, words: str) -> Measure:
        return _over("attn_start", arm, other, steps, predicted, tolerance, f"late Attn_<s>, {words}")

    return (
        attention("norm_held_peak", "softmax", "< 0.9", (-INF, 0.9), "|v| held at its peak, over the free run"),
        attention(
            "norm_held_peak",
            "norm_held_start",
            "< 0.6",
            (-INF, 0.6),
            "|v| held at its peak, over |v| held small from the start",
        ),
        attention(
            "norm_held_start", "softmax", "> 1.05", (1.05, INF), "|v| held small from the start, over the free run"
        ),
        attention("value_frozen", "softmax", "> 1.05", (1.05, INF), "v frozen from the start, over the free run"),
    )


BB10B = Claim(
    id="BB10b",
    source=SOURCE,
    statement="A small value draws attention: the sink is weaker where |v_<s>| is held large and stronger where it is "
    "held small.",
    kind="training",
    evidence=arms.by_tier(
        norm_held_peak=arms.NORM_HELD_PEAK,
        norm_held_start=arms.NORM_HELD_START,
        value_frozen=arms.VALUE_FROZEN,
        softmax=arms.SOFTMAX,
        norm_held_late=arms.NORM_HELD_LATE,
    ),
    measures={"quick": _small_value_draws(QUICK), "paper": _small_value_draws(PAPER)},
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control("the same cut after the drain, when |v| is no longer large", {"norm_held_peak": "norm_held_late"}),
    figure="interventions",
    note="|v| at the start is a fraction of what it grows to, so holding it there is a drain from the beginning and "
    "no cut of it. It is the norm before W_O, which may still shrink what it writes. A weight cannot pass "
    "one: where the free run has all but reached it at the quick size, no cut can be seen to strengthen its sink.",
)


# BB10c ----------------------------------------------------------------------------------------------------------
def _little_is_left() -> Measures:
    def ratio(a: Arms) -> float:
        end = float(curve(a["norm_held_late"], "step")[-1])
        steps = (0.75 * end, end)
        return mean_between(a["norm_held_late"], "attn_start", steps) / mean_between(a["softmax"], "attn_start", steps)

    words = "Attn_<s> in the last quarter, |v| held from step 1000, over the free run"
    return (Measure(words, ratio, "within 10% of 1", (0.9, 1.1), "log"),)


BB10C = Claim(
    id="BB10c",
    source="new",
    statement="After the drain the value has done its part: holding |v_<s>| from then on leaves the sink as it is.",
    kind="training",
    evidence=arms.by_tier(
        norm_held_late=arms.NORM_HELD_LATE, softmax=arms.SOFTMAX, attention_uniform=arms.ATTENTION_UNIFORM
    ),
    measures={"quick": _little_is_left(), "paper": _little_is_left()},
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control("even attention, which leaves no sink at all", {"norm_held_late": "attention_uniform"}),
    figure="interventions",
    note="A value that is frozen leaves all of the growth to the sink logit (TH6a); one that adapts takes its part of "
    "it, before and after the drain.",
)

CLAIMS = (BB10A, BB10B, BB10C)
