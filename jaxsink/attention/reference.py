"""The reference backend: two einsums and T x S arrays; every other backend has to compute the same."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.call import Aux, Call
from jaxsink.attention.checks import check_visible
from jaxsink.attention.masks import Mask, query_positions
from jaxsink.attention.probes import added_up, entropy, null_entries, share_left, x_log_x
from jaxsink.attention.row_map import RowContext
from jaxsink.attention.row_statistics import masked_log_sum_exp

# A GPU or TPU would round float32 factors to fewer bits, and this backend is what others are judged by.
_PRECISION = jax.lax.Precision.HIGHEST


def run(call: Call) -> tuple[Array, Aux]:
    """Evaluate one call.

    Args:
        call: checked arguments.

    Returns:
        Output [B, T, N, H] in the dtype of v, and the wanted entries of `Aux`.

    Raises:
        ValueError: if a structured mask or the query offset does not fit the batch, or a tap changes a shape
            or dtype.
    """
    context = _context(call)
    scores = _tapped(call, "attn_scores", _scores(call))
    seen = jnp.where(context.visible, scores, 0.0)
    weights = call.variant.weights(seen, context, call.params)
    weights = jnp.where(context.visible, weights, 0.0)
    if call.null_logit is not None:
        weights = weights * share_left(call, context, masked_log_sum_exp(seen, context.visible))[..., None]
    weights = _tapped(call, "pattern", weights)
    return _values(call, weights), _aux(call, context, scores, seen, weights)


def _context(call: Call) -> RowContext:
    _, _, queries, keys = call.scores_shape
    positions = query_positions(queries, keys, call.query_offset)
    check_visible(call, positions.shape)
    if call.mask is None:
        visible = jnp.ones((1, 1, queries, keys), bool)
    elif isinstance(call.mask, Mask):
        visible = call.mask.materialise(queries, keys, call.query_offset)
        check_visible(call, visible.shape)
    else:
        visible = jnp.broadcast_to(call.mask, (*call.mask.shape[:2], queries, keys))
    return RowContext(visible, positions, call.dims)


def _scores(call: Call) -> Array:
    dtype = call.compute_dtype
    batch, heads, queries, _ = call.scores_shape
    grouped = (batch, queries, call.dims.key_heads, heads // call.dims.key_heads, call.dims.head_size)
    q = call.q.astype(dtype).reshape(grouped)
    scores = jnp.einsum("btkgh,bskh->bkgts", q, call.k.astype(dtype), precision=_PRECISION)
    scores = scores.reshape(call.scores_shape) * jnp.asarray(call.scale, dtype)
    if call.softcap is not None:
        scores = call.softcap * jnp.tanh(scores / call.softcap)
    if call.bias:
        scores = scores + added_up(call.bias, dtype)
    return scores


def _values(call: Call, weights: Array) -> Array:
    batch, heads, queries, keys = call.scores_shape
    key_heads = call.dims.key_heads
    grouped = weights.reshape(batch, key_heads, heads // key_heads, queries, keys)
    out = jnp.einsum("bkgts,bskh->btkgh", grouped, call.v.astype(weights.dtype), precision=_PRECISION)
    return out.reshape(*call.q.shape[:3], call.v.shape[3]).astype(call.v.dtype)


def _tapped(call: Call, name: str, array: Array) -> Array:
    if call.tap is None:
        return array
    edited = call.tap(name, array)
    if jnp.shape(edited) != array.shape or jnp.result_type(edited) != array.dtype:
        raise ValueError(
            f"tap must return {name} with shape {array.shape} and dtype {array.dtype}, but returned shape "
            f"{jnp.shape(edited)} and dtype {jnp.result_type(edited)}; edit the array without changing either"
        )
    return jnp.asarray(edited)


def _aux(call: Call, context: RowContext, scores: Array, seen: Array, weights: Array) -> Aux:
    found: dict[str, Array] = {"weights": weights, "scores": scores}
    if "row_mass" in call.want:
        found["row_mass"] = jnp.sum(weights, axis=-1)
    if "received" in call.want:
        found["received"] = jnp.sum(weights, axis=-2)
    if "entropy" in call.want:
        size = jnp.abs(weights)
        found["entropy"] = entropy(jnp.sum(size, axis=-1), jnp.sum(x_log_x(size), axis=-1))
    if call.on_keys is not None:
        found["on_keys"] = weights[..., call.on_keys]
    if call.on_groups is not None:
        groups = jnp.broadcast_to(call.on_groups, (weights.shape[0], *call.on_groups.shape[1:])).astype(weights.dtype)
        found["on_groups"] = jnp.einsum("bnts,bgs->bntg", weights, groups, precision=_PRECISION)
    if call.want & {"lse", "null_mass", "total"}:
        found["lse"] = masked_log_sum_exp(seen, context.visible)
        found |= null_entries(call, context, found["lse"])
    return Aux(**{name: found[name] for name in call.want})
