"""The closed forms of the restricted model against its integrated gradient flow, each with a setting where it fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory import predictions
from theory.flow import gradient_flow
from theory.restricted import restricted_model

SEEDS = range(5)
TIMES = np.logspace(0, 9, 19)
N, V = 3, 5


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def flow():
    """The flow of one model, compiled once for each choice of what is frozen."""
    compiled = jax.jit(gradient_flow, static_argnames="freeze")

    def run(model, alpha, beta, freeze="nothing"):
        found = compiled(model, jnp.asarray(alpha), jnp.asarray(beta), jnp.asarray(TIMES), freeze=freeze)
        return tuple(np.asarray(x) for x in found)

    return run


def instance(seed, contexts=1, sparse=False):
    """(model, B [V], alpha(0), beta(0)) with B not constant."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(V), N)
    if sparse:
        p *= [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0]]
        p /= p.sum(1, keepdims=True)
    counts = rng.permuted(np.tile(np.arange(1.0, V + 1), (contexts, 1)), axis=1)
    if contexts > 1:
        counts += 2 * np.arange(V)  # or the mean over contexts would be nearly constant, as if it were not there
    return restricted_model(p, rng.uniform(0.1, 0.5, N), counts), counts[0], rng.normal(0, 0.3, N), rng.normal(size=V)


@pytest.mark.parametrize("seed", SEEDS)
def test_sink_logits_grow_as_predicted(flow, seed):
    model, _, alpha, _ = instance(seed)
    found = flow(model, alpha, np.full(V, 0.3), "beta")[0]
    error = np.abs(found - predictions.sink_logit(model, TIMES))
    # What is left out is of the order (3 W)^2 / (pi Var t): 1e-4 here at t = 1e9, a decade less every decade.
    assert error[-1].max() < 1e-4
    np.testing.assert_allclose(error[-1], 0.1 * error[-3], rtol=0.25)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_frozen_value_that_is_not_constant_bends_the_growth(flow, seed):
    model, _, alpha, beta = instance(seed)
    found = flow(model, alpha, 3 * beta, "beta")[0]
    slope = (found[-1] - found[-5]) / np.log(TIMES[-1] / TIMES[-5])
    assert (np.abs(slope - 0.5) > 0.25).all()
    # Theory allows 0 (alpha stops) and, once e^alpha passes W or 1/W, +-1.
    assert np.abs(slope[:, None] - [0.0, 1.0, -1.0]).min(1).max() < 0.05


def test_a_constant_mean_value_gives_no_force(flow):
    rng = np.random.default_rng(0)
    model = restricted_model(rng.dirichlet(np.ones(V), N), np.ones(N), np.ones(V))
    alpha = rng.normal(size=N)
    np.testing.assert_allclose(flow(model, alpha, np.full(V, 0.3), "beta")[0][-1], alpha, atol=1e-12)
    assert np.isnan(predictions.sink_logit(model, TIMES)).all()


@pytest.mark.parametrize("sparse", [False, True], ids=["full support", "sparse"])
@pytest.mark.parametrize("seed", SEEDS)
def test_values_drain_to_the_predicted_limit_at_the_predicted_rate(flow, seed, sparse):
    model, _, _, beta = instance(seed, sparse=sparse)
    found = flow(model, np.full(N, 1.0), beta, "alpha")[1]
    limit, rate = predictions.value_limit(model, 1.0, beta), predictions.value_rate(model, 1.0)
    # The solver keeps 1e-10 a step; the flow is exponentially close long before t = 1e9.
    np.testing.assert_allclose(found[-1], limit, atol=1e-8)
    # Between e^-8 and e^-16 of the way only the slowest mode is left, and the solver's error is still far below.
    times = np.linspace(8 / rate, 16 / rate, TIMES.size)
    late = jax.jit(gradient_flow, static_argnames="freeze")(
        model, jnp.full(N, 1.0), jnp.asarray(beta), jnp.asarray(times), freeze="alpha"
    )[1]
    distance = np.linalg.norm(np.asarray(late) - limit, axis=1)
    slope = np.polyfit(times, np.log(distance), 1)[0]
    assert slope == pytest.approx(-rate, rel=0.02)


