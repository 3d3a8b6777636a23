"""Softmax attention times a constant."""

import math
from dataclasses import dataclass
from typing import ClassVar

from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, StatisticMap, Streaming
from jaxsink.attention.statistics import RowStatistic, ScaledSum, Statistic, Term
from jaxsink.attention.variants.softmax_share import softmax_share, softmax_term


@dataclass(frozen=True)
class Scaled(StatisticMap):
    """Scaled softmax, w_ij = A softmax(s)_ij.

    A row adds up to A: the same as softmax with another scale of the output projection and of its learning rate.

    Source: Gu et al. 2024 (arXiv 2410.10781), appendix D.4, with A = 2, 0.2, 0.1 and 0.05.

    Attributes:
        factor: A, positive.

    Raises:
        ValueError: if `factor` is not a positive finite number.
    """

    factor: float = 0.1

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
        if not 0.0 < self.factor < math.inf:
            raise ValueError(f"factor must be a finite number > 0, but is {self.factor}; use Softmax() for 1")

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def terms(self, scores: Array, params: Params) -> tuple[Term, ...]:
        return (softmax_term(scores),)

    def weights_given(
        self, scores: Array, statistics: tuple[Statistic, ...], context: RowContext, params: Params
    ) -> Array:
        return self.factor * softmax_share(scores, statistics[0], context.visible)
