"""Decoders of the Llama family: an independent float64 forward pass, padding, causality, blocks applied alone."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import families as oracle

from jaxsink.attention import LinearScaling, Llama3Scaling, ReLU, SinkLogit
from jaxsink.models import CAPTURES, WANTED, Decoder, DecoderConfig, init

V, T = 11, 6
TOKENS = jnp.array([[6, 0, 3, 2, 5, 10], [6, 1, 1, 4, 0, 9]])
PLAIN = DecoderConfig(
    vocab_size=V, n_layers=2, n_heads=4, n_key_heads=2, head_size=6, d_model=16, d_mlp=20, rope_base=100.0
)
CONFIGS = {
    "grouped": PLAIN,
    "one key head": replace(PLAIN, n_key_heads=1),
    "as many key heads": replace(PLAIN, n_key_heads=4),
    "adjacent": replace(PLAIN, rope_pairing="adjacent"),
    "linear": replace(PLAIN, rope_scaling=LinearScaling(3.0)),
    "llama3": replace(PLAIN, rope_scaling=Llama3Scaling(8.0, 1.0, 4.0, 64)),
    "tied": replace(PLAIN, tied=True),
    "biases": replace(PLAIN, qkv_bias=True, output_bias=True),
    "biases of queries, keys and values": replace(PLAIN, qkv_bias=True, norm_eps=0.1),
}
# float32 sums of at most 24 terms of order one in two layers against float64: a few hundred roundings of 6e-8.
F32 = {"rtol": 2e-5, "atol": 2e-5}
RIGHT = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], bool)
LEFT = np.array([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1]], bool)


def drawn(config, seed=0):
    """Parameters of order one: a new model is nearly linear, and its biases and scales hide mistakes."""
    shapes = jax.eval_shape(lambda: init(Decoder(config), jax.random.key(0)))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    return tree.unflatten([jnp.asarray(0.4 * rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves])


def logits_of(config, params, tokens=TOKENS, **inputs):
    # Compiled whole and hardly optimised, which takes less time than operation by operation.
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(params, tokens, inputs):
        return Decoder(config).apply({"params": params}, tokens, **inputs)

    return np.asarray(run(params, tokens, inputs))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_forward_equals_the_loop_oracle(config):
    params = drawn(config)
    logits = logits_of(config, params)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, oracle.decoder(params, TOKENS, config), **F32)
    positions = np.array([[0, 3, 4, 9, 11, 12], [5, 6, 7, 8, 9, 10]])
    expected = oracle.decoder(params, TOKENS, config, positions=positions)
    np.testing.assert_allclose(logits_of(config, params, positions=jnp.asarray(positions)), expected, **F32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rope_pairing": "adjacent"},
        {"rope_base": 90.0},
        {"rope_scaling": LinearScaling(1.1)},
        {"norm_eps": 1e-3},
    ],
)
def test_the_oracle_notices_a_wrong_switch(wrong):
    params = drawn(PLAIN)
    expected = oracle.decoder(params, TOKENS, PLAIN)
    assert np.abs(logits_of(replace(PLAIN, **wrong), params) - expected).max() > 1e-3


@pytest.mark.parametrize("valid", [RIGHT, LEFT], ids=["right", "left"])
def test_padding_is_not_there(valid):
    params = drawn(PLAIN)
    positions = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
    padded = logits_of(PLAIN, params, valid=jnp.asarray(valid), positions=jnp.asarray(positions))
    assert np.isfinite(padded).all()
    np.testing.assert_allclose(padded, oracle.decoder(params, TOKENS, PLAIN, valid, positions), **F32)
    for row, tokens, real in zip(padded, TOKENS, valid, strict=True):
        np.testing.assert_allclose(row[real], logits_of(PLAIN, params, tokens[real][None])[0], **F32)


def test_a_sequence_of_padding_alone_has_no_attention():
    params = drawn(PLAIN)
    valid = jnp.zeros(TOKENS.shape, bool).at[1].set(True)

    def attended(params):
        logits, state = Decoder(PLAIN).apply({"params": params}, TOKENS, valid=valid, mutable=[CAPTURES])
        return jnp.square(logits).sum(), state[CAPTURES]["blocks_0"]["z"]

    gradient, z = jax.jit(jax.grad(attended, has_aux=True))(params)
    np.testing.assert_array_equal(z[0], 0)
    assert np.abs(z[1]).min() > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("config", [PLAIN, CONFIGS["adjacent"]], ids=["half", "adjacent"])
def test_causal_by_gradient(config):
    model, params = Decoder(config), drawn(config)
    rows = params["W_E"][TOKENS]

    @jax.jit
    def gradient(x, query):
        def logit(x):
            for layer in range(config.n_layers):
                x = model.block(layer).apply({"params": params[f"blocks_{layer}"]}, x)
            return model.apply({"params": params}, x, method="read_out")[:, query].sum()

        return jax.grad(logit)(x)

    for query in range(T):
        found = np.asarray(gradient(rows, query))
        assert not found[:, query + 1 :].any()
        assert np.abs(found[:, : query + 1]).max(axis=-1).min() > 0


def test_blocks_applied_alone_are_the_model():
    params = drawn(CONFIGS["tied"])
    model = Decoder(CONFIGS["tied"])
    inputs = {"valid": jnp.asarray(LEFT), "positions": jnp.arange(T) + 2}
    x = model.apply({"params": {"W_E": params["W_E"]}}, TOKENS, method="embedding")
    for layer in range(2):
        x = model.block(layer).apply({"params": params[f"blocks_{layer}"]}, x, **inputs)
    around = {"W_E": params["W_E"], "ln_final": params["ln_final"]}
    alone = model.apply({"params": around}, x, method="read_out")
    # Eager on both sides, so the operations are the same ones.
    np.testing.assert_array_equal(alone, model.apply({"params": params}, TOKENS, **inputs))


def test_one_compiled_block_serves_all_layers():
    model, params = Decoder(PLAIN), drawn(PLAIN)
    assert model.block(0) == model.block(1)
    assert hash(model.block(0)) == hash(model.block(1))
    count = 0

    def applied(block, params, x):
        nonlocal count
        count += 1
        return block.apply({"params": params}, x)

    step = jax.jit(applied, static_argnums=0)
    x = params["W_E"][TOKENS]
    for layer in range(2):
        x = step(model.block(layer), params[f"blocks_{layer}"], x)
    assert count == 1
    with pytest.raises(ValueError, match="layer must be from 0 to 1, but 2"):
        model.block(2)


def test_only_wanted_sites_are_captured():
    model, params = Decoder(PLAIN), drawn(PLAIN)
    wanted = {"blocks_1": {"attn_entropy": np.zeros(0), "z": np.zeros(0)}}
    _, state = model.apply({"params": params, WANTED: wanted}, TOKENS, mutable=[CAPTURES])
    assert jax.tree.map(jnp.shape, state[CAPTURES]) == {"blocks_1": {"attn_entropy": (2, 4, T), "z": (2, T, 4, 6)}}


def test_parameters_keep_their_dtype_and_activations_have_theirs():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), drawn(PLAIN))
    expected = oracle.decoder(params, TOKENS, PLAIN)
    np.testing.assert_allclose(logits_of(PLAIN, params), expected, **F32)
    low = Decoder(replace(PLAIN, dtype="bfloat16"))
    logits, state = jax.jit(lambda p: low.apply({"params": p}, TOKENS, mutable=[CAPTURES]))(params)
    assert logits.dtype == jnp.float32
    assert state[CAPTURES]["blocks_0"]["mlp_post"].dtype == jnp.bfloat16
    assert state[CAPTURES]["blocks_0"]["pattern"].dtype == jnp.float32
    # bfloat16 rounds to 2^-9; some tens of roundings of activations of order one reach logits of order one.
    assert 1e-4 < np.abs(logits - expected).max() < 0.2
    with jax.enable_x64(True):
        config = replace(PLAIN, dtype="float64")
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), params)
        new = jax.eval_shape(lambda: init(Decoder(config), jax.random.key(0)))
        assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype("float64")}
        # float64 rounding, amplified by norms of activations of order one.
        np.testing.assert_allclose(logits_of(config, wide), expected, rtol=1e-11, atol=1e-11)


def test_other_variants_of_attention():
    config = replace(PLAIN, attention=SinkLogit())
    params = drawn(config)
    assert params["blocks_1"]["attention"]["sink_logit"].shape == (4,)
    gradient = jax.jit(jax.grad(lambda p: jnp.square(Decoder(config).apply({"params": p}, TOKENS)).sum()))(params)
    assert np.abs(gradient["blocks_1"]["attention"]["sink_logit"]).min() > 0
    plain = drawn(PLAIN)
    assert np.abs(logits_of(replace(PLAIN, attention=ReLU()), plain) - logits_of(PLAIN, plain)).max() > 1e-2


def test_params_hold_nothing_but_parameters():
    params = jax.eval_shape(lambda: init(Decoder(PLAIN), jax.random.key(0)))
    assert set(params) == {"W_E", "W_U", "blocks_0", "blocks_1", "ln_final"}
    assert set(params["blocks_0"]) == {"W_Q", "W_K", "W_V", "W_O", "W_gate", "W_in", "W_out", "ln1", "ln2"}
    assert params["blocks_0"]["W_K"].shape == (16, 12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_layers": 0}, "n_layers must be a whole number of at least 1, but 0"),
        ({"d_mlp": 2.0}, "d_mlp must be a whole number of at least 1, but 2.0"),
        ({"n_key_heads": 3}, "n_key_heads=3 must divide n_heads=4"),
        ({"head_size": 5}, "head_size must be even for rotary positions, but 5"),
        ({"rope_base": 1.0}, "rope_base must be a finite number above 1, but 1.0"),
        ({"rope_pairing": "interleaved"}, "rope_pairing must be 'half' or 'adjacent', but 'interleaved'"),
        ({"rope_scaling": 2.0}, "rope_scaling must be None, a LinearScaling or a Llama3Scaling, but 2.0"),
        ({"norm_eps": -1e-6}, "norm_eps must be a finite number of at least 0, but -1e-06"),
        ({"dtype": "float16"}, "dtype must be one of float32, bfloat16, float64, but 'float16'"),
    ],
)
def test_mistakes_in_a_configuration(arguments, words):
    with pytest.raises(ValueError, match=words):
        replace(PLAIN, **arguments)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda m, p: m.apply({"params": p}, TOKENS[0]),
            r"tokens must be whole numbers \[B, T\], but have shape \(6,\)",
        ),
        (lambda m, p: m.apply({"params": p}, TOKENS.astype(float)), "tokens must be whole numbers .* dtype float32"),
        (lambda m, p: m.apply({"params": p}, TOKENS, valid=jnp.ones((2, 5), bool)), r"valid must be bool .* \[2, 5\]"),
        (lambda m, p: m.apply({"params": p}, TOKENS, valid=jnp.ones((2, 6), int)), "valid must be bool .* dtype int32"),
        (lambda m, p: m.apply({"params": p}, TOKENS, positions=jnp.arange(5)), "positions must have shape"),
        (lambda m, p: m.apply({"params": {}}, TOKENS, method="embedding"), "params must have the entry 'W_E'"),
        (
            lambda m, p: m.apply({"params": p | {"W_E": p["W_E"][:5]}}, TOKENS),
            r"params\['W_E'\] must have the shapes \(11, 16\), but has \(5, 16\)",
        ),
    ],
)
def test_mistakes_in_a_call(call, words):
    with pytest.raises(ValueError, match=words):
        call(Decoder(PLAIN), drawn(PLAIN))
