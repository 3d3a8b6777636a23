"""How the chunked backend cuts a call into blocks, and what one block of queries and keys computes."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.call import Call
from jaxsink.attention.masks import Mask, Tile, query_positions
from jaxsink.attention.probes import added_up
from jaxsink.attention.row_map import OrderedMap, Params, RowContext, RowMap, StatisticMap, later_sums
from jaxsink.attention.statistics import LogSumExp, RowStatistic, Statistic, Term

# A GPU or TPU would round float32 factors to fewer bits.
_PRECISION = jax.lax.Precision.HIGHEST


class Moving(NamedTuple):
    """What a call is differentiated by. Blocks of queries and keys lead, heads that share a key head lie together.

    Attributes:
        q: [nq, B, K, N / K * t, H].
        k: [nk, B, K, s, H].
        v: [nk, B, K, s, Hv].
        bias: arrays that add up, each axis of [B, N, nq * t, nk * s] in full or of size 1.
        params: parameters of the row map.
        scale: factor of the scores.
    """

    q: Array
    k: Array
    v: Array
    bias: tuple[Array, ...]
    params: Params
    scale: Array


class Fixed(NamedTuple):
    """What a call is not differentiated by.

    Attributes:
        mask: structured, or bool with each axis of [B, N, nq * t, nk * s] in full or of size 1, or None.
        positions: int32 [B|1, nq * t].
        counted: int32 [nq, B|1, N|1, t, 1], keys that each row sees; None until they have been counted.
    """

    mask: Mask | Array | None
    positions: Array
    counted: Array | None


class Part(NamedTuple):
    """The part of `Moving` that one block reads."""

    q: Array
    k: Array
    v: Array
    bias: tuple[Array, ...]
    params: Params
    scale: Array


@dataclass(frozen=True)
class Plan:
    """The static side of a call.

    Attributes:
        variant: the row map.
        softcap: as in `attend`.
        dtype: of scores and weights.
        batch, query_heads, key_heads, queries, keys: B, N, K, T, S.
        rows, columns: t and s, the sizes of a block.
    """

    variant: RowMap
    softcap: float | None
    dtype: Any
    batch: int
    query_heads: int
    key_heads: int
    queries: int
    keys: int
    rows: int
    columns: int
    dims: Any

    @property
    def row_blocks(self) -> int:
        """nq."""
        return -(-self.queries // self.rows)

    @property
    def column_blocks(self) -> int:
        """nk."""
        return -(-self.keys // self.columns)

    @property
    def statistics(self) -> tuple[RowStatistic, ...]:
        """What has to be known of a row before its weights."""
        if self.variant.properties.has_total:
            return (LogSumExp(),)
        return self.variant.statistics if isinstance(self.variant, StatisticMap) else ()

    def terms(self, scores: Array, params: Params) -> tuple[Term, ...]:
        """What the statistics reduce."""
        if self.variant.properties.has_total:
            return (scores,)
        return self.variant.terms(scores, params) if isinstance(self.variant, StatisticMap) else ()

    def handed_on(self, scores: Array, context: RowContext, params: Params) -> tuple[Array, ...]:
        """What the keys of an ordered row map add up to for the keys before the block, ([B, N, t, 1],); else ()."""
        if not isinstance(self.variant, OrderedMap):
            return ()
        return (jnp.sum(self.variant.handed_on(scores, context, params), axis=-1, keepdims=True),)

    def weights(self, scores: Array, known: tuple[Statistic, ...], context: RowContext, params: Params) -> Array:
        """Weights [B, N, t, s] before any null column.

        `known` are the statistics of the rows, or, of an ordered row map, what the blocks behind this one hand on.
        """
        if self.variant.properties.has_total:
            # Hidden scores are 0, which may lie far above the statistic: they must not reach exp.
            weights = jnp.exp(jnp.where(context.visible, scores - known[0], 0.0))
        elif isinstance(self.variant, OrderedMap):
            after = known[0] + later_sums(self.variant.handed_on(scores, context, params))
            weights = self.variant.weights_after(scores, after, context, params)
        elif isinstance(self.variant, StatisticMap):
            weights = self.variant.weights_given(scores, known, context, params)
        else:
            weights = self.variant.weights(scores, context, params)
        return jnp.where(context.visible, weights, 0.0)

    def row_shape(self) -> tuple[int, int, int, int]:
        """[B, N, t, 1]."""
        return self.batch, self.query_heads, self.rows, 1


def padded(array: Array, axis: int, size: int) -> Array:
    """`array` with zeros behind it along `axis` up to `size`; an axis of size 1 is left for broadcasting."""
    if array.shape[axis] in (1, size):
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return jnp.pad(array, widths)


def cut(call: Call, rows: int, columns: int) -> tuple[Plan, Moving, Fixed]:
    """A call in blocks of at most `rows` queries and `columns` keys."""
    batch, heads, queries, keys = call.scores_shape
    key_heads = call.dims.key_heads
    plan = Plan(
        variant=call.variant,
        softcap=call.softcap,
        dtype=call.compute_dtype,
        batch=batch,
        query_heads=heads,
        key_heads=key_heads,
        queries=queries,
        keys=keys,
        rows=min(rows, queries),
        columns=min(columns, keys),
        dims=call.dims,
    )
    nq, nk, t, s = plan.row_blocks, plan.column_blocks, plan.rows, plan.columns

    def full(array: Array) -> Array:
        return padded(padded(array, 2, nq * t), 3, nk * s)

    def by_key_head(array: Array) -> Array:
        size = array.shape[-1]
        array = jnp.pad(array.astype(plan.dtype), ((0, 0), (0, nk * s - keys), (0, 0), (0, 0)))
        return array.reshape(batch, nk, s, key_heads, size).transpose(1, 0, 3, 2, 4)

    q = jnp.pad(call.q.astype(plan.dtype), ((0, 0), (0, nq * t - queries), (0, 0), (0, 0)))
    group = heads // key_heads
    q = q.reshape(batch, nq, t, key_heads, group, q.shape[-1]).transpose(1, 0, 3, 4, 2, 5)
    moving = Moving(
        q=q.reshape(nq, batch, key_heads, group * t, q.shape[-1]),
        k=by_key_head(call.k),
        v=by_key_head(call.v),
        bias=tuple(full(part.astype(plan.dtype)) for part in call.bias),
        params=call.params,
        scale=jnp.asarray(call.scale, plan.dtype),
    )
    positions = query_positions(queries, keys, call.query_offset)
    mask = call.mask
    if isinstance(mask, Array):
        mask = full(mask)
    return plan, moving, Fixed(mask, jnp.pad(positions, ((0, 0), (0, nq * t - queries))), None)


def joined(plan: Plan, blocks: Array) -> Array:
    """[nq, B, N, t, ...] as [B, N, T, ...]."""
    whole = jnp.moveaxis(blocks, 0, 2)
    whole = whole.reshape(*whole.shape[:2], plan.row_blocks * plan.rows, *whole.shape[4:])
    return whole[:, :, : plan.queries]


def _corner(array: Array, row: Array, column: Array) -> tuple[Any, ...]:
    zero = jnp.zeros_like(row)
    return zero, zero, zero if array.shape[2] == 1 else row, zero if array.shape[3] == 1 else column


def block_of(plan: Plan, array: Array, i: Array, j: Array) -> Array:
    """The block of an array whose axes are those of [B, N, nq * t, nk * s] in full or of size 1."""
    size = (*array.shape[:2], min(array.shape[2], plan.rows), min(array.shape[3], plan.columns))
    return jax.lax.dynamic_slice(array, _corner(array, i * plan.rows, j * plan.columns), size)


def added_block(plan: Plan, array: Array, block: Array, i: Array, j: Array) -> Array:
    """`array` with `block` added where `block_of` reads."""
    return jax.lax.dynamic_update_slice(
        array, block_of(plan, array, i, j) + block, _corner(array, i * plan.rows, j * plan.columns)
    )


def visible_block(plan: Plan, fixed: Fixed, i: Array, j: Array) -> Array:
    """bool [B|1, N|1, t, s] of block (i, j); what lies behind the last query or key is hidden."""
    rows = i * plan.rows + jnp.arange(plan.rows, dtype=jnp.int32)
    columns = columns_of(plan, j)
    inside = ((rows < plan.queries)[:, None] & (columns < plan.keys)[None, :])[None, None]
    if fixed.mask is None:
        return inside
    if not isinstance(fixed.mask, Mask):
        return inside & block_of(plan, fixed.mask, i, j)
    return inside & _structured(plan, fixed.mask, fixed, i, rows, columns)


def visible_at(plan: Plan, fixed: Fixed, i: Array, columns: Array) -> Array:
    """bool [B|1, N|1, t, P] of block row i and the given keys."""
    rows = i * plan.rows + jnp.arange(plan.rows, dtype=jnp.int32)
    inside = (rows < plan.queries)[None, None, :, None]
    if fixed.mask is None:
        return jnp.broadcast_to(inside, (1, 1, plan.rows, columns.size))
    if isinstance(fixed.mask, Mask):
        return inside & _structured(plan, fixed.mask, fixed, i, rows, columns)
    return inside & at_columns(plan, fixed.mask, i, columns)


def at_columns(plan: Plan, array: Array, i: Array, columns: Array) -> Array:
    """Block row i and the given keys of an array as `block_of` takes it."""
    start = 0 if array.shape[2] == 1 else i * plan.rows
    strip = jax.lax.dynamic_slice_in_dim(array, start, min(array.shape[2], plan.rows), axis=2)
    return strip if strip.shape[3] == 1 else strip[..., columns]


def _structured(plan: Plan, mask: Mask, fixed: Fixed, i: Array, rows: Array, columns: Array) -> Array:
    tile = Tile(
        rows=jnp.minimum(rows, plan.queries - 1),
        positions=jax.lax.dynamic_slice_in_dim(fixed.positions, i * plan.rows, plan.rows, axis=1),
        columns=jnp.minimum(columns, plan.keys - 1),
        queries=plan.queries,
        keys=plan.keys,
    )
    return jnp.asarray(mask.visible(tile))[:, None]


def context_of(plan: Plan, fixed: Fixed, visible: Array, i: Array, columns: Array) -> RowContext:
    """What a row map may read of block row i and the keys at `columns` [s]."""
    positions = jax.lax.dynamic_slice_in_dim(fixed.positions, i * plan.rows, plan.rows, axis=1)
    counted = None if fixed.counted is None else fixed.counted[i]
    return RowContext(visible, positions, plan.dims, counted, columns)


def columns_of(plan: Plan, j: Array) -> Array:
    """int32 [s], the keys of block column j."""
    return j * plan.columns + jnp.arange(plan.columns, dtype=jnp.int32)


def part_of(plan: Plan, moving: Moving, i: Array, j: Array) -> Part:
    """What block (i, j) reads."""
    bias = tuple(block_of(plan, part, i, j) for part in moving.bias)
    return Part(moving.q[i], moving.k[j], moving.v[j], bias, moving.params, moving.scale)


def scores_of(plan: Plan, part: Part, visible: Array) -> Array:
    """Scores [B, N, t, s] after scale, softcap and bias, 0 where hidden."""
    scores = jnp.einsum("bkrh,bksh->bkrs", part.q, part.k, precision=_PRECISION)
    scores = scores.reshape(plan.batch, plan.query_heads, plan.rows, scores.shape[-1]) * part.scale
    if plan.softcap is not None:
        scores = plan.softcap * jnp.tanh(scores / plan.softcap)
    if part.bias:
        scores = scores + added_up(part.bias, plan.dtype)
    return jnp.where(visible, scores, 0.0)


def values_of(plan: Plan, part: Part, weights: Array) -> Array:
    """sum_j w_ij v_j over the keys of the block, [B, N, t, Hv]."""
    grouped = weights.reshape(plan.batch, plan.key_heads, -1, weights.shape[-1])
    out = jnp.einsum("bkrs,bksh->bkrh", grouped, part.v, precision=_PRECISION)
    return out.reshape(plan.batch, plan.query_heads, plan.rows, out.shape[-1])
