"""Threshold-rectified attention."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming


@dataclass(frozen=True)
class ThresholdRectified:
    """Threshold-rectified attention, w_ij = relu(s_ij - tau_i)^p, tau_i = beta_h sqrt(2 log((i + 1) / kappa) / H).

    i is the 0-based position of the query and H the head size. tau_i is about where the largest of i + 1 cosines
    between random directions lies, so that a chance similarity gets weight exactly 0. The parameter `{"beta": [N]}`
    belongs to the query head. Where (i + 1) < kappa the threshold is 0.

    The scores are taken as they come: the source's are cosines, which are scale = 1 on queries and keys of length one.

    Source: Threshold Differential Attention, 2026 (arXiv 2601.12145).

    Attributes:
        exponent: p, at least 1.
        kappa: chance similarities that a row is allowed, positive.
        init_value: initial value of every beta; 0 starts as a power of ReLU.

    Raises:
        ValueError: if `exponent` is below 1, `kappa` is not positive, or one of the fields is not finite.
    """

    exponent: float = 2.0
    kappa: float = 1.0
    init_value: float = 1.0

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
        if not 1.0 <= self.exponent < math.inf:
            raise ValueError(f"exponent must be a finite number >= 1, but is {self.exponent}; use 2.0")
        if not 0.0 < self.kappa < math.inf:
            raise ValueError(f"kappa must be a finite number > 0, but is {self.kappa}; use 1.0")
        if not math.isfinite(self.init_value):
            raise ValueError(f"init_value must be a finite number, but is {self.init_value}; use 1.0")

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"beta": [N]}`, filled with `init_value`."""
        return {"beta": jnp.full((dims.query_heads,), self.init_value, jnp.float32)}

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        compared = (context.query_positions + 1).astype(scores.dtype) / self.kappa
        extreme = jnp.sqrt(2.0 * jnp.log(jnp.maximum(compared, 1.0)) / context.dims.head_size)
        tau = params["beta"].astype(scores.dtype)[None, :, None, None] * extreme[:, None, :, None]
        return jax.nn.relu(scores - tau) ** self.exponent
