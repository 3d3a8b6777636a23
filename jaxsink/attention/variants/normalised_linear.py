"""Linear attention with normalised rows, for scores of a positive feature kernel."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, StatisticMap, Streaming
from jaxsink.attention.statistics import RowStatistic, Statistic, Term, Total


@dataclass(frozen=True)
class NormalisedLinear(StatisticMap):
    """Normalised linear weights, w_ij = relu(s_ij) / (sum_l relu(s_il) + eps).

    It is meant for the scores of a positive feature kernel, phi(q_i).phi(k_j) > 0, where relu changes nothing and the
    row adds up to one less a part of eps. Of other scores it takes what is above 0; a row without such a score is
    dead, which is why no mass is declared. For kernels of either sign see `ClampedLinear`.

    Source: Katharopoulos et al. 2020 (arXiv 2006.16236), eq. 4; eps as in the code of Gu et al. 2024
        (arXiv 2410.10781), whose elu kernel this is on features elu + 1.

    Attributes:
        eps: keeps a row without a score above 0 from dividing by zero.

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
        return (jax.nn.relu(scores),)

    def weights_given(
        self, scores: Array, statistics: tuple[Statistic, ...], context: RowContext, params: Params
    ) -> Array:
        return jax.nn.relu(scores) / (statistics[0] + self.eps)
