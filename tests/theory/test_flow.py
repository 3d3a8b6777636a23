"""Ends, solvers and the limit of Adam; what gradient flow must do is tested with its predictions."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory import predictions
from theory.flow import adam_flow, gradient_flow
from theory.restricted import gradient, restricted_model

N, V = 2, 3


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    model = restricted_model(rng.dirichlet(np.ones(V), N), np.full(N, 0.5), np.array([1.0, 2.0, 4.0]))
    return model, jnp.asarray(rng.normal(size=N)), jnp.asarray(rng.normal(size=V))


@lru_cache
def compiled(flow, **kwargs):
    return jax.jit(partial(flow, **kwargs))


def joined(flow, case, times, **kwargs):
    """[10, n + V]: all tests read ten times, so that they share what is compiled."""
    assert times.shape == (10,)
    return np.concatenate([np.asarray(x) for x in compiled(flow, **kwargs)(*case, jnp.asarray(times))], axis=1)


def test_a_flow_that_has_arrived_is_held(case):
    times = np.logspace(0, 5, 10)
    whole = joined(gradient_flow, case, times, stiff=False)
    held = joined(gradient_flow, case, times, stiff=False, stop_below=1e-5)

    def velocity(x):
        return jnp.concatenate(gradient(case[0], x[:N], x[N:]))

    speeds = np.array([np.linalg.norm(velocity(jnp.asarray(state))) for state in held])
    moving = np.flatnonzero(speeds > 1e-5)
    # Before the end nothing changes; 1e-10 is what the solver keeps in a step.
    np.testing.assert_allclose(held[moving], whole[moving], atol=1e-9)
    # After it one state is read, the first with a velocity below the bound, and no time is left empty.
    assert np.isfinite(held).all()
    after = held[moving[-1] + 2 :]
    assert len(after) > 1
    assert (after == after[-1]).all()
    # An explicit solver ends a step where it likes, but not beyond its stability: some way below the bound.
    assert 1e-7 < speeds[-1] < 1e-5
    # The way left is the velocity over the slowest rate. Two directions lie in the set of ends: beta's mean and alpha.
    hessian = jax.jacfwd(velocity)(jnp.asarray(whole[-1]))
    slowest = np.linalg.eigvalsh((hessian + hessian.T) / 2)[2]
    np.testing.assert_allclose(held[-1], whole[-1], atol=2 * speeds[-1] / slowest)


def test_the_explicit_solver_ends_where_the_conservation_law_says(case):
    found = joined(gradient_flow, case, np.logspace(0, 5, 10), stiff=False)[-1, :N]
    # 1e-10 a step over some thousand steps; of the way itself e^-80 is left.
    np.testing.assert_allclose(found, predictions.freezing_logit(*(case[0], *map(np.asarray, case[1:]))), atol=1e-6)


def test_adam_with_a_huge_eps_is_gradient_flow(case):
    times, eps = np.linspace(0.5, 5, 10), 1e8
    slow = joined(adam_flow, case, eps * times, eps=eps, stiff=False)
    # Entries of the gradient are below one, so the two differ by 1e-8, times the length of the way.
    np.testing.assert_allclose(slow, joined(gradient_flow, case, times, stiff=False), atol=1e-7)


def test_adam_with_a_tiny_eps_moves_at_the_rate_itself(case):
    model, alpha, beta = case
    times = np.linspace(1e-4, 1e-3, 10)
    found = joined(adam_flow, case, times, eps=1e-12, stiff=False)
    signs = np.sign(np.concatenate(gradient(model, alpha, beta)))
    # |g| / (|g| + eps) is one up to 1e-12 / 1e-3, and no entry of the gradient changes sign on so short a way.
    expected = np.concatenate([alpha, beta])[None] - times[:, None] * signs[None]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_mistakes(case):
    with pytest.raises(ValueError, match="eps must be positive"):
        adam_flow(*case, jnp.ones(1), eps=0.0)
    with jax.enable_x64(False), pytest.raises(ValueError, match="needs float64"):
        adam_flow(*case, jnp.ones(1), eps=1.0)
