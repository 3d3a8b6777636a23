"""RMSNorm of each head's output."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jaxsink.attention.call import Aux
from jaxsink.attention.composite import Inputs, Wrapper
from jaxsink.attention.row_map import AttentionDims, Params
from jaxsink.attention.wrappers.arrays import rms_norm, value_size


@dataclass(frozen=True)
class HeadRMSNorm(Wrapper):
    """Head-wise RMSNorm, o_i / sqrt(mean(o_i^2) + eps) * g over the channels of a head, g shared by the heads.

    Source: Li 2026 (arXiv 2605.06611); around unnormalised ReLU attention it is ReLA, Zhang, Titov and Sennrich 2021
        (arXiv 2104.07012).

    Attributes:
        eps: added to the mean square.

    Raises:
        ValueError: if `eps` is not a positive finite number.
    """

    eps: float = 1e-6

    name: ClassVar[str] = "head_rms_norm"
    per_token: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.0 < self.eps < math.inf:
            raise ValueError(f"eps must be a positive finite number, but is {self.eps}; use 1e-6")

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"gain": [Hv]}`, filled with 1."""
        return {"gain": jnp.ones((value_size(dims),), jnp.float32)}

    def after(self, out: Array, inputs: Inputs, aux: Aux, params: Params) -> Array:
        return rms_norm(out, params["gain"], self.eps)
