"""Claims BB1-BB9 and BB11: one layer trained on Bigram-Backcopy (2410.13835, section 2)."""

from __future__ import annotations

import math

import numpy as np

from jaxsink import metrics
from theory.claim import TIERS, Arms, Claim, Control, Measure
from theory.claims import arms
from theory.claims.readings import (
    after_fast_phase,
    at_step,
    before_fall,
    curve,
    excess_over_uniform,
    fall_of_backcopy,
    final,
    growth,
    passage,
    uniform,
)

SOURCE = "2410.13835, section 2"
INF = math.inf
Measures = tuple[Measure, ...]


# BB1 ------------------------------------------------------------------------------------------------------------
def _solves(step: int, bound: float) -> Measures:
    def risk(name: str) -> Measure:
        def extract(a: Arms) -> float:
            return at_step(a["softmax"], name, step)

        return Measure(f"{name} excess risk at step {step} (nats)", extract, f"< {bound}", (-INF, bound))

    return risk("backcopy"), risk("bigram")


def _removed(bound: float) -> Measures:
    def extract(a: Arms) -> float:
        return float(a["softmax"].arrays["no_attention_backcopy"])

    return (Measure("backcopy excess risk without attention (nats)", extract, f"< {bound}", (-INF, bound)),)


BB1 = Claim(
    id="BB1",
    source=SOURCE,
    statement="One layer solves Bigram-Backcopy within about a thousand steps.",
    kind="training",
    evidence=arms.by_tier(softmax=arms.SOFTMAX),
    measures={"quick": _solves(1200, 0.05), "paper": _solves(1000, 0.02)},
    expected={"quick": "supported", "paper": "supported"},
    control=Control(
        "the same network with its attention cut",
        measures={"quick": _removed(0.05), "paper": _removed(0.02)},
    ),
    figure="dynamics",
)


# BB2 ------------------------------------------------------------------------------------------------------------
def _order(threshold: float) -> Measure:
    def extract(a: Arms) -> float:
        late, early = (passage(a["softmax"], name, threshold) for name in ("backcopy", "bigram"))
        return math.log10(late / early)

    name = f"log10 of first passage, Backcopy over Bigram, at {threshold} nats"
    return Measure(name, extract, "> 0 (Bigram first)", (0.0, INF))


BB2 = Claim(
    id="BB2",
    source=SOURCE,
    statement="The Bigram part is learned before the Backcopy part.",
    kind="training",
    evidence=arms.by_tier(softmax=arms.SOFTMAX, triggers_only=arms.TRIGGERS_ONLY),
    measures=dict.fromkeys(TIERS, (_order(0.1), _order(0.05))),
    expected={"quick": "refuted", "paper": "supported"},
    control=Control("loss on the copy positions only, so that Bigram is never taught", {"softmax": "triggers_only"}),
    figure="dynamics",
)


# BB3 ------------------------------------------------------------------------------------------------------------
def _together(a: Arms) -> float:
    run, during = a["softmax"], fall_of_backcopy(a["softmax"])
    return metrics.correlation(curve(run, "attn_start", 0)[during], -curve(run, "backcopy")[during])


def _early_sink(a: Arms) -> float:
    run, before = a["softmax"], before_fall(a["softmax"])
    return float(curve(run, "attn_start", 0)[before].max() / uniform(run))


def _sink_forms(correlation: float) -> Measures:
    return (
        Measure(
            "correlation of Attn_<s> and -Backcopy while Backcopy falls",
            _together,
            f"> {correlation}",
            (correlation, INF),
        ),
        Measure("largest Attn_<s> before the fall, over uniform", _early_sink, "< 2.5", (-INF, 2.5), "log"),
    )


BB3 = Claim(
    id="BB3",
    source=SOURCE,
    statement="The sink forms while the Backcopy risk falls, and not before.",
    kind="training",
    evidence=arms.by_tier(softmax=arms.SOFTMAX, triggers_only=arms.TRIGGERS_ONLY),
    measures={"quick": _sink_forms(0.8), "paper": _sink_forms(0.9)},
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control("loss on the copy positions only, so that nothing asks for a sink", {"softmax": "triggers_only"}),
    figure="dynamics",
    note="At the quick size the risk is below 90 % within ten steps, so what stands before the fall is little there.",
)


