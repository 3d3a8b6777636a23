"""Entmax attention with any alpha above 1."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming
from jaxsink.attention.simplex import below_top


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _entmax(order: float, scores: Array, visible: Array) -> Array:
    gaps = below_top(order * scores, visible)

    def weights(top: Array) -> Array:
        """The weights if that of the largest score is e^top."""
        return jax.nn.relu(gaps + jnp.exp(order * top)) ** (1.0 / order)

    def halved(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        above = jnp.sum(weights(middle), axis=-1, keepdims=True) > 1.0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    # The largest weight lies between 1 / S and 1. Its logarithm and not tau is searched: for a large alpha and many
    # keys, tau is small beside its bounds. Six steps more than it has digits leave it exact for log S below 2^6.
    high = jnp.zeros_like(scores[..., :1])
    low = jnp.full_like(high, -math.log(scores.shape[-1]))
    low, high = jax.lax.fori_loop(0, jnp.finfo(scores.dtype).nmant + 6, halved, (low, high))
    found = weights(0.5 * (low + high))
    total = jnp.sum(found, axis=-1, keepdims=True)
    return found / jnp.where(total > 0.0, total, 1.0)


@_entmax.defjvp
def _entmax_slope(order: float, at: tuple[Array, Array], moved: tuple[Array, Any]) -> tuple[Array, Array]:
    found = _entmax(order, *at)
    inside = found > 0.0
    pull = jnp.where(inside, jnp.where(inside, found, 1.0) ** (1.0 - order), 0.0)
    total = jnp.sum(pull, axis=-1, keepdims=True)
    mean = jnp.sum(pull * moved[0], axis=-1, keepdims=True) / jnp.where(total > 0.0, total, 1.0)
    return found, pull * (moved[0] - mean)


@dataclass(frozen=True)
class Entmax:
    """Entmax, w_ij = max((alpha - 1) s_ij - tau_i, 0)^(1 / (alpha - 1)) with tau_i such that the row adds up to one.

    alpha = 2 is sparsemax and alpha -> 1 is softmax; `Sparsemax` and `Entmax15` find theirs with one sort and this one
    with a search. Its derivative is dw_j = g_j (ds_j - sum_l g_l ds_l / sum_l g_l) with g_j = w_j^(2 - alpha) where
    w_j > 0, which has no bound for alpha > 2. In float32, a weight carries 1 / (alpha - 1) roundings.

    Source: Peters, Niculae and Martins 2019 (arXiv 1905.05702).

    Attributes:
        alpha: above 1.

    Raises:
        ValueError: if `alpha` is not a finite number above 1.
    """

    alpha: float = 1.25

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.SEARCH,
        mass=Mass.ONE,
        shift_invariant=True,
        non_negative=True,
        monotone=True,
        has_total=False,
        null_column=False,
    )

    def __post_init__(self) -> None:
        if not 1.0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be a finite number > 1, but is {self.alpha}; use Softmax() for 1")

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        return _entmax(self.alpha - 1.0, scores, context.visible)
