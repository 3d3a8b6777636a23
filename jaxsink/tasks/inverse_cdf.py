"""Exact sampling from the rows of a table of probabilities, by integer thresholds.

Measured on two CPU cores, for all the data of one training step (32 sequences of 32 tokens, V = 65, in chunks
of ten steps): binary search .018 ms, comparing with every threshold .031 ms, an alias table .012 ms (.011 ms
of each for the random bits). The alias table's sequential construction is not worth a thousandth of a step.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Thresholds reach 2^31 (probability one), which uint32 holds; a draw of 31 bits always stays below it.
_BITS = 31


def thresholds(probabilities: np.ndarray) -> np.ndarray:
    """Cumulative thresholds of each row, for `draw`.

    Args:
        probabilities: float64[R, V] rows with a positive sum; they are normalised here.

    Returns:
        uint32[R, W] with W the next power of two: outcome j has the draws from threshold j-1 to below
        threshold j. Outcomes of probability zero have none, so they are never drawn; others are off by 2^-31
        at most.
    """
    cumulative = np.cumsum(probabilities, axis=1)
    # Dividing by the last entry makes the end of each row exact, whatever the rounding of its sum.
    shares = cumulative / cumulative[:, -1:]
    width = 1 << max(1, (probabilities.shape[1] - 1).bit_length())
    table = np.full((probabilities.shape[0], width), 2**_BITS, np.uint32)
    table[:, : probabilities.shape[1]] = np.rint(shares * 2**_BITS)
    return table


def draw(table: jax.Array, row: jax.Array, bits: jax.Array) -> jax.Array:
    """One outcome from each of the given rows, by binary search.

    Args:
        table: uint32[R, W] from `thresholds`.
        row: int32[N] the row of each draw.
        bits: uint32[N] random bits.

    Returns:
        int32[N] outcomes: how many thresholds of the row are at most the draw.
    """
    width = table.shape[1]
    flat = table.reshape(-1)
    value = bits >> (32 - _BITS)
    start = row * width
    outcome = jnp.zeros_like(row)
    stride = width // 2
    while stride:
        passed = value >= flat[start + outcome + (stride - 1)]
        outcome = jnp.where(passed, outcome + stride, outcome)
        stride //= 2
    return outcome


def happens(probability: float, bits: jax.Array) -> jax.Array:
    """True with the given probability (within 2^-32; never at 0, always at 1), from uint32 random bits."""
    return (bits >> (32 - _BITS)) < np.uint32(round(probability * 2**_BITS))
