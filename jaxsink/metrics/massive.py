"""Massive activations: single entries of the residual stream that dwarf all others."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsink.metrics._arguments import boolean, check_count, check_shapes, floating, masked_median, quotient, spread

# An activation is massive above both (2402.17762, section 2; 2503.22329, released code).
MASSIVE_MAGNITUDE = 100.0
MASSIVE_RATIO = 1000.0


class LargestActivations(NamedTuple):
    """The k entries of the largest magnitude of each sequence, in falling order; each [B, ..., k].

    Attributes:
        value: the entry with its sign.
        position: int32, the token it belongs to, from the start of the array.
        dimension: int32, its dimension.
    """

    value: jax.Array
    position: jax.Array
    dimension: jax.Array


class TopDimensions(NamedTuple):
    """The k dimensions of the largest magnitude of each position, in falling order; each [B, ..., T, k].

    Attributes:
        dimension: int32, the dimension.
        share: its share of the squared norm of the position.
    """

    dimension: jax.Array
    share: jax.Array


def massive_activations(
    resid: ArrayLike, valid: ArrayLike, magnitude: float = MASSIVE_MAGNITUDE, ratio: float = MASSIVE_RATIO
) -> jax.Array:
    """Entries with a magnitude above a bound and above a multiple of the median magnitude of their sequence.

    The rule misses models below about 1B parameters and some above: report `max_median_ratio` with it. Some models have
    massive activations only with a BOS token (Gemma), so state whether there is one.

    Args:
        resid: [B, ..., T, D] residual stream. Padding is never read.
        valid: bool [B, T], true for a token and false for padding.
        magnitude: bound, in the units of `resid`; equality does not count.
        ratio: multiple of the median over the T x D entries of valid tokens; equality does not count.

    Returns:
        bool [B, ..., T, D]: which positions and dimensions; false for padding.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: Sun et al. 2024 (2402.17762), section 2, "at least or around" 1000 times the median; strict, and with the
    median over the whole hidden state, in the code of Owen et al. 2025 (2503.22329), whose median of an even number is
    the lower of the middle two and not their mean.
    """
    size, kept = _magnitudes(resid, valid)
    median = _median(size, kept)[..., None, None]
    return kept & (size > magnitude) & (size > ratio * median)


def max_median_ratio(resid: ArrayLike, valid: ArrayLike) -> jax.Array:
    """Largest over median magnitude of the entries of each sequence: how massive, without a threshold.

    Args:
        resid: [B, ..., T, D] residual stream. Padding is never read.
        valid: bool [B, T], true for a token and false for padding.

    Returns:
        [B, ...], dimensionless; 1 where all entries are 0, inf where more than half are, NaN without a valid token.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: the ratio in the rule of 2402.17762, section 2.
    """
    size, kept = _magnitudes(resid, valid)
    return quotient(jnp.max(jnp.where(kept, size, 0.0), axis=(-2, -1)), _median(size, kept))


def largest_activations(resid: ArrayLike, valid: ArrayLike, k: int = 3) -> LargestActivations:
    """The k entries of the largest magnitude of each sequence, with their positions and dimensions.

    Args:
        resid: [B, ..., T, D] residual stream. Padding is never read.
        valid: bool [B, T], true for a token and false for padding.
        k: how many, a Python int.

    Returns:
        LargestActivations; the lowest position and dimension first among equals. Where there are fewer than k entries
        the value is 0, position and dimension are -1.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, or k outside 1..T*D.

    Source: 2402.17762, table 1 and section 2 (the top 3 and the median, per layer).
    """
    resid = floating("resid", resid)
    size, kept = _magnitudes(resid, valid)
    width = size.shape[-1]
    k = check_count("k", k, size.shape[-2] * width)
    found, place = jax.lax.top_k(jnp.where(kept, size, -1.0).reshape(*size.shape[:-2], -1), k)
    value = jnp.take_along_axis(resid.reshape(*resid.shape[:-2], -1), place, axis=-1)
    exists = found >= 0.0
    return LargestActivations(
        jnp.where(exists, value, 0.0),
        jnp.where(exists, place // width, -1).astype(jnp.int32),
        jnp.where(exists, place % width, -1).astype(jnp.int32),
    )


def top_dimensions(resid: ArrayLike, k: int = 1) -> TopDimensions:
    """The k dimensions that hold the most of each position's squared norm, and their shares of it.

    Args:
        resid: [B, ..., T, D] residual stream.
        k: how many, a Python int.

    Returns:
        TopDimensions; the lowest dimension first among equals. A zero vector has shares of 0.

    Raises:
        ValueError: wrong rank or dtype, or k outside 1..D.

    Source: the few fixed dimensions of 2402.17762, section 2, as shares; this project.
    """
    resid = floating("resid", resid)
    check_shapes(("resid", resid, "B*TD"))
    energy, dimension = jax.lax.top_k(resid**2, check_count("k", k, resid.shape[-1]))
    total = jnp.sum(resid**2, axis=-1, keepdims=True)
    return TopDimensions(dimension.astype(jnp.int32), energy / jnp.where(total > 0.0, total, 1.0))


def _magnitudes(resid: ArrayLike, valid: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """[B, ..., T, D] magnitudes, and which of them belong to valid tokens."""
    resid = floating("resid", resid)
    valid = boolean("valid", valid)
    check_shapes(("resid", resid, "B*TD"), ("valid", valid, "BT"))
    return jnp.abs(resid), jnp.broadcast_to(spread(valid, resid, -2), resid.shape)


def _median(size: jax.Array, kept: jax.Array) -> jax.Array:
    """[B, ...] median of [B, ..., T, D] over its last two axes."""
    flat = (*size.shape[:-2], size.shape[-2] * size.shape[-1])
    return masked_median(size.reshape(flat), kept.reshape(flat))
