"""Stick-breaking attention."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_map import AttentionDims, Mass, OrderedMap, Params, Properties, RowContext, Streaming


@dataclass(frozen=True)
class StickBreaking(OrderedMap):
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

    def handed_on(self, scores: Array, context: RowContext, params: Params) -> Array:
        # Sums of logarithms of one sign: products would underflow, and differences of sums would cancel.
        return jnp.where(context.visible & ~context.itself, jax.nn.log_sigmoid(-scores), 0.0)

    def weights_after(self, scores: Array, after: Array, context: RowContext, params: Params) -> Array:
        other = context.visible & ~context.itself
        return jnp.where(other, jnp.exp(jax.nn.log_sigmoid(scores) + after), 0.0)
