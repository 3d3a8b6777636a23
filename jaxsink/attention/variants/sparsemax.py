"""Sparsemax attention."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming
from jaxsink.attention.simplex import below_top, largest_first, support


@dataclass(frozen=True)
class Sparsemax:
    """Sparsemax, w_ij = max(s_ij - tau_i, 0) with tau_i such that the row adds up to one.

    It is the Euclidean projection of the scores onto the simplex, found exactly with a sort. Its derivative is that
    of the keys with weight, dw_j = ds_j - mean ds; where a key enters or leaves there is none, and 0 is taken for
    the key.

    Source: Martins and Astudillo 2016 (arXiv 1602.02068), algorithm 1.
    """

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.SEARCH,
        mass=Mass.ONE,
        shift_invariant=True,
        non_negative=True,
        monotone=True,
        has_total=False,
        null_column=False,
    )

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        gaps = below_top(scores, context.visible)
        ordered, rank = largest_first(gaps)
        thresholds = (jnp.cumsum(ordered, axis=-1) - 1.0) / rank
        above, count = support(gaps, context.visible, thresholds, ordered > thresholds)
        # Written out once more over the fixed support, the threshold carries the derivative.
        tau = (jnp.sum(jnp.where(above, gaps, 0.0), axis=-1, keepdims=True) - 1.0) / count
        return jnp.where(above, jax.nn.relu(gaps - tau), 0.0)
