"""Checks of the arguments of `attend`; each failure is one sentence that says what to do."""

import math
import numbers
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsink.attention.call import Aux, Call
from jaxsink.attention.composite import Composite, Tree
from jaxsink.attention.masks import Mask
from jaxsink.attention.row_map import AttentionDims, NullColumnMap, RowMap

_NEEDS_TOTAL = frozenset({"lse", "null_mass", "total"})


def floating_array(name: str, value: Any, axes: str) -> Array:
    """Return `value` as an array, after checking that it is a floating array with the four `axes`."""
    if not isinstance(value, jax.Array | np.ndarray):
        raise ValueError(f"{name} must be an array {axes}, but is a {type(value).__name__}; convert it first")
    if value.ndim != 4 or 0 in value.shape:
        raise ValueError(f"{name} must have shape {axes} without empty axes, but has {value.shape}; reshape it")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating, but has dtype {value.dtype}; cast it first")
    return jnp.asarray(value)


def check_shapes(q: Array, k: Array, v: Array) -> None:
    """Check that queries, keys and values belong together."""
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"k [B, S, K, H] and v [B, S, K, Hv] must agree in batch, keys and key heads, but have shapes {k.shape} "
            f"and {v.shape}; pass keys and values of the same sequences"
        )
    for axis, name in ((0, "batch B"), (3, "head size H")):
        if q.shape[axis] != k.shape[axis]:
            raise ValueError(
                f"q [B, T, N, H] and k [B, S, K, H] must agree in their {name}, but have shapes {q.shape} "
                f"and {k.shape}; pass arrays of the same sequences and head size"
            )
    if q.shape[2] % k.shape[2]:
        raise ValueError(
            f"the query heads N of q must be a multiple of the key heads K of k, but N={q.shape[2]} and "
            f"K={k.shape[2]}; repeat or drop heads"
        )


def check_variant(variant: Any) -> None:
    """Check that `variant` is an instance of something that fulfils the contract of a row map or a composite."""
    if isinstance(variant, Composite):
        return
    if isinstance(variant, type) or not isinstance(variant, RowMap):
        raise ValueError(f"variant must be an instance of a row map or composite such as Softmax(), but is {variant!r}")
    if variant.properties.null_column and not isinstance(variant, NullColumnMap):
        raise ValueError(
            f"variant {type(variant).__name__} declares a null column and must have a method null_logit, "
            "but has none; see NullColumnMap"
        )


def checked_params(variant: RowMap | Composite, params: Tree | None, dims: AttentionDims) -> Tree:
    """Return `params`, {} for None, after comparing names and shapes with what the variant initialises."""
    name = type(variant).__name__
    expected = jax.eval_shape(lambda: variant.init(jax.random.key(0), dims))
    return _fitted(name, "params", {} if params is None else params, expected, dims)


def _fitted(name: str, where: str, given: Any, expected: Tree, dims: AttentionDims) -> Tree:
    if not hasattr(given, "keys"):
        raise ValueError(f"{where} of {name} must be a dict, but is a {type(given).__name__}; see {name}.init")
    if set(given) != set(expected):
        raise ValueError(
            f"{where} of {name} must have the entries {sorted(expected)}, but has {sorted(given)}; "
            f"make them with {name}.init and pass those of this variant"
        )
    fitted: dict[str, Any] = {}
    for entry, spec in expected.items():
        if isinstance(spec, Mapping):
            fitted[entry] = _fitted(name, f"{where}[{entry!r}]", given[entry], spec, dims)
            continue
        if jnp.shape(given[entry]) != spec.shape:
            raise ValueError(
                f"{where}[{entry!r}] of {name} must have shape {spec.shape}, but has "
                f"{jnp.shape(given[entry])}; make it with {name}.init for N={dims.query_heads}, "
                f"K={dims.key_heads}, H={dims.head_size}"
            )
        fitted[entry] = jnp.asarray(given[entry])
    return fitted


def checked_x(variant: RowMap | Composite, x: Any, q: Array) -> Array | None:
    """Return `x` if it is None or a floating array [B, T, D], after checking that a variant that reads it has it."""
    if x is None:
        if isinstance(variant, Composite) and variant.needs_x:
            raise ValueError(
                f"x must be the array [B, T, D] that queries were projected from, because {type(variant).__name__} "
                "reads it, but is None; pass x="
            )
        return None
    if not isinstance(x, jax.Array | np.ndarray) or x.ndim != 3 or x.shape[:2] != q.shape[:2]:
        raise ValueError(
            f"x must be an array [B, T, D] with B and T as in q {q.shape[:2]}, but has shape {jnp.shape(x)}; pass what "
            "the queries were projected from"
        )
    return jnp.asarray(x)


def checked_null_logit(variant: RowMap | Composite, value: Any, q: Array) -> Array | None:
    """Return `value` if it is None or a floating array that fits [B, N, T] and the variant has a total to add it to."""
    if value is None:
        return None
    full = (q.shape[0], q.shape[2], q.shape[1])
    shape = jnp.shape(value)
    if len(shape) != 3 or any(size not in (1, whole) for size, whole in zip(shape, full, strict=True)):
        raise ValueError(
            f"null_logit must have three axes, each of size 1 or as in [B, N, T] = {list(full)}, but has shape "
            f"{list(shape)}; add axes of size 1"
        )
    if not variant.properties.has_total:
        raise ValueError(
            f"null_logit must be None for {type(variant).__name__}, whose weights have no total that it could enter; "
            "use a variant of the softmax family"
        )
    return jnp.asarray(value)


