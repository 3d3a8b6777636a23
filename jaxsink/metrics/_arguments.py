"""Checks and masked reductions that the metrics share."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
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
    """Raise unless each array has one axis per letter of its layout and equal letters mean equal sizes.

    A `*` in a layout stands for any number of axes, the same sizes wherever it occurs.
    """
    known: dict[str, tuple[int, str]] = {}
    between: tuple[tuple[int, ...], str] | None = None
    for name, array, layout in arguments:
        axes = f"[{', '.join(layout).replace('*', '...')}]"
        before, star, after = layout.partition("*")
        letters = before + after
        stop = array.ndim - len(after)
        if stop < len(before) or (stop > len(before) and not star):
            least = "at least " if star else ""
            raise ValueError(
                f"{name} must have {least}the {len(letters)} axes {axes}, got shape {array.shape}; reshape it."
            )
        for letter, size in zip(letters, array.shape[: len(before)] + array.shape[stop:], strict=True):
            expected, owner = known.setdefault(letter, (size, name))
            if size != expected:
                raise ValueError(
                    f"{name} must be {axes} with {letter} = {expected} as in {owner}, "
                    f"got shape {array.shape}; use one size of {letter} throughout."
                )
        if star:
            middle = array.shape[len(before) : stop]
            between = between or (middle, name)
            if middle != between[0]:
                raise ValueError(
                    f"{name} must be {axes} with {between[0]} in the place of ... as in {between[1]}, "
                    f"got shape {array.shape}; use the same axes, such as the layers, throughout."
                )


def check_key(key: int, size: int) -> int:
    """The key as a plain int, after checking that it is one of `size` positions."""
    index = _plain_int("key", key)
    if not 0 <= index < size:
        raise ValueError(f"key must lie in 0..{size - 1}, got {index}; count positions from the first one.")
    return index


def check_count(name: str, count: int, most: int) -> int:
    """The count as a plain int, after checking that it lies in 1..most."""
    number = _plain_int(name, count)
    if not 1 <= number <= most:
        raise ValueError(f"{name} must lie in 1..{most}, got {number}; ask for no more than there are.")
    return number


def check_groups(name: str, query_heads: int, key_heads: int) -> int:
    """The number of query heads as a plain int, after checking that it is a positive multiple of the key heads."""
    number = _plain_int(name, query_heads)
    if number < 1 or number % key_heads:
        raise ValueError(
            f"{name} must have a multiple of the {key_heads} heads of values, got {number}; pass all query heads."
        )
    return number


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


def masked_median(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Median over the last axis under a mask of the same shape; NaN for an empty mask or a NaN under it."""
    count = jnp.sum(mask, axis=-1)
    middle = jnp.stack([jnp.maximum(count - 1, 0) // 2, jnp.minimum(count // 2, values.shape[-1] - 1)], axis=-1)
    median = jnp.mean(_order_statistics(values, mask, middle), axis=-1)
    defined = (count > 0) & ~jnp.any(mask & jnp.isnan(values), axis=-1)
    return jnp.where(defined, median, jnp.nan)


def _order_statistics(values: jax.Array, mask: jax.Array, ranks: jax.Array) -> jax.Array:
    """[..., R] the values under the mask of these ranks, 0 for the smallest: what sorting [..., S] would find.

    A CPU sorts a layer's activations in a hundred milliseconds. Here the bits of the number are found one after the
    other, by counting: as integers, floats are in order but for the sign.
    """
    kind = np.dtype(f"int{8 * values.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(values, kind)
    lowest, highest = np.iinfo(kind).min, np.iinfo(kind).max
    ordered = jnp.where(bits < 0, bits ^ kind.type(highest), bits)[..., None, :]
    counted = mask[..., None, :]

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        half = (low & high) + ((low ^ high) >> 1)  # their mean, rounded down; the sum would overflow
        enough = jnp.sum((ordered <= half[..., None]) & counted, axis=-1) > ranks
        return jnp.where(enough, low, half + 1), jnp.where(enough, half, high)

    ends = jnp.full(ranks.shape, lowest, kind), jnp.full(ranks.shape, highest, kind)
    found, _ = jax.lax.fori_loop(0, 8 * values.dtype.itemsize, halve, ends)
    # By position, so that a derivative reaches the value that was found.
    place = jnp.argmax((ordered == found[..., None]) & counted, axis=-1)
    return jnp.take_along_axis(values, place, axis=-1)


def spread(mask: jax.Array, like: jax.Array, axis: int | None = None) -> jax.Array:
    """A mask [B] or [B, T] with axes of size 1 for all others of [B, ..., T, ...]; `axis` < 0 is where T stands."""
    shape = [1] * like.ndim
    shape[0] = mask.shape[0]
    if axis is not None:
        shape[axis] = mask.shape[1]
    return mask.reshape(shape)


def token(valid: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
    """int [B], where the token of that number stands, counting valid ones from 0, and bool [B], whether there is one.

    So it is the same token whether padding stands before or behind it.
    """
    found = valid & (jnp.cumsum(valid, axis=1) == number + 1)
    return jnp.argmax(found, axis=1), jnp.any(found, axis=1)


def taken(values: jax.Array, position: jax.Array, axis: int = -1) -> jax.Array:
    """[B, ...] what stands at one position [B] of the axis of [B, ..., S, ...]."""
    return jnp.squeeze(jnp.take_along_axis(values, spread(position, values), axis=axis), axis=axis)


def quotient(above: jax.Array, below: jax.Array) -> jax.Array:
    """The ratio of two sizes that are not negative; 1 where both are 0, since then they are equal."""
    return jnp.where(below == 0.0, jnp.where(above == 0.0, 1.0, jnp.inf), above / jnp.where(below == 0.0, 1.0, below))


def _plain_int(name: str, value: int) -> int:
    """The value as an int known when the function is traced, because shapes and slices depend on it."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer known outside jit, got {value!r}; pass a Python int.") from None
