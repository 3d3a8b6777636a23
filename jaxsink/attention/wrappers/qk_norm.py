"""Norms of queries and keys, which bound the scores."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jaxsink.attention.composite import Inputs, Wrapper
from jaxsink.attention.row_map import AttentionDims, Params
from jaxsink.attention.wrappers.arrays import rms_norm, unit

# Far below the square of any vector that carries meaning, and enough for a finite derivative at 0.
_UNIT_EPS = 1e-12


def _check_positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be a positive finite number, but is {value}; leave it out for the default")


@dataclass(frozen=True)
class QKNorm(Wrapper):
    """QK-norm, queries and keys divided by their root mean square over the head and multiplied by learned gains.

    |s_ij| is at most scale * H * max|g_q g_k|. The gains are shared by the heads. A model that rotates queries and keys
    by position must do so before `attend`; the norm commutes with a rotation only while the gains are equal.

    Source: Gemma 3 (arXiv 2503.19786), in the place of its soft-cap.

    Attributes:
        eps: added to the mean square.

    Raises:
        ValueError: if `eps` is not a positive finite number.
    """

    eps: float = 1e-6

    name: ClassVar[str] = "qk_norm"
    per_token: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_positive("eps", self.eps)

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"q_gain": [H], "k_gain": [H]}`, filled with 1."""
        return {name: jnp.ones((dims.head_size,), jnp.float32) for name in ("q_gain", "k_gain")}

    def before(self, inputs: Inputs, params: Params) -> Inputs:
        dtype = inputs.compute_dtype
        return replace(
            inputs,
            q=rms_norm(inputs.q.astype(dtype), params["q_gain"], self.eps),
            k=rms_norm(inputs.k.astype(dtype), params["k_gain"], self.eps),
        )


@dataclass(frozen=True)
class CosineQK(Wrapper):
    """Cosine scores, s_ij = factor * q_i.k_j / (|q_i| |k_j|).

    A scale that the caller of `attend` gives multiplies them by what it is to the default 1/sqrt(H).

    Source: Henry et al. 2020 (arXiv 2010.04245), query-key normalisation; x-transformers takes the factor 10.

    Attributes:
        factor: bound of the scores.

    Raises:
        ValueError: if `factor` is not a positive finite number.
    """

    factor: float = 1.0

    name: ClassVar[str] = "cosine_qk"
    per_token: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_positive("factor", self.factor)

    def before(self, inputs: Inputs, params: Params) -> Inputs:
        dtype, head_size = inputs.compute_dtype, inputs.q.shape[3]
        return replace(
            inputs,
            q=unit(inputs.q.astype(dtype), _UNIT_EPS),
            k=unit(inputs.k.astype(dtype), _UNIT_EPS),
            scale=inputs.scale * (self.factor * math.sqrt(head_size)),
        )
