"""Measures of statements that hold to the last digits: two sides of an equation, and bounds that are attained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from theory.claim import Arms, Measure, Tier

INF = math.inf
# Some hundreds of float64 operations, each off by 1.1e-16 of numbers below about 100.
EXACT = 1e-12
_UNIT = 2.0**-53
# A quotient of two numbers that are off by EXACT at most, with room for sums of products of several layers.
WITHIN = 1 + 1e-9
ATTAINED = 0.999

Sides = Callable[[Arms], tuple[Any, Any]]
Value = Callable[[Arms], Any]


def evidence(**specs: Any) -> Mapping[Tier, Mapping[str, Any]]:
    """The calculations by arm, with four times the instances in the paper tier."""
    larger = {arm: dataclasses.replace(spec, instances=4 * spec.instances) for arm, spec in specs.items()}
    return {"quick": specs, "paper": larger}


def worst_error(found: Any, expected: Any) -> float:
    """Largest difference over the largest expected size, at least the unit of rounding."""
    found, expected = np.asarray(found), np.asarray(expected)
    return max(float(np.abs(found - expected).max() / np.abs(expected).max()), _UNIT)


def equal(name: str, sides: Sides) -> Measure:
    """The two sides (found, expected) agree."""
    return Measure(
        f"{name}: largest error (relative)",
        lambda a: worst_error(*sides(a)),
        "0 up to rounding",
        (-INF, EXACT),
        "log",
    )


def unequal(name: str, sides: Sides, least: float) -> Measure:
    """The two sides differ by `least` or more: what an equality would be empty without."""
    return Measure(
        f"{name}: largest difference (relative)", lambda a: worst_error(*sides(a)), f"> {least}", (least, INF), "log"
    )


def within(name: str, ratios: Value) -> Measure:
    """No quotient of a number and its upper bound exceeds one."""
    return Measure(
        f"{name}: largest ratio to the bound", lambda a: float(np.max(ratios(a))), "<= 1", (-INF, WITHIN), "log"
    )


def attained(name: str, ratios: Value) -> Measure:
    """Each quotient given, of instances made to attain the bound, comes up to one: it is no larger than it must be."""
    return Measure(
        f"{name}: least ratio where attained", lambda a: float(np.min(ratios(a))), "1, attained", (ATTAINED, INF)
    )
