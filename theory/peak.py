"""The mechanism of residual-state peaks (2410.13835, section 3): what an optimiser makes of a vanishing gradient.

m is the residual scale of `<s>` along the sink direction. LayerNorm makes the loss's derivative -log t / (t m^3): it
keeps its sign and dies out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]
# m after so many updates of Adam (rate .3, betas .9 and .999, eps 1e-8) from m_0 = 10, as theory states it.
PREDICTED = {100: 19.6, 1000: 27.9, 10_000: 64.0}


def force(step: int, m: float) -> float:
    """-dL/dm = log t / (t m^3) at step t = 1, 2, ...; times the rate it is what gradient descent adds to m."""
    return math.log(step) / (step * m**3)


def sgd_peak(rate: float, start: float, steps: int) -> Curve:
    """m after 1, ..., steps updates of gradient descent, to first order in the rate.

    m^4 = m_0^4 + 4 rate sum log t / t. The sum is 1/2 log^2 t up to a constant, so m all but stays.

    Args:
      rate: of learning. start: m_0. steps: how many.

    Returns:
      [steps].
    """
    pushes = np.cumsum([force(t, 1.0) for t in range(1, steps + 1)])
    return (start**4 + 4 * rate * pushes) ** 0.25


def adam_peak(rate: float, start: float, steps: int, b1: float, b2: float, eps: float) -> Curve:
    """m after 1, ..., steps updates of Adam (1412.6980, algorithm 1).

    Args:
      rate, b1, b2, eps: of Adam. start: m_0. steps: how many.

    Returns:
      [steps].
    """
    m, first, second, curve = start, 0.0, 0.0, np.empty(steps)
    for t in range(1, steps + 1):
        push = force(t, m)
        first, second = b1 * first + (1 - b1) * push, b2 * second + (1 - b2) * push**2
        m += rate * (first / (1 - b1**t)) / (np.sqrt(second / (1 - b2**t)) + eps)
        curve[t - 1] = m
    return curve


def turning_step(curve: Curve) -> int:
    """The step at which a curve of steps 1, 2, ... turns from concave to convex; 0 where it never does for good.

    Increments fall before it and rise after it: it is where they are smallest, unless that is at an end.
    """
    increments = np.diff(curve)
    smallest = int(increments.argmin())
    return smallest + 1 if 0 < smallest < increments.size - 1 else 0
