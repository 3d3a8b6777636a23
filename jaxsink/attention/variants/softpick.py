"""Softpick attention."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming


@dataclass(frozen=True)
class Softpick:
    """Softpick, w_ij = relu(e^s_ij - 1) / (sum_l |e^s_il - 1| + eps e^m_i), m_i = max(0, max_l s_il).

    A key at or below 0 is at exactly 0, and a row without a score above 0 is dead: weights and gradients are 0.

    Source: Zuhri, Fuadi and Aji 2025 (arXiv 2504.20966). As in its code, eps is added after the row has been scaled
        by e^-m; the default is that of its fused kernel, its plain version has 1e-8.

    Attributes:
        eps: keeps a dead row from dividing by zero.

    Raises:
        ValueError: if `eps` is not a positive finite number.
    """

    eps: float = 1e-6

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.TWO_SUMS,
        mass=Mass.AT_MOST_ONE,
        shift_invariant=False,
        non_negative=True,
        monotone=True,
        has_total=False,
        null_column=False,
    )

    def __post_init__(self) -> None:
        if not 0.0 < self.eps < math.inf:
            raise ValueError(f"eps must be a positive finite number, but is {self.eps}; use 1e-6")

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        # Without stop_gradient: eps does not scale with the row, so that the maximum moves the weights a little.
        top = jnp.max(scores, axis=-1, keepdims=True, initial=0.0, where=context.visible)
        # |e^s - 1| e^-top, without overflow and without cancellation near s = 0.
        size = -jnp.expm1(-jnp.abs(scores)) * jnp.exp(jnp.maximum(scores, 0.0) - top)
        size = jnp.where(context.visible, size, 0.0)
        return jnp.where(scores > 0.0, size, 0.0) / (jnp.sum(size, axis=-1, keepdims=True) + self.eps)
