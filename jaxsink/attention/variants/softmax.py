"""Softmax attention."""

from dataclasses import dataclass
from typing import ClassVar

from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming
from jaxsink.attention.row_statistics import masked_softmax


@dataclass(frozen=True)
class Softmax:
    """Softmax, w_ij = exp(s_ij) / sum_l exp(s_il).

    Source: Vaswani et al. 2017 (arXiv 1706.03762), eq. 1.
    """

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.ONLINE,
        mass=Mass.ONE,
        shift_invariant=True,
        non_negative=True,
        monotone=True,
        has_total=True,
        null_column=False,
    )

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        return masked_softmax(scores, context.visible)
