"""Elastic softmax attention."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, StatisticMap, Streaming
from jaxsink.attention.statistics import RowStatistic, ScaledSum, Statistic, Term
from jaxsink.attention.variants.softmax_share import softmax_share, softmax_term


@dataclass(frozen=True)
class Elastic(StatisticMap):
    """Elastic softmax, w_ij = relu(softmax(s)_ij + tau_h / n_i) with n_i the number of keys that the row sees.

    The parameter `{"tau": [N]}` belongs to the query head. At tau = -1 a row that sees one key, and an even row, is
    exactly 0. A row adds up to at most one where tau <= 0; nothing is renormalised.

    Source: Lazy Attention (arXiv 2601.00919). Its divisor counts the attended tokens of a causal row; under a mask
        that hides more, this one counts what is left.

    Attributes:
        init_value: initial value of every tau; 0 starts as softmax.

    Raises:
        ValueError: if `init_value` is not finite.
    """

    init_value: float = -1.0

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.TWO_PASSES,
        mass=Mass.FREE,
        shift_invariant=True,
        non_negative=True,
        monotone=True,
        has_total=False,
        null_column=False,
    )
    statistics: ClassVar[tuple[RowStatistic, ...]] = (ScaledSum(),)

    def __post_init__(self) -> None:
        if not math.isfinite(self.init_value):
            raise ValueError(f"init_value must be a finite number, but is {self.init_value}; use 0.0 for softmax")

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"tau": [N]}`, filled with `init_value`."""
        return {"tau": jnp.full((dims.query_heads,), self.init_value, jnp.float32)}

    def terms(self, scores: Array, params: Params) -> tuple[Term, ...]:
        return (softmax_term(scores),)

    def weights_given(
        self, scores: Array, statistics: tuple[Statistic, ...], context: RowContext, params: Params
    ) -> Array:
        seen = jnp.maximum(context.seen, 1).astype(scores.dtype)
        tau = params["tau"].astype(scores.dtype)[None, :, None, None]
        return jax.nn.relu(softmax_share(scores, statistics[0], context.visible) + tau / seen)
