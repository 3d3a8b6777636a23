"""Theorem 1 in a real transformer against loops; the two calculations on constructed networks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import construction as oracle

from jaxsink.tasks import BigramBackcopy, dirichlet
from theory import construction
from theory.calculations.construction import Construction, RandomChain
from theory.calculations.networks import EqualCounts, Size, Trajectories

V, T = 5, 6


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def case():
    """(model, free values of the construction, sequences) with a trigger and a zero in the rows."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(V), V)
    p[1, 2] = 0.0
    p /= p.sum(1, keepdims=True)
    log_p = construction.log_rows(p, (3,))
    alpha = rng.normal(0, 2, V)
    alpha[3] = 0.0
    tokens = np.concatenate([np.full((4, 1), V), rng.integers(0, V, (4, T - 1))], axis=1)
    values = {"log_p": log_p, "alpha": alpha, "lam": 1.5, "xi": rng.uniform(1, 3, V), "beta": rng.normal(size=V)}
    return construction.network(V, T), values, tokens


def build(model, values):
    return construction.construct(model, **{name: jnp.asarray(value) for name, value in values.items()})


@partial(jax.jit, static_argnums=0)
def log_probs(model, params, tokens):
    return construction.log_law(model, params, jnp.asarray(tokens, jnp.int32))


def test_the_network_computes_the_construction(case):
    model, values, tokens = case
    found = np.asarray(log_probs(model, build(model, values), tokens))
    for row, sequence in enumerate(tokens):
        for i in range(1, T):
            expected = oracle.log_law(sequence, i, **values)
            # Float64 sums of ten terms; the logit for log 0 is 1e3, whose last place is 1e-13.
            np.testing.assert_allclose(found[row, i, :V], expected, rtol=1e-12, atol=1e-12)
    # `<s>` is never predicted: e^-1000 underflows.
    assert (np.exp(found[..., V]) == 0).all()


def test_free_is_the_inverse_of_with_free(case):
    model, values, tokens = case
    params = build(model, values)
    queries = (4, 0, 2)
    alpha, beta = jnp.asarray([1.0, -2.0, 0.5]), jnp.arange(float(V))
    placed = construction.with_free(params, queries, alpha, beta)
    for found, given in zip(construction.free(placed, queries), (alpha, beta), strict=True):
        np.testing.assert_array_equal(found, given)
    again = construction.with_free(placed, queries, *construction.free(params, queries))
    jax.tree.map(np.testing.assert_array_equal, again, params)

    def loss(params):
        return log_probs(model, params, tokens)[:, 1:, 0].sum()

    gradient = jax.jit(jax.grad(loss))
    inside = construction.free(gradient(placed), queries)
    outside = jax.vjp(lambda *at: construction.with_free(params, queries, *at), alpha, beta)[1](gradient(placed))
    for found, expected in zip(inside, outside, strict=True):
        # The same sums in another order.
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_log_rows_are_finite():
    rows = construction.log_rows(np.array([[0.0, 1.0], [0.5, 0.5]]), (1,))
    np.testing.assert_array_equal(rows, [[construction.NEVER, 0.0], [0.0, 0.0]])


def test_risks_follow_from_the_law_of_the_loops():
    """The calculation's risks are those of the network of loops, on the sequences of the same key."""
    spec = Construction(chain=RandomChain(size=V), length=T, batch=4, fine=1.0, coarse=2.0)
    found = spec.arrays(3)
    assert set(found) == {"scale", "backcopy", "bigram", "characters", "share", "moments"}
    np.testing.assert_array_equal(found["scale"], [0.0, 0.25, 0.5, 0.75, 1.0, 2.0])
    jax.tree.map(np.testing.assert_array_equal, found, spec.arrays(3))
    task = BigramBackcopy.make(dirichlet(V, 1.0, 3))
    tokens = np.asarray(task.sample(jax.random.key(3), 4, T))[:, :-1]
    trigger, law = np.asarray(task.is_trigger(tokens)), np.asarray(task.law(tokens))[..., :V]
    log_p = construction.log_rows(task.chain.transition, task.triggers)
    c = 2.0
    alpha = np.where(np.isin(np.arange(V), task.triggers), 0.0, 2 * c)
    risks = {True: [], False: []}
    for row, i in np.argwhere(np.arange(T)[None] * np.ones((4, 1)) > 0):
        log_q = np.array(oracle.log_law(tokens[row], i, log_p, alpha, c, np.full(V, c), np.zeros(V)))
        p = law[row, i]
        log_ratio = np.log(p, where=p > 0, out=np.zeros(V)) - log_q
        risks[bool(trigger[row, i])].append((p * np.where(p > 0, log_ratio, 0)).sum())
    # Float64 rounding of means of some twenty terms.
    assert found["bigram"][-1] == pytest.approx(np.mean(risks[False]), rel=1e-11)
    assert found["backcopy"][-1] == pytest.approx(np.mean(risks[True]), rel=1e-11)
    assert found["share"].sum() == pytest.approx(1)


