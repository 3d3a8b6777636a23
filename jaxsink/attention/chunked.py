"""The chunked backend: blocks of queries and keys, memory linear in T and S, forward and backward, on any platform.

A row is read once if its variant has a total, and else once for its statistics and once for its output. A row map that
goes through its keys in order is read once for what every block of keys hands on to the blocks before it. The backward
pass computes every block anew, and differentiates it as it stands, with the statistics of its rows held fixed; what
the statistics themselves pass on reaches the scores through `RowStatistic.share`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention import blocks
from jaxsink.attention.blocks import Fixed, Moving, Part, Plan
from jaxsink.attention.call import Aux, Call
from jaxsink.attention.probes import entropy, null_entries, null_logits, x_log_x
from jaxsink.attention.row_map import OrderedMap, RowContext, StatisticMap
from jaxsink.attention.row_statistics import real_column_share
from jaxsink.attention.sweeps import Reduced, at, attended, behind, block_weights, indices

# Queries and keys of a block; the fastest of the sizes tried on a CPU, see `jaxsink bench attention`.
ROWS, COLUMNS = 256, 512
_PROBES = frozenset({"row_mass", "received", "entropy", "on_groups"})


def refuses(call: Call) -> str | None:
    """Why this backend cannot take the call, or None."""
    properties = call.variant.properties
    arrays = sorted(call.want & {"weights", "scores"})
    if arrays:
        return f"it never has the whole array of {' and '.join(arrays)}"
    if not (properties.has_total or properties.elementwise or isinstance(call.variant, StatisticMap | OrderedMap)):
        name = type(call.variant).__name__
        return f"{name} has no total, is not elementwise and no StatisticMap or OrderedMap, so that it needs whole rows"
    return None


def run(call: Call) -> tuple[Array, Aux]:
    """Evaluate one call.

    Args:
        call: checked arguments.

    Returns:
        Output [B, T, N, Hv] in the dtype of v, and the wanted entries of `Aux`. Both have derivatives in reverse mode;
        forward mode (jvp) is not defined.
    """
    plan, moving, fixed = blocks.cut(call, ROWS, COLUMNS)
    fixed = fixed._replace(counted=_counted(plan, fixed))
    out, known = attended(plan)(moving, fixed)
    out = blocks.joined(plan, out)
    found: dict[str, Array] = {}
    share = None
    if call.variant.properties.has_total:
        seen = jnp.broadcast_to(blocks.joined(plan, _broad(plan, fixed)) > 0, known_shape(plan))
        lse = jnp.where(seen, blocks.joined(plan, known[0]), -jnp.inf)[..., 0]
        context = RowContext(seen, fixed.positions[:, : plan.queries], plan.dims)
        null = null_logits(call, context, lse)
        if null is not None:
            share = real_column_share(lse, null)
            out = out * share[..., None]
        if call.want & {"lse", "null_mass", "total"}:
            found = {"lse": lse} | null_entries(call, context, lse)
    groups = _groups(call)
    if groups is not None or call.want & _PROBES:
        found |= _probed(groups, plan, moving, fixed, known, share)
    if call.on_keys is not None and isinstance(call.variant, OrderedMap):
        # The weight on a key depends on those behind it, which a block of these keys alone has not.
        found["on_keys"] = found["on_groups"][..., : call.on_keys.size]
        found["on_groups"] = found["on_groups"][..., call.on_keys.size :]
    elif call.on_keys is not None:
        found["on_keys"] = _on_keys(call.on_keys, plan, moving, fixed, known, share)
    aux = Aux(**{name: found[name] for name in call.want})
    return jnp.moveaxis(out, 1, 2).astype(call.v.dtype), aux


def _groups(call: Call) -> Array | None:
    """The groups of keys to look at, bool [B|1, G, S]; those of an ordered row map begin with each key of `on_keys`."""
    if call.on_keys is None or not isinstance(call.variant, OrderedMap):
        return call.on_groups
    each = (call.on_keys[:, None] == jnp.arange(call.keys, dtype=jnp.int32)[None])[None]
    if call.on_groups is None:
        return each
    each = jnp.broadcast_to(each, (call.on_groups.shape[0], *each.shape[1:]))
    return jnp.concatenate([each, call.on_groups], axis=1)


def known_shape(plan: Plan) -> tuple[int, int, int, int]:
    """[B, N, T, 1]."""
    return plan.batch, plan.query_heads, plan.queries, 1


def _broad(plan: Plan, fixed: Fixed) -> Array:
    assert fixed.counted is not None
    return jnp.broadcast_to(fixed.counted, (plan.row_blocks, *plan.row_shape()))


def _counted(plan: Plan, fixed: Fixed) -> Array:
    """Keys that each row sees, int32 [nq, B|1, N|1, t, 1]; dead code unless a row map or a null column reads it."""

    def count(i: Array, j: Array) -> Array:
        return jnp.sum(blocks.visible_block(plan, fixed, i, j), axis=-1, keepdims=True, dtype=jnp.int32)

    shape = jax.eval_shape(count, jnp.int32(0), jnp.int32(0)).shape

    def row(i: Array) -> Array:
        return jax.lax.fori_loop(
            jnp.int32(0), jnp.int32(plan.column_blocks), lambda j, n: n + count(i, j), jnp.zeros(shape, jnp.int32)
        )

    return jax.lax.map(row, indices(plan.row_blocks))


# Probes ---------------------------------------------------------------------------------------------------------
def _rows_of(plan: Plan, array: Array | None) -> Array | None:
    """[B, N, T] as [nq, B, N, t, 1]."""
    if array is None:
        return None
    whole = jnp.broadcast_to(array, known_shape(plan)[:3])
    whole = jnp.pad(whole, ((0, 0), (0, 0), (0, plan.row_blocks * plan.rows - plan.queries)))
    return jnp.moveaxis(whole.reshape(*whole.shape[:2], plan.row_blocks, plan.rows, 1), 2, 0)


def _probed(
    groups: Array | None, plan: Plan, moving: Moving, fixed: Fixed, known: Reduced, share: Array | None
) -> dict[str, Array]:
    """What one more sweep finds out about the weights. Blocks are computed anew for its derivative, too."""
    shares, size = _rows_of(plan, share), plan.columns
    if groups is not None:
        groups = jnp.broadcast_to(groups, (plan.batch, *groups.shape[1:])).astype(plan.dtype)
        groups = blocks.padded(groups, 2, plan.column_blocks * size) if plan.keys > 1 else groups
    zero = jnp.zeros(plan.row_shape()[:3], plan.dtype)

    @jax.checkpoint
    def look(i: Array, j: Array, after: Any) -> dict[str, Array]:
        visible = blocks.visible_block(plan, fixed, i, j)
        part = blocks.part_of(plan, moving, i, j)
        weights = block_weights(plan, fixed, visible, i, blocks.columns_of(plan, j), part, at(known, i) + after)
        if shares is not None:
            weights = weights * shares[i]
        sizes = jnp.abs(weights)
        found = {
            "received": jnp.sum(weights, axis=-2),
            "row_mass": jnp.sum(weights, axis=-1),
            "size": jnp.sum(sizes, axis=-1),
            "x_log_x": jnp.sum(x_log_x(sizes), axis=-1),
        }
        if groups is not None:
            members = jax.lax.dynamic_slice_in_dim(groups, j * size, size, axis=2)
            found["on_groups"] = jnp.einsum("bnts,bgs->bntg", weights, members, precision=jax.lax.Precision.HIGHEST)
        return found

    def row(received: Array, i: Array) -> tuple[Array, dict[str, Array]]:
        handed = jax.checkpoint(partial(behind, plan, moving, fixed))(i)

        def step(sums: dict[str, Array], j: Array) -> tuple[dict[str, Array], Array]:
            found = look(i, j, at(handed, j))
            here = found.pop("received")
            return jax.tree.map(jnp.add, sums, found), here

        sums = {"row_mass": zero, "size": zero, "x_log_x": zero}
        if groups is not None:
            sums["on_groups"] = jnp.zeros((*zero.shape, groups.shape[1]), plan.dtype)
        sums, here = jax.lax.scan(step, sums, indices(plan.column_blocks))
        return received + here, sums

    nothing = jnp.zeros((plan.column_blocks, plan.batch, plan.query_heads, size), plan.dtype)
    received, sums = jax.lax.scan(row, nothing, indices(plan.row_blocks))
    found = {name: blocks.joined(plan, array) for name, array in sums.items()}
    found["entropy"] = entropy(found.pop("size"), found.pop("x_log_x"))
    whole = jnp.moveaxis(received, 0, 2).reshape(plan.batch, plan.query_heads, -1)
    return found | {"received": whole[..., : plan.keys]}


def _on_keys(keys: Array, plan: Plan, moving: Moving, fixed: Fixed, known: Reduced, share: Array | None) -> Array:
    """Weight on a few keys [B, N, T, P], as a block of these keys alone."""
    shares = _rows_of(plan, share)
    block, place = keys // plan.columns, keys % plan.columns

    def of_keys(array: Array) -> Array:
        return jnp.moveaxis(array[block, :, :, place], 0, 2)

    k, v = of_keys(moving.k), of_keys(moving.v)

    @jax.checkpoint
    def row(i: Array) -> Array:
        visible = blocks.visible_at(plan, fixed, i, keys)
        bias = tuple(blocks.at_columns(plan, part, i, keys) for part in moving.bias)
        part = Part(moving.q[i], k, v, bias, moving.params, moving.scale)
        weights = block_weights(plan, fixed, visible, i, keys, part, at(known, i))
        return weights if shares is None else weights * shares[i]

    return blocks.joined(plan, jax.lax.map(row, indices(plan.row_blocks)))
