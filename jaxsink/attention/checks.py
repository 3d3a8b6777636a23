"""Checks of the arguments of `attend`; each failure is one sentence that says what to do."""

import math
import numbers
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsink.attention.call import Aux, Call
from jaxsink.attention.masks import Mask
from jaxsink.attention.row_map import AttentionDims, NullColumnMap, Params, RowMap

_NEEDS_TOTAL = frozenset({"lse", "null_mass"})


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
    if k.shape != v.shape:
        raise ValueError(f"k and v must agree in their shape [B, S, K, H], but have {k.shape} and {v.shape}")
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
    """Check that `variant` is an instance of something that fulfils the contract of a row map."""
    if isinstance(variant, type) or not isinstance(variant, RowMap):
        raise ValueError(f"variant must be a row map instance such as Softmax(), but is {variant!r}")
    if variant.properties.null_column and not isinstance(variant, NullColumnMap):
        raise ValueError(
            f"variant {type(variant).__name__} declares a null column and must have a method null_logit, "
            "but has none; see NullColumnMap"
        )


def checked_params(variant: RowMap, params: Params | None, dims: AttentionDims) -> Params:
    """Return `params`, {} for None, after comparing names and shapes with what the variant initialises."""
    given = {} if params is None else params
    name = type(variant).__name__
    if not hasattr(given, "keys"):
        raise ValueError(f"params of {name} must be a dict, but is a {type(given).__name__}; see {name}.init")
    expected = jax.eval_shape(lambda: variant.init(jax.random.key(0), dims))
    if set(given) != set(expected):
        raise ValueError(
            f"params of {name} must have the entries {sorted(expected)}, but has {sorted(given)}; "
            f"make them with {name}.init and pass those of this variant"
        )
    for entry, spec in expected.items():
        if jnp.shape(given[entry]) != spec.shape:
            raise ValueError(
                f"params[{entry!r}] of {name} must have shape {spec.shape}, but has "
                f"{jnp.shape(given[entry])}; make it with {name}.init for N={dims.query_heads}, "
                f"K={dims.key_heads}, H={dims.head_size}"
            )
    return {entry: jnp.asarray(given[entry]) for entry in expected}


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


def checked_bias(bias: Any, full: tuple[int, int, int, int]) -> Array | None:
    """Return `bias` if it is None or a floating array that fits [B, N, T, S]."""
    if bias is None:
        return None
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


def checked_want(variant: RowMap, want: Any) -> frozenset[str]:
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
