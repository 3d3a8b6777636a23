"""Null columns around a fused kernel, on a stand-in for it that keeps what such kernels keep."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxsink.attention import Causal, Softmax, attend_with_aux
from jaxsink.attention.flash import Roles, attended, find_roles

SCALE = 0.3
B, T, N, K, H = 2, 7, 4, 2, 8


def stand_in(scale: float, causal: bool, keep: Callable[..., tuple[Array, ...]]) -> Callable[..., Array]:
    """Plain softmax whose backward pass knows q, k, v, a log-sum-exp, an output and its cotangent, and nothing else."""

    def scores_of(q: Array, k: Array) -> Array:
        k = k.astype(jnp.float32).repeat(q.shape[2] // k.shape[2], axis=2)
        scores = jnp.float32(scale) * jnp.einsum("btnh,bsnh->bnts", q.astype(jnp.float32), k)
        hidden = jnp.arange(k.shape[1])[None, :] > jnp.arange(q.shape[1])[:, None]
        return jnp.where(hidden[None, None], -jnp.inf, scores) if causal else scores

    @jax.custom_vjp
    def kernel(q: Array, k: Array, v: Array) -> Array:
        return forward(q, k, v)[0]

    def forward(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, ...]]:
        scores = scores_of(q, k)
        lse = jax.nn.logsumexp(scores, axis=-1)
        wide = v.astype(jnp.float32).repeat(q.shape[2] // v.shape[2], axis=2)
        out = jnp.einsum("bnts,bsnh->btnh", jnp.exp(scores - lse[..., None]), wide).astype(q.dtype)
        return out, keep(q, k, v, lse, out)

    def backward(kept: tuple[Array, ...], d_out: Array) -> tuple[Array, Array, Array]:
        q, k, v, lse, out = kept[:5]
        groups = q.shape[2] // k.shape[2]
        wide = d_out.astype(jnp.float32)
        weights = jnp.exp(scores_of(q, k) - lse[..., None])
        d_weights = jnp.einsum("btnh,bsnh->bnts", wide, v.astype(jnp.float32).repeat(groups, axis=2))
        mean = jnp.swapaxes((wide * out.astype(jnp.float32)).sum(-1), 1, 2)[..., None]
        d_scores = jnp.float32(scale) * weights * (d_weights - mean)
        d_q = jnp.einsum("bnts,bsnh->btnh", d_scores, k.astype(jnp.float32).repeat(groups, axis=2))
        d_k = jnp.einsum("bnts,btnh->bsnh", d_scores, q.astype(jnp.float32))
        d_v = jnp.einsum("bnts,btnh->bsnh", weights, wide)
        grouped = (x.reshape(*x.shape[:2], -1, groups, x.shape[3]).sum(3).astype(q.dtype) for x in (d_k, d_v))
        return (d_q.astype(q.dtype), *grouped)

    kernel.defvjp(forward, backward)
    return kernel


def everything(q: Array, k: Array, v: Array, lse: Array, out: Array) -> tuple[Array, ...]:
    return q, k, v, lse, out


def arrays(dtype: str = "float32") -> tuple[Array, ...]:
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((B, T, heads, H)), dtype) for heads in (N, K, K))
    return q, k, v, jnp.asarray(rng.standard_normal((B, N, T)) * 2, jnp.float32)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("with_null", [True, False])
@pytest.mark.parametrize("through", ["out", "lse", "both"])
def test_outputs_and_gradients_are_those_of_reference(causal: bool, with_null: bool, through: str) -> None:
    kernel = stand_in(SCALE, causal, everything)
    q, k, v, null = arrays()
    given = (q, k, v, null) if with_null else (q, k, v)
    rng = np.random.default_rng(1)
    of_out, of_lse = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((B, T, N, H), (B, N, T)))

    def scalar(out: Array, lse: Array) -> Array:
        found = jnp.zeros(())
        if through != "lse":
            found = found + (out * of_out).sum()
        return found if through == "out" else found + (lse * of_lse).sum()

    def ours(*given: Array) -> Array:
        null = given[3] if with_null else None
        # Leaves of `everything` in their order.
        return scalar(*attended(kernel, Roles(3, 4), SCALE, *given[:3], null))

    def reference(*given: Array) -> Array:
        null = given[3] if with_null else None
        out, aux = attend_with_aux(
            *given[:3],
            Softmax(),
            mask=Causal() if causal else None,
            null_logit=null,
            scale=SCALE,
            want=("lse",),
            backend="reference",
        )
        assert aux.lse is not None
        return scalar(out, aux.lse)

    found, expected = (jax.value_and_grad(f, tuple(range(len(given))))(*given) for f in (ours, reference))
    # The null column is not in lse: through it alone the logit of the column has no gradient.
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # Float32 sums of at most 8 terms of size 1, in another order.
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_the_roles_are_found_wherever_they_are(causal: bool) -> None:
    def shuffled(q: Array, k: Array, v: Array, lse: Array, out: Array) -> tuple[Array, ...]:
        return (q, k, v, lse, out, jnp.zeros(3), lse.astype(jnp.bfloat16))

    kernel = stand_in(SCALE, causal, shuffled)
    roles = find_roles(kernel, SCALE, causal, jnp.bfloat16)
    assert roles is not None
    assert jax.jit(partial(find_roles, kernel, SCALE, causal, jnp.bfloat16)) is not None
    q, k, v, null = arrays("bfloat16")
    leaves = jax.tree.leaves(jax.vjp(kernel, q, k, v)[1])
    assert leaves[roles.lse].shape == null.shape
    assert leaves[roles.lse].dtype == jnp.float32


def test_they_are_found_while_a_program_is_traced() -> None:
    kernel = stand_in(SCALE, True, everything)
    found = []

    @jax.jit
    def program(x: Array) -> Array:
        found.append(find_roles(kernel, SCALE, True, jnp.bfloat16))
        return x

    program(jnp.zeros(()))
    assert found[0] is not None


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_a_kernel_that_does_otherwise_is_not_believed(scale: float) -> None:
    # It keeps no log-sum-exp; it is of another scale; it is not causal.
    def without(q: Array, k: Array, v: Array, lse: Array, out: Array) -> tuple[Array, ...]:
        return q, k, v, lse + 1, out

    for kernel in (stand_in(scale, True, without), stand_in(2 * scale, True, everything)):
        assert find_roles(kernel, scale, True, jnp.bfloat16) is None
    assert find_roles(stand_in(scale, False, everything), scale, True, jnp.bfloat16) is None


def test_gradients_that_ignore_what_was_put_in_are_noticed() -> None:
    def fixed(q: Array, k: Array, v: Array) -> Array:
        kernel = stand_in(SCALE, True, everything)

        @jax.custom_vjp
        def deaf(q: Array, k: Array, v: Array) -> Array:
            return kernel(q, k, v)

        def forward(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, ...]]:
            out, pull = jax.vjp(kernel, q, k, v)
            return out, (pull, jax.tree.leaves(pull)[3] * 1, out * 1)

        # The gradients of plain softmax, whatever log-sum-exp and output it is given.
        deaf.defvjp(forward, lambda kept, d_out: kept[0](d_out))
        return deaf(q, k, v)

    assert find_roles(fixed, SCALE, True, jnp.bfloat16) is None
