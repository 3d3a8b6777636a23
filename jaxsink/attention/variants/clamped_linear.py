"""Linear attention divided by the size of the row sum, where that exceeds one."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, StatisticMap, Streaming
from jaxsink.attention.statistics import RowStatistic, Statistic, Term, Total


@dataclass(frozen=True)
class ClampedLinear(StatisticMap):
    """Clamped linear weights, w_ij = s_ij / max(|sum_l s_il|, 1), of either sign.

    A row adds up to a number between -1 and 1.

    Source: Gu et al. 2024 (arXiv 2410.10781), table 6 and 15, the normaliser of its identity and MLP kernels.
    """

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.TWO_SUMS,
        mass=Mass.FREE,
        shift_invariant=False,
        non_negative=False,
        monotone=False,
        has_total=False,
        null_column=False,
    )
    statistics: ClassVar[tuple[RowStatistic, ...]] = (Total(),)

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def terms(self, scores: Array, params: Params) -> tuple[Term, ...]:
        return (scores,)

    def weights_given(
        self, scores: Array, statistics: tuple[Statistic, ...], context: RowContext, params: Params
    ) -> Array:
        return scores / jnp.maximum(jnp.abs(statistics[0]), 1.0)
