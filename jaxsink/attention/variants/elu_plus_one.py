"""ELU plus one attention."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming


@dataclass(frozen=True)
class ELUPlusOne:
    """ELU plus one, w_ij = s_ij + 1 above 0 and exp(s_ij) below, without a normaliser.

    Source: Gu et al. 2024 (arXiv 2410.10781), table 6 and 15, as a similarity function.
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
        above = scores > 0.0
        # Not elu(s) + 1, whose digits get lost far below 0.
        return jnp.where(above, scores + 1.0, jnp.exp(jnp.where(above, 0.0, scores)))
