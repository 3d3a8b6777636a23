"""Softpick attention."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, StatisticMap, Streaming
from jaxsink.attention.statistics import RowStatistic, ScaledSum, Statistic, Term


@dataclass(frozen=True)
class Softpick(StatisticMap):
    """Softpick, w_ij = relu(e^s_ij - 1) / (sum_l |e^s_il - 1| + eps e^m_i), m_i = max(0, max_l s_il).

    A key at or below 0 is at exactly 0, and a row without a score above 0 is dead: weights and gradients are 0.

    Source: Zuhri, Fuadi and Aji 2025 (arXiv 2504.20966). As in its code, eps is added after the row has been scaled
        by e^-m; the default is that of its fused kernel, its plain version has 1e-8.

    Attributes:
        eps: keeps a dead row from dividing by zero.

    Raises:
        ValueError: if `eps` is not a positive finite number.
    """

    eps: float = 1e-6

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.TWO_SUMS,
        mass=Mass.AT_MOST_ONE,
        shift_invariant=False,
        non_negative=True,
        monotone=True,
        has_total=False,
        null_column=False,
    )
    statistics: ClassVar[tuple[RowStatistic, ...]] = (ScaledSum(),)

    def __post_init__(self) -> None:
        if not 0.0 < self.eps < math.inf:
            raise ValueError(f"eps must be a positive finite number, but is {self.eps}; use 1e-6")

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def terms(self, scores: Array, params: Params) -> tuple[Term, ...]:
        # |e^s - 1| as mantissa e^exponent, without overflow and without cancellation near s = 0.
        return ((-jnp.expm1(-jnp.abs(scores)), jnp.maximum(scores, 0.0)),)

    def weights_given(
        self, scores: Array, statistics: tuple[Statistic, ...], context: RowContext, params: Params
    ) -> Array:
        # eps does not scale with the row, so that the maximum moves the weights a little.
        ((top, total),) = statistics
        ((mantissa, exponent),) = self.terms(scores, params)
        size = mantissa * jnp.exp(exponent - top)  # no exponent exceeds the largest, and no hidden one either
        return jnp.where(scores > 0.0, size, 0.0) / (total + self.eps)
