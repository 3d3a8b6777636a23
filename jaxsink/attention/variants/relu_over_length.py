"""ReLU attention divided by a power of a fixed length."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming


@dataclass(frozen=True)
class ReLUOverLength:
    """ReLU attention, w_ij = relu(s_ij) / L^a with a constant L, the sequence length that the model is meant for.

    A row without a score above 0 is dead: weights and gradients are 0.

    Source: Wortsman et al. 2023 (arXiv 2309.08586). With L = 1 these are the weights of Zhang, Titov and Sennrich 2021
        (arXiv 2104.07012), which normalise the output instead. `ReLU` divides by the position of the query.

    Attributes:
        length: L, at least 1.
        exponent: a; about 1 in the source.

    Raises:
        ValueError: if `length` is below 1 or `exponent` is not finite.
    """

    length: int = 256
    exponent: float = 1.0

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
        if not 1 <= self.length < math.inf:
            raise ValueError(f"length must be at least 1, but is {self.length}; give the sequence length of the model")
        if not math.isfinite(self.exponent):
            raise ValueError(f"exponent must be a finite number, but is {self.exponent}; use 1.0")

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        return jax.nn.relu(scores) * float(self.length) ** -self.exponent
