"""The mechanism of the residual peak: forces, iterates and the step at which a curve turns."""

import math

import numpy as np
import pytest

from theory import peak


def test_the_force_is_minus_the_derivative_of_the_loss():
    # L = log t / (2 t m^2) has dL/dm = -log t / (t m^3).
    loss = lambda m: math.log(7) / (2 * 7 * m**2)  # noqa: E731
    step = 1e-5
    # Central differences: step^2 times third derivatives of order 1e-2.
    assert peak.force(7, 2.0) == pytest.approx((loss(2.0 - step) - loss(2.0 + step)) / (2 * step), rel=1e-8)
    assert peak.force(1, 2.0) == 0.0


def test_gradient_descent_all_but_stays():
    m, curve = 10.0, []
    for t in range(1, 1001):
        m += 0.3 * peak.force(t, m)
        curve.append(m)
    # First order in the rate: what is left out is rate / m^4 = 3e-5 of a growth of .007.
    np.testing.assert_allclose(peak.sgd_peak(0.3, 10.0, 1000), curve, rtol=0, atol=3e-7)


def test_the_first_steps_of_adam_by_hand():
    curve = peak.adam_peak(0.3, 10.0, 3, 0.9, 0.999, 1e-8)
    # log 1 = 0 moves nothing; then the averages hold one gradient g: m = .1 g / .19, v = .001 g^2 / .001999.
    assert curve[0] == 10.0
    assert curve[1] == pytest.approx(10 + 0.3 * (0.1 / 0.19) / math.sqrt(0.001 / 0.001999), rel=1e-5)
    assert curve[2] > curve[1]


@pytest.mark.parametrize("steps", peak.PREDICTED)
def test_the_stated_numbers_are_those_of_the_recursion(steps):
    # Three digits are stated, and at step 100 an update adds one unit of the third.
    assert peak.adam_peak(0.3, 10.0, steps, 0.9, 0.999, 1e-8)[-1] == pytest.approx(peak.PREDICTED[steps], rel=0.005)


def test_turning_step():
    x = np.arange(1.0, 101.0)
    assert peak.turning_step((x - 40) ** 3) == pytest.approx(40, abs=1)
    assert peak.turning_step(np.sqrt(x)) == 0
    assert peak.turning_step(x**2) == 0
