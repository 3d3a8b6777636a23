"""Clipped softmax attention."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, StatisticMap, Streaming
from jaxsink.attention.statistics import RowStatistic, ScaledSum, Statistic, Term
from jaxsink.attention.variants.softmax_share import softmax_share, softmax_term


@dataclass(frozen=True)
class Clipped(StatisticMap):
    """Clipped softmax, w_ij = clip((zeta - gamma) softmax(s)_ij + gamma, 0, 1).

    A key is at exactly 0 where its softmax weight is at most -gamma / (zeta - gamma), and gets no gradient there.
    A row adds up to at most one if zeta = 1, and to at most zeta otherwise.

    Source: Bondarenko et al. 2023 (arXiv 2306.12929), eq. 4; the default is that of its BERT runs. gamma depends on
        the largest sequence length, for which `Clipped.for_length(n)` stands.

    Attributes:
        gamma: lower end of the stretched interval, at most 0; 0 clips nothing away.
        zeta: upper end, at least 1.

    Raises:
        ValueError: if `gamma` is above 0, `zeta` is below 1, or one is not finite.
    """

    gamma: float = -0.025
    zeta: float = 1.0

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
        if not -math.inf < self.gamma <= 0.0:
            raise ValueError(f"gamma must be a finite number <= 0, but is {self.gamma}; use 0.0 to clip nothing")
        if not 1.0 <= self.zeta < math.inf:
            raise ValueError(f"zeta must be a finite number >= 1, but is {self.zeta}; use 1.0 for no stretch upwards")

    @classmethod
    def for_length(cls, length: int, alpha: float = 3.2) -> Self:
        """Return clipped softmax with gamma = -alpha / length and zeta = 1.

        Args:
            length: largest sequence length the model is meant for.
            alpha: share of the uniform weight below which a key is cut off, near enough; the source recommends 2 to
                4, and its BERT runs have 3.2 at length 128.

        Raises:
            ValueError: if `length` is below 1, or `alpha` is negative or not finite.
        """
        if length < 1:
            raise ValueError(f"length must be at least 1, but is {length}; give the largest sequence length")
        return cls(gamma=-alpha / length)

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def terms(self, scores: Array, params: Params) -> tuple[Term, ...]:
        return (softmax_term(scores),)

    def weights_given(
        self, scores: Array, statistics: tuple[Statistic, ...], context: RowContext, params: Params
    ) -> Array:
        share = softmax_share(scores, statistics[0], context.visible)
        return jnp.clip((self.zeta - self.gamma) * share + self.gamma, 0.0, 1.0)
