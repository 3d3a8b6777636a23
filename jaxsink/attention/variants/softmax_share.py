"""Softmax as a row statistic, for row maps that work on from the softmax weights."""

import jax.numpy as jnp
from jax import Array

from jaxsink.attention.statistics import Statistic, Term


def softmax_term(scores: Array) -> Term:
    """What `ScaledSum` has to reduce, from scores [B, N, T, S]."""
    return jnp.ones_like(scores), scores


def log_softmax_share(scores: Array, known: Statistic, visible: Array) -> Array:
    """Logarithms of the softmax weights, 0 where hidden.

    The largest score is subtracted before the logarithm of the sum: a log-sum-exp of large scores would round by more
    than the weights do, and equal scores would not give exactly equal shares of one.

    Args:
        scores: [B, N, T, S].
        known: what `ScaledSum` made of `softmax_term`, [B, N, T, 1] each.
        visible: bool, broadcastable to the scores.

    Returns:
        [B, N, T, S].
    """
    top, total = known
    return jnp.where(visible, scores - top - jnp.log(jnp.where(total > 0.0, total, 1.0)), 0.0)


def softmax_share(scores: Array, known: Statistic, visible: Array) -> Array:
    """Softmax weights, 0 where hidden; arguments as in `log_softmax_share`."""
    top, total = known
    mantissa, exponent = softmax_term(scores)
    # Hidden scores are 0, which may lie far above the largest visible one: they must not reach exp. The terms stand as
    # in `ScaledSum`, so that XLA merges the two: computed twice, they round differently in differently fused kernels.
    gap = jnp.where(visible, exponent - jnp.where(jnp.isfinite(top), top, 0.0), 0.0)
    size = jnp.where(visible, mantissa * jnp.exp(gap), 0.0)
    return size / jnp.where(total > 0.0, total, 1.0)