def test_a_larger_logit_drains_further():
    model, b, _, beta = instance(0)
    spread = [np.std(predictions.value_limit(model, a, beta)) for a in (0.0, 1.0, 2.0)]
    np.testing.assert_allclose(spread, np.exp([0.0, -1.0, -2.0]) * np.std(b), rtol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_context_conserves_and_freezes_where_predicted(flow, seed):
    model, b, alpha, beta = instance(seed)
    alphas, betas = flow(model, alpha, beta)
    energy, total = predictions.conserved(model, alphas, betas)
    # 1e-10 a step over some hundred steps.
    assert np.ptp(energy) < 1e-6
    assert np.ptp(total) < 1e-10
    a = predictions.freezing_logit(model, alpha, beta)
    np.testing.assert_allclose(alphas[-1], a, atol=1e-5)
    # The stationary point is concentrated and drained: beta + e^{-a} B is constant.
    assert np.ptp(betas[-1] + np.exp(-a) * b) < 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_each_component_of_sparse_rows_conserves_its_own(flow, seed):
    model, _, alpha, beta = instance(seed, sparse=True)
    alphas, betas = flow(model, alpha, beta)
    energies, totals = predictions.conserved(model, alphas, betas)
    assert energies.shape == totals.shape == (TIMES.size, 3)
    # 1e-10 a step over some hundred steps.
    assert np.ptp(energies, axis=0).max() < 1e-6
    assert np.ptp(totals, axis=0).max() < 1e-10
    # The third component is a token that follows nothing; only sums over it are rounded.
    np.testing.assert_allclose(totals[:, 2], beta[4], rtol=1e-14)
    assert predictions.distance_from_stationary(model, alphas[-1], betas[-1]) < 1e-5
    with pytest.raises(ValueError, match="must have one component, but its rows fall into 3"):
        predictions.freezing_logit(model, alpha, beta)


def test_distance_from_the_stationary_set():
    model, b, _, _ = instance(0)
    logits = np.full(N, 0.7)
    # Rounding of numbers of order ten.
    assert predictions.distance_from_stationary(model, logits, 2.0 - np.exp(-0.7) * b) < 1e-14
    assert predictions.distance_from_stationary(model, logits, 2.0 + np.exp(-0.7) * b) > 0.1
    assert predictions.distance_from_stationary(model, logits + np.arange(N), 2.0 - np.exp(-0.7) * b) > 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_many_contexts_never_freeze(flow, seed):
    model, _, alpha, beta = instance(seed, contexts=6)
    alphas = flow(model, alpha, beta)[0]
    slope = (alphas[-1] - alphas[-5]) / np.log(TIMES[-1] / TIMES[-5])
    # The correction falls like t^{-1/2}, times W: some 1e-3 in the last decades.
    np.testing.assert_allclose(slope, 0.5, atol=0.02)
    left = alphas[-1] - 0.5 * np.log(TIMES[-1]) - predictions.growing_constant(model)
    # What is left out falls like t^{-1/2}, with W / sqrt(pi Var) before it.
    np.testing.assert_allclose(left, 0.0, atol=0.01)
    # What one context alone would give, without the balance of beta, is far out.
    p, b = np.asarray(model.p), np.asarray(model.total[:, None] * model.mean_value)
    alone = 0.5 * np.log(2 * np.asarray(model.pi) * ((b**2) @ p.T - (b @ p.T) ** 2).mean(0))
    assert np.abs(left + predictions.growing_constant(model) - alone).max() > 0.1


def test_components():
    model, *_ = instance(0, sparse=True)
    label = predictions.components(model)
    assert label[0] == label[1]
    assert label[2] == label[3]
    assert len(set(label)) == 3


def test_mistakes():
    model, *_ = instance(0, contexts=2)
    with pytest.raises(ValueError, match="must have one context"):
        predictions.value_rate(model, 1.0)
    with pytest.raises(ValueError, match="two contexts or more"):
        predictions.growing_constant(instance(0)[0])
    with pytest.raises(ValueError, match="freeze must be"):
        gradient_flow(model, jnp.zeros(N), jnp.zeros(V), jnp.ones(1), freeze="gamma")
    with jax.enable_x64(False), pytest.raises(ValueError, match="needs float64"):
        gradient_flow(model, jnp.zeros(N), jnp.zeros(V), jnp.ones(1))
