"""Squared ReLU attention."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming


@dataclass(frozen=True)
class SquaredReLU:
    """Squared ReLU attention, w_ij = relu(s_ij)^2 / n_i with n_i the number of keys that the row sees.

    A row without a score above 0 is dead: weights and gradients are 0.

    Source: Wortsman et al. 2023 (arXiv 2309.08586), who divide by the sequence length; n_i is what that is for a
        causal row.
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
        return jax.nn.relu(scores) ** 2 / jnp.maximum(context.seen, 1).astype(scores.dtype)
