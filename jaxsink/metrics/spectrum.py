"""Compression of a set of vectors: entropy and concentration of the singular values of the matrix of its rows.

Rows of padding count as zero rows, which change no singular value; so a sequence without a valid token is a zero
matrix, for which each number is 0. Nothing is centred.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsink.metrics._arguments import boolean, check_shapes, floating, spread


def matrix_entropy(x: ArrayLike, valid: ArrayLike) -> jax.Array:
    """Entropy -sum p log p of the shares p of the squared singular values; low in a compression valley.

    Args:
        x: [B, ..., T, D] vectors, e.g. the residual stream.
        valid: bool [B, T], true for a token and false for padding.

    Returns:
        [B, ...] in nats, from 0 (rank one) to the logarithm of the smaller of D and the number of valid tokens.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: 2510.06477, matrix-based entropy.
    """
    others = _energy_shares(x, valid)[..., 1:]
    # The largest share may be 1 up to rounding, and then holds no digit of what the others leave of it.
    rest = jnp.sum(others, axis=-1)
    terms = jnp.where(others > 0.0, others * jnp.log(jnp.where(others > 0.0, others, 1.0)), 0.0)
    return -(1.0 - rest) * jnp.log1p(-rest) - jnp.sum(terms, axis=-1)


def anisotropy(x: ArrayLike, valid: ArrayLike) -> jax.Array:
    """Share of the largest squared singular value in their sum.

    Args:
        x: [B, ..., T, D] vectors, e.g. the residual stream.
        valid: bool [B, T], true for a token and false for padding.

    Returns:
        [B, ...] in 0..1; 1 for rank one, 0 for a zero matrix.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: 2510.06477, anisotropy.
    """
    return _energy_shares(x, valid)[..., 0]


def stable_rank(x: ArrayLike, valid: ArrayLike) -> jax.Array:
    """||X||_F^2 / ||X||_2^2: about 1 where all rows are multiples of one vector, as what a broadcast sink writes.

    Args:
        x: [B, ..., T, D] vectors, e.g. the output of a head or of an attention layer.
        valid: bool [B, T], true for a token and false for padding.

    Returns:
        [B, ...], from 1 to the rank; 0 for a zero matrix.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: 2606.08105, rank diagnostic of broadcast; the inverse of `anisotropy`.
    """
    first = anisotropy(x, valid)
    return jnp.where(first > 0.0, 1.0 / jnp.where(first > 0.0, first, 1.0), 0.0)


def _energy_shares(x: ArrayLike, valid: ArrayLike) -> jax.Array:
    """[B, ..., min(T, D)] shares of the squared singular values, in falling order; zeros for a zero matrix."""
    x = floating("x", x)
    valid = boolean("valid", valid)
    check_shapes(("x", x, "B*TD"), ("valid", valid, "BT"))
    singular = jnp.linalg.svd(jnp.where(spread(valid, x, -2), x, 0.0), compute_uv=False)
    energy = singular**2
    total = jnp.sum(energy, axis=-1, keepdims=True)
    return energy / jnp.where(total > 0.0, total, 1.0)
