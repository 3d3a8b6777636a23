"""The forget gate of the Forgetting Transformer: a bias that falls with every token in between."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.composite import Inputs, Trait, Wrapper
from jaxsink.attention.row_map import AttentionDims, Params
from jaxsink.attention.wrappers.arrays import fresh_linear, model_size, product


def decay_bias(log_forget: Array) -> tuple[Array, Array]:
    """Bias of a pair, the sum of the log gates of the tokens after the key up to the query.

    Args:
        log_forget: log f [B, T, N], one gate per token and head.

    Returns:
        c_i [B, N, T, 1] and -c_j [B, N, 1, T], with c the running sum of log f: together the `bias` of `attend`.
    """
    running = jnp.moveaxis(jnp.cumsum(log_forget, axis=1), 2, 1)
    return running[:, :, :, None], -running[:, :, None, :]


@dataclass(frozen=True)
class ForgetGate(Wrapper):
    """Forget gate, s_ij + sum_{j < l <= i} log f_l with log f = logsigmoid(x W_f + b), one gate per head and token.

    For causal attention within one sequence, where queries, keys and x are the same tokens: the bias of a later key
    would be positive. A constant gate is ALiBi with the slope -log f.

    Source: Lin et al. 2025 (arXiv 2503.02130), Forgetting Transformer.

    Attributes:
        init_value: initial value of b; the gates start around its sigmoid.

    Raises:
        ValueError: if `init_value` is not finite.
    """

    init_value: float = 0.0

    name: ClassVar[str] = "forget_gate"
    reads_x: ClassVar[bool] = True
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.SAME_TOKENS})

    def __post_init__(self) -> None:
        if not math.isfinite(self.init_value):
            raise ValueError(f"init_value must be a finite number, but is {self.init_value}; use 0.0 for gates of 1/2")

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"w": [D, N], "b": [N]}`, w uniform between plus and minus 1/sqrt(D), b filled with `init_value`."""
        size = model_size(dims, "ForgetGate")
        return {
            "w": fresh_linear(key, (size, dims.query_heads), size),
            "b": jnp.full((dims.query_heads,), self.init_value, jnp.float32),
        }

    def before(self, inputs: Inputs, params: Params) -> Inputs:
        x = inputs.tokens("ForgetGate")
        dtype = inputs.compute_dtype
        logit = product("btd,dn->btn", x, params["w"], dtype) + params["b"].astype(dtype)[None, None]
        bias = decay_bias(jax.nn.log_sigmoid(logit))
        return replace(inputs, bias=(*inputs.bias, *bias))
