"""The parts of a transformer whose plain form is slow in bfloat16 on an accelerator, each with a faster derivative.

Activations are bfloat16 and what is sensitive is float32: means, variances, the sums of gradients. Parameters keep
their own dtype. What each part costs at the paper's size stands in the README, "Training on a GPU".
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint


def row_major(x: jax.Array) -> jax.Array:
    """The array, with its last axis innermost in memory. XLA may put the batch there, and every norm then is slow."""
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def lookup(table: jax.Array, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Rows of a table [V, D] for tokens [B, T], as [B, T, D] of a dtype.

    The gradient is a product with one-hot rows, summed in float32: thousands of tokens that add to the same few rows
    would wait for each other.
    """
    return table.astype(dtype)[tokens]


def _lookup_fwd(table: jax.Array, tokens: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return lookup(table, tokens, dtype), (table, tokens)


def _lookup_bwd(dtype: jnp.dtype, kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, None]:
    table, tokens = kept
    hot = jax.nn.one_hot(tokens, table.shape[0], dtype=gradient.dtype)
    summed = jnp.einsum("btv,btd->vd", hot, gradient, preferred_element_type=jnp.float32)
    return summed.astype(table.dtype), None


lookup.defvjp(_lookup_fwd, _lookup_bwd)

Kept = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """LayerNorm over the last axis of [..., D], computed in float32 and returned in the dtype of `x` (1607.06450)."""
    return _layer_norm_fwd(x, scale, bias, eps)[0]


def _along_rows(vector: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.broadcast_to(vector, x.shape)


def _layer_norm_fwd(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> tuple[jax.Array, Kept]:
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    centred = wide - mean
    inverse = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
    out = centred * inverse * _along_rows(scale, x) + _along_rows(bias, x)
    return out.astype(x.dtype), (x, mean, inverse, scale)


def _layer_norm_bwd(eps: float, kept: Kept, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, inverse, scale = kept
    gradient, x = jax.lax.optimization_barrier((gradient, x))
    # The two halves read their inputs separately: shared, XLA writes the normalised array to memory in float32.
    again = jax.lax.optimization_barrier((gradient, x, mean, inverse))

    hat, wide = (x.astype(jnp.float32) - mean) * inverse, gradient.astype(jnp.float32)
    scaled = wide * _along_rows(scale, x)
    d_x = inverse * (scaled - scaled.mean(-1, keepdims=True) - hat * (scaled * hat).mean(-1, keepdims=True))

    gradient, x, mean, inverse = again
    hat, wide = (x.astype(jnp.float32) - mean) * inverse, gradient.astype(jnp.float32)
    rows = tuple(range(x.ndim - 1))
    d_scale, d_bias = ((y.sum(rows)).astype(scale.dtype) for y in (wide * hat, wide))
    return d_x.astype(x.dtype), d_scale, d_bias


layer_norm.defvjp(_layer_norm_fwd, _layer_norm_bwd)
