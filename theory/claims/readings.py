"""Numbers read off the curves of one training run, shared by the claims on trained networks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jaxsink import metrics
from theory.claim import Run

Curve = NDArray[np.float64]


def curve(run: Run, name: str, layer: int | None = None) -> Curve:
    """A measured curve [P] over the log points, of one block where it has a layer axis."""
    values = np.asarray(run.arrays[name], np.float64)
    return values if layer is None else values[:, layer]


def final(run: Run, name: str, layer: int | None = None) -> float:
    """The last value of a curve."""
    return float(curve(run, name, layer)[-1])


def at_step(run: Run, name: str, step: float, layer: int | None = None) -> float:
    """The value of a curve at a step; of a shorter run, at its end."""
    steps = curve(run, "step")
    return metrics.value_at(steps, curve(run, name, layer), min(step, float(steps[-1])))


def total_risk(run: Run, step: float) -> float:
    """Backcopy and Bigram excess risk (nats) at a step; of a shorter run, at its end."""
    return at_step(run, "backcopy", step) + at_step(run, "bigram", step)


def growth(run: Run, name: str, layer: int = 0) -> float:
    """Last value over first value."""
    values = curve(run, name, layer)
    return float(values[-1] / values[0])


def passage(run: Run, name: str, threshold: float) -> float:
    """First step at which a curve falls to a threshold; one that never does counts as twice the run's length."""
    steps = curve(run, "step")
    # Starting below the threshold would give step 0, whose logarithm is no number: the first step counts instead.
    return min(max(metrics.first_passage(steps, curve(run, name), threshold), 1.0), 2.0 * float(steps[-1]))


def uniform(run: Run) -> float:
    """Attn_<s> that uniform causal attention would give (H_T/T for all queries)."""
    return float(run.arrays["baseline"])


def excess_over_uniform(run: Run, layer: int = 0) -> float:
    """Final Attn_<s> over that of uniform causal attention."""
    return final(run, "attn_start", layer) / uniform(run)


def attention_cost(run: Run) -> float:
    """What cutting the attention of the trained network adds to its risk (nats), over all positions but the starts."""
    copies = float(run.arrays["copy_share"])
    costs = [float(run.arrays[f"no_attention_{name}"]) - final(run, name) for name in ("backcopy", "bigram")]
    return copies * costs[0] + (1 - copies) * costs[1]


def fall_of_backcopy(run: Run) -> NDArray[np.bool_]:
    """Log points while the Backcopy risk falls from 90 % to 10 % of its largest value."""
    risk = curve(run, "backcopy")
    return metrics.transition(risk, 0.9 * risk.max(), 0.1 * risk.max())


def before_fall(run: Run) -> NDArray[np.bool_]:
    """Log points before the Backcopy risk, once at its largest, falls below 90 % of that."""
    risk = curve(run, "backcopy")
    fallen = (risk <= 0.9 * risk.max()) & (np.arange(risk.size) > risk.argmax())
    before: NDArray[np.bool_] = np.cumsum(fallen) == 0
    return before


def after_fast_phase(run: Run) -> NDArray[np.bool_]:
    """Log points after the Backcopy risk has fallen to 10 % of its largest value: the slow phase."""
    risk = curve(run, "backcopy")
    steps = curve(run, "step")
    after: NDArray[np.bool_] = steps > metrics.first_passage(steps, risk, 0.1 * risk.max())
    return after
