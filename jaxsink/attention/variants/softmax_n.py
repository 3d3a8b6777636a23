"""Softmax with a constant in the denominator."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming
from jaxsink.attention.row_statistics import masked_softmax


@dataclass(frozen=True)
class SoftmaxN:
    """Softmax with n added to the denominator, w_ij = exp(s_ij) / (n + sum_l exp(s_il)).

    n = 1 is "softmax1", the same as one more key with k = v = 0; any n is a sink logit of log n that is not learned.

    Source: E. Miller, "Attention is off by one" (2023); Xiao et al. 2023 (arXiv 2309.17453), section 3.3
        ("zero sink"); Kaul et al. 2024 (arXiv 2410.17174).

    Attributes:
        n: constant in the denominator, positive: with n = 0 there is no null column, which `Softmax` declares.

    Raises:
        ValueError: if `n` is not a positive finite number.
    """

    n: float = 1.0

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.ONLINE_WITH_NULL,
        mass=Mass.AT_MOST_ONE,
        shift_invariant=False,
        non_negative=True,
        monotone=True,
        has_total=True,
        null_column=True,
    )

    def __post_init__(self) -> None:
        if not 0.0 < self.n < math.inf:
            raise ValueError(f"n must be a finite number > 0, but is {self.n}; use Softmax() for n = 0")

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def null_logit(self, context: RowContext, params: Params) -> Array:
        """Return log n as [1, 1, 1]."""
        return jnp.full((1, 1, 1), math.log(self.n), jnp.result_type(float))

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        return masked_softmax(scores, context.visible, self.null_logit(context, params).astype(scores.dtype))
