"""What the projections onto the simplex share: scores below the top of their row, and the keys above a threshold.

With the largest visible score of a row at 0, the thresholds of sparsemax and entmax-1.5 lie in [-1, 0): a key at -1 or
below takes no weight.
"""

import jax
import jax.numpy as jnp
from jax import Array

# Below every threshold, and near enough to it that running sums lose no digits to keys without weight.
_FAR = -2.0


def below_top(scores: Array, visible: Array) -> Array:
    """Scores minus the largest visible one of their row, [B, N, T, S]; hidden and far keys are at -2."""
    top = jnp.max(jax.lax.stop_gradient(scores), axis=-1, keepdims=True, initial=-jnp.inf, where=visible)
    gap = scores - jnp.where(jnp.isfinite(top), top, 0.0)
    return jnp.where(visible, jnp.maximum(gap, _FAR), _FAR)


def largest_first(gaps: Array) -> tuple[Array, Array]:
    """Each row sorted from its largest entry down, without a gradient, and the 1-based ranks [1, 1, 1, S]."""
    ordered = -jnp.sort(-jax.lax.stop_gradient(gaps), axis=-1)
    return ordered, jnp.arange(1, gaps.shape[-1] + 1).astype(gaps.dtype)[None, None, None]


def support(gaps: Array, visible: Array, thresholds: Array, inside: Array) -> tuple[Array, Array]:
    """Keys above the threshold that belongs to the number of keys inside.

    Args:
        gaps: from `below_top`.
        visible: bool, broadcastable to the gaps.
        thresholds: [B, N, T, S], the threshold if the first k sorted keys were the support, for k = 1..S.
        inside: bool [B, N, T, S], whether sorted key k lies above the threshold of its rank.

    Returns:
        bool [B, N, T, S], and the number of its keys [B, N, T, 1], 1 for a row that sees none.
    """
    last = jnp.maximum(jnp.sum(inside, axis=-1, keepdims=True) - 1, 0)
    above = visible & (gaps > jnp.take_along_axis(thresholds, last, axis=-1))
    return above, jnp.maximum(jnp.sum(above, axis=-1, keepdims=True), 1).astype(gaps.dtype)
