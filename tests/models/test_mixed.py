"""Training in bfloat16: the parts with derivatives of their own, and the whole network beside the full one."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxsink.models import Transformer, TransformerConfig, init, mixed
from jaxsink.training import SGD, TrainConfig, seed_keys
from jaxsink.training.runs import build

CONFIG = TransformerConfig(n_layers=2, n_heads=2, d_model=16)
TOKENS = jnp.array([[6, 0, 3, 2, 5, 1], [6, 1, 1, 4, 0, 2]])
# Rounding to bfloat16's eight bits, relative.
ROUNDING = 2.0**-8


def with_derivatives(of, *args):
    out, back = jax.vjp(of, *args)
    shape = out.shape
    return out, *back(jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(shape))


def test_the_norm_is_flax_s_with_its_derivatives():
    x = jax.random.normal(jax.random.key(0), (3, 5, 8)) * 2 + 1
    scale, bias = jax.random.normal(jax.random.key(1), (2, 8))
    plain = nn.LayerNorm(1e-5, use_fast_variance=False)
    with jax.numpy_rank_promotion("allow"):
        wanted = with_derivatives(lambda x, s, b: plain.apply({"params": {"scale": s, "bias": b}}, x), x, scale, bias)
    found = with_derivatives(lambda x, s, b: mixed.layer_norm(x, s, b, 1e-5), x, scale, bias)
    # Two orders of a few float32 sums.
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_lookup_is_indexing_with_its_derivative():
    table = jax.random.normal(jax.random.key(0), (7, 4))
    wanted = with_derivatives(lambda t: t[TOKENS], table)
    for one, other in zip(
        with_derivatives(lambda t: mixed.lookup(t, TOKENS, jnp.dtype("float32")), table), wanted, strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_the_network_is_the_full_one_up_to_rounding():
    full = Transformer(7, 6, CONFIG)
    half = full.clone(config=replace(CONFIG, compute_dtype="bfloat16"))
    params = init(full, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), init(half, jax.random.key(0))) == jax.tree.map(
        lambda x: (x.shape, x.dtype), params
    )

    def loss(model, params):
        return jnp.square(model.apply({"params": params}, TOKENS)).mean()

    # One compilation each: op by op the gradient alone takes a minute.
    wanted, found = (jax.jit(jax.value_and_grad(partial(loss, model)))(params) for model in (full, half))
    assert abs(found[0] - wanted[0]) / wanted[0] == pytest.approx(0, abs=4 * ROUNDING)
    assert found[0] != wanted[0]
    for one, other in zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1]), strict=True):
        assert one.dtype == jnp.float32
        # A gradient has gone through some dozen roundings, and those of queries and keys are sums that nearly cancel.
        assert jnp.linalg.norm(one - other) < 32 * ROUNDING * jnp.linalg.norm(other)


def test_a_run_trains_in_bfloat16_and_is_measured_in_float32():
    config = replace(CONFIG, n_layers=1)
    spec = TrainConfig(model=config, optimiser=SGD(rate=0.1), length=8, batch=8, steps=20, probe_batch=8)
    keys = seed_keys(0)
    states = {}
    for dtype in (None, "bfloat16"):
        program, model, _ = build(replace(spec, model=replace(config, compute_dtype=dtype)))
        assert model.config == config
        before = program.init(keys.init)
        measured = jax.device_get(program.measure(before, keys.probe))
        state, _ = program.chunk(before, keys.data)
        states[dtype] = measured, jax.device_get(state.params)
    for name, value in states[None][0].items():
        np.testing.assert_array_equal(states["bfloat16"][0][name], value)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), states[None][1], states["bfloat16"][1])
    assert 0 < max(jax.tree.leaves(moved)) < 0.01


def test_mistakes():
    with pytest.raises(ValueError, match="compute_dtype must be 'bfloat16' or None, but 'float16' was given"):
        TransformerConfig(compute_dtype="float16")
    with pytest.raises(ValueError, match="compute_dtype needs dtype='float32'"):
        TransformerConfig(compute_dtype="bfloat16", dtype="float64")
