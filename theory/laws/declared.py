"""Laws about what a variant declares of its rows: shifts, mass, signs, totals, and the reach of a single score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxsink.attention import Mass
from theory.laws.example import Example
from theory.laws.finding import F32, Finding, close
from theory.laws.law import Law

# Rounding of numbers that are at most one.
_ROUNDING = 1e-6
# What a declared difference has to show, far above rounding and far below what scores of order one make of it.
_VISIBLE = 1e-3


def _shift(e: Example) -> Iterator[Finding]:
    batch, queries, heads, _ = e.q.shape
    shift = e.rng.uniform(1.0, 2.0, size=(batch, heads, queries, 1)).astype(np.float32)
    moved = float(np.abs(e.run()["weights"] - e.run(shift)["weights"]).max())
    if e.variant.properties.shift_invariant:
        yield Finding("largest change of a weight after a shift of its row", moved, F32["atol"])
    else:
        yield Finding("largest change of a weight, declared to feel a shift", moved, _VISIBLE, least=True)


def _row_mass(e: Example) -> Iterator[Finding]:
    mass = e.run()["row_mass"]
    if e.variant.properties.normalised:
        yield close("row mass less one", mass, 1.0, **F32)
    else:
        yield Finding("largest row mass", float(mass.max()), 1.0 + _ROUNDING)
        yield Finding(
            "largest mass that a row lacks, declared to lack some", float(1.0 - mass.min()), _VISIBLE, least=True
        )


def _non_negative(e: Example) -> Iterator[Finding]:
    # `+ 0.0` turns the -0.0 of a smallest weight 0.0 into 0.0.
    yield Finding("weight below zero", float(-e.run()["weights"].min()) + 0.0, 0.0)


def _total(e: Example) -> Iterator[Finding]:
    found = e.run()
    mass = found["row_mass"]
    yield close("row mass and null mass less one", mass + found["null_mass"], 1.0, **F32)
    expected = np.where(e.visible, np.exp(found["scores"] - found["lse"][..., None]) * mass[..., None], 0.0)
    yield close("weights less exp(score - lse) row mass", found["weights"], expected, **F32)


def _raised(e: Example, rise: float) -> Iterator[tuple[int, NDArray[Any], NDArray[Any]]]:
    """A key, and the weights before and after its score is raised in every row; the first and the last key.

    An ordered map may let only the keys on one side of the raised one feel it.
    """
    keys = e.k.shape[1]
    everything = replace(e, visible=np.ones_like(e.visible))
    before = everything.run()["weights"]
    for key in (0, keys - 1):
        bias = np.zeros((1, 1, 1, keys), np.float32)
        bias[..., key] = rise
        yield key, before, everything.run(bias)["weights"]


def _monotone(e: Example) -> Iterator[Finding]:
    for key, before, after in _raised(e, 1.0):
        lost = float((before[..., key] - after[..., key]).max())
        yield Finding("weight that a key loses when its score rises", lost, _ROUNDING)


def _elementwise(e: Example) -> Iterator[Finding]:
    # By a little, and by so much that the raised key wins, which a map with few keys in its support needs to show it.
    each = [*_raised(e, 1.0), *_raised(e, 30.0)]
    moved = max(float(np.abs(np.delete(a - b, key, axis=-1)).max()) for key, a, b in each)
    if e.variant.properties.elementwise:
        yield Finding("change of a weight when the score of another key rises", moved, 0.0)
    else:
        smallest = float(np.finfo(np.float32).tiny)
        yield Finding("change of a weight, declared to feel other scores", moved, smallest, least=True)


LAWS = (
    Law(
        "shift",
        "Adding a constant to all scores of a row leaves the weights alone if so declared, and moves them if not.",
        _shift,
    ),
    Law(
        "row-mass",
        "The weights of a row that sees a key add up to one, or to at most one and less in some row, as declared.",
        _row_mass,
        lambda properties: properties.mass is not Mass.FREE,
        "a mass of one or at most one",
    ),
    Law(
        "non-negative",
        "No weight is below zero.",
        _non_negative,
        lambda properties: properties.non_negative,
        "weights that are not negative",
    ),
    Law(
        "total",
        "Weights are exp(score - total), and the mass on the keys and on the null column adds up to one.",
        _total,
        lambda properties: properties.has_total,
        "a total",
    ),
    Law(
        "monotone",
        "Raising one score never lowers the weight of that key.",
        _monotone,
        lambda properties: properties.monotone,
        "monotone weights",
    ),
    Law(
        "elementwise",
        "Raising one score moves the weight of another key exactly if the weights are not declared elementwise.",
        _elementwise,
    ),
)
