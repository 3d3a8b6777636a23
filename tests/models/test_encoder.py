"""Encoders of the BERT family: an independent float64 forward pass, padding, heads, blocks applied alone."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import families as oracle

from jaxsink.models import CAPTURES, Encoder, EncoderConfig, init

V, T = 11, 6
TOKENS = jnp.array([[6, 0, 3, 2, 5, 10], [6, 1, 1, 4, 0, 9]])
TYPES = jnp.array([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]])
PLAIN = EncoderConfig(vocab_size=V, n_layers=2, n_heads=4, d_model=16, d_mlp=20, max_length=8)
CONFIGS = {
    "plain": PLAIN,
    "pooler": replace(PLAIN, pooler=True),
    "head": replace(PLAIN, mlm_head=True),
    "both, one type, large eps": replace(PLAIN, pooler=True, mlm_head=True, n_types=1, norm_eps=0.1),
}
# float32 sums of at most 20 terms of order one in two layers against float64: a few hundred roundings of 6e-8.
F32 = {"rtol": 2e-5, "atol": 2e-5}
RIGHT = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], bool)
LEFT = np.array([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1]], bool)


def drawn(config, seed=0):
    """Parameters of order one: those of a new model hide mistakes in biases and scales."""
    shapes = jax.eval_shape(lambda: init(Encoder(config), jax.random.key(0)))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    return tree.unflatten([jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves])


def run(config, params, tokens=TOKENS, **inputs):
    """The output and what the pooler makes of it."""

    # Compiled whole and hardly optimised, which takes less time than operation by operation.
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def compiled(params, tokens, inputs):
        out, state = Encoder(config).apply({"params": params}, tokens, **inputs, mutable=[CAPTURES])
        return out, state[CAPTURES].get("pooled")

    return jax.tree.map(np.asarray, compiled(params, tokens, inputs))


def agrees(found, expected):
    np.testing.assert_allclose(found[0], expected[0], **F32)
    assert (found[1] is None) == (expected[1] is None)
    if found[1] is not None:
        np.testing.assert_allclose(found[1], expected[1], **F32)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_forward_equals_the_loop_oracle(config):
    params = drawn(config)
    found = run(config, params)
    assert found[0].shape == (2, T, V if config.mlm_head else 16)
    agrees(found, oracle.encoder(params, TOKENS, config))


def test_token_types_and_positions():
    config, params = CONFIGS["pooler"], drawn(CONFIGS["pooler"])
    positions = np.array([[7, 3, 4, 0, 1, 2], [2, 3, 4, 5, 6, 7]])
    found = run(config, params, positions=jnp.asarray(positions), token_types=TYPES)
    agrees(found, oracle.encoder(params, TOKENS, config, positions=positions, token_types=TYPES))
    shared = run(config, params, positions=jnp.asarray(positions[0]), token_types=TYPES)
    agrees(shared, oracle.encoder(params, TOKENS, config, positions=positions[0], token_types=TYPES))


@pytest.mark.parametrize("wrong", [{"norm_eps": 1e-2}, {"n_heads": 2}])
def test_the_oracle_notices_a_wrong_switch(wrong):
    params = drawn(PLAIN)
    expected, _ = oracle.encoder(params, TOKENS, PLAIN)
    assert np.abs(run(replace(PLAIN, **wrong), params)[0] - expected).max() > 1e-3


@pytest.mark.parametrize("valid", [RIGHT, LEFT], ids=["right", "left"])
def test_padding_is_not_there(valid):
    params = drawn(PLAIN)
    positions = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
    padded, _ = run(PLAIN, params, valid=jnp.asarray(valid), positions=jnp.asarray(positions))
    assert np.isfinite(padded).all()
    np.testing.assert_allclose(padded, oracle.encoder(params, TOKENS, PLAIN, valid, positions)[0], **F32)
    for row, tokens, real in zip(padded, TOKENS, valid, strict=True):
        np.testing.assert_allclose(row[real], run(PLAIN, params, tokens[real][None])[0][0], **F32)


def test_a_sequence_of_padding_alone_has_no_attention():
    params = drawn(PLAIN)
    valid = jnp.zeros(TOKENS.shape, bool).at[1].set(True)

    def attended(params):
        out, state = Encoder(PLAIN).apply({"params": params}, TOKENS, valid=valid, mutable=[CAPTURES])
        return jnp.square(out).sum(), state[CAPTURES]["blocks_0"]["z"]

    gradient, z = jax.jit(jax.grad(attended, has_aux=True))(params)
    np.testing.assert_array_equal(z[0], 0)
    assert np.abs(z[1]).min() > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_blocks_applied_alone_are_the_model():
    config = CONFIGS["both, one type, large eps"]
    model, params = Encoder(config), drawn(config)
    valid = jnp.asarray(LEFT)
    outer = {name: value for name, value in params.items() if not name.startswith("blocks")}
    x = model.apply({"params": outer}, TOKENS, method="embedding")
    assert model.block(0) == model.block(1)
    for layer in range(2):
        x = model.block(layer).apply({"params": params[f"blocks_{layer}"]}, x, valid=valid, positions=jnp.arange(T))
    alone = model.apply({"params": outer}, x, method="read_out")
    # Eager on both sides, so the operations are the same ones.
    np.testing.assert_array_equal(alone, model.apply({"params": params}, TOKENS, valid=valid))


def test_activations_have_the_dtype_of_the_configuration():
    config = replace(CONFIGS["head"], dtype="bfloat16")
    params = drawn(config)
    out, state = jax.jit(lambda p: Encoder(config).apply({"params": p}, TOKENS, mutable=[CAPTURES]))(params)
    expected, _ = oracle.encoder(params, TOKENS, config)
    assert out.dtype == jnp.float32
    assert state[CAPTURES]["blocks_1"]["resid_post"].dtype == jnp.bfloat16
    # bfloat16 rounds to 2^-9; some tens of roundings of activations of order one reach logits of a few units.
    assert 1e-4 < np.abs(out - expected).max() < 0.3
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), params)
        # float64 rounding, amplified by norms of activations of order one.
        np.testing.assert_allclose(run(replace(config, dtype="float64"), wide)[0], expected, rtol=1e-11, atol=1e-11)


def test_params_hold_nothing_but_parameters():
    params = jax.eval_shape(lambda: init(Encoder(CONFIGS["both, one type, large eps"]), jax.random.key(0)))
    assert set(params) == {"W_E", "W_pos", "W_type", "ln_embed", "blocks_0", "blocks_1", "pooler", "mlm"}
    maps = {f"{kind}_{name}" for kind in "Wb" for name in ("Q", "K", "V", "O", "in", "out")}
    assert set(params["blocks_0"]) == maps | {"ln1", "ln2"}
    assert jax.tree.map(jnp.shape, params["mlm"]) == {
        "W": (16, 16),
        "b": (16,),
        "bias": (V,),
        "ln": {"scale": (16,), "bias": (16,)},
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_heads": 3}, "n_heads=3 must divide d_model=16"),
        ({"max_length": 0}, "max_length must be a whole number of at least 1, but 0"),
        ({"n_types": True}, "n_types must be a whole number of at least 1, but True"),
        ({"norm_eps": float("inf")}, "norm_eps must be a finite number of at least 0, but inf"),
        ({"dtype": "half"}, "dtype must be one of float32, bfloat16, float64, but 'half'"),
    ],
)
def test_mistakes_in_a_configuration(arguments, words):
    with pytest.raises(ValueError, match=words):
        replace(PLAIN, **arguments)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"tokens": jnp.zeros((1, 9), int)}, "tokens have 9 positions, but the encoder has max_length=8"),
        ({"tokens": TOKENS[0]}, r"tokens must be whole numbers \[B, T\]"),
        ({"positions": jnp.arange(5)}, r"positions must have shape \[T\] or \[B, T\] of tokens \(2, 6\)"),
        ({"token_types": jnp.zeros(6, int)}, r"token_types must have the shape \[B, T\] of tokens \(2, 6\)"),
        ({"valid": jnp.ones((2, 6))}, "valid must be bool .* dtype float32"),
    ],
)
def test_mistakes_in_a_call(inputs, words):
    with pytest.raises(ValueError, match=words):
        Encoder(PLAIN).apply({"params": drawn(PLAIN)}, **{"tokens": TOKENS, **inputs})


def test_layers_are_counted():
    with pytest.raises(ValueError, match="layer must be from 0 to 1, but -1"):
        Encoder(PLAIN).block(-1)
