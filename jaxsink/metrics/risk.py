"""Excess risk of predictions over the exact law of the next token."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsink.metrics._arguments import boolean, check_shapes, floating, masked_mean


def excess_risk(log_probs: ArrayLike, law: ArrayLike, where: ArrayLike) -> jax.Array:
    """Mean divergence KL(law || prediction): the cross-entropy minus the entropy of the law.

    A token of law 0 contributes 0, whatever its log-probability (even -inf), and has gradient 0. A token of
    positive law with log-probability -inf makes the risk infinite. Positions outside `where` are never read.
    Rounding can leave a perfect prediction a few units of the last place below 0.

    Args:
        log_probs: [B, T, V] predicted log-probabilities of the next token, in nats, normalised over V.
        law: [B, T, V] true probabilities of the next token, normalised over V; cast to the dtype of
            `log_probs`.
        where: bool [B, T], the positions to average over: triggers for the Backcopy risk, other positions but
            the first for the Bigram risk.

    Returns:
        Scalar in nats; NaN when `where` is empty.

    Raises:
        ValueError: wrong rank, sizes that differ between arguments, or a wrong dtype.

    Source: 2410.13835, the Backcopy and Bigram risks of its Bigram-Backcopy task, in excess of the oracle.
    """
    log_probs = floating("log_probs", log_probs)
    law = floating("law", law).astype(log_probs.dtype)
    where = boolean("where", where)
    check_shapes(("log_probs", log_probs, "BTV"), ("law", law, "BTV"), ("where", where, "BT"))
    # Not `law > 0`: a NaN or negative law must show up as NaN instead of counting as 0.
    read = where[:, :, None] & (law != 0)
    # The law is 1 where nothing is read, or its logarithm would make the gradient 0 * inf = NaN there.
    safe_law = jnp.where(read, law, 1.0)
    terms = jnp.where(read, safe_law * (jnp.log(safe_law) - log_probs), 0.0)
    return masked_mean(jnp.sum(terms, axis=-1), where)