def checked_keys(keys: Any, want: frozenset[str], size: int) -> Array | None:
    """Return the keys that `on_keys` reports as int32 [P]."""
    if ("on_keys" in want) != (keys is not None):
        raise ValueError('keys and the entry "on_keys" of want go together: give both or neither')
    if keys is None:
        return None
    array = np.asarray(keys)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"keys must be whole numbers [P], but are {keys!r}; write keys=(0, 5)")
    if array.min() < 0 or array.max() >= size:
        raise ValueError(f"keys must be from 0 to S - 1 = {size - 1}, but are {array.tolist()}; drop the others")
    return jnp.asarray(array, jnp.int32)


def checked_groups(groups: Any, want: frozenset[str], batch: int, size: int) -> Array | None:
    """Return the groups that `on_groups` reports as bool [B|1, G, S]."""
    if ("on_groups" in want) != (groups is not None):
        raise ValueError('groups and the entry "on_groups" of want go together: give both or neither')
    if groups is None:
        return None
    shape = jnp.shape(groups)
    if len(shape) != 3 or shape[0] not in (1, batch) or shape[2] != size or jnp.asarray(groups).dtype != jnp.bool_:
        raise ValueError(
            f"groups must be a boolean array [B|1, G, S] with B={batch} and S={size}, True where a key belongs to a "
            f"group, but has shape {list(shape)}; compare key labels with group labels to get it"
        )
    return jnp.asarray(groups)


def check_broadcastable(name: str, shape: tuple[int, ...], full: tuple[int, int, int, int]) -> None:
    """Check that each axis of `shape` is that of [B, N, T, S] or 1."""
    # Four axes are asked for because a padding mask [B, S] would else be taken for [T, S] wherever B = T.
    if len(shape) != 4 or any(size not in (1, whole) for size, whole in zip(shape, full, strict=True)):
        raise ValueError(
            f"{name} must have four axes, each of size 1 or as in [B, N, T, S] = {list(full)}, but has shape "
            f"{list(shape)}; add axes of size 1, as in {name}[None, None] for [T, S]"
        )


def checked_mask(mask: Any, full: tuple[int, int, int, int]) -> Mask | Array | None:
    """Return `mask` if it is structured, None, or a boolean array that fits [B, N, T, S]."""
    if mask is None or isinstance(mask, Mask):
        return mask
    if not isinstance(mask, jax.Array | np.ndarray):
        raise ValueError(
            f"mask must be a structured mask such as Causal() or a boolean array, but is {mask!r}; "
            "see jaxsink.attention for the masks"
        )
    if mask.dtype != jnp.bool_:
        raise ValueError(
            f"mask must be boolean (True = may attend), but has dtype {mask.dtype}; compare it to get "
            "booleans, or pass additive terms as bias"
        )
    check_broadcastable("mask", mask.shape, full)
    return jnp.asarray(mask)


def checked_bias(bias: Any, full: tuple[int, int, int, int]) -> tuple[Array, ...]:
    """Return `bias`, None, an array or a sequence of arrays, as floating arrays that fit [B, N, T, S]."""
    parts = (bias,) if bias is None or not isinstance(bias, list | tuple) else bias
    return tuple(_checked_part(part, full) for part in parts if part is not None)


def _checked_part(bias: Any, full: tuple[int, int, int, int]) -> Array:
    if isinstance(bias, jax.Array | np.ndarray) and bias.dtype == jnp.bool_:
        raise ValueError("bias must be floating, but has dtype bool; pass what may be attended as mask")
    array = floating_array("bias", bias, "[B|1, N|1, T|1, S|1]")
    check_broadcastable("bias", array.shape, full)
    return array


def check_scale(scale: Any) -> None:
    """Check that `scale` is None or one number."""
    if scale is not None and jnp.ndim(scale) != 0:
        raise ValueError(f"scale must be one number, but has shape {jnp.shape(scale)}; scale q instead")


def check_softcap(softcap: Any) -> None:
    """Check that `softcap` is None or a positive number."""
    if softcap is None:
        return
    if not isinstance(softcap, numbers.Real) or not 0.0 < float(softcap) < math.inf:
        raise ValueError(f"softcap must be a positive number, but is {softcap!r}; use None for no cap")


def checked_want(variant: RowMap | Composite, want: Any) -> frozenset[str]:
    """Return `want` as a set, after checking that the variant defines each entry."""
    if isinstance(want, str) or not isinstance(want, Collection):
        raise ValueError(f"want must be a tuple of names, but is {want!r}; write want=(name,)")
    unknown = sorted(str(entry) for entry in want if entry not in Aux._fields)
    if unknown:
        raise ValueError(f"want has unknown entries {unknown}; choose from {', '.join(Aux._fields)}")
    undefined = sorted(_NEEDS_TOTAL & set(want))
    if undefined and not variant.properties.has_total:
        name = type(variant).__name__
        raise ValueError(
            f"want asks for {' and '.join(undefined)}, which {name} does not define because its weights "
            "have no total; leave it out, or use row_mass"
        )
    return frozenset(want)


def check_visible(call: Call, shape: tuple[int, ...]) -> None:
    """Check that a materialised structured mask fits the batch of the call."""
    if shape[0] not in (1, call.scores_shape[0]):
        raise ValueError(
            f"mask has {shape[0]} sequences but q has B={call.scores_shape[0]}; give the mask (or "
            "query_offset) one entry per sequence of q"
        )
