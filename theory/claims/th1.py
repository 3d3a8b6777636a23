"""Claim TH1: theorem 1 of 2410.13835, in a real transformer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from theory import construction
from theory.calculations.construction import Construction, RandomChain, Shakespeare
from theory.claim import TIERS, Arms, Claim, Control, Measure, Run, Tier

INF = math.inf
# Nats below which both parts count as solved.
SOLVED = 1e-6
_PAPER_SIZE = {"length": 256, "batch": 32}


def _specs(tier: Tier) -> dict[str, Construction]:
    size = _PAPER_SIZE if tier == "paper" else {}
    return {
        "construction_shakespeare": Construction(chain=Shakespeare(), **size),
        "construction_random": Construction(chain=RandomChain(), **size),
        "construction_equal_logits": Construction(chain=Shakespeare(), logit_ratio=1.0, **size),
    }


def _rise(run: Run) -> float:
    """Largest rise of the Backcopy risk from one scale to the next."""
    return float(np.diff(run.arrays["backcopy"]).max())


def _backcopy_error(run: Run) -> float:
    """Largest relative error of the Backcopy risk from c = 8 on, over its bound."""
    scale, size, length = run.arrays["scale"], int(run.arrays["characters"]), run.arrays["share"].size
    error = np.abs(run.arrays["backcopy"] / construction.backcopy_risk(scale, size) - 1)
    # u_prev - u_k = c (e^c + N_prev - N_k) / (e^c + i) is at most 2 c T e^{-c} short of c; log(1 + x) is x (1 - x / 2).
    bound = (2 * scale * length + size / 2) * np.exp(-scale)
    return float((error / bound)[scale >= 8].max())


def _bigram(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """(scale, relative error of the Bigram risk) from c > 0 to 12, above which rounding shows."""
    scale = run.arrays["scale"]
    predicted = construction.bigram_risk(scale, run.arrays["share"], run.arrays["moments"])
    kept = (scale > 0) & (scale <= 12)
    return scale[kept], run.arrays["bigram"][kept] / predicted[kept] - 1


def _bigram_error(run: Run) -> float:
    return float(np.abs(_bigram(run)[1]).max())


def _bigram_tail(run: Run) -> float:
    """Largest relative error from c = 5 on, over the range c e^{-c} of the output."""
    scale, error = _bigram(run)
    return float((np.abs(error) / (scale * np.exp(-scale)))[scale >= 5].max())


def _peak(run: Run) -> float:
    """Scale of the largest Bigram risk (a parabola through the logarithms of three), less the predicted one."""
    scale, risk = run.arrays["scale"], run.arrays["bigram"]
    top = int(np.clip(risk.argmax(), 2, risk.size - 2))
    near = slice(top - 1, top + 2)
    square, line, _ = np.polyfit(scale[near], np.log(np.maximum(risk[near], 1e-300)), 2)
    predicted = construction.bigram_peak(run.arrays["share"], run.arrays["moments"])
    return float(-line / (2 * square)) - predicted


def _solved_from(run: Run) -> float:
    """Scale from which on both risks stay below SOLVED (log-linear between two), less the predicted one."""
    scale = run.arrays["scale"]
    risk = np.maximum(run.arrays["backcopy"], run.arrays["bigram"])
    above = np.flatnonzero(risk >= SOLVED)[-1]
    if above + 1 == scale.size:
        return INF
    pair = slice(above, above + 2)
    crossing = float(np.interp(-math.log(SOLVED), -np.log(risk[pair]), scale[pair]))
    return crossing - construction.solving_scale(SOLVED, int(run.arrays["characters"]))


def _on(arm: str, words: str, extract: Callable[[Run], float], predicted: str, low: float, high: float) -> Measure:
    def of(arms: Arms) -> float:
        return extract(arms[arm])

    return Measure(f"{words}, {arm.removeprefix('construction_')}", of, predicted, (low, high))


def _measures(arm: str) -> tuple[Measure, ...]:
    return (
        _on(arm, "largest rise of the Backcopy risk over c (nats)", _rise, "< 0", -INF, 0.0),
        _on(arm, "largest error of the Backcopy risk over its bound, c >= 8", _backcopy_error, "(V-1) e^-c", -INF, 1.0),
        # The output is 0 there: what is left is the rounding of a sum of V terms.
        _on(arm, "|Bigram risk| at c = 0 (nats)", lambda r: abs(float(r.arrays["bigram"][0])), "0", -INF, 1e-14),
        # Next order: a third of the range of the output, which is .3 where it is largest.
        _on(arm, "largest relative error of the Bigram risk", _bigram_error, "Var u / 2", -INF, 0.1),
        # The same for large c: a third of c e^{-c}, and T e^{-c} of that from the other keys.
        _on(arm, "largest relative error of it from c = 5 on, over c e^-c", _bigram_tail, "<= 1/3", -INF, 0.5),
        # The parabola is off by about the step squared, 1/16, times the skew of the peak.
        _on(arm, "c of the largest Bigram risk, less the predicted", _peak, "about 1/2 log T", -0.06, 0.06),
        # The error of the Backcopy risk at c = 18 is 2 c T e^{-c} < 2e-4 at T = 256.
        _on(
            arm, "c from which both risks are < 1e-6, less the predicted", _solved_from, "log((V-1)/1e-6)", -1e-3, 1e-3
        ),
    )


TH1 = Claim(
    id="TH1",
    source="2410.13835, theorem 1; rates and the Bigram risk new",
    statement="One layer with one-hot embeddings solves Bigram-Backcopy to any precision, at the predicted rates.",
    kind="theory",
    evidence={tier: _specs(tier) for tier in TIERS},
    measures=dict.fromkeys(TIERS, (*_measures("construction_shakespeare"), *_measures("construction_random"))),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control(
        "as much logit on <s> as on the key before (alpha = lambda), with which the Bigram risk grows",
        {"construction_shakespeare": "construction_equal_logits"},
    ),
    note=(
        "With additive one-hots alpha must be twice lambda, and the Bigram risk peaks near c = 1/2 log T. "
        "For 65 characters both risks stay below 1e-6 from c = 17.97 on."
    ),
)

CLAIMS = (TH1,)
