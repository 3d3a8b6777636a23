"""Splash attention for TPUs against `reference`, in the interpreter of Pallas; and what is lowered for a TPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import beside
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxsink.attention import (
    BACKENDS,
    VARIANTS,
    AttentionDims,
    Causal,
    Lengths,
    Mask,
    Softmax,
    SoftmaxN,
    Streaming,
    Window,
    attend,
    splash,
)
from jaxsink.attention.composite import Composite

calls: Any = beside.load(__file__, "backend_calls")
distance = calls.distance
# bfloat16 keeps 8 bits: scaled queries, weights, cotangents and outputs are rounded to them.
CLOSE = 0.02
B, N, K, H = 1, 2, 1, 64


def arrays(queries: int, keys: int, heads: int = N) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    shapes = (B, queries, heads, H), (B, keys, K, H), (B, keys, K, H)
    q, k, v = (jnp.asarray(rng.standard_normal(shape), jnp.bfloat16) for shape in shapes)
    return q, k, v


def call_of(q: Array, k: Array, v: Array, mask: Mask | None = None, **changed: Any) -> Any:
    return calls.call_of(Softmax(), mask, q, k, v, {}, scale=0.2, **changed)


@pytest.mark.parametrize(
    ("mask", "queries", "keys", "softcap"),
    [
        (None, 128, 256, None),
        (Causal(), 256, 256, None),
        (Causal(), 128, 384, 3.0),
        (Causal() & Window(70), 256, 256, None),
    ],
    ids=str,
)
def test_outputs_and_gradients_are_those_of_reference(
    mask: Mask | None, queries: int, keys: int, softcap: float | None
) -> None:
    q, k, v = arrays(queries, keys)
    d_out = jnp.asarray(np.random.default_rng(1).standard_normal(q.shape), jnp.float32)

    def ours(q: Array, k: Array, v: Array) -> Array:
        return splash.run(call_of(q, k, v, mask, softcap=softcap))[0].astype(jnp.float32)

    def exactly(q: Array, k: Array, v: Array, mask: Mask | None = mask) -> Array:
        wide = (x.astype(jnp.float32) for x in (q, k, v))
        return attend(*wide, mask=mask, scale=0.2, softcap=softcap, backend="reference")

    (out, pull), (exact, pull_exact) = (jax.vjp(f, q, k, v) for f in (ours, exactly))
    assert distance(out, exact) < CLOSE
    for found, expected in zip(pull(d_out), pull_exact(d_out), strict=True):
        assert distance(found, expected) < CLOSE
    if mask is not None:  # which is no small matter here
        assert distance(exactly(q, k, v, None), exact) > 10 * CLOSE


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"variant": SoftmaxN()}, "no SoftmaxN"),
        ({"q": jnp.zeros((B, 128, N, H), jnp.float32)}, "must be bfloat16"),
        ({"want": frozenset({"lse"})}, "does not return lse"),
        ({"bias": (jnp.zeros((1, 1, 1, 128)),)}, "no bias"),
        ({"null_logit": jnp.zeros((1, 1, 1))}, "no bias or null column"),
        ({"scale": jnp.ones(())}, "must be a Python number"),
        ({"mask": Lengths(np.array([3]))}, "mask must be None, Causal"),
        ({"query_offset": 2}, "no query_offset"),
        ({"q": jnp.zeros((B, 100, N, H), jnp.bfloat16)}, "multiples of 128"),
        ({"q": jnp.zeros((B, 256, N, H), jnp.bfloat16)}, "T at most S"),
        ({"v": jnp.zeros((B, 128, K, 32), jnp.bfloat16)}, "multiples of 64"),
    ],
)
def test_a_call_that_it_cannot_take_says_why(changed: dict[str, Any], reason: str) -> None:
    plain = call_of(*arrays(128, 128), Causal())
    assert splash.refuses(plain) is None
    assert reason in (splash.refuses(replace(plain, **changed)) or "")


def test_its_kernels_are_lowered_for_a_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splash, "_interpreted", lambda: False)

    def scalar(q: Array, k: Array, v: Array) -> Array:
        return jnp.sum(splash.run(call_of(q, k, v, Causal()))[0].astype(jnp.float32))

    exported = jax.export.export(jax.jit(jax.grad(scalar, (0, 1, 2))), platforms=["tpu"])(*arrays(256, 256))
    # One for the output, one for the gradient of queries, one for those of keys and values.
    assert exported.mlir_module().count("@tpu_custom_call(") == 3


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_lowered_for_a_tpu_with_its_gradients(name: str) -> None:
    variant, size = VARIANTS[name].variant, 8
    q, k, v = (jnp.ones((1, size, 2, 4), jnp.bfloat16) for _ in range(3))
    x = jnp.ones((1, size, 8), jnp.bfloat16) if isinstance(variant, Composite) and variant.needs_x else None
    params = variant.init(jax.random.key(0), AttentionDims(2, 2, 4, 4, 8))

    def scalar(q: Array, k: Array, v: Array, params: Any, backend: str) -> Array:
        out = attend(q, k, v, variant, params=params, x=x, mask=Causal(), backend=backend)
        return jnp.sum(out.astype(jnp.float32))

    def lowered(backend: str) -> Any:
        work = jax.jit(jax.grad(lambda *given: scalar(*given, backend), (0, 1, 2, 3)))
        return jax.export.export(work, platforms=["tpu"])(q, k, v, params)

    assert {"cpu", "tpu"} <= set(BACKENDS["chunked"].platforms)
    assert lowered("reference").platforms == ("tpu",)
    if variant.properties.streaming is not Streaming.SEARCH:
        assert lowered("chunked").platforms == ("tpu",)
