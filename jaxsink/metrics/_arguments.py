"""Checks and masked reductions that the metrics share."""

import operator

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def floating(name: str, value: ArrayLike) -> jax.Array:
    """The value as a float32 or float64 array; half precision is widened, since a metric sums many terms."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be real floating point, got {array.dtype}; convert it to float32.")
    return array if array.dtype == jnp.float64 else array.astype(jnp.float32)


def boolean(name: str, value: ArrayLike) -> jax.Array:
    """The value as a boolean array."""
    array = jnp.asarray(value)
    if array.dtype != jnp.bool_:
        raise ValueError(f"{name} must be boolean, got {array.dtype}; pass a comparison such as `tokens == start`.")
    return array


def integer(name: str, value: ArrayLike) -> jax.Array:
    """The value as an int32 array."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"{name} must hold integer ids, got {array.dtype}; convert it to int32.")
    return array.astype(jnp.int32)


def check_shapes(*arguments: tuple[str, jax.Array, str]) -> None:
    """Raise unless each array has one axis per letter of its layout and equal letters mean equal sizes."""
    known: dict[str, tuple[int, str]] = {}
    for name, array, layout in arguments:
        axes = f"[{', '.join(layout)}]"
        if array.ndim != len(layout):
            raise ValueError(f"{name} must have the {len(layout)} axes {axes}, got shape {array.shape}; reshape it.")
        for letter, size in zip(layout, array.shape, strict=True):
            expected, owner = known.setdefault(letter, (size, name))
            if size != expected:
                raise ValueError(
                    f"{name} must be {axes} with {letter} = {expected} as in {owner}, "
                    f"got shape {array.shape}; use one size of {letter} throughout."
                )


def check_key(key: int, size: int) -> int:
    """The key as a plain int, after checking that it is one of `size` positions."""
    index = _plain_int("key", key)
    if not 0 <= index < size:
        raise ValueError(f"key must lie in 0..{size - 1}, got {index}; count positions from the first one.")
    return index


def check_vocab_size(vocab_size: int) -> int:
    """The vocabulary size as a plain int, after checking that it is positive."""
    size = _plain_int("vocab_size", vocab_size)
    if size < 1:
        raise ValueError(f"vocab_size must be positive, got {size}; pass the number of token ids.")
    return size


def masked_mean(values: jax.Array, mask: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """Mean of the values under the mask (same rank, size 1 broadcasts); NaN where the mask is empty."""
    mask = jnp.broadcast_to(mask, values.shape)
    # Selecting, not multiplying: a masked NaN or infinity must leave no trace.
    total = jnp.sum(jnp.where(mask, values, 0.0), axis=axis)
    return total / jnp.sum(mask, axis=axis).astype(values.dtype)


def _plain_int(name: str, value: int) -> int:
    """The value as an int known when the function is traced, because shapes and slices depend on it."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer known outside jit, got {value!r}; pass a Python int.") from None
