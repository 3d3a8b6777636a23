"""Attention without a nonlinearity."""

from dataclasses import dataclass
from typing import ClassVar

from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming


@dataclass(frozen=True)
class Identity:
    """Linear weights, w_ij = s_ij, of either sign and without a normaliser.

    Source: Gu et al. 2024 (arXiv 2410.10781), table 6 and 15, the identity kernel.
    """

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.ELEMENTWISE,
        mass=Mass.FREE,
        shift_invariant=False,
        non_negative=False,
        monotone=True,
        has_total=False,
        null_column=False,
    )

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        return scores
