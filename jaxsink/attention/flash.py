"""Null columns and log-sum-exps around a fused kernel of plain softmax, with the gradients of both.

The backward pass of such a kernel is a function of q, k, v, the log-sum-exp, the output and its cotangent, and nothing
in it knows where the first two came from. With a null column of logit a in them, lse' = log(e^lse + e^a) and
out' = out e^(lse - lse'), the same kernel gives the gradients of the larger softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

# (q [B, T, N, H], k [B, S, K, H], v [B, S, K, H]) -> out [B, T, N, H], in 16 bits.
Kernel = Callable[[Array, Array, Array], Array]
# What the self-check takes: sizes that every kernel has.
_LENGTH, _HEADS, _KEY_HEADS, _SIZE = 128, 4, 2, 64
# Relative errors of 16 bits stay below, those of a wrong formula do not (.125 with a log-sum-exp without its null).
_CLOSE = 0.03


class Roles(NamedTuple):
    """Which leaves of the pytree that `jax.vjp` of a kernel returns are its log-sum-exp [B, N, T] and its output."""

    lse: int
    out: int


def attended(
    kernel: Kernel, roles: Roles, scale: float, q: Array, k: Array, v: Array, null: Array | None
) -> tuple[Array, Array]:
    """Softmax over the real keys and a null column, and the log-sum-exp of the real keys alone.

    Args:
        kernel: plain softmax. roles: of that kernel, see `find_roles`. scale: factor of its scores.
        q, k, v: its arguments. null: float32 [B, N, T], logit of the null column, or None for none.

    Returns:
        (out [B, T, N, H], lse float32 [B, N, T]); both have reverse-mode derivatives, that of lse at the cost of one
        more pass forward and backward, and only where it is asked for.
    """

    @jax.custom_vjp
    def evaluate(q: Array, k: Array, v: Array, null: Array | None) -> tuple[Array, Array]:
        return forward(*jax.tree.map(_Plain, (q, k, v, null)))[0]

    def forward(*given: Any) -> tuple[tuple[Array, Array], Any]:
        q, k, v, null = jax.tree.map(lambda x: x.value, given, is_leaf=lambda x: hasattr(x, "value"))
        out, pull = jax.vjp(kernel, q, k, v)
        lse = jax.tree.leaves(pull)[roles.lse]
        if null is not None:
            share = _by_position(jnp.exp(lse - jnp.logaddexp(lse, null)))
            out = (out.astype(lse.dtype) * share).astype(out.dtype)
        return (out, lse), (pull, q, k, null, out)

    def backward(kept: Any, cotangents: Any) -> tuple[Array, Array, Array, Array | None]:
        pull, q, k, null, out = kept
        d_out, d_lse = cotangents
        if isinstance(d_out, SymbolicZero):
            d_out = jnp.zeros(out.shape, out.dtype)
        leaves, tree = jax.tree.flatten(pull)
        lse, d_null = leaves[roles.lse], None
        if null is not None:
            total = jnp.logaddexp(lse, null)
            products = jnp.sum(d_out.astype(lse.dtype) * out.astype(lse.dtype), axis=-1)
            d_null = -jnp.exp(null - total) * jnp.swapaxes(products, 1, 2)
            leaves = list(leaves)
            leaves[roles.lse], leaves[roles.out] = total, out
        d_q, d_k, d_v = jax.tree.unflatten(tree, leaves)(d_out)
        if isinstance(d_lse, SymbolicZero):
            return d_q, d_k, d_v, d_null
        # d lse_i / d score_ij is the weight of plain softmax, so what is missing are weighted sums of keys and of
        # queries; the kernel has the first as an output, with k in the place of v, and the second as a gradient of v.
        share = _by_position(d_lse) * scale
        of_keys = share * kernel(q, k, k).astype(share.dtype)
        of_queries = pull((share * q.astype(share.dtype)).astype(q.dtype))[2]
        return (d_q.astype(share.dtype) + of_keys).astype(q.dtype), d_k + of_queries, d_v, d_null

    evaluate.defvjp(forward, backward, symbolic_zeros=True)
    return evaluate(q, k, v, null)


class _Plain(NamedTuple):
    """A value as `custom_vjp` hands it to `forward`."""

    value: Array


def _by_position(x: Array) -> Array:
    """[B, N, T] -> [B, T, N, 1]."""
    return jnp.swapaxes(x, 1, 2)[..., None]


def find_roles(kernel: Kernel, scale: float, causal: bool, dtype: Any) -> Roles | None:
    """The roles of a kernel, found by running it on a small input; None if its gradients with them are not right.

    The layout of what `jax.vjp` returns is JAX's own affair and may change with its version.

    Args:
        kernel: plain softmax of that scale, under a causal mask or none. dtype: of 16 bits.
    """
    with jax.ensure_compile_time_eval():
        q, k, v, d_out = (
            jax.random.normal(jax.random.key(i), (1, _LENGTH, heads, _SIZE), jnp.float32).astype(dtype)
            for i, heads in enumerate((_HEADS, _KEY_HEADS, _KEY_HEADS, _HEADS))
        )
        null = jnp.linspace(-1.0, 4.0, _LENGTH, dtype=jnp.float32)[None, None, :].repeat(_HEADS, axis=1)
        out, pull = jax.vjp(kernel, q, k, v)
        leaves = jax.tree.leaves(pull)
        lse, _ = _reference(q, k, v, null, scale, causal)

        def alike(like: Array, tolerance: float) -> list[int]:
            same = [i for i, x in enumerate(leaves) if (x.shape, x.dtype) == (like.shape, like.dtype)]
            return [i for i in same if bool(jnp.all(jnp.abs(leaves[i] - like) <= tolerance))]

        of_lse, of_out = alike(lse, _CLOSE), alike(out, 0.0)
        if len(of_lse) != 1 or len(of_out) != 1:
            return None
        roles = Roles(of_lse[0], of_out[0])

        def ours(*given: Array) -> Array:
            return attended(kernel, roles, scale, *given)[0].astype(jnp.float32)

        def wanted(q: Array, k: Array, v: Array, null: Array) -> Array:
            return _reference(q, k, v, null, scale, causal)[1]

        found, expected = (jax.vjp(f, q, k, v, null)[1](d_out.astype(jnp.float32)) for f in (ours, wanted))
        return roles if all(_close(a, b) for a, b in zip(found, expected, strict=True)) else None


def _close(found: Array, expected: Array) -> bool:
    found, expected = found.astype(jnp.float32), expected.astype(jnp.float32)
    return bool(jnp.linalg.norm(found - expected) <= _CLOSE * jnp.linalg.norm(expected))


def _reference(q: Array, k: Array, v: Array, null: Array, scale: float, causal: bool) -> tuple[Array, Array]:
    """(lse, out with the null column) in float32, from arrays of T x S."""
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    k, v = (x.repeat(q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    exact = jax.lax.Precision.HIGHEST
    scores = scale * jnp.einsum("btnh,bsnh->bnts", q, k, precision=exact)
    if causal:
        later = jnp.arange(k.shape[1])[None, :] > jnp.arange(q.shape[1])[:, None]
        scores = jnp.where(later[None, None], -jnp.inf, scores)
    lse = jax.nn.logsumexp(scores, axis=-1)
    weights = jnp.exp(scores - jnp.logaddexp(lse, null)[..., None])
    return lse, jnp.einsum("bnts,bsnh->btnh", weights, v, precision=exact)
