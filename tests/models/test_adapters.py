"""Variants inside Flax's attention modules: softmax is Flax's own, and nothing is ignored in silence."""

import doctest
import importlib
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxsink.attention import (
    AttentionDims,
    Causal,
    Lengths,
    ReLU,
    Sigmoid,
    SinkLogit,
    Softmax,
    Softpick,
    Window,
    Wrapped,
    attend,
    wrappers,
)
from jaxsink.models import LinenAttention, NNXAttention, attention_fn

# float32: a few roundings of 2^-24 in sums of up to 8 terms of a few units, in two orders.
F32 = {"rtol": 1e-5, "atol": 1e-5}
T, D, HEADS = 5, 8, 4
DIMS = AttentionDims(HEADS, HEADS, D // HEADS)
RNG = np.random.default_rng(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


X = normal(2, T, D)
CAUSAL = nn.make_causal_mask(jnp.ones((2, T)))  # float32 [2, 1, T, T] of 0 and 1


def assert_close(found: Any, expected: Any, **tolerance: float) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **(tolerance or F32)), found, expected)


def linen(fn: Any = nn.dot_product_attention, **options: Any) -> nn.MultiHeadDotProductAttention:
    return nn.MultiHeadDotProductAttention(num_heads=HEADS, attention_fn=fn, **options)


def linen_params(fn: Any = nn.dot_product_attention) -> Any:
    return linen(fn).init(jax.random.key(0), X)["params"]


@pytest.mark.parametrize(
    ("batch", "masked"),
    [((2,), "not"), ((2,), "numbers"), ((), "booleans"), ((2, 3), "booleans"), ((2, 3), "one per sequence")],
    ids=str,
)
def test_softmax_is_that_of_linen_with_its_gradients(batch: tuple[int, ...], masked: str) -> None:
    x = normal(*batch, T, D)
    causal = nn.make_causal_mask(jnp.ones((*batch, T)))
    mask = {
        "not": None,
        "numbers": causal,
        "booleans": jnp.tri(T, dtype=bool),
        "one per sequence": jnp.asarray(RNG.random((*batch, HEADS, T, T)) < 0.7).at[..., 0].set(True),
    }[masked]

    def loss(fn: Any) -> Any:
        def of(params: Any, x: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sin(linen(fn).apply({"params": params}, x, mask=mask)))

        return jax.jit(jax.value_and_grad(of, (0, 1)))(linen_params(), x)

    found = loss(attention_fn(Softmax()))
    with jax.numpy_rank_promotion("allow"):  # Flax's own
        assert_close(found, loss(nn.dot_product_attention))


def nnx_layer(fn: Any = nnx.dot_product_attention, **options: Any) -> nnx.MultiHeadAttention:
    sizes = {"num_heads": HEADS, "in_features": D, "decode": False, "rngs": nnx.Rngs(0)}
    return nnx.MultiHeadAttention(attention_fn=fn, **(sizes | options))


@pytest.mark.parametrize(
    "options", [{}, {"mask": CAUSAL}, {"is_causal": True}, {"mask": CAUSAL[:, :, ::-1], "is_causal": True}]
)
@pytest.mark.parametrize("key_heads", [HEADS, 2])
def test_softmax_is_that_of_nnx_with_its_gradients(key_heads: int, options: dict[str, Any]) -> None:
    def loss(fn: Any) -> Any:
        @nnx.jit
        def of(module: nnx.MultiHeadAttention, x: jax.Array) -> Any:
            @nnx.value_and_grad(argnums=(0, 1))
            def value(module: Any, x: jax.Array) -> jax.Array:
                return jnp.sum(jnp.sin(module(x, **options)))

            return value(module, x)

        value, (gradient, at_x) = of(nnx_layer(fn, num_kv_heads=key_heads), X)
        return value, nnx.to_pure_dict(gradient), at_x

    assert_close(loss(attention_fn(Softmax())), loss(nnx.dot_product_attention))


