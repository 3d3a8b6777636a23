"""Scanned optimisers against closed forms and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import construction as oracle

from theory.descent import descend


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_gradient_descent_on_a_quadratic():
    curvature = jnp.asarray([0.5, 2.0])
    start = {"x": jnp.asarray([1.0, -3.0])}
    found = descend(lambda at: {"x": curvature * at["x"]}, optax.sgd(0.1), start, steps=20, every=5)["x"]
    steps = np.arange(0, 21, 5)[:, None]
    # Twenty products in float64.
    np.testing.assert_allclose(found, np.array([1.0, -3.0]) * (1 - 0.1 * np.asarray(curvature)) ** steps, rtol=1e-13)


def test_adam_is_its_algorithm():
    found = descend(lambda x: x**3, optax.adam(0.1, 0.8, 0.95, 1e-3), jnp.asarray(2.0), steps=12)
    # Twelve steps of a dozen operations; optax computes the powers of the betas in another way.
    np.testing.assert_allclose(found, oracle.adam(lambda x: x**3, 2.0, 0.1, 0.8, 0.95, 1e-3, 12), rtol=1e-10)


def test_it_maps_over_starts_and_rates():
    def run(start, rate):
        return descend(lambda x: x, optax.sgd(rate), start, steps=2)

    found = jax.jit(jax.vmap(run))(jnp.asarray([1.0, 2.0]), jnp.asarray([0.5, 0.25]))
    np.testing.assert_allclose(found, [[1, 0.5, 0.25], [2, 1.5, 1.125]], rtol=1e-15)


@pytest.mark.parametrize(("steps", "every"), [(10, 3), (10, 0), (0, 1)])
def test_mistakes(steps, every):
    with pytest.raises(ValueError, match="divisor of steps"):
        descend(lambda x: x, optax.sgd(0.1), jnp.zeros(()), steps, every)
