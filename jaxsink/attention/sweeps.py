"""The sweeps of the chunked backend over blocks of keys: forward, and backward from blocks computed anew."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention import blocks
from jaxsink.attention.blocks import Fixed, Moving, Part, Plan
from jaxsink.attention.row_map import OrderedMap, later_sums
from jaxsink.attention.statistics import Statistic

Reduced = tuple[Statistic, ...]


def indices(count: int) -> Array:
    """int32 [count], numbers of blocks."""
    return jnp.arange(count, dtype=jnp.int32)


def _over_columns(plan: Plan, fixed: Fixed, i: Array, body: Callable[..., Any], carry: Any) -> Any:
    """Fold `body(carry, visible, j)` over the blocks of keys of which block row i sees any."""

    def step(carry: Any, j: Array) -> tuple[Any, None]:
        visible = blocks.visible_block(plan, fixed, i, j)
        return jax.lax.cond(jnp.any(visible), lambda c: body(c, visible, j), lambda c: c, carry), None

    return jax.lax.scan(step, carry, indices(plan.column_blocks))[0]


# Forward --------------------------------------------------------------------------------------------------------
def attended(plan: Plan) -> Callable[[Moving, Fixed], tuple[Array, Reduced]]:
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
    found: tuple[Array, tuple[Any, ...]] = jax.lax.map(partial(row, plan, moving, fixed), indices(plan.row_blocks))
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
    handed = behind(plan, moving, fixed, i)

    def add(out: Array, visible: Array, j: Array) -> Array:
        part = blocks.part_of(plan, moving, i, j)
        return out + _block_output(plan, fixed, visible, i, j, part, known + at(handed, j))

    return _over_columns(plan, fixed, i, add, _no_output(plan, moving)), carries


def behind(plan: Plan, moving: Moving, fixed: Fixed, i: Array) -> tuple[Array, ...]:
    """What the blocks of keys behind each one hand on to block row i, ([nk, B, N, t, 1],) for an ordered row map."""
    if not isinstance(plan.variant, OrderedMap):
        return ()

    def handed_on(j: Array) -> Array:
        visible = blocks.visible_block(plan, fixed, i, j)
        part = blocks.part_of(plan, moving, i, j)
        context = blocks.context_of(plan, fixed, visible, i, blocks.columns_of(plan, j))
        return plan.handed_on(blocks.scores_of(plan, part, visible), context, part.params)[0]

    each = jax.lax.map(handed_on, indices(plan.column_blocks))
    return (jnp.moveaxis(later_sums(jnp.moveaxis(each, 0, -1)), -1, 0),)


def at(tree: Any, index: Array) -> Any:
    """The entry of every array along its first axis."""
    return jax.tree.map(lambda x: x[index], tree)


def block_weights(plan: Plan, fixed: Fixed, visible: Array, i: Array, columns: Array, part: Part, known: Any) -> Array:
    """Weights [B, N, t, s] of the keys at `columns` for block row i, before any null column."""
    scores = blocks.scores_of(plan, part, visible)
    return plan.weights(scores, known, blocks.context_of(plan, fixed, visible, i, columns), part.params)


def _block_output(plan: Plan, fixed: Fixed, visible: Array, i: Array, j: Array, part: Part, known: Any) -> Array:
    weights = block_weights(plan, fixed, visible, i, blocks.columns_of(plan, j), part, known)
    return blocks.values_of(plan, part, weights)


# Backward -------------------------------------------------------------------------------------------------------
class _Gradients(NamedTuple):
    """Sums over the blocks of which a part belongs to several block rows."""

    k: Array
    v: Array
    bias: tuple[Array, ...]
    params: Any
    scale: Array


def _backward(
    plan: Plan, moving: Moving, fixed: Fixed, out: Array, carries: Any, cotangents: tuple[Array, Reduced]
) -> Moving:
    d_out, d_known = cotangents
    zeros = _Gradients(*jax.tree.map(jnp.zeros_like, moving[1:]))

    def row(total: _Gradients, i: Array) -> tuple[_Gradients, Array]:
        carry, d_o = at(carries, i), d_out[i]
        known, handed = _finished(plan, carry), behind(plan, moving, fixed, i)
        d_stat = jax.tree.map(jnp.add, at(d_known, i), _through_weights(plan, moving, fixed, i, known, out[i], d_o))

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
            d, d_after = jax.lax.cond(jnp.any(visible), differentiate, nothing, (part, at(handed, j)))
            bias = zip(total.bias, d.bias, strict=True)
            total = _Gradients(
                k=total.k.at[j].add(d.k),
                v=total.v.at[j].add(d.v),
                bias=tuple(blocks.added_block(plan, whole, block, i, j) for whole, block in bias),
                params=jax.tree.map(jnp.add, total.params, d.params),
                scale=total.scale + d.scale,
            )
            return (d_q + d.q, jax.tree.map(jnp.add, d_handed, d_after), total), None

        start = jnp.zeros_like(moving.q[i]), jax.tree.map(lambda x: jnp.zeros_like(x[0]), handed), total
        (d_q, _, total), _ = jax.lax.scan(step, start, indices(plan.column_blocks))
        return total, d_q

    total, d_q = jax.lax.scan(row, zeros, indices(plan.row_blocks))
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
