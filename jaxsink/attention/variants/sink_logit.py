"""Softmax with a learned sink logit per query head."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming
from jaxsink.attention.row_statistics import masked_softmax


@dataclass(frozen=True)
class SinkLogit:
    """Learned sink logit a_h, w_ij = exp(s_ij) / (exp(a_h) + sum_l exp(s_il)).

    The parameter `{"sink_logit": [N]}` belongs to the query head, also with grouped queries; it is neither
    scaled nor capped nor masked. The output is sigmoid(lse_i - a_h) times the softmax output.

    Source: OpenAI, gpt-oss model card, 2025 (arXiv 2508.10925).

    Attributes:
        init_value: initial value of every sink logit; 0 starts as softmax1.

    Raises:
        ValueError: if `init_value` is not finite.
    """

    init_value: float = 0.0

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
        if not math.isfinite(self.init_value):
            raise ValueError(f"init_value must be a finite number, but is {self.init_value}")

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"sink_logit": [N]}`, filled with `init_value`."""
        return {"sink_logit": jnp.full((dims.query_heads,), self.init_value, jnp.float32)}

    def null_logit(self, context: RowContext, params: Params) -> Array:
        """Return the sink logits as [1, N, 1]."""
        return params["sink_logit"][None, :, None]

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        return masked_softmax(scores, context.visible, self.null_logit(context, params).astype(scores.dtype))
