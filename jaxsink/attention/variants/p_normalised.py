"""Softmax attention whose rows have a p-norm of one."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, StatisticMap, Streaming
from jaxsink.attention.statistics import RowStatistic, ScaledSum, Statistic, Term
from jaxsink.attention.variants.softmax_share import log_softmax_share, softmax_term


@dataclass(frozen=True)
class PNormalised(StatisticMap):
    """Softmax normalised by a p-norm, w_ij = exp(s_ij) / (sum_l exp(p s_il))^(1/p) = softmax(p s)_ij^(1/p).

    A row adds up to at least one where p > 1, and to at most one where p < 1; p = 1 is softmax.

    Source: Gu et al. 2024 (arXiv 2410.10781), appendix D.4, eq. 43 and 44: p = 1/2, 1/3 and 1/4 train, p = 2, 3 and 4
        diverge.

    Attributes:
        p: order of the norm, positive.

    Raises:
        ValueError: if `p` is not a positive finite number.
    """

    p: float = 0.5

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.TWO_SUMS,
        mass=Mass.FREE,
        shift_invariant=True,
        non_negative=True,
        monotone=True,
        has_total=False,
        null_column=False,
    )
    statistics: ClassVar[tuple[RowStatistic, ...]] = (ScaledSum(),)

    def __post_init__(self) -> None:
        if not 0.0 < self.p < math.inf:
            raise ValueError(f"p must be a finite number > 0, but is {self.p}; use Softmax() for 1")

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def terms(self, scores: Array, params: Params) -> tuple[Term, ...]:
        return (softmax_term(self.p * scores),)

    def weights_given(
        self, scores: Array, statistics: tuple[Statistic, ...], context: RowContext, params: Params
    ) -> Array:
        return jnp.exp(log_softmax_share(self.p * scores, statistics[0], context.visible) / self.p)
