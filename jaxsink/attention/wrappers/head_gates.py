"""Gates on the output of each head, of Bondarenko et al.: o_h * sigmoid(G_h)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.call import Aux
from jaxsink.attention.composite import Inputs, Trait, Wrapper
from jaxsink.attention.row_map import AttentionDims, Params
from jaxsink.attention.wrappers.arrays import fresh_linear, product, slice_size


@dataclass(frozen=True)
class _HeadGate(Wrapper):
    """A gate whose logit has one learned part per head.

    Attributes:
        probability: value of a fresh gate at x = 0, between 0 and 1.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.probability < 1.0:
            raise ValueError(f"probability must lie between 0 and 1, but is {self.probability}; use 0.5 for even odds")

    def _bias(self, dims: AttentionDims) -> Array:
        odds = self.probability / (1.0 - self.probability)
        return jnp.full((dims.query_heads,), math.log(odds), jnp.float32)

    def _linear(self, key: Array, dims: AttentionDims) -> Params:
        size = slice_size(dims, type(self).__name__)
        return {"w": fresh_linear(key, (dims.query_heads, size), size), "b": self._bias(dims)}


def _slices(x: Array, heads: int) -> Array:
    """x [B, T, D] as [B, T, N, D / N]."""
    return x.reshape(*x.shape[:2], heads, -1)


def _logit(x: Array, params: Params, like: Array) -> Array:
    """w_h.x_h + b_h [B, T, N] for slices x [B, T, N, D / N]."""
    logit = product("btnc,nc->btn", x, params["w"], like.dtype)
    return logit + params["b"].astype(like.dtype)[None, None]


@dataclass(frozen=True)
class UnconditionalGate(_HeadGate):
    """Unconditional gate, o_h * sigmoid(b_h), one number per head.

    Source: Bondarenko et al. 2023 (arXiv 2306.12929), equations 5-7, in the unconditional form of its code.

    Attributes:
        probability: initial value of every gate, between 0 and 1.

    Raises:
        ValueError: if `probability` is not between 0 and 1.
    """

    name: ClassVar[str] = "unconditional_gate"
    per_token: ClassVar[bool] = True

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"b": [N]}`, filled with the logit of `probability`."""
        return {"b": self._bias(dims)}

    def after(self, out: Array, inputs: Inputs, aux: Aux, params: Params) -> Array:
        return out * jax.nn.sigmoid(params["b"].astype(out.dtype))[None, None, :, None]


@dataclass(frozen=True)
class PerHeadGate(_HeadGate):
    """Gate per head and sequence, o_h * sigmoid(w_h.mean_t(x_{t,h}) + b_h) with x_{t,h} the head's slice of x.

    The mean runs over all tokens of x, padding and later ones included: it is made for encoders, and leaks in decoders.

    Source: Bondarenko et al. 2023 (arXiv 2306.12929), equations 5-7, in the per-head form of its code.

    Attributes:
        probability: value of a fresh gate at x = 0, between 0 and 1.

    Raises:
        ValueError: if `probability` is not between 0 and 1, or, from `init`, D is not known or no multiple of N.
    """

    name: ClassVar[str] = "per_head_gate"
    reads_x: ClassVar[bool] = True
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.ALL_TOKENS})

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"w": [N, D / N], "b": [N]}`, w uniform to 1/sqrt(D / N), b the logit of `probability`."""
        return self._linear(key, dims)

    def after(self, out: Array, inputs: Inputs, aux: Aux, params: Params) -> Array:
        x = inputs.given_x().astype(out.dtype)
        pooled = _slices(jnp.mean(x, axis=1, keepdims=True), out.shape[2])
        return out * jax.nn.sigmoid(_logit(pooled, params, out))[..., None]


@dataclass(frozen=True)
class PerTokenGate(_HeadGate):
    """Gate per head and token, o_{i,h} * sigmoid(w_h.x_{i,h} + b_h) with x_{i,h} the head's slice of x.

    Source: Bondarenko et al. 2023 (arXiv 2306.12929), equations 5-7, with its default linear gate.

    Attributes:
        probability: value of a fresh gate at x = 0, between 0 and 1.

    Raises:
        ValueError: if `probability` is not between 0 and 1, or, from `init`, D is not known or no multiple of N.
    """

    name: ClassVar[str] = "per_token_gate"
    per_token: ClassVar[bool] = True
    reads_x: ClassVar[bool] = True

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"w": [N, D / N], "b": [N]}`, w uniform to 1/sqrt(D / N), b the logit of `probability`."""
        return self._linear(key, dims)

    def after(self, out: Array, inputs: Inputs, aux: Aux, params: Params) -> Array:
        x = _slices(inputs.given_x(), out.shape[2])
        return out * jax.nn.sigmoid(_logit(x, params, out))[..., None]
