"""The paper's transformer: shapes, switches, initialisation, causality, and an independent float64 forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import models as oracle

from jaxsink.attention import ReLU, SinkLogit, Softmax
from jaxsink.models import Transformer, TransformerConfig, init

V, T = 7, 6
TOKENS = jnp.array([[6, 0, 3, 2, 5, 1], [6, 1, 1, 4, 0, 2]])

CONFIGS = {
    "one layer": TransformerConfig(d_model=8),
    "three layers, two heads": TransformerConfig(n_layers=3, n_heads=2, d_model=8),
    "ReLU": TransformerConfig(d_model=8, attention=ReLU()),
    "linear MLP": TransformerConfig(d_model=8, d_mlp=5, mlp="linear"),
    "no norm": TransformerConfig(d_model=8, normalise=False),
    "one-hot": TransformerConfig(d_model=V + T, one_hot=True, normalise=False),
    "sinusoidal": TransformerConfig(d_model=8, positions="sinusoidal"),
    "no positions": TransformerConfig(d_model=8, positions="none"),
    "rope": TransformerConfig(n_heads=2, d_model=8, positions="rope"),
    "alibi": TransformerConfig(n_heads=2, d_model=8, positions="alibi"),
    "t5": TransformerConfig(n_heads=2, d_model=8, positions="t5"),
    "registers": TransformerConfig(n_layers=2, d_model=8, registers=2, positions="rope"),
    "parts left out": TransformerConfig(n_layers=2, d_model=8, layers_without_attention=(0,), layers_without_mlp=(1,)),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_forward_equals_the_loop_oracle(config):
    model = Transformer(V, T, config)
    params = init(model, jax.random.key(1))
    expected = oracle.forward(jax.tree.map(np.asarray, params), np.asarray(TOKENS), config)
    # float32 sums over at most 32 terms in 3 layers, against float64: a few hundred roundings of 6e-8.
    np.testing.assert_allclose(model.apply({"params": params}, TOKENS), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_positions_that_are_given_and_no_mask(config):
    """Token 3 stands where token 0 does; without a mask every token sees all. Each changes something."""
    params = init(Transformer(V, T, config), jax.random.key(1))
    given = np.array([0, 1, 2, 0, 4, 5])
    for causal in (True, False) if config.positions != "t5" else (True,):
        model, weights = Transformer(V, T, config, causal=causal), jax.tree.map(np.asarray, params)
        for positions in (None, given):
            expected = oracle.forward(weights, np.asarray(TOKENS), config, positions, causal)
            # The sums are those of the test above.
            np.testing.assert_allclose(
                model.apply({"params": params}, TOKENS, positions), expected, rtol=2e-5, atol=2e-5
            )
        far = np.abs(oracle.forward(weights, np.asarray(TOKENS), config, None, causal) - expected).max()
        assert far > 0.001 if config.positions != "none" else far == 0
    if config.positions != "t5":
        masked = oracle.forward(weights, np.asarray(TOKENS), config, given)
        assert np.abs(masked - expected)[:, :-1].max() > 0.01


def test_positions_under_jit_are_those_outside():
    config = CONFIGS["registers"]
    model = Transformer(V, T, config)
    params, given = init(model, jax.random.key(1)), jnp.array([0, 1, 2, 0, 4, 5])
    outside = model.apply({"params": params}, TOKENS, given)
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, TOKENS, given), outside, rtol=1e-5, atol=1e-6)


def test_the_oracle_notices_a_missing_part():
    """The comparison above can fail: the same parameters without their MLP are far off."""
    config = CONFIGS["one layer"]
    params = init(Transformer(V, T, config), jax.random.key(1))
    cut = TransformerConfig(d_model=8, layers_without_mlp=(0,))
    full = oracle.forward(jax.tree.map(np.asarray, params), np.asarray(TOKENS), config)
    without = Transformer(V, T, cut).apply({"params": params}, TOKENS)
    assert np.abs(full - np.asarray(without)).max() > 0.01


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_causal_by_gradient(config):
    """No logit depends on a later embedding: the gradient to it is exactly zero."""
    model = Transformer(V, T, config)
    params = init(model, jax.random.key(0))
    if "W_pos" not in params or config.one_hot:
        apply = jax.jit(lambda tokens: model.apply({"params": params}, tokens))
        for query in range(T):
            changed = TOKENS.at[:, query + 1 :].set(0)
            np.testing.assert_array_equal(apply(TOKENS)[:, : query + 1], apply(changed)[:, : query + 1])
        return

    def logits_at(positions, query):
        return model.apply({"params": {**params, "W_pos": positions}}, TOKENS)[:, query].sum()

    gradient_of = jax.jit(jax.grad(logits_at))
    for query in range(T):
        gradient = np.asarray(gradient_of(params["W_pos"], query))
        assert not gradient[query + 1 :].any()
        assert gradient[query].any()


def test_initialisation_is_the_paper_s():
    config = TransformerConfig(d_model=64, n_layers=1)
    params = init(Transformer(500, 300, config), jax.random.key(0))
    for table in ("W_E", "W_pos"):
        # Standard error of a standard deviation of n draws is 1/sqrt(2n) < .006: four of them.
        assert abs(float(params[table].std()) - 1) < 0.024
    for name, fan_in in (("W_Q", 64), ("W_K", 64), ("W_V", 64), ("W_O", 64), ("W_in", 64), ("W_out", 256)):
        largest = float(jnp.abs(params["blocks_0"][name]).max())
        # The largest of n >= 4096 uniform draws falls short of the bound by 1 % with probability .99^4096.
        assert 0.99 < largest * fan_in**0.5 <= 1 + 1e-6
    assert float(jnp.abs(params["W_U"]).max()) <= 1 / 8 + 1e-7
    np.testing.assert_array_equal(params["blocks_0"]["ln1"]["scale"], np.ones(64))
    np.testing.assert_array_equal(params["blocks_0"]["ln1"]["bias"], np.zeros(64))


def test_params_hold_nothing_but_parameters():
    params = init(Transformer(V, T, CONFIGS["one layer"]), jax.random.key(0))
    assert set(params) == {"W_E", "W_pos", "W_U", "blocks_0", "ln_final"}
    assert set(params["blocks_0"]) == {"W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "ln1", "ln2"}


def test_a_variant_with_parameters_trains_them():
    config = TransformerConfig(d_model=8, n_heads=2, attention=SinkLogit())
    model = Transformer(V, T, config)
    params = init(model, jax.random.key(0))
    assert params["blocks_0"]["attention"]["sink_logit"].shape == (2,)
    gradient = jax.grad(lambda p: jnp.square(model.apply({"params": p}, TOKENS)).sum())(params)
    assert np.abs(gradient["blocks_0"]["attention"]["sink_logit"]).min() > 0


def test_float64():
    with jax.enable_x64(True):
        config = TransformerConfig(d_model=8, dtype="float64")
        model = Transformer(V, T, config)
        params = init(model, jax.random.key(1))
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float64")}
        logits = model.apply({"params": params}, TOKENS)
        expected = oracle.forward(jax.tree.map(np.asarray, params), np.asarray(TOKENS), config)
        # float64 rounding, amplified by LayerNorm of O(1) activations.
        np.testing.assert_allclose(logits, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_layers": 0}, "n_layers must be at least 1"),
        ({"n_heads": 3, "d_model": 8}, "n_heads=3 must divide d_model=8"),
        ({"mlp": "gelu"}, "mlp must be 'relu' or 'linear'"),
        ({"registers": -1}, "registers must be at least 0, but -1"),
        ({"positions": "rotary"}, "positions must be one of learned, sinusoidal, none, rope, alibi, t5, but 'rotary'"),
        ({"one_hot": True, "registers": 1}, "one_hot needs positions='learned' and registers=0"),
        ({"dtype": "bfloat16"}, "dtype must be 'float32' or 'float64'"),
        ({"layers_without_mlp": (1,)}, "layers_without_mlp must list blocks 0 to 0, but 1"),
    ],
)
def test_mistakes_in_a_configuration(arguments, words):
    with pytest.raises(ValueError, match=words):
        TransformerConfig(**arguments)


def test_mistakes_in_a_call():
    model = Transformer(V, T, CONFIGS["one layer"])
    params = init(model, jax.random.key(0))
    with pytest.raises(ValueError, match=r"tokens must be \[B, T\] with T at most max_length=6"):
        model.apply({"params": params}, jnp.zeros((1, T + 1), jnp.int32))
    with pytest.raises(ValueError, match="positions must be whole numbers"):
        model.apply({"params": params}, TOKENS, jnp.arange(T + 1))
    with pytest.raises(ValueError, match="positions must be whole numbers"):
        model.apply({"params": params}, TOKENS, jnp.ones(T))
    with pytest.raises(ValueError, match="positions must be from 0 to 5, but go from 1 to 6"):
        model.apply({"params": params}, TOKENS, jnp.arange(T) + 1)
    with pytest.raises(ValueError, match="positions='t5' has buckets for keys before the query alone"):
        init(Transformer(V, T, CONFIGS["t5"], causal=False), jax.random.key(0))
    with pytest.raises(ValueError, match=r"vocab_size \+ max_length = 13"):
        init(Transformer(V, T, TransformerConfig(d_model=8, one_hot=True)), jax.random.key(0))


def test_softmax_is_the_default():
    assert TransformerConfig().attention == Softmax()
