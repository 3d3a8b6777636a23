"""Gates on the output that read the whole x or the value of the query's own token."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.call import Aux
from jaxsink.attention.composite import Inputs, Trait, Wrapper
from jaxsink.attention.masks import query_positions
from jaxsink.attention.row_map import AttentionDims, Params
from jaxsink.attention.wrappers.arrays import fresh_linear, fresh_normal, gate_logit, model_size, product, value_size

_DEVIATION = 0.02  # of the weights of linear maps in the model that the gates were put into


@dataclass(frozen=True)
class HeadwiseGate(Wrapper):
    """G1 gate per head, o_{i,h} * sigmoid(x_i W)_h.

    Source: Qiu et al. 2025 (arXiv 2505.06708), equation 5, position G1, headwise.
    """

    name: ClassVar[str] = "headwise_gate"
    per_token: ClassVar[bool] = True
    reads_x: ClassVar[bool] = True

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"w": [D, N]}`, normal of standard deviation 0.02."""
        return {"w": fresh_normal(key, (model_size(dims, "HeadwiseGate"), dims.query_heads), _DEVIATION)}

    def after(self, out: Array, inputs: Inputs, aux: Aux, params: Params) -> Array:
        logit = gate_logit("btd,dn->btn", inputs.given_x(), params["w"], out.dtype)
        return out * jax.nn.sigmoid(logit)[..., None]


@dataclass(frozen=True)
class ElementwiseGate(Wrapper):
    """G1 gate per head and channel, o_i * sigmoid(x_i W).

    Source: Qiu et al. 2025 (arXiv 2505.06708), equation 5, position G1, elementwise.
    """

    name: ClassVar[str] = "elementwise_gate"
    per_token: ClassVar[bool] = True
    reads_x: ClassVar[bool] = True

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"w": [D, N, Hv]}`, normal of standard deviation 0.02."""
        shape = (model_size(dims, "ElementwiseGate"), dims.query_heads, value_size(dims))
        return {"w": fresh_normal(key, shape, _DEVIATION)}

    def after(self, out: Array, inputs: Inputs, aux: Aux, params: Params) -> Array:
        return out * jax.nn.sigmoid(gate_logit("btd,dnh->btnh", inputs.given_x(), params["w"], out.dtype))


@dataclass(frozen=True)
class ValueStateOutputGate(Wrapper):
    """Value-state gate on the output, o_{i,h} * sigmoid(V_i W)_h with V_i the values of token i, all heads together.

    The gate reads the token's own value whether or not the mask shows it. Queries stand on keys: T is at most S, and a
    query that `query_offset` puts past the last key gives NaN. The paper's other form is `ValueStateGate`.

    Source: Value-State Gated Attention (arXiv 2510.09017), appendix B. Its text leaves the initial values open.
    """

    name: ClassVar[str] = "value_state_output_gate"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.OWN_VALUE})

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"w": [K, Hv, N]}`, uniform between plus and minus 1/sqrt(K Hv)."""
        shape = (dims.key_heads, value_size(dims), dims.query_heads)
        return {"w": fresh_linear(key, shape, shape[0] * shape[1])}

    def after(self, out: Array, inputs: Inputs, aux: Aux, params: Params) -> Array:
        queries, keys = inputs.q.shape[1], inputs.k.shape[1]
        if queries > keys:
            raise ValueError(
                f"ValueStateOutputGate needs the value of each query's own token, so T must be at most S, but T="
                f"{queries} and S={keys}; pass keys and values of all tokens"
            )
        positions = query_positions(queries, keys, inputs.query_offset)
        own = jnp.take_along_axis(inputs.v, positions[:, :, None, None], axis=1)
        logit = product("btkh,khn->btn", own, params["w"], out.dtype)
        return out * jax.nn.sigmoid(logit)[..., None]
