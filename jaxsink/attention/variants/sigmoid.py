"""Sigmoid attention."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming


@dataclass(frozen=True)
class Sigmoid:
    """Sigmoid attention, w_ij = sigmoid(s_ij + bias).

    Source: without a bias Gu et al. 2024 (arXiv 2410.10781); with bias = -log n, n the largest sequence length,
        Ramapuram et al. 2024 (arXiv 2409.04431), for which `Sigmoid.for_length(n)` stands.

    Attributes:
        bias: constant added to every score; 0 for none.

    Raises:
        ValueError: if `bias` is not finite.
    """

    bias: float = 0.0

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.ELEMENTWISE,
        mass=Mass.FREE,
        shift_invariant=False,
        non_negative=True,
        monotone=True,
        has_total=False,
        null_column=False,
    )

    def __post_init__(self) -> None:
        if not math.isfinite(self.bias):
            raise ValueError(f"bias must be a finite number, but is {self.bias}; use 0.0 for no bias")

    @classmethod
    def for_length(cls, length: int) -> Self:
        """Return sigmoid attention with bias -log(length): a full row of zero scores has a mass near 1.

        Args:
            length: largest sequence length the model is meant for.

        Raises:
            ValueError: if `length` is below 1.
        """
        if length < 1:
            raise ValueError(f"length must be at least 1, but is {length}; give the largest sequence length")
        return cls(bias=-math.log(length))

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        return jax.nn.sigmoid(scores + self.bias)
