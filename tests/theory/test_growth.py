"""Growth over a law of contexts against the case of one law for all queries; the minimal network's calculations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.training import Adam
from theory import growth, predictions
from theory.calculations.minimal import Minimal, MinimalFlow, MinimalTraining
from theory.restricted import gradient, restricted_model

N, V = 3, 4
MINIMAL = Minimal(characters=4, length=6)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def shared(counts):
    """(restricted model, the same contexts as samples) where every query sees all rows of counts [C, V]."""
    rng = np.random.default_rng(0)
    p, pi = rng.dirichlet(np.ones(V), N), rng.dirichlet(np.ones(N))
    size = len(counts)
    query, weight = np.repeat(np.arange(N), size), np.repeat(pi / size, size)
    b = np.tile(2.0 * counts, (N, 1))
    return restricted_model(p, pi, counts, 2.0), growth.contexts(p, query, weight, b.sum(1) / 2, b)


def test_contexts_are_means_by_query():
    p, b = np.array([[0.5, 0.5], [0.2, 0.8]]), np.array([[1.0, 0.0], [3.0, 1.0], [0.0, 2.0]])
    seen = growth.contexts(p, np.array([0, 0, 1]), np.array([0.25, 0.25, 0.5]), np.array([1.0, 4.0, 2.0]), b)
    np.testing.assert_allclose(seen.pi, [0.5, 0.5])
    np.testing.assert_allclose(seen.mean_b, [[2.0, 0.5], [0.0, 2.0]])
    # Var of {1, 0} and {3, 1} by halves is 1/4 and 1; of {0, 2} by .2 and .8 it is .64, and its third cumulant -.768.
    np.testing.assert_allclose(seen.variance, [0.625, 0.64])
    np.testing.assert_allclose(seen.third, [0.0, -0.768], atol=1e-15)
    np.testing.assert_allclose(seen.crowded, [2.125, 1.28])


def test_one_context_is_the_known_case():
    model, seen = shared(np.array([[1.0, 2.0, 4.0, 1.0]]))
    time = np.logspace(3, 9, 4)
    np.testing.assert_allclose(growth.frozen_logit(seen, time), predictions.sink_logit(model, time), rtol=1e-12)
    assert np.isnan(growth.joint_constant(seen)).all()


def test_contexts_that_all_queries_share_are_the_known_case():
    counts = np.random.default_rng(1).integers(1, 8, (5, V)).astype(float)
    model, seen = shared(counts)
    # Both stop where a round changes 1e-12.
    np.testing.assert_allclose(growth.joint_constant(seen), predictions.growing_constant(model), rtol=1e-9)


def still(minimal, sample, moves, start, times):
    """In the place of the flow, which is slow to compile and whose results the claims judge."""
    return tuple(jnp.tile(x[None], (times.size, 1)) for x in start)


def test_the_flow_s_contexts_are_those_of_the_network(monkeypatch):
    """With one context the network's gradient at the start is that of the restricted model of the arrays."""
    monkeypatch.setattr("theory.calculations.minimal._flow", still)
    spec = MinimalFlow(MINIMAL, contexts="one", batch=4, decades=1, points=2)
    found = spec.arrays(0)
    jax.tree.map(np.testing.assert_array_equal, found, spec.arrays(0))
    assert set(found) == {"time", "alphas", "betas", "attention", "alpha", "beta", "p", "query", "weight", "total", "b"}
    np.testing.assert_allclose(found["time"], [1.0, 10**0.5, 10.0])
    assert (found["b"] == found["b"][0]).all()
    assert sorted(found["query"]) == list(range(3))
    model = restricted_model(found["p"], found["weight"][np.argsort(found["query"])], found["b"][0] / 3.0, 3.0)
    sample = spec._sample(0)
    at = jnp.asarray(found["alpha"]), jnp.asarray(found["beta"])
    for ours, theirs in zip(jax.jit(jax.grad(MINIMAL.loss))(at, *sample), gradient(model, *at), strict=True):
        # Rounding of sums of order one.
        np.testing.assert_allclose(ours, theirs, atol=1e-13)


def test_samples_of_many_contexts():
    spec = MinimalFlow(MINIMAL, batch=4)
    sample = spec._sample(0)
    trigger = np.asarray(MINIMAL.task.is_trigger(sample.tokens))
    weight = np.asarray(sample.weight)
    assert weight.sum() == pytest.approx(1)
    assert (weight[:, 0] == 0).all()
    assert (weight[trigger] == 0).all()
    assert (weight[:, 1:][~trigger[:, 1:]] > 0).all()


def test_training_is_read_every_chunk_and_repeats():
    spec = MinimalTraining(MINIMAL, optimiser=Adam(rate=0.01), batch=2, steps=4, chunk=2)
    found = spec.arrays(1)
    np.testing.assert_array_equal(found["step"], [0, 2, 4])
    assert found["alphas"].shape == (3, 3)
    # The first steps of Adam are of the size of its rate.
    assert np.abs(np.diff(found["alphas"], axis=0)).max() < 0.03
    jax.tree.map(np.testing.assert_array_equal, found, spec.arrays(1))
