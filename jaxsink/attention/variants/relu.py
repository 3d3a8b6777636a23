"""ReLU attention."""

from dataclasses import dataclass
from typing import ClassVar

import jax
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming


@dataclass(frozen=True)
class ReLU:
    """ReLU attention, w_ij = relu(s_ij) / (i + 1) with i the 0-based position of the query.

    The divisor is the position of the query and not the number of keys that it sees: under left padding,
    packing or a window the two differ.

    Source: Guo et al. 2024 (arXiv 2410.13835), ReLU attention in the Bigram-Backcopy task.
    """

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.ELEMENTWISE,
        mass=Mass.FREE,
        shift_invariant=False,
        non_negative=True,
        monotone=True,
        has_total=False,
        null_column=False,
    )

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        divisor = (context.query_positions + 1).astype(scores.dtype)
        return jax.nn.relu(scores) / divisor[:, None, :, None]
