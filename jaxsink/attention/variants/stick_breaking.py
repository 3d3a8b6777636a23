"""Stick-breaking attention."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, RowContext, Streaming


@dataclass(frozen=True)
class StickBreaking:
    """Stick-breaking attention, w_ij = sigmoid(s_ij) prod_l (1 - sigmoid(s_il)) over the visible l > j, l != i.

    Going back from the last key that it sees, a query gives each key a share of what the later keys left. Its own key,
    the one at the position of the query, gets no weight and takes none. Under a causal mask the first row is 0.

    What no key took, prod_l (1 - sigmoid(s_il)), is one less the row mass. Where the source adds that much of the
    query's own value to the output, take `row_mass` from `attend_with_aux`.

    Source: Tan et al. 2024 (arXiv 2410.17980).
    """

    properties: ClassVar[Properties] = Properties(
        streaming=Streaming.ORDERED,
        mass=Mass.AT_MOST_ONE,
        shift_invariant=False,
        non_negative=True,
        monotone=True,
        has_total=False,
        null_column=False,
    )

    def init(self, key: Array, dims: AttentionDims) -> Params:
        return {}

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        keys = jnp.arange(scores.shape[-1], dtype=jnp.int32)[None, None, None]
        other = context.visible & (keys != context.query_positions[:, None, :, None])
        # Sums of logarithms of one sign: products would underflow, and differences of sums would cancel.
        left = jnp.where(other, jax.nn.log_sigmoid(-scores), 0.0)
        after = jax.lax.cumsum(left, axis=3, reverse=True)[..., 1:]
        before = jnp.concatenate([after, jnp.zeros_like(scores[..., :1])], axis=-1)
        return jnp.where(other, jnp.exp(jax.nn.log_sigmoid(scores) + before), 0.0)
