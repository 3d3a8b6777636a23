"""How a composite is compared with its float64 loops: values, slopes along random directions, and huge scores."""

from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np
from oracles import composites as oracle
from oracles.attention import Attended

from theory.laws import F32, Example

Judge = Callable[[oracle.Oracle, Example], None]


def expect(formula: oracle.Oracle, e: Example) -> Attended:
    return formula(oracle.given(e.q, e.k, e.v, e.x, e.params, e.visible, e.offset))


def is_the_formula(formula: oracle.Oracle, e: Example) -> None:
    found, expected = e.run(), expect(formula, e)
    np.testing.assert_allclose(found["out"], expected.out, **F32)
    np.testing.assert_allclose(found["weights"], expected.weights, **F32)
    np.testing.assert_allclose(found["row_mass"], expected.weights.sum(-1), **F32)
    np.testing.assert_allclose(found["received"], expected.weights.sum(-2), **F32)
    if "scores" in found:
        np.testing.assert_allclose(found["scores"], expected.scores, **F32)


def has_its_gradient(formula: oracle.Oracle, e: Example) -> None:
    """The slope along a random direction in everything that moves, x and parameters included."""
    wide, cotangent = e.wide(), e.cotangent()
    direction = jax.tree.map(lambda a: e.rng.normal(size=a.shape), wide.moving)
    slopes = jax.tree.map(lambda g, d: np.sum(g * d), wide.exact(cotangent)[1], direction)
    found = sum(jax.tree.leaves(slopes))

    def value(step: float) -> float:
        moved = jax.tree.map(lambda a, d: a + step * d, wide.moving, direction)
        return float(np.sum(expect(formula, replace(wide, **moved)).out * cotangent))

    # A part that is smooth in pieces may have an edge within the step; the smaller ones get past it.
    for step in (1e-5, 1e-6, 1e-7):
        expected = (value(step) - value(-step)) / (2.0 * step)
        # Central differences: step^2 times third derivatives up to 1e3, plus 2^-53 / step times values up to 1e2.
        if np.isclose(found, expected, rtol=1e-6, atol=1e-6):
            return
    raise AssertionError(f"slope by grad is {found}, by differences {expected}")


def is_the_formula_at_extremes(formula: oracle.Oracle, e: Example) -> None:
    scores = np.einsum("btnh,bsnh->bnts", e.q, np.repeat(e.k, e.q.shape[2] // e.k.shape[2], 2))
    wild = replace(e, q=e.q * np.float32(1e4 * np.sqrt(e.q.shape[3]) / np.abs(scores).max()))
    expected = expect(formula, wild).out
    # Scores of 1e4 carry 1e-3 of rounding in float32, which moves each weight by that much of itself.
    np.testing.assert_allclose(wild.out(), expected, rtol=5e-3, atol=5e-3 * np.abs(expected).max())


JUDGES: tuple[Judge, ...] = (is_the_formula, has_its_gradient, is_the_formula_at_extremes)
