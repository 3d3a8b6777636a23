"""Row statistics of the softmax family that stay finite, in value and gradient, for rows that see no key."""

import jax
import jax.numpy as jnp
from jax import Array


def _row_maximum(scores: Array, visible: Array) -> Array:
    """Largest visible score of each row, [B, N, T, 1]; a constant to gradients, -inf for an empty row."""
    return jnp.max(jax.lax.stop_gradient(scores), axis=-1, keepdims=True, initial=-jnp.inf, where=visible)


def _finite(maximum: Array) -> Array:
    return jnp.where(jnp.isfinite(maximum), maximum, 0.0)


def _masked_exp(scores: Array, visible: Array, shift: Array) -> Array:
    # The inner `where` keeps hidden scores out of exp: an overflow there makes the zero gradient NaN.
    return jnp.where(visible, jnp.exp(jnp.where(visible, scores - shift, 0.0)), 0.0)


def masked_softmax(scores: Array, visible: Array, null_logit: Array | None = None) -> Array:
    """Softmax over the visible keys of each row and an optional null column, which is left out of the result.

    Args:
        scores: [B, N, T, S].
        visible: bool, broadcastable to the scores.
        null_logit: logit of the null column, broadcastable to [B, N, T], or None for plain softmax.

    Returns:
        Weights [B, N, T, S]; a row that sees no key is all zeros.
    """
    maximum = _row_maximum(scores, visible)
    if null_logit is not None:
        null_logit = null_logit[..., None]
        maximum = jnp.maximum(maximum, jax.lax.stop_gradient(null_logit))
    shift = _finite(maximum)
    numerator = _masked_exp(scores, visible, shift)
    total = jnp.sum(numerator, axis=-1, keepdims=True)
    if null_logit is not None:
        total = total + jnp.exp(null_logit - shift)
    return numerator / jnp.where(total > 0.0, total, 1.0)


def masked_log_sum_exp(scores: Array, visible: Array) -> Array:
    """Log of the sum of exp over the visible keys of each row.

    Args:
        scores: [B, N, T, S].
        visible: bool, broadcastable to the scores.

    Returns:
        [B, N, T], -inf for a row that sees no key.
    """
    shift = _finite(_row_maximum(scores, visible))
    total = jnp.sum(_masked_exp(scores, visible, shift), axis=-1)
    log_total = jnp.log(jnp.where(total > 0.0, total, 1.0)) + shift[..., 0]
    return jnp.where(total > 0.0, log_total, -jnp.inf)


def null_column_mass(lse: Array, null_logit: Array) -> Array:
    """Weight that the null column takes, exp(null) / (exp(null) + exp(lse)).

    Args:
        lse: log-sum-exp over the real keys, [B, N, T].
        null_logit: broadcastable to `lse`.

    Returns:
        [B, N, T]; 1 for a row that sees no key, 0 where the null column is switched off with -inf.
    """
    off = jnp.isneginf(null_logit)
    return jnp.where(off, 0.0, jax.nn.sigmoid(jnp.where(off, 0.0, null_logit) - lse))


def real_column_share(lse: Array, null_logit: Array) -> Array:
    """Weight that the real keys keep beside the null column, exp(lse) / (exp(null) + exp(lse)).

    Args:
        lse: log-sum-exp over the real keys, [B, N, T].
        null_logit: broadcastable to `lse`.

    Returns:
        [B, N, T]; 0 for a row that sees no key, also where the null column is switched off with -inf.
    """
    empty = jnp.isneginf(lse)
    off = jnp.isneginf(null_logit) | empty
    share = jax.nn.sigmoid(jnp.where(off, 0.0, lse) - jnp.where(off, 0.0, null_logit))
    return jnp.where(empty, 0.0, jnp.where(off, 1.0, share))
