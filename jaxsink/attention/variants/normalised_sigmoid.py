"""Sigmoid attention with normalised rows."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, StatisticMap, Streaming
from jaxsink.attention.statistics import RowStatistic, Statistic, Term, Total


@dataclass(frozen=True)
class NormalisedSigmoid(StatisticMap):
    """Normalised sigmoid attention, w_ij = sigmoid(s_ij) / (sum_l sigmoid(s_il) + eps).

    A row adds up to one less a part of eps: to one in float32, unless all its scores are far below 0. It therefore
    declares no mass: neither is it one in every row, nor does any row have to lack some.

    Source: Gu et al. 2024 (arXiv 2410.10781), table 6 and 15; eps as in its code.

    Attributes:
        eps: keeps a row of scores far below 0 from dividing by zero.

    Raises:
        ValueError: if `eps` is not a positive finite number.
    """

    eps: float = 1e-8

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.TWO_SUMS,
        mass=Mass.FREE,
        shift_invariant=False,
        non_negative=True,
        monotone=True,
        has_total=False,
        null_column=False,
    )
    statistics: ClassVar[tuple[RowStatistic, ...]] = (Total(),)

    def __post_init__(self) -> None:
        if not 0.0 < self.eps < math.inf:
            raise ValueError(f"eps must be a positive finite number, but is {self.eps}; use 1e-8")

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def terms(self, scores: Array, params: Params) -> tuple[Term, ...]:
        return (jax.nn.sigmoid(scores),)

    def weights_given(
        self, scores: Array, statistics: tuple[Statistic, ...], context: RowContext, params: Params
    ) -> Array:
        return jax.nn.sigmoid(scores) / (statistics[0] + self.eps)
