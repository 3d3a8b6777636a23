"""The chunked backend: blocks of queries and keys, memory linear in T and S, forward and backward, on any platform.

A row is read once if its variant has a total, and else once for its statistics and once for its output. A row map that
goes through its keys in order is read once for what every block of keys hands on to the blocks before it. The backward
pass computes every block anew, and differentiates it as it stands, with the statistics of its rows held fixed; what
the statistics themselves pass on reaches the scores through `RowStatistic.share`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention import blocks
from jaxsink.attention.blocks import Fixed, Moving, Part, Plan
from jaxsink.attention.call import Aux, Call
from jaxsink.attention.probes import entropy, null_entries, null_logits, x_log_x
from jaxsink.attention.row_map import OrderedMap, RowContext, StatisticMap, later_sums
from jaxsink.attention.row_statistics import real_column_share
from jaxsink.attention.statistics import Statistic

# Queries and keys of a block; the fastest of the sizes tried on a CPU, see `jaxsink bench attention`.
ROWS, COLUMNS = 256, 512
_PROBES = frozenset({"row_mass", "received", "entropy", "on_groups"})

Reduced = tuple[Statistic, ...]


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
    out, known = _attended(plan)(moving, fixed)
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

    return jax.lax.map(row, _indices(plan.row_blocks))


def _indices(count: int) -> Array:
    return jnp.arange(count, dtype=jnp.int32)


def _over_columns(plan: Plan, fixed: Fixed, i: Array, body: Callable[..., Any], carry: Any) -> Any:
    """Fold `body(carry, visible, j)` over the blocks of keys of which block row i sees any."""

    def step(carry: Any, j: Array) -> tuple[Any, None]:
        visible = blocks.visible_block(plan, fixed, i, j)
        return jax.lax.cond(jnp.any(visible), lambda c: body(c, visible, j), lambda c: c, carry), None

    return jax.lax.scan(step, carry, _indices(plan.column_blocks))[0]


# Forward --------------------------------------------------------------------------------------------------------
def _attended(plan: Plan) -> Callable[[Moving, Fixed], tuple[Array, Reduced]]:
    """The function from a cut call to the output [nq, B, N, t, Hv] and the statistics [nq, B, N, t, 1] of its rows."""

    @jax.custom_vjp
    def attended(moving: Moving, fixed: Fixed) -> tuple[Array, Reduced]:
        out, carries = _forward(plan, moving, fixed)
        return out, _finished(plan, carries)

    def forward(moving: Moving, fixed: Fixed) -> tuple[tuple[Array, Reduced], Any]:
        out, carries = _forward(plan, moving, fixed)
        return (out, _finished(plan, carries)), (moving, fixed, out, carries)

    def backward(kept: tuple[Moving, Fixed, Array, Any], cotangents: tuple[Array, Reduced]) -> tuple[Moving, None]:
        return _backward(plan, *kept, cotangents), None

    attended.defvjp(forward, backward)
    return attended


def _finished(plan: Plan, carries: tuple[Any, ...]) -> Reduced:
    return tuple(s.finish(carry) for s, carry in zip(plan.statistics, carries, strict=True))


def _forward(plan: Plan, moving: Moving, fixed: Fixed) -> tuple[Array, tuple[Any, ...]]:
    row = _online if plan.variant.properties.has_total else _two_sweeps
    found: tuple[Array, tuple[Any, ...]] = jax.lax.map(partial(row, plan, moving, fixed), _indices(plan.row_blocks))
    return found


def _no_output(plan: Plan, moving: Moving) -> Array:
    return jnp.zeros((*plan.row_shape()[:3], moving.v.shape[-1]), plan.dtype)


def _online(plan: Plan, moving: Moving, fixed: Fixed, i: Array) -> tuple[Array, tuple[Any, ...]]:
    """One sweep: the accumulator is rescaled whenever the maximum of its row rises."""
    (statistic,) = plan.statistics

    def body(carry: Any, visible: Array, j: Array) -> Any:
        (maximum, total), out = carry
        part = blocks.part_of(plan, moving, i, j)
        scores = blocks.scores_of(plan, part, visible)
        higher = jnp.maximum(maximum, jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf, where=visible))
        shift = jnp.where(jnp.isfinite(higher), higher, 0.0)
        kept = jnp.exp(maximum - shift)
        sizes = jnp.where(visible, jnp.exp(jnp.where(visible, scores - shift, 0.0)), 0.0)
        total = total * kept + jnp.sum(sizes, axis=-1, keepdims=True)
        return (higher, total), out * kept + blocks.values_of(plan, part, sizes)

    empty = statistic.empty(plan.row_shape(), plan.dtype), _no_output(plan, moving)
    (maximum, total), out = _over_columns(plan, fixed, i, body, empty)
    return out / jnp.where(total > 0.0, total, 1.0), ((maximum, total),)


def _two_sweeps(plan: Plan, moving: Moving, fixed: Fixed, i: Array) -> tuple[Array, tuple[Any, ...]]:
    """One sweep for the statistics, if there are any, and one for the output."""

    def reduce(carries: tuple[Any, ...], visible: Array, j: Array) -> tuple[Any, ...]:
        scores = blocks.scores_of(plan, blocks.part_of(plan, moving, i, j), visible)
        terms = plan.terms(scores, moving.params)
        return tuple(s.update(c, term, visible) for s, c, term in zip(plan.statistics, carries, terms, strict=True))

    carries = tuple(s.empty(plan.row_shape(), plan.dtype) for s in plan.statistics)
    if carries:
        carries = _over_columns(plan, fixed, i, reduce, carries)
    known = _finished(plan, carries)
    behind = _behind(plan, moving, fixed, i)

    def add(out: Array, visible: Array, j: Array) -> Array:
        part = blocks.part_of(plan, moving, i, j)
        return out + _block_output(plan, fixed, visible, i, j, part, known + _at(behind, j))

    return _over_columns(plan, fixed, i, add, _no_output(plan, moving)), carries


def _behind(plan: Plan, moving: Moving, fixed: Fixed, i: Array) -> tuple[Array, ...]:
    """What the blocks of keys behind each one hand on to block row i, ([nk, B, N, t, 1],) for an ordered row map."""
    if not isinstance(plan.variant, OrderedMap):
        return ()

    def handed_on(j: Array) -> Array:
        visible = blocks.visible_block(plan, fixed, i, j)
        part = blocks.part_of(plan, moving, i, j)
        context = blocks.context_of(plan, fixed, visible, i, blocks.columns_of(plan, j))
        return plan.handed_on(blocks.scores_of(plan, part, visible), context, part.params)[0]

    each = jax.lax.map(handed_on, _indices(plan.column_blocks))
    return (jnp.moveaxis(later_sums(jnp.moveaxis(each, 0, -1)), -1, 0),)


def _at(tree: Any, index: Array) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _block_weights(plan: Plan, fixed: Fixed, visible: Array, i: Array, columns: Array, part: Part, known: Any) -> Array:
    scores = blocks.scores_of(plan, part, visible)
    return plan.weights(scores, known, blocks.context_of(plan, fixed, visible, i, columns), part.params)


def _block_output(plan: Plan, fixed: Fixed, visible: Array, i: Array, j: Array, part: Part, known: Any) -> Array:
    weights = _block_weights(plan, fixed, visible, i, blocks.columns_of(plan, j), part, known)
    return blocks.values_of(plan, part, weights)


# Backward -------------------------------------------------------------------------------------------------------
class _Gradients(NamedTuple):
    """Sums over the blocks of which a part belongs to several block rows."""

    k: Array
    v: Array
    bias: Array | None
    params: Any
    scale: Array


def _backward(
    plan: Plan, moving: Moving, fixed: Fixed, out: Array, carries: Any, cotangents: tuple[Array, Reduced]
) -> Moving:
    d_out, d_known = cotangents
    zeros = _Gradients(*jax.tree.map(jnp.zeros_like, moving[1:]))

    def row(total: _Gradients, i: Array) -> tuple[_Gradients, Array]:
        carry, d_o = _at(carries, i), d_out[i]
        known, behind = _finished(plan, carry), _behind(plan, moving, fixed, i)
        d_stat = jax.tree.map(jnp.add, _at(d_known, i), _through_weights(plan, moving, fixed, i, known, out[i], d_o))

        def value(part: Part, after: Any, visible: Array, j: Array) -> tuple[Array, Reduced, Any]:
            scores = blocks.scores_of(plan, part, visible)
            context = blocks.context_of(plan, fixed, visible, i, blocks.columns_of(plan, j))
            weights = plan.weights(scores, known + after, context, part.params)
            terms = plan.terms(scores, part.params)
            shares = tuple(s.share(term, visible, c) for s, term, c in zip(plan.statistics, terms, carry, strict=True))
            return blocks.values_of(plan, part, weights), shares, plan.handed_on(scores, context, part.params)

        def step(carried: tuple[Array, Any, _Gradients], j: Array) -> tuple[tuple[Array, Any, _Gradients], None]:
            # What a block hands on reaches all blocks before it, whose part in that has been added up so far.
            d_q, d_handed, total = carried
            part, visible = blocks.part_of(plan, moving, i, j), blocks.visible_block(plan, fixed, i, j)

            def differentiate(arguments: tuple[Part, Any]) -> tuple[Part, Any]:
                pull = jax.vjp(lambda part, after: value(part, after, visible, j), *arguments)[1]
                moved: tuple[Part, Any] = pull((d_o, d_stat, d_handed))
                return moved

            def nothing(arguments: tuple[Part, Any]) -> tuple[Part, Any]:
                zero: tuple[Part, Any] = jax.tree.map(jnp.zeros_like, arguments)
                return zero

            # Only what has the size of a block goes through the branch: XLA copies what a branch returns.
            d, d_after = jax.lax.cond(jnp.any(visible), differentiate, nothing, (part, _at(behind, j)))
            bias = None
            if total.bias is not None:
                bias = blocks.added_block(plan, total.bias, d.bias, i, j)
            total = _Gradients(
                k=total.k.at[j].add(d.k),
                v=total.v.at[j].add(d.v),
                bias=bias,
                params=jax.tree.map(jnp.add, total.params, d.params),
                scale=total.scale + d.scale,
            )
            return (d_q + d.q, jax.tree.map(jnp.add, d_handed, d_after), total), None

        start = jnp.zeros_like(moving.q[i]), jax.tree.map(lambda x: jnp.zeros_like(x[0]), behind), total
        (d_q, _, total), _ = jax.lax.scan(step, start, _indices(plan.column_blocks))
        return total, d_q

    total, d_q = jax.lax.scan(row, zeros, _indices(plan.row_blocks))
    return Moving(d_q, *total)


def _through_weights(
    plan: Plan, moving: Moving, fixed: Fixed, i: Array, known: Reduced, out: Array, d_out: Array
) -> Reduced:
    """Cotangents of the statistics of block row i, for what they do to the output."""
    if plan.variant.properties.has_total:
        # d w_ij / d lse_i = -w_ij, so that the sum over the keys is already in the output.
        return (-jnp.sum(d_out * out, axis=-1, keepdims=True),)

    def body(total: Reduced, visible: Array, j: Array) -> Reduced:
        part = blocks.part_of(plan, moving, i, j)
        pull = jax.vjp(lambda known: _block_output(plan, fixed, visible, i, j, part, known), known)[1]
        added: Reduced = jax.tree.map(jnp.add, total, pull(d_out)[0])
        return added

    zeros: Reduced = jax.tree.map(jnp.zeros_like, known)
    return zeros if not known else tuple(_over_columns(plan, fixed, i, body, zeros))


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
        weights = _block_weights(plan, fixed, visible, i, blocks.columns_of(plan, j), part, _at(known, i) + after)
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
        behind = jax.checkpoint(partial(_behind, plan, moving, fixed))(i)

        def step(sums: dict[str, Array], j: Array) -> tuple[dict[str, Array], Array]:
            found = look(i, j, _at(behind, j))
            here = found.pop("received")
            return jax.tree.map(jnp.add, sums, found), here

        sums = {"row_mass": zero, "size": zero, "x_log_x": zero}
        if groups is not None:
            sums["on_groups"] = jnp.zeros((*zero.shape, groups.shape[1]), plan.dtype)
        sums, here = jax.lax.scan(step, sums, _indices(plan.column_blocks))
        return received + here, sums

    nothing = jnp.zeros((plan.column_blocks, plan.batch, plan.query_heads, size), plan.dtype)
    received, sums = jax.lax.scan(row, nothing, _indices(plan.row_blocks))
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
        bias = moving.bias
        if bias is not None:
            height = min(bias.shape[2], plan.rows)
            bias = jax.lax.dynamic_slice_in_dim(bias, 0 if bias.shape[2] == 1 else i * plan.rows, height, axis=2)
            bias = bias if bias.shape[3] == 1 else bias[..., keys]
        part = Part(moving.q[i], k, v, bias, moving.params, moving.scale)
        weights = _block_weights(plan, fixed, visible, i, keys, part, _at(known, i))
        return weights if shares is None else weights * shares[i]

    return blocks.joined(plan, jax.lax.map(row, _indices(plan.row_blocks)))