# BB4 ------------------------------------------------------------------------------------------------------------
def _drains(ratio: float) -> Measures:
    def norms(a: Arms) -> np.ndarray:
        return curve(a["softmax"], "value_norm_start", 0)

    return (
        Measure(
            "largest over first |W_O v_<s>|",
            lambda a: float(norms(a).max() / norms(a)[0]),
            "> 1.05",
            (1.05, INF),
            "log",
        ),
        Measure(
            "last over largest |W_O v_<s>|",
            lambda a: float(norms(a)[-1] / norms(a).max()),
            "< 0.67",
            (-INF, 0.67),
            "log",
        ),
        Measure(
            "final Val ratio of <s>",
            lambda a: final(a["softmax"], "value_ratio", 0),
            f"< {ratio}",
            (-INF, ratio),
            "log",
        ),
    )


BB4 = Claim(
    id="BB4",
    source=SOURCE,
    statement="The value state of <s> first grows and then drains.",
    kind="training",
    evidence=arms.by_tier(softmax=arms.SOFTMAX, relu=arms.RELU),
    measures={"quick": _drains(0.3), "paper": _drains(0.15)},
    expected={"quick": "supported", "paper": "supported"},
    control=Control("ReLU attention, which needs no drained value to be dormant", {"softmax": "relu"}),
    figure="value_norms",
)


# BB5 ------------------------------------------------------------------------------------------------------------
def _active_dormant(dormant: float, leak: float, copy: float) -> Measures:
    def reading(label: str, name: str, words: str, tolerance: tuple[float, float]) -> Measure:
        return Measure(label, lambda a: final(a["softmax"], name, 0), words, tolerance)

    return (
        reading("Attn_<s> on non-triggers", "attn_start", f">= {dormant}", (dormant, INF)),
        reading("Attn_<s> on triggers", "attn_start_trigger", f"<= {leak}", (-INF, leak)),
        reading("attention of triggers to the previous token", "attn_prev_trigger", f">= {copy}", (copy, INF)),
    )


BB5 = Claim(
    id="BB5",
    source=SOURCE,
    statement="The head is active on triggers, where it reads the previous token, and dormant on <s> elsewhere.",
    kind="training",
    evidence=arms.by_tier(softmax=arms.SOFTMAX, triggers_only=arms.TRIGGERS_ONLY),
    measures={"quick": _active_dormant(0.6, 0.1, 0.8), "paper": _active_dormant(0.75, 0.05, 0.95)},
    expected={"quick": "supported", "paper": "supported"},
    control=Control("loss on the copy positions only, so that nothing asks for dormancy", {"softmax": "triggers_only"}),
    figure="attention_maps",
)


# BB6 ------------------------------------------------------------------------------------------------------------
def _log_growth() -> Measures:
    def slow(a: Arms) -> tuple[np.ndarray, np.ndarray]:
        run = a["softmax"]
        late = after_fast_phase(run)
        return curve(run, "step")[late], curve(run, "dlogit", 0)[late]

    def fit(a: Arms) -> float:
        step, gap = slow(a)
        return metrics.r_squared(np.log(step), gap)

    def against_line(a: Arms) -> float:
        step, gap = slow(a)
        return fit(a) - metrics.r_squared(step, gap)

    def slope(a: Arms) -> float:
        step, gap = slow(a)
        return metrics.line_fit(np.log(step), gap).slope

    return (
        Measure("R^2 of Dlogit on ln t in the slow phase", fit, "> 0.95", (0.95, INF)),
        Measure("R^2 on ln t minus R^2 on t", against_line, "> 0 (bent like a logarithm)", (0.0, INF)),
        Measure("slope of Dlogit on ln t", slope, "> 0 (1/2 only under gradient flow)", (0.0, INF)),
    )


BB6 = Claim(
    id="BB6",
    source=SOURCE + ", theorem 2(a)",
    statement="After the fast phase Dlogit grows like the logarithm of time.",
    kind="training",
    evidence=arms.by_tier(softmax=arms.SOFTMAX, triggers_only=arms.TRIGGERS_ONLY),
    measures=dict.fromkeys(TIERS, _log_growth()),
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control("loss on the copy positions only, so that no sink logit grows", {"softmax": "triggers_only"}),
    figure="dynamics",
    note="The slow phase starts when the Backcopy risk has fallen to a tenth. Adam's slope is far above 1/2. "
    "A slow power of t would pass as a logarithm; a line would not.",
)