def test_low_precision_is_computed_in_float32() -> None:
    x = X.astype(jnp.bfloat16)
    params = linen_params()
    found = linen(attention_fn(Softmax()), dtype=jnp.bfloat16).apply({"params": params}, x)
    assert found.dtype == jnp.bfloat16
    # The projections before and after round to 8 significant bits, on numbers of a few units.
    exact = linen().apply({"params": params}, x.astype(jnp.float32))
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=2**-5)
    q = normal(2, T, HEADS, 2)
    assert attention_fn(Softmax())(q, q, q, dtype=jnp.bfloat16).dtype == jnp.bfloat16


def test_a_function_takes_arrays_without_a_module() -> None:
    q, bias = normal(2, 3, T, HEADS, 2), normal(3, HEADS, T, T)
    found = attention_fn(Softmax())(q, q, q, bias)
    with jax.numpy_rank_promotion("allow"):
        np.testing.assert_allclose(found, nn.dot_product_attention(q, q, q, bias), **F32)


@pytest.mark.parametrize("variant", [Softpick(), Sigmoid(), ReLU(), Wrapped(Softmax(), (wrappers.CosineQK(3.0),))])
def test_a_variant_is_what_attend_gives(variant: Any) -> None:
    q, k, v = normal(3, 2, T, HEADS, 2)
    expected = attend(q, k, v, variant, mask=Causal() & Window(3))
    for found in (
        attention_fn(variant, mask=Causal() & Window(3))(q, k, v),
        attention_fn(variant, mask=Window(3))(q, k, v, mask=CAUSAL),
        attention_fn(variant, mask=Window(3))(q, k, v, is_causal=True),
        attention_fn(variant)(q, k, v, mask=(Causal() & Window(3)).materialise(T, T)),
        LinenAttention(variant, Window(3)).apply({}, q, k, v, mask=CAUSAL),
        NNXAttention(variant, DIMS, mask=Window(3), rngs=nnx.Rngs(0))(q, k, v, mask=CAUSAL),
    ):
        np.testing.assert_allclose(found, expected, **F32)
    assert np.abs(expected - attend(q, k, v, mask=Causal() & Window(3))).max() > 1e-2


@pytest.mark.parametrize(
    "make", [lambda: linen_params(attention_fn(Softpick())), lambda: linen_params(LinenAttention(Softpick()))]
)
def test_a_variant_without_parameters_adds_none(make: Any) -> None:
    assert jax.tree.structure(make()) == jax.tree.structure(linen_params())


def test_hidden_keys_have_no_gradient() -> None:
    for layer in (linen(attention_fn(Sigmoid(), mask=Causal())), linen(LinenAttention(Sigmoid(), Causal()))):
        params = {"params": linen_params()}
        gradient = jax.grad(lambda x, layer=layer, p=params: jnp.sum(jnp.square(layer.apply(p, x)[:, 2])))(X)
        assert np.all(gradient[:, 3:] == 0.0)
        assert np.all(np.any(gradient[:, :3] != 0.0, axis=-1))


def test_linen_makes_the_parameters_of_a_variant_its_own() -> None:
    layer = linen(LinenAttention(SinkLogit(0.5), Causal()))
    params = layer.init(jax.random.key(0), X)["params"]
    sinks = params["attention_fn"]["variant"]["sink_logit"]
    np.testing.assert_array_equal(sinks, np.full(HEADS, 0.5))

    @jax.jit
    def loss(params: Any) -> jax.Array:
        return jnp.sum(jnp.square(layer.apply({"params": params}, X)))

    slope = jax.grad(loss)(params)["attention_fn"]["variant"]["sink_logit"]
    assert np.all(np.abs(slope) > 1e-4)
    outside = linen(attention_fn(SinkLogit(), {"sink_logit": sinks}, mask=Causal()))
    rest = {name: entry for name, entry in params.items() if name != "attention_fn"}
    np.testing.assert_allclose(layer.apply({"params": params}, X), outside.apply({"params": rest}, X), **F32)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x + linen(LinenAttention(SinkLogit()))(x)


