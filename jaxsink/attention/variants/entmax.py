"""Entmax attention with alpha = 1.5."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming
from jaxsink.attention.simplex import below_top, largest_first, support


@dataclass(frozen=True)
class Entmax15:
    """Entmax with alpha = 1.5, w_ij = max(s_ij / 2 - tau_i, 0)^2 with tau_i such that the row adds up to one.

    It stands between softmax (alpha = 1) and sparsemax (alpha = 2), and is found exactly with a sort. Its derivative
    is dw_j = sqrt(w_j) (ds_j - sum_l sqrt(w_l) ds_l / sum_l sqrt(w_l)).

    Source: Peters, Niculae and Martins 2019 (arXiv 1905.05702).
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
        gaps = below_top(scores / 2.0, context.visible)
        ordered, rank = largest_first(gaps)
        mean = jnp.cumsum(ordered, axis=-1) / rank
        scatter = jnp.cumsum(ordered**2, axis=-1) - rank * mean**2
        # Past the support the scatter exceeds one and there is no threshold; the mean stands above the key then.
        thresholds = mean - jnp.sqrt(jnp.maximum(1.0 - scatter, 0.0) / rank)
        above, count = support(gaps, context.visible, thresholds, ordered > thresholds)
        # Written out once more over the fixed support, the threshold carries the derivative.
        mean = jnp.sum(jnp.where(above, gaps, 0.0), axis=-1, keepdims=True) / count
        scatter = jnp.sum(jnp.where(above, gaps - mean, 0.0) ** 2, axis=-1, keepdims=True)
        # The square roots of the weights add up to 1 or more, so that mean - tau >= 1 / count.
        tau = mean - jnp.sqrt((1.0 - scatter) / count)
        return jnp.where(above, jax.nn.relu(gaps - tau) ** 2, 0.0)
