"""Gates on the values: o_i = sum_j w_ij g_j v_j."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
from jax import Array

from jaxsink.attention.composite import Inputs, Trait, Wrapper
from jaxsink.attention.row_map import AttentionDims, Params
from jaxsink.attention.wrappers.arrays import fresh_linear, fresh_normal, gate_logit, model_size, product, value_size

_DEVIATION = 0.02  # of the weights of linear maps in the model that the gates were put into


@dataclass(frozen=True)
class ValueGate(Wrapper):
    """G2 gate, v_j * sigmoid(x_j W), per key head and channel.

    Queries, keys and x are the same tokens: T = S.

    Source: Qiu et al. 2025 (arXiv 2505.06708), equation 5, position G2.
    """

    name: ClassVar[str] = "value_gate"
    per_token: ClassVar[bool] = True
    reads_x: ClassVar[bool] = True
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.SAME_TOKENS})

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"w": [D, K, Hv]}`, normal of standard deviation 0.02."""
        shape = (model_size(dims, "ValueGate"), dims.key_heads, value_size(dims))
        return {"w": fresh_normal(key, shape, _DEVIATION)}

    def before(self, inputs: Inputs, params: Params) -> Inputs:
        dtype = inputs.compute_dtype
        logit = gate_logit("bsd,dkh->bskh", inputs.tokens("ValueGate"), params["w"], dtype)
        return replace(inputs, v=inputs.v.astype(dtype) * jax.nn.sigmoid(logit))


@dataclass(frozen=True)
class InputGate(Wrapper):
    """Input gate, v_j * sigmoid(x_j W), one number per key head.

    Queries, keys and x are the same tokens: T = S.

    Source: Value-State Gated Attention (arXiv 2510.09017), its baseline IGA. Its text leaves the initial values open.
    """

    name: ClassVar[str] = "input_gate"
    per_token: ClassVar[bool] = True
    reads_x: ClassVar[bool] = True
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.SAME_TOKENS})

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"w": [D, K]}`, uniform between plus and minus 1/sqrt(D)."""
        size = model_size(dims, "InputGate")
        return {"w": fresh_linear(key, (size, dims.key_heads), size)}

    def before(self, inputs: Inputs, params: Params) -> Inputs:
        dtype = inputs.compute_dtype
        logit = gate_logit("bsd,dk->bsk", inputs.tokens("InputGate"), params["w"], dtype)
        return replace(inputs, v=inputs.v.astype(dtype) * jax.nn.sigmoid(logit)[..., None])


@dataclass(frozen=True)
class ValueStateGate(Wrapper):
    """Value-state gate at the source, v_j * sigmoid(v_j.w_h), one number per key head.

    The paper's other form is `ValueStateOutputGate`.

    Source: Value-State Gated Attention (arXiv 2510.09017), equations 4 and 6. Its text leaves the initial values open.
    """

    name: ClassVar[str] = "value_state_gate"
    per_token: ClassVar[bool] = True

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"w": [K, Hv]}`, uniform between plus and minus 1/sqrt(Hv)."""
        size = value_size(dims)
        return {"w": fresh_linear(key, (dims.key_heads, size), size)}

    def before(self, inputs: Inputs, params: Params) -> Inputs:
        dtype = inputs.compute_dtype
        logit = product("bskh,kh->bsk", inputs.v, params["w"], dtype)
        return replace(inputs, v=inputs.v.astype(dtype) * jax.nn.sigmoid(logit)[..., None])
