"""Judgements on curves over the log points of a training run, in numpy float64.

A curve below is an array [P] of values at the log points step[P]. Mistakes in the arguments raise; a question
that the data cannot answer (a line through one point, the correlation with a constant) is NaN, and a
threshold that is never reached is passed at infinity.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class LineFit(NamedTuple):
    """Least-squares line y = slope * x + intercept and the share of the variance of y that it explains."""

    slope: float
    intercept: float
    r_squared: float


def first_passage(step: ArrayLike, curve: ArrayLike, threshold: float) -> float:
    """Step at which a falling curve first reaches a threshold, linear between log points.

    Args:
        step: [P] training steps, strictly increasing.
        curve: [P] finite values.
        threshold: value to reach from above, in the units of `curve`; equality counts.

    Returns:
        The step, possibly fractional; step[0] when the curve starts at or below the threshold, inf when it
        never reaches it.

    Raises:
        ValueError: wrong rank, lengths that differ, steps not increasing, or values not finite.

    Source: for the order of learning in 2410.13835; elementary.
    """
    steps, values = _logged(step, curve)
    level = _scalar("threshold", threshold)
    after = _first_at_or_below(values, level)
    if after == values.size:
        return math.inf
    if after == 0:
        return float(steps[0])
    before = after - 1
    share = (values[before] - level) / (values[before] - values[after])
    return float(steps[before] + share * (steps[after] - steps[before]))


def value_at(step: ArrayLike, curve: ArrayLike, at_step: float) -> float:
    """Value of a curve at a step, linear between log points.

    Args:
        step: [P] training steps, strictly increasing.
        curve: [P] finite values.
        at_step: step to read at, between step[0] and step[-1].

    Returns:
        The value, in the units of `curve`.

    Raises:
        ValueError: wrong rank, lengths that differ, steps not increasing, values not finite, or a step
            outside the logged range.
    """
    steps, values = _logged(step, curve)
    at = _scalar("at_step", at_step)
    if not steps[0] <= at <= steps[-1]:
        raise ValueError(
            f"at_step must lie in the logged range {steps[0]:g}..{steps[-1]:g}, got {at:g}; "
            "choose a step between two log points."
        )
    return float(np.interp(at, steps, values))


def transition(curve: ArrayLike, upper: float, lower: float) -> NDArray[np.bool_]:
    """Log points of the fall of a curve: from the first at or below `upper` to the first at or below `lower`.

    Both ends are included. The mask is empty when the curve never reaches `upper`, and runs to the last log
    point when it never reaches `lower`.

    Args:
        curve: [P] finite values.
        upper: value at which the fall begins, in the units of `curve`.
        lower: value at which it ends; at most `upper`.

    Returns:
        bool [P].

    Raises:
        ValueError: wrong rank, values not finite, or lower above upper.

    Source: for the phase in which the sink forms in 2410.13835; elementary.
    """
    values = _finite("curve", curve)
    high, low = _scalar("upper", upper), _scalar("lower", lower)
    if low > high:
        raise ValueError(f"lower must be at most upper = {high:g}, got {low:g}; swap the two.")
    first, last = _first_at_or_below(values, high), _first_at_or_below(values, low)
    points = np.arange(values.size)
    inside: NDArray[np.bool_] = (points >= first) & (points <= last)
    return inside


def line_fit(x: ArrayLike, y: ArrayLike) -> LineFit:
    """Least-squares line through points.

    Args:
        x: [P] finite abscissae.
        y: [P] finite ordinates.

    Returns:
        LineFit. All fields are NaN when x has fewer than two distinct values; r_squared is NaN when y is
        constant.

    Raises:
        ValueError: wrong rank, lengths that differ, or values not finite.
    """
    xs, ys = _paired(x, y)
    if _constant(xs):
        return LineFit(math.nan, math.nan, math.nan)
    x_mean, y_mean = xs.mean(), ys.mean()
    dx, dy = xs - x_mean, ys - y_mean
    slope = float(dx @ dy / (dx @ dx))
    intercept = float(y_mean - slope * x_mean)
    if _constant(ys):
        return LineFit(slope, intercept, math.nan)
    residual = dy - slope * dx
    return LineFit(slope, intercept, float(1.0 - residual @ residual / (dy @ dy)))


def r_squared(x: ArrayLike, y: ArrayLike) -> float:
    """Share of the variance of y that the least-squares line on x explains.

    Args:
        x: [P] finite abscissae.
        y: [P] finite ordinates.

    Returns:
        A number up to 1; NaN when x or y is constant or has fewer than two points.

    Raises:
        ValueError: as `line_fit`.
    """
    return line_fit(x, y).r_squared


def correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson correlation of two curves.

    Args:
        x: [P] finite values.
        y: [P] finite values.

    Returns:
        A number in [-1, 1]; NaN when x or y is constant or has fewer than two points.

    Raises:
        ValueError: wrong rank, lengths that differ, or values not finite.
    """
    xs, ys = _paired(x, y)
    if _constant(xs) or _constant(ys):
        return math.nan
    dx, dy = xs - xs.mean(), ys - ys.mean()
    # Norms are multiplied after their roots: the product of two sums of squares may overflow or underflow.
    return float(np.clip((dx / np.linalg.norm(dx)) @ (dy / np.linalg.norm(dy)), -1.0, 1.0))


def _first_at_or_below(values: NDArray[np.float64], level: float) -> int:
    """Index of the first value at or below the level; the number of values when there is none."""
    reached = np.flatnonzero(values <= level)
    return int(reached[0]) if reached.size else values.size


def _constant(values: NDArray[np.float64]) -> bool:
    return values.size < 2 or bool(np.all(values == values[0]))


def _scalar(name: str, value: float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {number}; pass a value that a curve can have.")
    return number


def _finite(name: str, value: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must have the one axis [P] of the log points, got shape {array.shape}; select a curve."
        )
    if not np.isfinite(array).all():
        first = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, got {array[first]} at log point {first}; select the finite points.")
    return array


def _paired(x: ArrayLike, y: ArrayLike, names: tuple[str, str] = ("x", "y")) -> tuple[NDArray[np.float64], ...]:
    xs, ys = _finite(names[0], x), _finite(names[1], y)
    if xs.shape != ys.shape:
        raise ValueError(
            f"{names[1]} must have the {xs.size} points of {names[0]}, got {ys.size}; "
            "pass values of the same log points."
        )
    return xs, ys


def _logged(step: ArrayLike, curve: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    steps, values = _paired(step, curve, ("step", "curve"))
    if steps.size == 0 or not (np.diff(steps) > 0).all():
        raise ValueError("step must hold at least one step in strictly increasing order; sort the log points.")
    return steps, values
