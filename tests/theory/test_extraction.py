"""What is read off a network: exact on constructed ones, and by finite differences on random ones with LayerNorm."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import construction as oracle

from jaxsink.attention import ReLU
from jaxsink.models import Transformer, TransformerConfig, init
from jaxsink.probing import Set, run
from jaxsink.tasks import BigramBackcopy, dirichlet
from theory import construction
from theory.extraction import extract, extractable

V, T = 5, 7
TASK = BigramBackcopy.make(dirichlet(V, 1.0, 0), k=1)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def tokens():
    return TASK.sample(jax.random.key(0), 6, T)[:, :-1]


@pytest.fixture
def dormant(tokens):
    return np.asarray(~TASK.is_trigger(tokens) & (jnp.arange(T) > 0)[None])


def centred(x):
    return x - x.mean()


def test_the_parts_of_a_constructed_network(tokens, dormant):
    rng = np.random.default_rng(0)
    alpha, xi, beta = rng.normal(0, 1, V), rng.uniform(1, 2, V), rng.normal(size=V)
    alpha[list(TASK.triggers)] = 0.0
    model = construction.network(V, T)
    log_p = construction.log_rows(TASK.chain.transition, TASK.triggers)
    params = construction.construct(model, *map(jnp.asarray, (log_p, alpha, 0.0, xi, beta)))
    found = jax.jit(extract, static_argnums=(0, 1))(model, TASK, params, tokens)
    found = {name.removeprefix("extracted_"): np.asarray(x) for name, x in found.items()}
    sequences = np.asarray(tokens)
    seen = sequences[dormant]
    present, keys = np.unique(seen), np.unique(sequences[:, 1:])
    # All of it in float64 sums of some fifty terms.
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(found["share"], np.bincount(seen, minlength=V) / seen.size, **close)
    np.testing.assert_allclose(found["alpha"][present], alpha[present], **close)
    assert np.isnan(np.delete(found["alpha"], present)).all()
    np.testing.assert_allclose(found["alpha_mean"], alpha[seen].mean(), **close)
    np.testing.assert_allclose(found["alpha_spread"], alpha[seen].std(), **close)
    np.testing.assert_allclose(found["alpha_variation"], alpha[seen].std() / abs(alpha[seen].mean()), **close)
    np.testing.assert_allclose(found["beta"], beta, **close)
    np.testing.assert_allclose(found["values"][keys], np.diag(xi)[keys], **close)
    each = []
    for row, i in np.argwhere(dormant):
        counts = np.bincount(sequences[row, 1 : i + 1], minlength=V)
        a = 1 / (1 + i * math.exp(-alpha[sequences[row, i]]))
        rest = np.array(oracle.output(sequences[row], i, alpha, 0.0, xi, np.zeros(V)))
        each.append((i, counts * xi, a * rest, a * a))
    w, b, pulled, squared = (np.mean(x, axis=0) for x in zip(*each, strict=True))
    np.testing.assert_allclose(found["keys"], w, **close)
    np.testing.assert_allclose(found["mean_b"], b, **close)
    limit = -pulled / squared
    np.testing.assert_allclose(found["limit"], limit, **close)
    x, y = centred(beta), centred(limit)
    np.testing.assert_allclose(found["drain"], np.linalg.norm(x), **close)
    np.testing.assert_allclose(found["drain_limit"], np.linalg.norm(y), **close)
    np.testing.assert_allclose(found["drain_b"], np.exp(-alpha[seen].mean()) * np.linalg.norm(centred(b)), **close)
    np.testing.assert_allclose(found["cosine"], x @ y / np.linalg.norm(x) / np.linalg.norm(y), **close)
    np.testing.assert_allclose(found["cosine_b"], np.corrcoef(x, -b)[0, 1], **close)


def test_a_value_on_the_limit_has_cosine_one_and_the_limit_s_norm(tokens):
    """beta = c 1 - e^{-a} B with one alpha for all: the cosine is one where all contexts are alike."""
    same = jnp.tile(tokens[:1], (3, 1)).at[:, 1:].set(jnp.asarray([1, 2, 1, 2, 1, 2], jnp.int32)[None])
    task = BigramBackcopy(TASK.chain, (0,))
    model = construction.network(V, T)
    alpha = jnp.full(V, 0.7).at[0].set(0.0)
    log_p = jnp.asarray(construction.log_rows(task.chain.transition, (0,)))

    @jax.jit
    def at(beta):
        params = construction.construct(model, log_p, alpha, jnp.zeros(()), jnp.ones(V), beta)
        return extract(model, task, params, same)

    found = at(3.0 + at(jnp.zeros(V))["extracted_limit"])
    assert found["extracted_cosine"] == pytest.approx(1, abs=1e-12)
    assert found["extracted_drain"] == pytest.approx(float(found["extracted_drain_limit"]), rel=1e-12)
    assert found["extracted_alpha_spread"] == pytest.approx(0, abs=1e-12)


def test_values_go_through_the_derivative_of_the_last_norm(tokens, dormant):
    model = Transformer(V + 1, T, TransformerConfig(d_model=8, dtype="float64"))
    params = jax.jit(init, static_argnums=0)(model, jax.random.key(1))
    # A scale of one would hide that it is read.
    params = params | {"ln_final": params["ln_final"] | {"scale": jnp.linspace(0.5, 2.0, 8)}}
    found = jax.jit(extract, static_argnums=(0, 1))(model, TASK, params, tokens)
    sites = ("blocks.0.attn_out", "blocks.0.mlp_out", "blocks.0.v", "blocks.0.pattern")
    captured = jax.jit(lambda params: run(model, params, tokens, capture=sites)[1])(params)
    attn_out, mlp_out, v, pattern = (captured[site] for site in sites)
    values = v[:, :, 0] @ params["blocks_0"]["W_O"]
    held = Set(mlp_out)

    @jax.jit
    def logits(shift):
        return run(model, params, tokens, edits={sites[0]: Set(attn_out + shift), sites[1]: held})[0]

    def mean_effect(direction):
        """[V] mean derivative of the logits of the dormant queries, with what the MLP adds held."""
        step = 1e-5
        difference = np.asarray(logits(step * direction)) - np.asarray(logits(-step * direction))
        return (difference / (2 * step))[dormant].mean(0)[:V]

    # Central differences: step^2 = 1e-10 and rounding 1e-16 / step = 1e-11, times derivatives of some units.
    np.testing.assert_allclose(found["extracted_beta"], mean_effect(values[0, 0][None, None]), atol=1e-8)
    key = int(tokens[0, 1])
    where = np.asarray(tokens)[:, 1:] == key
    mean_value = jnp.asarray(np.asarray(values)[:, 1:][where].mean(0))
    np.testing.assert_allclose(found["extracted_values"][key], mean_effect(mean_value[None, None]), atol=1e-8)
    # The weight on <s> is e^alpha / (e^alpha + W).
    weight = np.asarray(pattern)[:, 0, :, 0][dormant]
    alpha = np.log(np.argwhere(dormant)[:, 1] * weight / (1 - weight))
    assert found["extracted_alpha_mean"] == pytest.approx(alpha.mean(), rel=1e-12)


def test_it_works_in_float32(tokens):
    with jax.enable_x64(False):
        model = Transformer(V + 1, T, TransformerConfig(d_model=8))
        found = jax.eval_shape(lambda key: extract(model, TASK, init(model, key), tokens), jax.random.key(0))
        assert {x.dtype for x in found.values()} == {jnp.dtype("float32")}


def test_mistakes(tokens):
    shallow = Transformer(V + 1, T, TransformerConfig(d_model=8))
    assert extractable(shallow, TASK)
    assert not extractable(Transformer(V + 1, T, TransformerConfig(d_model=8, attention=ReLU())), TASK)
    assert not extractable(Transformer(V + 1, T, TransformerConfig(d_model=8, n_heads=2)), TASK)
    assert not extractable(shallow, BigramBackcopy(TASK.chain, TASK.triggers, starts=2))
    deep = Transformer(V + 1, T, TransformerConfig(d_model=8, n_layers=2))
    with pytest.raises(ValueError, match="one layer"):
        extract(deep, TASK, {}, tokens)
