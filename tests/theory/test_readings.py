"""Numbers read off curves, on curves drawn by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from theory.claims import readings

STEP = [0, 10, 20, 40, 80]


def run(**arrays):
    return SimpleNamespace(arrays={"step": np.array(STEP), **{n: np.array(a, np.float32) for n, a in arrays.items()}})


FALLS = run(
    backcopy=[4.0, 4.0, 2.0, 0.375, 0.125],
    attn_start=[[0.1, 9.0], [0.2, 9.0], [0.4, 9.0], [0.6, 9.0], [0.5, 8.0]],
    baseline=0.25,
)


def test_curve_and_final():
    assert readings.curve(FALLS, "attn_start", 0).dtype == np.float64
    np.testing.assert_array_equal(readings.curve(FALLS, "attn_start", 1), [9, 9, 9, 9, 8])
    assert readings.final(FALLS, "attn_start", 0) == 0.5
    assert readings.final(FALLS, "backcopy") == 0.125


@pytest.mark.parametrize(("step", "value"), [(0, 4.0), (15, 3.0), (20, 2.0), (80, 0.125), (1000, 0.125)])
def test_at_step(step, value):
    assert readings.at_step(FALLS, "backcopy", step) == value


def test_at_step_of_a_layer():
    assert readings.at_step(FALLS, "attn_start", 60, 1) == 8.5


def test_growth():
    assert readings.growth(FALLS, "attn_start") == pytest.approx(5.0, rel=1e-6)
    assert readings.growth(FALLS, "attn_start", 1) == pytest.approx(8 / 9)


@pytest.mark.parametrize(
    ("threshold", "step"),
    [(3.0, 15.0), (2.0, 20.0), (1.1875, 30.0), (0.05, 160.0), (5.0, 1.0), (4.0, 1.0)],
    ids=["between points", "on a point", "later", "never: twice the run", "from the start", "equal at the start"],
)
def test_passage(threshold, step):
    assert readings.passage(FALLS, "backcopy", threshold) == pytest.approx(step, rel=1e-6)


def test_uniform_and_excess():
    assert readings.uniform(FALLS) == 0.25
    assert readings.excess_over_uniform(FALLS) == 2.0
    assert readings.excess_over_uniform(FALLS, 1) == 32.0


def test_phases_of_the_fall():
    # 90 % of 4 is passed before step 20, 10 % before step 40: that point ends the fall and opens the slow phase.
    assert readings.fall_of_backcopy(FALLS).tolist() == [False, False, True, True, False]
    assert readings.before_fall(FALLS).tolist() == [True, True, False, False, False]
    assert readings.after_fast_phase(FALLS).tolist() == [False, False, False, True, True]


def test_phases_of_a_risk_that_stays():
    stays = run(backcopy=[4.0, 3.9, 4.0, 3.8, 3.9])
    assert not readings.fall_of_backcopy(stays).any()
    assert readings.before_fall(stays).all()
    assert not readings.after_fast_phase(stays).any()


def test_phases_of_a_risk_that_falls_half_way():
    half = run(backcopy=[4.0, 4.0, 2.0, 1.9, 1.8])
    assert readings.fall_of_backcopy(half).tolist() == [False, False, True, True, True]
    assert not readings.after_fast_phase(half).any()