# BB7 ------------------------------------------------------------------------------------------------------------
def _roles(moved: float, copy: float, guess: float) -> Measures:
    def scalar(a: Arms, name: str) -> float:
        return float(a["softmax"].arrays[name])

    return (
        Measure(
            "change of Bigram risk without attention (nats)",
            lambda a: abs(scalar(a, "no_attention_bigram") - final(a["softmax"], "bigram")),
            f"< {moved}",
            (-INF, moved),
        ),
        Measure(
            "Backcopy risk without attention (nats)",
            lambda a: scalar(a, "no_attention_backcopy"),
            f"> {copy}",
            (copy, INF),
        ),
        Measure(
            "Bigram risk without MLP over that of a uniform guess",
            lambda a: scalar(a, "no_mlp_bigram") / scalar(a, "uniform_bigram"),
            f"within {guess:.0%} of 1",
            (1 - guess, 1 + guess),
            "log",
        ),
    )


BB7 = Claim(
    id="BB7",
    source=SOURCE,
    statement="The roles are separate: the MLP holds the bigrams, attention does the copying.",
    kind="training",
    evidence=arms.by_tier(softmax=arms.SOFTMAX, triggers_only=arms.TRIGGERS_ONLY),
    measures={"quick": _roles(0.05, 3.0, 0.25), "paper": _roles(0.01, 4.0, 0.1)},
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control("loss on the copy positions only: attention then acts everywhere", {"softmax": "triggers_only"}),
    note="Attention or MLP of the trained network is cut; nothing is trained again.",
)


# BB8 ------------------------------------------------------------------------------------------------------------
def _concentration(when: int) -> Measures:
    def ratio(a: Arms) -> float:
        run = a["softmax"]
        return float(curve(run, "sink_logit_std", 0)[when] / curve(run, "other_logit_std", 0)[when])

    return (Measure("std of the logit on <s> over that of other logits", ratio, "< 0.5", (-INF, 0.5), "log"),)


BB8 = Claim(
    id="BB8",
    source=SOURCE + ", theorem 2(c)",
    statement="The logits on <s> concentrate: all dormant queries give it nearly the same one.",
    kind="training",
    evidence=arms.by_tier(softmax=arms.SOFTMAX),
    measures=dict.fromkeys(TIERS, _concentration(-1)),
    expected={"quick": "supported", "paper": "supported"},
    control=Control("the same network before training", measures=dict.fromkeys(TIERS, _concentration(0))),
)


# BB9 ------------------------------------------------------------------------------------------------------------
def _no_peak() -> Measures:
    def ratio(a: Arms) -> float:
        return final(a["softmax"], "peak_ratio", 0)

    return (Measure("residual norm at <s> over the other positions, block 0", ratio, "< 1.5", (-INF, 1.5), "log"),)


BB9 = Claim(
    id="BB9",
    source="2410.13835, section 3",
    statement="One layer has no residual-state peak.",
    kind="training",
    evidence=arms.by_tier(softmax=arms.SOFTMAX, deep_adam=arms.DEEP_ADAM),
    measures=dict.fromkeys(TIERS, _no_peak()),
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control("three layers under Adam, where the peak is known to appear", {"softmax": "deep_adam"}),
    figure="residual_by_token",
)


# BB11 -----------------------------------------------------------------------------------------------------------
def _relu_removes(solved: float) -> Measures:
    return (
        Measure("Attn_<s> over uniform", lambda a: excess_over_uniform(a["relu"]), "<= 1", (-INF, 1.0)),
        Measure(
            "last over first |W_O v_<s>|", lambda a: growth(a["relu"], "value_norm_start"), ">= 1", (1.0, INF), "log"
        ),
        Measure("Backcopy risk (nats)", lambda a: final(a["relu"], "backcopy"), f"< {solved}", (-INF, solved)),
        Measure("Bigram risk (nats)", lambda a: final(a["relu"], "bigram"), f"< {solved}", (-INF, solved)),
    )


BB11 = Claim(
    id="BB11",
    source="2410.13835, section 2, figure 7",
    statement="ReLU attention has neither sink nor drain and still solves the task, at the same rate.",
    kind="training",
    evidence=arms.by_tier(relu=arms.RELU, softmax=arms.SOFTMAX),
    measures={"quick": _relu_removes(0.05), "paper": _relu_removes(0.02)},
    expected={"quick": "supported", "paper": "supported"},
    control=Control("softmax attention", {"relu": "softmax"}),
    figure="dynamics",
)

CLAIMS = (BB1, BB2, BB3, BB4, BB5, BB6, BB7, BB8, BB9, BB11)
