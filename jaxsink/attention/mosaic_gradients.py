"""Gradients of fused attention on Hopper GPUs, one sweep over keys for the queries and one over queries for the rest.

Scores and weights are computed anew. No two thread blocks add to the same gradient, so that results do not depend on
which comes first. `received` is the sweep over queries that adds up weights alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxsink.attention import mosaic_parts as parts
from jaxsink.attention.mosaic_parts import STAGES, Ref
from jaxsink.attention.mosaic_plan import GROUP, MULTIPLIERS, ROWS, Plan, key_blocks, query_blocks, quotient
from jaxsink.attention.mosaic_rules import Back, Rows, Rule, Weight


def of_queries(
    plan: Plan, back: Back, q: Array, k: Array, v: Array, d_out: Array, rows: Rows, delta: Array | None
) -> Array:
    """Gradient of q.

    Args:
        back: cotangents of scores from those of weights.
        q, k, v: as in `sweep`. d_out: cotangent of the output [B, T, N, H], in the dtype of q.
        rows: row arguments of `back`, float32 [B, N, T]. delta: its cotangent of the row, likewise, or None.

    Returns:
        [B, T, N, H] in the dtype of q.
    """
    columns, width = plan.columns, plan.width
    tiles = plan.query_rows // ROWS
    arrays = rows if delta is None else (*rows, delta)

    def body(*refs: Ref, **scratch: Ref) -> None:
        q_ref, k_ref, v_ref, d_ref, *row_refs, out_ref = refs
        head, batch = lax.axis_index("head"), lax.axis_index("batch")
        first = (tiles - 1 - lax.axis_index("tile")) * ROWS
        begin, left, whole, end = key_blocks(plan, first, exact=False)
        shape = (GROUP, columns)
        spread = parts.spread_over(shape, 0)

        def multiply(group: Array) -> None:
            here = first + group * GROUP
            ready, q_tile, d_tile = (scratch[name].at[group] for name in ("ready", "q", "d"))
            mine = (batch, pl.ds(here, GROUP), head)
            plgpu.copy_gmem_to_smem(q_ref.at[mine], q_tile, ready)
            plgpu.copy_gmem_to_smem(d_ref.at[mine], d_tile, ready)
            for i, ref in enumerate(row_refs):
                plgpu.copy_gmem_to_smem(ref.at[batch, head, pl.ds(here, GROUP)], scratch["rows"].at[i, group], ready)
            plgpu.barrier_wait(ready)
            loaded = tuple(parts.loaded(plan, scratch["rows"].at[i, group], 1) for i in range(len(arrays)))

            def step(j: Any, gradient: Array, hides: bool) -> Array:
                slot = parts.slot_of(j - begin)
                k_tile, v_tile = scratch["k"].at[slot], scratch["v"].at[slot]
                plgpu.barrier_wait(scratch["filled"].at[slot])
                scores, d_weights = parts.products(plan, [(q_tile, k_tile), (d_tile, v_tile)])
                scores = scores * plan.scale
                d_scores = back(scores, d_weights, loaded[: len(rows)], _last(loaded, delta), spread)
                if hides:
                    lines = parts.indices(plan, shape, 0) + here
                    seen = parts.visible(plan, lines, parts.indices(plan, shape, 1) + j * columns)
                    d_scores = jnp.where(seen, d_scores, 0.0)
                (gradient,) = parts.added(plan, (gradient,), [(d_scores.astype(plan.dtype), k_tile)])
                plgpu.barrier_arrive(scratch["free"].at[slot])
                return gradient

            gradient = parts.laid(plan, jnp.zeros((GROUP, width), jnp.float32))
            gradient = parts.loop(begin, left, partial(step, hides=True), gradient)
            gradient = parts.loop(left, whole, partial(step, hides=False), gradient)
            gradient = parts.loop(whole, end, partial(step, hides=True), gradient)
            parts.stored([(gradient * plan.scale, q_tile, out_ref.at[mine])])

        def copy() -> None:
            key_head = quotient(head, plan.group)

            def fetch(j: Any, slot: Any) -> None:
                there = (batch, pl.ds((begin + j) * columns, columns), key_head)
                filled = scratch["filled"].at[slot]
                plgpu.copy_gmem_to_smem(k_ref.at[there], scratch["k"].at[slot], filled)
                plgpu.copy_gmem_to_smem(v_ref.at[there], scratch["v"].at[slot], filled)

            parts.copied_ahead(end - begin, plan.key_rows // columns, fetch, [scratch["free"]])

        parts.split_roles(multiply, copy)

    scratch = {
        "q": parts.tile_memory(plan, MULTIPLIERS, GROUP, width),
        "d": parts.tile_memory(plan, MULTIPLIERS, GROUP, width),
        "k": parts.tile_memory(plan, STAGES, columns, width),
        "v": parts.tile_memory(plan, STAGES, columns, width),
        "ready": plgpu.Barrier(num_arrivals=2 + len(arrays), num_barriers=MULTIPLIERS),
        "filled": plgpu.Barrier(num_arrivals=2, num_barriers=STAGES),
        "free": plgpu.Barrier(num_arrivals=MULTIPLIERS, num_barriers=STAGES),
    }
    if arrays:
        scratch["rows"] = plgpu.SMEM((len(arrays), MULTIPLIERS, GROUP), jnp.float32)
    outs = [jax.ShapeDtypeStruct(q.shape, q.dtype)]
    grid = (tiles, plan.query_heads, plan.batch)
    (found,) = parts.kernel(plan, body, outs, scratch, grid)(q, k, v, d_out, *arrays)
    return found


def _last(loaded: Rows, delta: Array | None) -> Array | None:
    return None if delta is None else loaded[-1]


def of_keys(
    plan: Plan, rule: Rule, q: Array, k: Array, v: Array, d_out: Array, rows: Rows, delta: Array | None
) -> tuple[Array, Array]:
    """Gradients of k and v, [B, S, K, H] in the dtype of q; arguments as in `of_queries`."""
    lines, width = plan.lines, plan.width
    arrays = rows if delta is None else (*rows, delta)

    def body(*refs: Ref, **scratch: Ref) -> None:
        q_ref, k_ref, v_ref, d_ref, *row_refs, dk_ref, dv_ref = refs
        first = lax.axis_index("tile") * ROWS
        key_head, batch = lax.axis_index("head"), lax.axis_index("batch")
        start, left, whole, end = query_blocks(plan, first)
        steps = end - start
        shape = (GROUP, lines)
        spread = parts.spread_over(shape, 1)

        def multiply(group: Array) -> None:
            here = first + group * GROUP
            mine = (batch, pl.ds(here, GROUP), key_head)
            ready, k_tile, v_tile = (scratch[name].at[group] for name in ("ready", "k", "v"))
            plgpu.copy_gmem_to_smem(k_ref.at[mine], k_tile, ready)
            plgpu.copy_gmem_to_smem(v_ref.at[mine], v_tile, ready)
            plgpu.barrier_wait(ready)

            def step(j: Any, gradients: Any, done: Any, hides: bool) -> Any:
                slot = parts.slot_of(done + j - start)
                q_tile, d_tile = scratch["q"].at[slot], scratch["d"].at[slot]
                plgpu.barrier_wait(scratch["filled"].at[slot])
                scores, d_weights = parts.products(plan, [(k_tile, q_tile), (v_tile, d_tile)])
                scores = scores * plan.scale
                loaded = tuple(parts.loaded(plan, scratch["rows"].at[slot, i], 0) for i in range(len(arrays)))
                weights = rule.weight(scores, loaded[: len(rows)], spread)
                d_scores = rule.back(scores, d_weights, loaded[: len(rows)], _last(loaded, delta), spread)
                if hides:
                    keys = parts.indices(plan, shape, 0) + here
                    seen = parts.visible(plan, parts.indices(plan, shape, 1) + j * lines, keys)
                    weights, d_scores = jnp.where(seen, weights, 0.0), jnp.where(seen, d_scores, 0.0)
                pairs = [(d_scores.astype(plan.dtype), q_tile), (weights.astype(plan.dtype), d_tile)]
                gradients = parts.added(plan, gradients, pairs)
                plgpu.barrier_arrive(scratch["free"].at[slot])
                return gradients

            def of_head(member: Any, gradients: Any) -> Any:
                done = member * steps
                gradients = parts.loop(start, left, partial(step, done=done, hides=True), gradients)
                gradients = parts.loop(left, whole, partial(step, done=done, hides=False), gradients)
                return parts.loop(whole, end, partial(step, done=done, hides=True), gradients)

            zero = parts.laid(plan, jnp.zeros((GROUP, width), jnp.float32))
            gradients = zero, zero
            if plan.group == 1:
                gradients = of_head(np.int32(0), gradients)
            else:
                gradients = parts.loop(0, plan.group, of_head, gradients)
            dk, dv = gradients
            parts.stored([(dk * plan.scale, k_tile, dk_ref.at[mine]), (dv, v_tile, dv_ref.at[mine])])

        def copy() -> None:
            def fetch(step: Any, slot: Any) -> None:
                member = lax.div(step, np.int32(steps) if isinstance(steps, int) else steps)
                head, there = key_head * plan.group + member, pl.ds((start + step - member * steps) * lines, lines)
                filled = scratch["filled"].at[slot]
                plgpu.copy_gmem_to_smem(q_ref.at[batch, there, head], scratch["q"].at[slot], filled)
                plgpu.copy_gmem_to_smem(d_ref.at[batch, there, head], scratch["d"].at[slot], filled)
                for i, ref in enumerate(row_refs):
                    plgpu.copy_gmem_to_smem(ref.at[batch, head, there], scratch["rows"].at[slot, i], filled)

            parts.copied_ahead(steps * plan.group, plan.group * plan.query_rows // lines, fetch, [scratch["free"]])

        parts.split_roles(multiply, copy)

    scratch = {
        "k": parts.tile_memory(plan, MULTIPLIERS, GROUP, width),
        "v": parts.tile_memory(plan, MULTIPLIERS, GROUP, width),
        "q": parts.tile_memory(plan, STAGES, lines, width),
        "d": parts.tile_memory(plan, STAGES, lines, width),
        "ready": plgpu.Barrier(num_arrivals=2, num_barriers=MULTIPLIERS),
        "filled": plgpu.Barrier(num_arrivals=2 + len(arrays), num_barriers=STAGES),
        "free": plgpu.Barrier(num_arrivals=MULTIPLIERS, num_barriers=STAGES),
    }
    if arrays:
        scratch["rows"] = plgpu.SMEM((STAGES, len(arrays), lines), jnp.float32)
    outs = [jax.ShapeDtypeStruct(x.shape, q.dtype) for x in (k, v)]
    grid = (plan.key_rows // ROWS, plan.key_heads, plan.batch)
    dk, dv = parts.kernel(plan, body, outs, scratch, grid)(q, k, v, d_out, *arrays)
    return dk, dv


def received(plan: Plan, weight: Weight, q: Array, k: Array, rows: Rows) -> Array:
    """Sum over the queries of the weights on each key, float32 [B, N, S]; arguments as in `sweep`."""
    lines, width = plan.lines, plan.width

    def body(*refs: Ref, **scratch: Ref) -> None:
        q_ref, k_ref, *row_refs, out_ref = refs
        first = lax.axis_index("tile") * ROWS
        head, batch = lax.axis_index("head"), lax.axis_index("batch")
        start, left, whole, end = query_blocks(plan, first)
        shape = (GROUP, lines)
        spread = parts.spread_over(shape, 1)

        def multiply(group: Array) -> None:
            here = first + group * GROUP
            ready, k_tile = scratch["ready"].at[group], scratch["k"].at[group]
            key_head = quotient(head, plan.group)
            plgpu.copy_gmem_to_smem(k_ref.at[batch, pl.ds(here, GROUP), key_head], k_tile, ready)
            plgpu.barrier_wait(ready)

            def step(j: Any, total: Array, hides: bool) -> Array:
                slot = parts.slot_of(j - start)
                plgpu.barrier_wait(scratch["filled"].at[slot])
                (scores,) = parts.products(plan, [(k_tile, scratch["q"].at[slot])])
                scores = scores * plan.scale
                loaded = tuple(parts.loaded(plan, scratch["rows"].at[slot, i], 0) for i in range(len(rows)))
                plgpu.barrier_arrive(scratch["free"].at[slot])
                weights = weight(scores, loaded, spread)
                if hides:
                    queries = parts.indices(plan, shape, 1) + j * lines
                    seen = parts.visible(plan, queries, parts.indices(plan, shape, 0) + here)
                    weights = jnp.where(seen, jnp.where(queries < plan.queries, weights, 0.0), 0.0)
                return total + jnp.sum(weights, axis=1)

            total = parts.laid(plan, jnp.zeros((GROUP,), jnp.float32), 1)
            total = parts.loop(start, left, partial(step, hides=True), total)
            total = parts.loop(left, whole, partial(step, hides=False), total)
            total = parts.loop(whole, end, partial(step, hides=True), total)
            parts.stored([(total, scratch["total"].at[group], out_ref.at[batch, head, pl.ds(here, GROUP)])])

        def copy() -> None:
            def fetch(step: Any, slot: Any) -> None:
                there, filled = pl.ds((start + step) * lines, lines), scratch["filled"].at[slot]
                plgpu.copy_gmem_to_smem(q_ref.at[batch, there, head], scratch["q"].at[slot], filled)
                for i, ref in enumerate(row_refs):
                    plgpu.copy_gmem_to_smem(ref.at[batch, head, there], scratch["rows"].at[slot, i], filled)

            parts.copied_ahead(end - start, plan.query_rows // lines, fetch, [scratch["free"]])

        parts.split_roles(multiply, copy)

    scratch = {
        "k": parts.tile_memory(plan, MULTIPLIERS, GROUP, width),
        "q": parts.tile_memory(plan, STAGES, lines, width),
        "total": plgpu.SMEM((MULTIPLIERS, GROUP), jnp.float32),
        "ready": plgpu.Barrier(num_barriers=MULTIPLIERS),
        "filled": plgpu.Barrier(num_arrivals=1 + len(rows), num_barriers=STAGES),
        "free": plgpu.Barrier(num_arrivals=MULTIPLIERS, num_barriers=STAGES),
    }
    if rows:
        scratch["rows"] = plgpu.SMEM((STAGES, len(rows), lines), jnp.float32)
    outs = [jax.ShapeDtypeStruct((plan.batch, plan.query_heads, plan.key_rows), jnp.float32)]
    grid = (plan.key_rows // ROWS, plan.query_heads, plan.batch)
    (found,) = parts.kernel(plan, body, outs, scratch, grid)(q, k, *rows)
    return found