def test_linen_inside_a_compact_method() -> None:
    params = Block().init(jax.random.key(0), X)["params"]
    assert params["LinenAttention_0"]["variant"]["sink_logit"].shape == (HEADS,)
    slope = jax.grad(lambda p: jnp.sum(jnp.square(Block().apply({"params": p}, X))))(params)
    assert np.all(np.abs(slope["LinenAttention_0"]["variant"]["sink_logit"]) > 1e-4)


def test_nnx_makes_the_parameters_of_a_variant_its_own() -> None:
    lengths = jnp.array([3, T])
    fn = NNXAttention(SinkLogit(0.5), DIMS, mask=Causal() & Lengths(lengths), rngs=nnx.Rngs(0))
    module = nnx_layer(fn)

    @nnx.jit
    def slopes(module: Any, x: jax.Array) -> Any:
        return nnx.grad(lambda module, x: jnp.sum(jnp.square(module(x))))(module, x)

    slope = nnx.to_pure_dict(slopes(module, X))["attention_fn"]["params"]["sink_logit"]
    assert np.all(np.abs(slope) > 1e-4)
    before = module(X)
    fn.params["sink_logit"][...] = fn.params["sink_logit"][...] - slope
    assert np.abs(module(X) - before).max() > 1e-4
    outside = nnx_layer(attention_fn(SinkLogit(), {"sink_logit": jnp.full(HEADS, 0.5)}, mask=fn.mask))
    np.testing.assert_allclose(before, outside(X), **F32)


def test_composites_have_nested_parameters() -> None:
    variant = Wrapped(SinkLogit(), (wrappers.QKNorm(), wrappers.HeadRMSNorm()))
    layer = linen(LinenAttention(variant))
    params = layer.init(jax.random.key(0), X)["params"]
    assert set(params["attention_fn"]["variant"]) == {"row_map", "qk_norm", "head_rms_norm"}
    state = nnx.to_pure_dict(nnx.state(nnx_layer(NNXAttention(variant, DIMS, rngs=nnx.Rngs(0))), nnx.Param))
    assert jax.tree.structure(state["attention_fn"]["params"]) == jax.tree.structure(params["attention_fn"]["variant"])
    assert layer.apply({"params": params}, X).shape == X.shape


def test_sown_weights_are_those_of_flax() -> None:
    def sown(fn: Any) -> Any:
        layer, params = linen(fn), {"params": linen_params()}
        return layer.apply(params, X, mask=CAUSAL, sow_weights=True, mutable=["intermediates"])

    assert_close(sown(attention_fn(Softmax())), sown(nn.dot_product_attention))
    assert_close(sown(LinenAttention(Softmax())), sown(nn.dot_product_attention))

    def captured(fn: Any) -> Any:
        layer = nnx_layer(fn)
        out, found = nnx.capture(lambda layer, x: layer(x, mask=CAUSAL, sow_weights=True), nnx.Intermediate)(layer, X)
        return out, nnx.to_pure_dict(found)["attention_weights"]

    assert_close(captured(attention_fn(Softmax())), captured(nnx.dot_product_attention))


def test_cross_attention() -> None:
    keys = normal(2, 3, D)
    for variant in (Softmax(), Softpick()):
        out = linen(attention_fn(variant)).apply({"params": linen_params()}, X, keys)
        assert out.shape == X.shape
    np.testing.assert_allclose(
        linen(attention_fn(Softmax())).apply({"params": linen_params()}, X, keys),
        linen().apply({"params": linen_params()}, X, keys),
        **F32,
    )
    q, k = normal(2, T, HEADS, 2), normal(2, 3, HEADS, 2)
    found = attention_fn(ReLU(), query_offset=0)(q, k, k, is_causal=True)
    expected = attend(q, k, k, ReLU(), mask=Causal(), query_offset=0)
    np.testing.assert_allclose(found, expected, **F32)
    found = nnx.dot_product_attention(q, k, k, is_causal=True)
    np.testing.assert_allclose(attention_fn(Softmax())(q, k, k, is_causal=True), found, **F32)


