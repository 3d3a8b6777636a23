"""The cuDNN backend against `reference` in float32: with JAX_PLATFORMS=cuda, on an NVIDIA GPU."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxsink.attention import (
    BACKENDS,
    AttentionDims,
    Causal,
    KeyBias,
    KeyValueBias,
    SinkLogit,
    Softmax,
    SoftmaxN,
    Variant,
    Wrapped,
    attend,
    attend_with_aux,
)

pytestmark = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
B, N, H = 2, 4, 64
VARIANTS: dict[str, Variant] = {
    "softmax": Softmax(),
    "softmax-n": SoftmaxN(2.0),
    "sink-logit": SinkLogit(1.0),
    "key-bias": Wrapped(Softmax(), (KeyBias(),)),
    "key-value-bias": Wrapped(Softmax(), (KeyValueBias(),)),
}
# bfloat16 keeps 8 bits: rounding inputs of an exact computation gives errors of this relative size, wrong formulas
# for the gradients of a null column ten times as much.
CLOSE = 0.01


def arrays(length: int, key_heads: int, dtype: str = "bfloat16") -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    shapes = [(B, length, heads, H) for heads in (N, key_heads, key_heads)]
    q, k, v = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)
    return q, k, v


def distance(found: Array, expected: Array) -> float:
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("mask", [Causal(), None])
@pytest.mark.parametrize(("length", "key_heads"), [(256, 4), (320, 2), (1000, 1)])
def test_outputs_and_gradients_are_those_of_reference(name: str, mask: Any, length: int, key_heads: int) -> None:
    variant = VARIANTS[name]
    q, k, v = arrays(length, key_heads)
    params = variant.init(jax.random.key(1), AttentionDims(N, key_heads, H, H, N * H))
    # Parameters as large as what they stand beside, so that their gradients count.
    params = jax.tree.map(lambda x: x + jnp.linspace(-1.0, 1.0, x.size).reshape(x.shape), params)
    d_out = jnp.asarray(np.random.default_rng(1).standard_normal(q.shape), jnp.float32)

    def scalar(backend: str, dtype: str, q: Array, k: Array, v: Array, params: Any) -> tuple[Array, Array]:
        given = (x.astype(dtype) for x in (q, k, v))
        out = attend(*given, variant, params=params, mask=mask, backend=backend)
        return (out.astype(jnp.float32) * d_out).sum(), out

    found, expected = (
        jax.jit(jax.value_and_grad(lambda *a, b=b, d=d: scalar(b, d, *a), (0, 1, 2, 3), has_aux=True))(q, k, v, params)
        for b, d in (("cudnn", "bfloat16"), ("reference", "float32"))
    )
    assert distance(found[0][1], expected[0][1]) < CLOSE
    leaves = zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True)
    errors = [distance(a, b) for a, b in leaves]
    # Gradients of parameters are sums over all queries, of terms of both signs.
    assert max(errors[:3]) < CLOSE, errors
    assert max(errors[3:], default=0.0) < 2 * CLOSE, errors


@pytest.mark.parametrize("name", VARIANTS)
def test_what_it_returns_besides_is_that_of_reference(name: str) -> None:
    variant = VARIANTS[name]
    q, k, v = arrays(256, 2)
    params = variant.init(jax.random.key(1), AttentionDims(N, 2, H, H, N * H))
    want = ("lse", "total", "row_mass", "null_mass", "on_keys")

    def observed(backend: str, dtype: str) -> Any:
        given = (x.astype(dtype) for x in (q, k, v))
        return attend_with_aux(*given, variant, params=params, mask=Causal(), want=want, keys=[0, 100], backend=backend)

    (out, found), (_, expected) = observed("cudnn", "bfloat16"), observed("reference", "float32")
    for entry in want:
        # The log-sum-exp is float32, of products of 16-bit numbers.
        np.testing.assert_allclose(getattr(found, entry), getattr(expected, entry), atol=2e-3, err_msg=entry)
    alone = attend(q, k, v, variant, params=params, mask=Causal(), backend="cudnn")
    np.testing.assert_array_equal(out.astype(jnp.float32), alone.astype(jnp.float32))


def test_gradients_through_what_it_returns_are_those_of_reference() -> None:
    q, k, v = arrays(256, 2)

    def scalar(backend: str, dtype: str, q: Array, k: Array, v: Array) -> Array:
        given = (x.astype(dtype) for x in (q, k, v))
        out, aux = attend_with_aux(
            *given, SoftmaxN(), mask=Causal(), want=("lse", "on_keys"), keys=[3], backend=backend
        )
        assert aux.lse is not None
        assert aux.on_keys is not None
        return jnp.square(out.astype(jnp.float32)).sum() + jnp.square(aux.lse).mean() + 10 * aux.on_keys.sum()

    found, expected = (
        jax.jit(jax.grad(lambda *a, b=b, d=d: scalar(b, d, *a), (0, 1, 2)))(q, k, v)
        for b, d in (("cudnn", "bfloat16"), ("reference", "float32"))
    )
    errors = [distance(a, b) for a, b in zip(found, expected, strict=True)]
    assert max(errors) < CLOSE, errors


def test_auto_takes_it() -> None:
    q, k, v = arrays(256, 4)
    text = jax.jit(lambda *a: attend(*a, SoftmaxN(), mask=Causal())).lower(q, k, v).as_text()
    assert "cudnn" in text
    assert next(iter(BACKENDS)) == "cudnn"


def test_a_call_that_it_cannot_take_says_why() -> None:
    q, k, v = arrays(256, 4)
    with pytest.raises(ValueError, match="does not return entropy"):
        attend_with_aux(q, k, v, mask=Causal(), want=("entropy",), backend="cudnn")
    with pytest.raises(ValueError, match="must both be bfloat16"):
        attend(q.astype(jnp.float32), k.astype(jnp.float32), v.astype(jnp.float32), backend="cudnn")