def test_bigram_risk_is_the_second_order_of_the_exact_one():
    """One query, whose exact risk is known: the error is of the next order, so halving the output halves it."""
    p, tokens, i = np.array([0.5, 0.3, 0.2]), [3, 0, 1, 1, 0], 4
    counts, previous = np.array([2.0, 2.0, 0.0]), np.array([0.0, 1.0, 0.0])

    def covariance(x, y):
        return (p * x * y).sum() - (p * x).sum() * (p * y).sum()

    moments = np.zeros((5, 3))
    moments[i] = covariance(counts, counts), covariance(counts, previous), covariance(previous, previous)
    errors = []
    for c in (8.0, 9.0):
        u = np.array(oracle.output(tokens, i, [2 * c] * 3, c, [c] * 3, [0.0] * 3))
        exact = np.log((p * np.exp(u)).sum()) - (p * u).sum()
        errors.append(construction.bigram_risk(np.array([c]), np.eye(5)[i], moments)[0] / exact - 1)
    # u is c e^{-c} to leading order; what is left is a share of it, and rounding of 1e-16 over 1e-7.
    assert errors[1] / errors[0] == pytest.approx(9 / 8 * np.exp(-1), rel=0.01)
    assert abs(errors[1]) < 9 * np.exp(-9)


def test_predictions_fit_together():
    rng = np.random.default_rng(0)
    share, moments = np.full(32, 1 / 32), rng.uniform(0.1, 0.2, (32, 3)) * np.array([9.0, 1.0, 1.0])
    peak = construction.bigram_peak(share, moments)
    grid = np.linspace(0.1, 8, 8001)
    # The grid has steps of 1e-3; the search stops at 1e-5.
    assert peak == pytest.approx(grid[construction.bigram_risk(grid, share, moments).argmax()], abs=1e-3)
    scale = construction.solving_scale(1e-6, 65)
    assert construction.backcopy_risk(np.array([scale]), 65)[0] == pytest.approx(1e-6, rel=1e-12)


def test_calculations_on_equal_counts():
    size = Size(instances=2, characters=4, queries=2, extra=2)
    names = {"p", "pi", "xi", "counts", "alpha", "beta"}
    found = EqualCounts(size).arrays(0)
    assert set(found) == names | {"loss", "d_alpha", "d_beta"}
    jax.tree.map(np.testing.assert_array_equal, found, EqualCounts(size).arrays(0))
    setting, counts = size.draw(0)
    tokens = np.asarray(setting.tokens)
    for i, v in np.ndindex(2, 2):
        assert tokens[i, v, 0] == 4
        assert tokens[i, v, -1] == v
        np.testing.assert_array_equal(np.bincount(tokens[i, v, 1:], minlength=4), counts[i])
    own, _ = Size(8, 4, 2, 2, own_counts=True).draw(0)
    sorted_keys = np.sort(np.asarray(own.tokens), axis=-1)
    assert (sorted_keys[:, 0] != sorted_keys[:, 1]).any()


def test_trajectories_are_read_at_equal_times():
    spec = Trajectories(Size(instances=2, characters=4, queries=2, extra=2), steps=2, points=2, halvings=1)
    found = spec.arrays(0)
    np.testing.assert_array_equal(found["rate"], [1.0, 0.5])
    np.testing.assert_array_equal(found["time"], [1.0, 2.0])
    assert found["betas"].shape == (2, 2, 2, 4)
    once = EqualCounts(spec.size).arrays(0)
    # The first reading of the larger rate is one step of size one along the gradient, whose entries are of order .1.
    np.testing.assert_allclose(found["alphas"][:, 0, 0], once["alpha"] - once["d_alpha"], atol=1e-14)
    # Two steps of half that size end near by, the step times the change of the gradient over it.
    np.testing.assert_allclose(found["alphas"][:, 1, 0], found["alphas"][:, 0, 0], atol=0.05)
