"""What a law looks at: one number, the bound that it must keep, and where it was found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

# float32: 2^-24 per operation, about ten of them in a row on numbers below 10.
F32 = {"rtol": 1e-5, "atol": 1e-5}


@dataclass(frozen=True)
class Finding:
    """One number beside its bound.

    Attributes:
        what: the number in words.
        value: the number; for a comparison of arrays, the difference that exceeds its tolerance the most.
        bound: the number may not lie above it, or below it where `least` is set.
        least: whether the bound is the least value and not the largest.
        where: index of the number in its array, () if it is not one of many.
    """

    what: str
    value: float
    bound: float
    least: bool = False
    where: tuple[int, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the number keeps its bound; NaN never does."""
        return self.value >= self.bound if self.least else self.value <= self.bound

    @property
    def used(self) -> float:
        """Share of the bound that is used up: 0 is exact, above 1 is broken, infinite where it cannot be said."""
        part, whole = (self.bound, self.value) if self.least else (self.value, self.bound)
        if part == 0.0:
            return 0.0
        return part / whole if whole > 0.0 and not math.isnan(part / whole) else math.inf

    def __str__(self) -> str:
        place = f" at {list(self.where)}" if self.where else ""
        return f"{self.what}: {self.value:.2g}{place}, {'least' if self.least else 'most'} {self.bound:.2g}"


def close(what: str, found: ArrayLike, expected: ArrayLike, *, rtol: float = 0.0, atol: float = 0.0) -> Finding:
    """|found - expected| <= atol + rtol |expected| everywhere; without tolerances, equal everywhere.

    Args:
        what: the comparison in words.
        found: an array.
        expected: an array of the same shape, or one number.
        rtol: relative tolerance.
        atol: absolute tolerance.
    """
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if b.ndim and a.shape != b.shape:
        return Finding(f"{what}, whose shapes are {list(a.shape)} and {list(b.shape)}", math.inf, 0.0)
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, np.abs(a - b))  # also equal infinities
    difference = np.where(np.isnan(difference), np.inf, difference)
    tolerance = np.broadcast_to(atol + rtol * np.where(np.isfinite(b), np.abs(b), 0.0), difference.shape)
    if not difference.size:
        return Finding(what, 0.0, atol)
    with np.errstate(divide="ignore", invalid="ignore"):
        used = np.where(difference == 0.0, 0.0, difference / tolerance)
    where = tuple(int(i) for i in np.unravel_index(int(np.argmax(used)), used.shape))
    return Finding(what, float(difference[where]), float(tolerance[where]), where=where)


def zero(what: str, found: ArrayLike) -> Finding:
    """Every entry is exactly zero."""
    return close(what, found, 0.0)


def finite(what: str, tree: Any) -> Finding:
    """No entry of any array is infinite or NaN."""
    return Finding(
        f"entries of {what} that are not finite",
        float(sum(np.sum(~np.isfinite(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(tree))),
        0.0,
    )


def has_dtype(what: str, found: np.dtype[Any], expected: DTypeLike) -> Finding:
    """The dtype is the expected one; the number is 0 if so and 1 if not."""
    name = np.dtype(expected).name
    return Finding(f"{what} that are {found} and not {name}", float(found != name), 0.0)
