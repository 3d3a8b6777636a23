"""Judgements on curves: loops, lines with known answers, and what cannot be answered."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import metrics as oracle

from jaxsink import metrics

LOG_STEPS = np.array([0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 100.0])
# Rounded, so that neither side subtracts numbers that differ in the last places only.
levels = st.floats(-10, 10).map(lambda x: round(x, 3))
curves = st.lists(levels, min_size=7, max_size=7).map(np.array)
# A few dozen float64 operations on numbers up to 1e3; slopes divide by differences of at least 1e-3.
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


@settings(max_examples=100, deadline=None)
@given(curve=curves, threshold=levels)
def test_first_passage_agrees_with_the_loop(curve: np.ndarray, threshold: float) -> None:
    measured = metrics.first_passage(LOG_STEPS, curve, threshold)
    np.testing.assert_allclose(measured, oracle.first_passage(LOG_STEPS, curve, threshold), **CLOSE)


@settings(max_examples=100, deadline=None)
@given(curve=curves, at=st.floats(0, 100))
def test_value_at_agrees_with_the_loop(curve: np.ndarray, at: float) -> None:
    np.testing.assert_allclose(metrics.value_at(LOG_STEPS, curve, at), oracle.value_at(LOG_STEPS, curve, at), **CLOSE)


@settings(max_examples=100, deadline=None)
@given(curve=curves, bounds=st.tuples(levels, levels).map(sorted))
def test_transition_agrees_with_the_loop(curve: np.ndarray, bounds: list[float]) -> None:
    mask = metrics.transition(curve, upper=bounds[1], lower=bounds[0])
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, oracle.transition(curve, bounds[1], bounds[0]))


@settings(max_examples=100, deadline=None)
@given(x=curves, y=curves)
def test_fit_and_correlation_agree_with_the_loops(x: np.ndarray, y: np.ndarray) -> None:
    fit = metrics.line_fit(x, y)
    assert metrics.r_squared(x, y) == fit.r_squared or math.isnan(fit.r_squared)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(fit.r_squared)
        assert math.isnan(metrics.correlation(x, y))
        return
    # Both sides lose digits when the points bunch up: eps * (10 / 1e-3)^2 = 2e-8 at worst.
    np.testing.assert_allclose(fit, oracle.line_fit(x, y), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(metrics.correlation(x, y), oracle.correlation(x, y), rtol=1e-6, atol=1e-6)
    # The square of the correlation is the explained share of a straight line.
    np.testing.assert_allclose(metrics.correlation(x, y) ** 2, fit.r_squared, rtol=1e-6, atol=1e-6)


@given(
    steps=st.lists(st.integers(0, 2000), min_size=2, max_size=9, unique=True).map(sorted),
    eighths=st.integers(0, 80),
)
@settings(max_examples=50, deadline=None)
def test_first_passage_is_exact_on_a_line(steps: list[int], eighths: int) -> None:
    crossing = steps[0] + (steps[-1] - steps[0]) * eighths / 80
    curve = 3.0 - 0.25 * np.array(steps)
    threshold = 3.0 - 0.25 * crossing
    # The line is exact in binary; one division and two additions on steps up to 2000 remain.
    assert metrics.first_passage(steps, curve, threshold) == pytest.approx(crossing, rel=1e-12, abs=1e-9)


def test_first_passage_at_the_ends() -> None:
    assert metrics.first_passage([10, 20, 40], [3.0, 2.0, 1.0], 0.5) == math.inf
    assert metrics.first_passage([10, 20, 40], [3.0, 2.0, 1.0], 1.0) == 40.0
    assert metrics.first_passage([10, 20, 40], [3.0, 2.0, 1.0], 1.5) == 30.0
    assert metrics.first_passage([10, 20, 40], [0.2, 2.0, 0.1], 0.5) == 10.0
    # The first of two passages counts.
    assert metrics.first_passage([0, 1, 2, 3], [4.0, 0.0, 4.0, 0.0], 2.0) == 0.5


def test_exact_line_is_explained_whole() -> None:
    fit = metrics.line_fit(LOG_STEPS, 2.0 - 0.5 * LOG_STEPS)
    # A few float64 operations.
    np.testing.assert_allclose(fit, (-0.5, 2.0, 1.0), rtol=1e-14)
    assert metrics.r_squared(LOG_STEPS, 0.1 * LOG_STEPS + 7) == pytest.approx(1.0, abs=1e-14)
    assert metrics.correlation(LOG_STEPS, -3.0 * LOG_STEPS) == pytest.approx(-1.0, abs=1e-14)


def test_unrelated_points_are_not_explained() -> None:
    assert metrics.r_squared([-1.0, 0.0, 1.0], [1.0, 0.0, 1.0]) == pytest.approx(0.0, abs=1e-14)
    assert metrics.correlation([-1.0, 0.0, 1.0], [1.0, 0.0, 1.0]) == pytest.approx(0.0, abs=1e-14)


def test_transition_covers_the_fall_only() -> None:
    curve = [4.0, 3.9, 2.0, 1.0, 0.04, 0.2, 0.01]
    np.testing.assert_array_equal(np.flatnonzero(metrics.transition(curve, 3.0, 0.1)), [2, 3, 4])
    assert not metrics.transition(curve, 0.001, 0.0).any()
    np.testing.assert_array_equal(np.flatnonzero(metrics.transition(curve, 3.0, 0.001)), [2, 3, 4, 5, 6])
    # A fall between two log points leaves the one point behind it.
    np.testing.assert_array_equal(np.flatnonzero(metrics.transition([4.0, 0.01, 0.01], 3.0, 0.1)), [1])


def test_questions_without_an_answer_are_nan() -> None:
    assert all(math.isnan(field) for field in metrics.line_fit([1.0, 1.0], [2.0, 3.0]))
    assert all(math.isnan(field) for field in metrics.line_fit([], []))
    flat = metrics.line_fit([1.0, 2.0, 4.0], [0.1, 0.1, 0.1])
    assert flat.slope == pytest.approx(0.0, abs=1e-15)
    assert flat.intercept == pytest.approx(0.1)
    assert math.isnan(flat.r_squared)
    assert math.isnan(metrics.correlation([1.0], [2.0]))
    assert math.isnan(metrics.correlation([1.0, 2.0], [0.1, 0.1]))


def test_float32_curves_are_judged_in_float64() -> None:
    curve = np.array([4.0, 2.0, 1.0], np.float32)
    assert metrics.value_at(np.array([0, 1, 2], np.int32), curve, 0.5) == 3.0
    assert isinstance(metrics.first_passage([0, 1, 2], curve, 3.0), float)
