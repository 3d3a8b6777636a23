"""What values do to the weight on `<s>`: the formulas and the networks' derivatives, each by finite differences."""

import dataclasses
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.models import Transformer, TransformerConfig, init
from jaxsink.probing import Add, Scale, run
from jaxsink.tasks import BigramBackcopy, dirichlet
from jaxsink.training import Adam, DirichletChain, TaskConfig, TrainConfig
from theory import attribution
from theory.calculations.attribution import MinimalPulls, TrainedPulls, WeightDerivatives, _trained_pulls
from theory.calculations.minimal import Minimal
from theory.claims.wv_attribution import predicted_pull

V, T = 5, 7
TASK = BigramBackcopy.make(dirichlet(V, 1.0, 0), k=1)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def difference(f, step=1e-5):
    """Central difference at zero: step^2 = 1e-10 and rounding 1e-16 / step = 1e-11, times third derivatives."""
    return (f(step) - f(-step)) / (2 * step)


# The formulas -----------------------------------------------------------------------------------------------------
def risk(alpha, keys, p, value, other):
    """KL(p || q) of one query with sink logit alpha, by loops."""
    a = math.exp(alpha) / (math.exp(alpha) + keys)
    u = [a * x + (1 - a) * y for x, y in zip(value, other, strict=True)]
    norm = sum(x * math.exp(y) for x, y in zip(p, u, strict=True))
    return sum(-x * (y - math.log(norm)) for x, y in zip(p, u, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_pulls_are_the_mixed_derivatives_of_the_risk(seed):
    rng = np.random.default_rng(seed)
    alpha, keys, p = rng.normal(), 4.0, rng.dirichlet(np.ones(V))
    value, part, rest = rng.normal(size=(3, V))
    other = part + rest
    a = 1 / (1 + keys * math.exp(-alpha))
    q = p * np.exp(a * value + (1 - a) * other)
    seen = (np.array(a), p, q / q.sum(), value, other)

    def velocity(own, of_part):
        at = (keys, p, math.exp(own) * value, math.exp(of_part) * part + rest)
        return -difference(lambda h: risk(alpha + h, *at), 1e-4)

    # Differences of differences: 1e-8 and 1e-16 / 1e-8, times derivatives of some units.
    close = {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(attribution.velocity(*seen), velocity(0, 0), **close)
    np.testing.assert_allclose(attribution.own_pull(*seen), difference(lambda h: velocity(h, 0), 1e-3), **close)
    np.testing.assert_allclose(attribution.other_pull(*seen, part), difference(lambda h: velocity(0, h), 1e-3), **close)


# The calculations -------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_derivatives_of_weights_are_their_differences():
    spec, rate = WeightDerivatives(instances=1), 1e-3
    found = spec.arrays(0)
    in_the_pass, after = found["in_the_pass"][0], found["after_a_step"][0]
    # Not small: zero, as nothing leads from a value to the weights of its block or of those before.
    np.testing.assert_array_equal(in_the_pass[np.tril_indices(2)], 0.0)
    assert in_the_pass[0, 1] > 1e-3
    assert np.diagonal(after).min() > 1e-4

    task = BigramBackcopy.make(dirichlet(spec.characters, 1.0, 0), k=1)
    config = TransformerConfig(n_layers=2, n_heads=spec.heads, d_model=spec.width, dtype="float64")
    model = Transformer(task.vocab_size, spec.length, config)
    of_params, of_tokens = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
    params = jax.jit(init, static_argnums=0)(model, of_params)
    tokens = task.sample(of_tokens, spec.batch, spec.length)[:, :-1]
    first = (np.arange(spec.length) == 0)[None, :, None, None]
    names = ["blocks.0.pattern", "blocks.1.pattern"]

    def edits(factors):
        return {f"blocks.{i}.v": Scale(factors[i], first) for i in range(2)}

    @jax.jit
    def weights(params, factors):
        captured = run(model, params, tokens, capture=names, edits=edits(factors))[1]
        return jnp.stack([captured[name][..., 1:, 0] for name in names])

    @jax.jit
    @jax.grad
    def gradient(params, factors):
        log_q = jax.nn.log_softmax(run(model, params, tokens, edits=edits(factors))[0])
        return -(task.law(tokens) * log_q).sum(-1)[:, 1:].mean()

    def stepped(factors):
        moved = jax.tree.map(lambda x, y: x - rate * y, params, gradient(params, factors))
        return weights(moved, jnp.ones(2))

    for layer, direction in enumerate(np.eye(2)):
        by_pass = difference(lambda h, d=direction: weights(params, jnp.exp(h * d)))
        by_step = difference(lambda h, d=direction: stepped(jnp.exp(h * d)), 1e-4) / rate
        np.testing.assert_allclose(in_the_pass[layer], np.abs(by_pass).max((1, 2, 3)), rtol=1e-6, atol=1e-9)
        # A step of 1e-4 leaves 1e-8, and rounding 1e-16 / 1e-4 over a rate of 1e-3 some 1e-9.
        np.testing.assert_allclose(after[layer], np.abs(by_step).max((1, 2, 3)), rtol=1e-5, atol=1e-8)


def test_pulls_of_the_minimal_network_are_differences_of_its_loss():
    one = Minimal()
    pulls = [MinimalPulls(one, instances=1, batch=2, token=k).arrays(5) for k in range(one.characters)]
    found = {name: values[0] for name, values in pulls[0].items()}
    tokens = one.task.sample(jax.random.fold_in(jax.random.key(5), 0), 2, one.length)[:, :-1]
    weight = jnp.asarray(found["weight"].reshape(tokens.shape))
    np.testing.assert_array_equal(weight > 0, one.dormant(tokens) > 0)

    @jax.jit
    def loss(alpha, own, xi):
        longer = dataclasses.replace(one, xi=one.xi * jnp.exp(xi))
        return longer.loss((alpha, jnp.exp(own) * found["beta"]), tokens, weight)

    for n, direction in enumerate(np.eye(one.queries.size)):

        def velocity(own, xi, direction=direction):
            return -float(difference(lambda h: loss(found["alpha"] + h * direction, own, xi), 1e-4))

        assert found["velocity"][n] == pytest.approx(velocity(0.0, 0.0), rel=1e-5, abs=1e-8)
        assert found["own"][n] == pytest.approx(difference(lambda h, v=velocity: v(h, 0.0), 1e-3), rel=1e-4, abs=1e-7)
        # `Minimal` has one xi for all characters, so that their values are longer together.
        together = difference(lambda h, v=velocity: v(0.0, h), 1e-3)
        assert sum(each["other"][0, n] for each in pulls) == pytest.approx(together, rel=1e-4, abs=1e-7)


TINY = TrainConfig(
    task=TaskConfig(DirichletChain(V, 1.0, 0), n_triggers=1),
    model=TransformerConfig(d_model=8),
    optimiser=Adam(rate=1e-2),
    length=T,
    batch=4,
    steps=20,
    chunk_steps=10,
)


def test_pulls_of_a_network_in_training_are_differences_of_its_loss():
    found = TrainedPulls(TINY, (0, 20), batch=3).arrays(0)
    assert np.abs(found["own"][0] - found["own"][1]).max() > 1e-4  # it was trained
    np.testing.assert_allclose(found["weight"].sum((1, 2)), 1.0, rtol=1e-12)
    model = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, dtype="float64")).transformer(TASK)
    params = jax.jit(init, static_argnums=0)(model, jax.random.key(3))
    tokens = jnp.asarray(found["tokens"])
    read = {name: np.asarray(x) for name, x in _trained_pulls(model, TASK, params, tokens).items()}
    content = int(np.argmax(np.where(np.isin(np.arange(V), TASK.triggers), 0, TASK.chain.marginal)))
    sequences = np.asarray(tokens)

    @jax.jit
    def loss(character, shift, factors):
        scores = jnp.zeros((*tokens.shape, T)).at[:, :, 0].set(jnp.where(tokens == character, shift, 0.0))
        edits = {"blocks.0.attn_scores": Add(scores[:, None]), "blocks.0.v": Scale(factors[:, :, None, None])}
        log_q = jax.nn.log_softmax(run(model, params, tokens, edits=edits)[0])
        return -(read["weight"][..., None] * TASK.law(tokens) * log_q).sum()

    def velocity(character, own, others):
        factors = np.where(sequences == content, math.exp(others), 1.0)
        factors[:, 0] = math.exp(own)
        return -difference(lambda h: loss(character, h, factors), 1e-4)

    for character in range(V):
        assert read["velocity"][character] == pytest.approx(float(velocity(character, 0, 0)), rel=1e-5, abs=1e-8)
        own = difference(lambda h, c=character: velocity(c, h, 0), 1e-3)
        others = difference(lambda h, c=character: velocity(c, 0, h), 1e-3)
        assert read["own"][character] == pytest.approx(float(own), rel=1e-4, abs=1e-7)
        assert read["other"][character] == pytest.approx(float(others), rel=1e-4, abs=1e-7)


def test_the_theory_is_exact_where_a_network_is_linear_after_attention():
    """No LayerNorm, and an MLP that adds nothing."""
    shape = dataclasses.replace(TINY.model, dtype="float64", normalise=False)
    model = dataclasses.replace(TINY, model=shape).transformer(TASK)
    params = jax.jit(init, static_argnums=0)(model, jax.random.key(3))
    params["blocks_0"]["W_out"] = jnp.zeros_like(params["blocks_0"]["W_out"])
    tokens = TASK.sample(jax.random.key(4), 3, T)[:, :-1]
    read = {name: np.asarray(x)[None] for name, x in _trained_pulls(model, TASK, params, tokens).items()}
    seen = SimpleNamespace(arrays=read | {"tokens": np.asarray(tokens)})
    for name in ("velocity", "own", "other"):
        # Float64 sums of a hundred terms.
        np.testing.assert_allclose(predicted_pull(seen, name), read[name], rtol=1e-9, atol=1e-14)
        assert np.abs(read[name]).max() > 1e-3
