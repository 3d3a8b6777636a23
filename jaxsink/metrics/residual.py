"""Norms of the residual stream and the peak at the sink."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsink.metrics._arguments import boolean, check_key, check_shapes, floating, masked_mean, spread


def residual_norms(resid: ArrayLike) -> jax.Array:
    """Euclidean norm of the residual stream at each position; at position 0 of a block's output, Res_<s>.

    Args:
        resid: [B, ..., T, D] residual stream, e.g. the output of a block.

    Returns:
        [B, ..., T] norms.

    Raises:
        ValueError: wrong rank or dtype.

    Source: 2410.13835, residual-state peak.
    """
    resid = floating("resid", resid)
    check_shapes(("resid", resid, "B*TD"))
    return jnp.sqrt(jnp.sum(resid**2, axis=-1))


def peak_ratio(norms: ArrayLike, key: int = 0, valid: ArrayLike | None = None) -> jax.Array:
    """Norm at a key over the mean norm of all other positions, averaged over the batch.

    A growth of all norms is not a peak: this ratio, not the norm, tells one.

    Args:
        norms: [B, ..., T] norms, e.g. from `residual_norms`.
        key: position of the supposed peak, a Python int.
        valid: bool [B, T], the positions that the others are among, true for a token and false for padding; None for
            all. That the key itself is a token is for the caller to see to.

    Returns:
        [...], a scalar for norms [B, T], dimensionless; NaN when a sequence has no other position.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, or a key outside 0..T-1.

    Source: the residual-state peak of 2410.13835, as a ratio.
    """
    norms = floating("norms", norms)
    mask = jnp.ones((norms.shape[0], norms.shape[-1]), bool) if valid is None else boolean("valid", valid)
    check_shapes(("norms", norms, "B*T"), ("valid", mask, "BT"))
    length = norms.shape[-1]
    key = check_key(key, length)
    others = mask & (jnp.arange(length) != key)[None, :]
    return jnp.mean(norms[..., key] / masked_mean(norms, spread(others, norms, -1), axis=-1), axis=0)


def norm_at(norms: ArrayLike, where: ArrayLike) -> jax.Array:
    """Mean norm over chosen positions, e.g. those of one token type.

    Args:
        norms: [B, ..., T] norms, e.g. from `residual_norms`.
        where: bool [B, T], the positions to average over.

    Returns:
        [...], a scalar for norms [B, T], in the units of `norms`; NaN when `where` is empty.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: 2410.13835, residual-state peak (the norm at ordinary tokens is the comparison).
    """
    norms = floating("norms", norms)
    where = boolean("where", where)
    check_shapes(("norms", norms, "B*T"), ("where", where, "BT"))
    return masked_mean(norms, spread(where, norms, -1), axis=(0, -1))
