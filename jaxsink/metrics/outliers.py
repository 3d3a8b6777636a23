"""Outliers of an activation as they trouble quantisation: kurtosis and largest magnitude."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsink.metrics._arguments import boolean, check_shapes, floating, masked_mean, spread


def kurtosis(x: ArrayLike, valid: ArrayLike) -> jax.Array:
    """Kurtosis of all T * D entries of each sequence together: about 3 for Gaussian entries, not 0.

    mean((x - mean)^4) / (std^4 + 1e-6), with the unbiased standard deviation. The published number averages over
    sequences, then over modules: the output of each feed-forward block and of the normalisation behind it (BERT), or
    takes the largest module. The 1e-6 makes it depend on the scale where the standard deviation is below about .1.

    Args:
        x: [B, ..., T, D] activation. Padding is never read.
        valid: bool [B, T], true for a token and false for padding.

    Returns:
        [B, ...], dimensionless; 0 where all entries are equal, NaN without a valid token.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: Bondarenko et al. 2023 (2306.12929), section 5, as in its released code.
    """
    x, kept = _kept(x, valid)
    axes = (-2, -1)
    off = x - masked_mean(x, kept, axis=axes)[..., None, None]
    count = jnp.sum(kept, axis=axes).astype(x.dtype)
    variance = jnp.sum(jnp.where(kept, off**2, 0.0), axis=axes) / jnp.maximum(count - 1.0, 1.0)
    return masked_mean(off**4, kept, axis=axes) / (variance**2 + 1e-6)


def infinity_norm(x: ArrayLike, valid: ArrayLike) -> jax.Array:
    """Largest magnitude among all T * D entries of each sequence.

    The published number averages over sequences, then takes the largest module: for BERT the input of the normalisation
    behind the feed-forward block. The average over layers of the residual stream's is M-Act of 2505.06708.

    Args:
        x: [B, ..., T, D] activation. Padding is never read.
        valid: bool [B, T], true for a token and false for padding.

    Returns:
        [B, ...] in the units of `x`; NaN without a valid token.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: 2306.12929, section 5, maximum infinity norm, as in its released code.
    """
    x, kept = _kept(x, valid)
    largest = jnp.max(jnp.where(kept, jnp.abs(x), 0.0), axis=(-2, -1))
    return jnp.where(jnp.any(kept, axis=(-2, -1)), largest, jnp.nan)


def _kept(x: ArrayLike, valid: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The activation, and a mask of its shape for the entries of valid tokens."""
    x = floating("x", x)
    valid = boolean("valid", valid)
    check_shapes(("x", x, "B*TD"), ("valid", valid, "BT"))
    return x, jnp.broadcast_to(spread(valid, x, -2), x.shape)