def test_decoding_in_flax() -> None:
    layer = linen(attention_fn(Softmax()), decode=True)
    variables = layer.init(jax.random.key(0), X)
    cache, outs = variables["cache"], []
    for t in range(T):
        out, state = layer.apply({"params": variables["params"], "cache": cache}, X[:, t : t + 1], mutable=["cache"])
        cache = state["cache"]
        outs.append(out)
    expected = linen().apply({"params": variables["params"]}, X, mask=CAUSAL)
    np.testing.assert_allclose(jnp.concatenate(outs, axis=1), expected, **F32)
    refused = linen(attention_fn(ReLU()), decode=True)
    with pytest.raises(ValueError, match=r"query_offset must be given for ReLU where .* \(1 and 5\)"):
        refused.apply(variables, X[:, :1], mutable=["cache"])


def test_every_argument_of_flax_has_a_name_here() -> None:
    """Linen drops what the signature does not name: a new argument has to be honoured or refused."""
    ours = set(inspect.signature(attention_fn(Softmax())).parameters)
    assert set(inspect.signature(LinenAttention(Softmax())).parameters) == ours
    # Normalisers are float32 anyway; the others are not passed on by the modules.
    known = {"force_fp32_for_softmax", "einsum_dot_general", "promote_dtype"}
    for theirs in (nn.dot_product_attention, nnx.dot_product_attention):
        assert set(inspect.signature(theirs).parameters) - ours <= known


def run(fn: Any = None, **options: Any) -> Any:
    return linen(fn or attention_fn(Softmax()), **options).init(jax.random.key(0), X)


Q = normal(2, T, HEADS, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: run(dropout_rate=0.5, deterministic=False), "dropout_rate must be 0 while training, .* but is 0.5"),
        (lambda: run(LinenAttention(SinkLogit()), dropout_rate=0.5, deterministic=False), "dropout_rate must be 0"),
        (
            lambda: nnx_layer(attention_fn(Softmax()), dropout_rate=0.5, deterministic=False)(X),
            "dropout_rate must be 0",
        ),
        (lambda: run(precision="bfloat16"), "precision must be None or the highest, .* but is 'bfloat16'"),
        (lambda: run(precision=jax.lax.Precision.DEFAULT), "precision must be None or the highest"),
        (
            lambda: run(
                qk_attn_weights_einsum_cls=lambda: jnp.einsum, attn_weights_value_einsum_cls=lambda: jnp.einsum
            ),
            "qk_attn_weights_einsum_cls, .* must be None",
        ),
        (lambda: attention_fn(Softmax())(Q, Q, Q, input_positions=jnp.arange(T)), "input_positions must be None"),
        (lambda: attention_fn(Softmax(), mask=CAUSAL), "mask must be structured, such as Causal"),
        (lambda: attention_fn("softmax"), "variant must be an instance"),
        (
            lambda: attention_fn(Wrapped(Softmax(), (wrappers.ElementwiseGate(),))),
            "variant must not read x, which Flax does not pass",
        ),
        (
            lambda: NNXAttention(Wrapped(Softmax(), (wrappers.ElementwiseGate(),)), DIMS, rngs=nnx.Rngs(0)),
            "variant must not read x",
        ),
        (lambda: attention_fn(SinkLogit())(Q, Q, Q), r"params of SinkLogit must have the entries \['sink_logit'\]"),
        (
            lambda: attention_fn(Softmax(), mask=Causal())(Q, Q[:, :3], Q[:, :3]),
            "query_offset must be .* structured mask",
        ),
        (lambda: attention_fn(Sigmoid())(Q, Q[:, :3], Q[:, :3]), "query_offset must be given for Sigmoid where"),
    ],
)
def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_rates_and_precisions_that_change_nothing_are_taken() -> None:
    run(dropout_rate=0.5, deterministic=True)
    run(precision=jax.lax.Precision.HIGHEST)
    run(precision=("highest", "float32"))


def test_the_examples_of_the_documentation_run() -> None:
    results = doctest.testmod(importlib.import_module("jaxsink.models.adapters"))
    assert results.attempted
    assert not results.failed
