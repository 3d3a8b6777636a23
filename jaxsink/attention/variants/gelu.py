"""GELU attention."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming


@dataclass(frozen=True)
class GELU:
    """GELU attention, w_ij = s_ij Phi(s_ij) / n_i with the normal distribution Phi and n_i keys that the row sees.

    A weight falls to -0.17 / n_i at s = -0.75 and rises to 0 again below.

    Source: Wortsman et al. 2023 (arXiv 2309.08586), who divide by the sequence length; n_i is what that is for a
        causal row.
    """

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.ELEMENTWISE,
        mass=Mass.FREE,
        shift_invariant=False,
        non_negative=False,
        monotone=False,
        has_total=False,
        null_column=False,
    )

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        return jax.nn.gelu(scores, approximate=False) / jnp.maximum(context.seen, 1).astype(scores.dtype)
