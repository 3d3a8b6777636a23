"""What wrappers and operators share: parameter shapes and initial values, projections, and norms."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsink.attention.row_map import AttentionDims

DType = np.dtype[Any]


def model_size(dims: AttentionDims, who: str) -> int:
    """D, which must be known.

    Raises:
        ValueError: if it is not.
    """
    if dims.model_size is None:
        raise ValueError(
            f"model_size must be the width D of x, which {who} projects, but is None; set it in AttentionDims, "
            "or pass x to attend"
        )
    return dims.model_size


def slice_size(dims: AttentionDims, who: str) -> int:
    """D / N, the width of a head's slice of x.

    Raises:
        ValueError: if D is not known or not a multiple of N.
    """
    size = model_size(dims, who)
    if size % dims.query_heads:
        raise ValueError(
            f"{who} gives each query head its slice of x, so N must divide D, but N={dims.query_heads} and D={size}; "
            "choose another number of heads"
        )
    return size // dims.query_heads


def half_size(dims: AttentionDims, who: str) -> int:
    """H / 2, the size of the two heads whose weights an operator subtracts.

    Raises:
        ValueError: if H is odd.
    """
    if dims.head_size % 2:
        raise ValueError(
            f"{who} splits each query and key in two halves, so H must be even, but is {dims.head_size}; "
            "choose another head size"
        )
    return dims.head_size // 2


def value_size(dims: AttentionDims) -> int:
    """Hv."""
    return dims.head_size if dims.value_size is None else dims.value_size


def fresh_linear(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    """Uniform between plus and minus 1/sqrt(fan_in), the default of the frameworks that the papers used."""
    bound = 1.0 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def fresh_normal(key: Array, shape: tuple[int, ...], deviation: float) -> Array:
    """Normal with mean 0 and this standard deviation."""
    return deviation * jax.random.normal(key, shape, jnp.float32)


def product(axes: str, left: Array, right: Array, dtype: DType) -> Array:
    """einsum in `dtype`, exact to its rounding on every platform, as the scores of the reference are."""
    return jnp.einsum(axes, left.astype(dtype), right.astype(dtype), precision=jax.lax.Precision.HIGHEST)


def gate_logit(axes: str, x: Array, weights: Array, dtype: DType) -> Array:
    """einsum of x with the weights of a gate, in `dtype`.

    Where x has 16 bits a GPU rounds the weights to 10 bits of mantissa, more than x has: a product of exact float32
    numbers would take it five times as long as attention itself.
    """
    if x.dtype.itemsize > 2:
        return product(axes, x, weights, dtype)
    return jnp.einsum(axes, x.astype(dtype), weights.astype(dtype))


def per_query_head(array: Array, axis: int, heads: int) -> Array:
    """Repeat entries of the K key heads along `axis` for the N query heads that read them."""
    return jnp.repeat(array, heads // array.shape[axis], axis)


def unit(array: Array, eps: float) -> Array:
    """Vectors on the last axis divided by their length; `eps` is added to its square."""
    return array * jax.lax.rsqrt(jnp.sum(array * array, axis=-1, keepdims=True) + eps)


def rms_norm(array: Array, gain: Array, eps: float) -> Array:
    """RMSNorm over the last axis: array / sqrt(mean(array^2) + eps) * gain, with `gain` along that axis."""
    scale = jax.lax.rsqrt(jnp.mean(array * array, axis=-1, keepdims=True) + eps)
    return array * scale * gain.astype(array.dtype).reshape((1,) * (array.ndim - 1) + (-1,))
