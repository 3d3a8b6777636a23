"""What backends compute in the same way besides the output: null columns, totals, entropies."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxsink.attention.call import Call
from jaxsink.attention.row_map import NullColumnMap, RowContext
from jaxsink.attention.row_statistics import null_column_mass, real_column_share


def added_up(parts: tuple[Array, ...], dtype: Any) -> Array:
    """Sum of the parts of a bias, apart from the scores: parts may be far larger than what they add up to."""
    total = parts[0].astype(dtype)
    for part in parts[1:]:
        total = total + part.astype(dtype)
    return total


def _own_null(call: Call, context: RowContext, like: Array) -> Array | None:
    """Logit of the variant's own null column, broadcastable to [B, N, T], or None for a variant without one."""
    if call.variant.properties.null_column and isinstance(call.variant, NullColumnMap):
        return call.variant.null_logit(context, call.params).astype(like.dtype)
    return None


def _log_add(a: Array, b: Array) -> Array:
    """log(e^a + e^b) with finite derivatives where either is -inf."""
    off = jnp.isneginf(a) & jnp.isneginf(b)
    return jnp.where(off, -jnp.inf, jnp.logaddexp(jnp.where(off, 0.0, a), jnp.where(off, 0.0, b)))


def null_logits(call: Call, context: RowContext, lse: Array) -> Array | None:
    """Logit of all null columns together, broadcastable to `lse` [B, N, T], or None if there is none."""
    own = _own_null(call, context, lse)
    if call.null_logit is None:
        return own
    given = call.null_logit.astype(lse.dtype)
    return given if own is None else _log_add(own, given)


def share_left(call: Call, context: RowContext, lse: Array) -> Array:
    """Factor [B, N, T] by which the caller's null logit lowers the weights that the variant gives alone.

    Args:
        lse: log-sum-exp over the visible real keys, [B, N, T].
    """
    own = _own_null(call, context, lse)
    assert call.null_logit is not None
    total = lse if own is None else _log_add(lse, own)
    return real_column_share(total, call.null_logit.astype(lse.dtype))


def null_entries(call: Call, context: RowContext, lse: Array) -> dict[str, Array]:
    """The entries `null_mass` and `total` of `Aux`, given `lse` [B, N, T]."""
    null = null_logits(call, context, lse)
    if null is None:
        return {"null_mass": jnp.zeros_like(lse), "total": lse}
    return {"null_mass": null_column_mass(lse, null), "total": _log_add(lse, jnp.broadcast_to(null, lse.shape))}


def x_log_x(size: Array) -> Array:
    """x log x, 0 at 0, with a finite derivative there."""
    return size * jnp.log(jnp.where(size > 0.0, size, 1.0))


def entropy(total: Array, total_x_log_x: Array) -> Array:
    """Entropy in nats of sizes divided by their sum, from the sums of x and of x log x; 0 where all are 0."""
    safe = jnp.where(total > 0.0, total, 1.0)
    return jnp.where(total > 0.0, jnp.log(safe) - total_x_log_x / safe, 0.0)
