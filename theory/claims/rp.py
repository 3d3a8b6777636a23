"""Claims RP1-RP3: residual-state peaks in three layers (2410.13835, section 3)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from jaxsink import metrics
from jaxsink.training import SGD, TrainConfig
from theory.claim import TIERS, Arms, Claim, Control, Measure
from theory.claims import arms
from theory.claims.readings import curve, final, growth, uniform

SOURCE = "2410.13835, section 3"
INF = math.inf
Measures = tuple[Measure, ...]


# RP1 ------------------------------------------------------------------------------------------------------------
def _linear_growth(times: float, name: str = "resid_norm_start") -> Measures:
    def line(a: Arms) -> float:
        run = a["deep_adam"]
        return metrics.r_squared(curve(run, "step"), curve(run, name, 0))

    def over_others(a: Arms) -> float:
        run = a["deep_adam"]
        ratio = curve(run, name, 0) / curve(run, "resid_norm_other", 0)
        return float(ratio[-1] / ratio[0])

    where = "<s>" if name == "resid_norm_start" else "the most frequent character"
    return (
        Measure(f"R^2 of a line through the residual norm at {where}", line, "> 0.95", (0.95, INF)),
        Measure(
            f"last over first residual norm at {where}",
            lambda a: growth(a["deep_adam"], name),
            f"> {times}",
            (times, INF),
            "log",
        ),
        Measure(
            f"growth of the norm at {where} relative to the other positions", over_others, "> 1.5", (1.5, INF), "log"
        ),
    )


RP1 = Claim(
    id="RP1",
    source=SOURCE,
    statement="Under Adam the residual state of <s> after block 0 grows linearly, ahead of all other positions.",
    kind="training",
    evidence=arms.by_tier(deep_adam=arms.DEEP_ADAM),
    measures={"quick": _linear_growth(2.0), "paper": _linear_growth(3.0)},
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control(
        "the most frequent character in place of <s>: a general growth of norms is no peak",
        measures={
            "quick": _linear_growth(2.0, "resid_norm_content"),
            "paper": _linear_growth(3.0, "resid_norm_content"),
        },
    ),
    figure="residual_norms",
)


# RP2 ------------------------------------------------------------------------------------------------------------
def _sgd_rates() -> dict[str, TrainConfig]:
    base = arms.DEEP_SGD["paper"]
    return {
        f"deep_sgd_{rate}": replace(base, optimiser=SGD(rate=rate, momentum=0.9, weight_decay=1e-4))
        for rate in (0.003, 0.01, 0.1)
    }


def _ratio(a: Arms, sgd: str) -> float:
    return final(a["deep_adam"], "resid_norm_start", 0) / final(a[sgd], "resid_norm_start", 0)


def _peak_goes(ratio: float, equal_loss: float) -> Measures:
    def at_equal_loss(a: Arms) -> float:
        """Adam's peak ratio when it first has the total excess risk at which SGD ends, over SGD's."""
        adam, sgd = a["deep_adam"], a["deep_sgd"]
        risk = final(sgd, "backcopy") + final(sgd, "bigram")
        total = curve(adam, "backcopy") + curve(adam, "bigram")
        step = min(metrics.first_passage(curve(adam, "step"), total, risk), float(curve(adam, "step")[-1]))
        return metrics.value_at(curve(adam, "step"), curve(adam, "peak_ratio", 0), step) / final(sgd, "peak_ratio", 0)

    def best_sink(a: Arms) -> float:
        return float(np.max(a["deep_sgd"].arrays["attn_start"][-1]))

    return (
        Measure(
            "residual norm at <s> after block 0, Adam over SGD",
            lambda a: _ratio(a, "deep_sgd"),
            f"> {ratio}",
            (ratio, INF),
            "log",
        ),
        Measure(
            "peak ratio at equal excess risk, Adam over SGD",
            at_equal_loss,
            f"> {equal_loss}",
            (equal_loss, INF),
            "log",
        ),
        Measure("largest Attn_<s> of a layer under SGD", best_sink, "> 0.5", (0.5, INF)),
    )


def _over_rates(bound: float) -> Measure:
    names = ["deep_sgd", *_sgd_rates()]

    def smallest(a: Arms) -> float:
        return min(_ratio(a, arm) for arm in names)

    return Measure("smallest Adam-over-SGD ratio over the rates of SGD", smallest, f"> {bound}", (bound, INF), "log")


_RP2_EVIDENCE = arms.by_tier(deep_adam=arms.DEEP_ADAM, deep_sgd=arms.DEEP_SGD, softmax=arms.SOFTMAX)

RP2 = Claim(
    id="RP2",
    source=SOURCE,
    statement="Under SGD the sink stays and the residual-state peak goes.",
    kind="training",
    evidence={
        "quick": _RP2_EVIDENCE["quick"],
        "paper": {**_RP2_EVIDENCE["paper"], **_sgd_rates()},
    },
    measures={"quick": _peak_goes(2.0, 1.2), "paper": (*_peak_goes(3.0, 1.5), _over_rates(3.0))},
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control("one layer under Adam, which has no peak, in the place of three", {"deep_adam": "softmax"}),
    figure="residual_norms",
    note="SGD with momentum solves the task less well at equal steps, so the peaks are also compared at equal risk. "
    "All norms grow under Adam, in one layer too: of the ratios only that of the peaks tells a peak from such growth.",
)


# RP3 ------------------------------------------------------------------------------------------------------------
def _relu_flat() -> Measures:
    def best_sink(a: Arms) -> float:
        return float(np.max(a["deep_relu"].arrays["attn_start"][-1])) / uniform(a["deep_relu"])

    return (
        Measure(
            "peak ratio after block 0", lambda a: final(a["deep_relu"], "peak_ratio", 0), "< 1.2", (-INF, 1.2), "log"
        ),
        Measure("largest Attn_<s> of a layer, over uniform", best_sink, "<= 1", (-INF, 1.0)),
    )


RP3 = Claim(
    id="RP3",
    source=SOURCE,
    statement="ReLU attention removes both the peak and the sink in three layers.",
    kind="training",
    evidence=arms.by_tier(deep_relu=arms.DEEP_RELU, deep_adam=arms.DEEP_ADAM),
    measures=dict.fromkeys(TIERS, _relu_flat()),
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control("softmax attention", {"deep_relu": "deep_adam"}),
    figure="residual_norms",
)

CLAIMS = (RP1, RP2, RP3)
