"""The restricted model against loops from the definition, its gradient against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import theory as oracle

from theory.restricted import gradient, restricted_model, risk
from theory.strategies import restricted_models


@given(restricted_models())
def test_risk_is_the_definition_s(case):
    with jax.enable_x64(True):
        found = float(risk(case.model(), jnp.asarray(case.alpha), jnp.asarray(case.beta)))
    # Float64 sums of at most 60 terms of order one; near the optimum the loops lose digits to the cancellation
    # log z - u, never more than a few 1e-16.
    expected = oracle.risk(case.p, case.pi, case.counts, case.values, case.alpha, case.beta)
    assert found == pytest.approx(expected, rel=1e-11, abs=1e-14)


@given(restricted_models())
def test_gradient_is_that_of_the_risk(case):
    with jax.enable_x64(True):
        model = case.model()
        at = jnp.asarray(case.alpha), jnp.asarray(case.beta)
        expected = jax.grad(risk, (1, 2))(model, *at)
        found = gradient(model, *at)
        for ours, theirs in zip(found, expected, strict=True):
            # Automatic differentiation cancels terms of order one: its error is a few 1e-16 absolute.
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-14)


def test_the_centred_gradient_keeps_its_digits_near_the_optimum():
    """At distance d from beta = c 1 - e^{-a} B the gradient is linear in d down to 1e-12."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        arrays = {
            "p": rng.dirichlet(np.ones(5), 3),
            "pi": np.ones(3),
            "counts": rng.integers(1, 5, 5),
            "xi": np.ones(5),
        }
        model = restricted_model(*arrays.values())
        alpha, way = jnp.full(3, 1.5), jnp.asarray(rng.normal(size=5))
        optimum = 0.3 - np.exp(-1.5) * jnp.asarray(arrays["counts"], jnp.float64)
        far, near = (gradient(model, alpha, optimum + d * way)[1] / d for d in (1e-6, 1e-11))
        # The quadratic term leaves 1e-6 of the far one, rounding of the point itself (1e-16 / 1e-11) 1e-5 of the near.
        np.testing.assert_allclose(near, far, rtol=1e-4, atol=1e-6)
        assert float(jnp.abs(gradient(model, alpha, optimum)[1]).max()) < 1e-15


@given(restricted_models(), st.floats(-5, 5))
def test_a_constant_added_to_beta_changes_nothing(case, shift):
    with jax.enable_x64(True):
        model = case.model()
        a, b = (risk(model, jnp.asarray(case.alpha), jnp.asarray(case.beta) + s) for s in (0.0, shift))
        # Only roundings of u, of order 5e-16, differ.
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([[0.5, 0.5]], [1.0, 1.0], [1, 1]), "shapes"),
        (([[0.5, 0.6]], [1.0], [1, 1]), "probabilities"),
        (([[0.5, 0.5]], [0.0], [1, 1]), "pi must be positive"),
        (([[0.5, 0.5]], [1.0], [0, 0]), "at least one key"),
    ],
)
def test_mistakes(arguments, words):
    with pytest.raises(ValueError, match=words):
        restricted_model(*map(np.asarray, arguments))
