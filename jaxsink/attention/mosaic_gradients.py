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
from jaxsink.attention.mosaic_parts import Ref
from jaxsink.attention.mosaic_plan import GROUP, MULTIPLIERS, ROWS, STAGES, Plan, key_blocks, query_blocks, quotient
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
    columns, stages, width = plan.columns, plan.gradient_stages, plan.width
    tiles = plan.query_rows // ROWS
    arrays = rows if delta is None else (*rows, delta)

    def body(*refs: Ref, **scratch: Ref) -> None:
        q_ref, k_ref, v_ref, d_ref, *row_refs, out_ref = refs
        head, batch = lax.axis_index("head"), lax.axis_index("batch")
        first = (tiles - 1 - lax.axis_index("tile")) * ROWS
        begin, left, whole, end = key_blocks(plan, columns, first, exact=False)
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
                slot = parts.slot_of(j - begin, stages)
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

            parts.copied_ahead(end - begin, plan.key_rows // columns, stages, fetch, [scratch["free"]])

        parts.split_roles(multiply, copy)

    scratch = {
        "q": parts.tile_memory(plan, MULTIPLIERS, GROUP, width),
        "d": parts.tile_memory(plan, MULTIPLIERS, GROUP, width),
        "k": parts.tile_memory(plan, stages, columns, width),
        "v": parts.tile_memory(plan, stages, columns, width),
        "ready": plgpu.Barrier(num_arrivals=2 + len(arrays), num_barriers=MULTIPLIERS),
        "filled": plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        "free": plgpu.Barrier(num_arrivals=MULTIPLIERS, num_barriers=stages),
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
    given = (plan, rule, q, k, v, d_out, rows, delta)
    if plan.width <= 128:
        d_k, d_v = _of_keys(*given, of_k=True, of_v=True)
    else:  # A thread's registers hold one of them.
        (d_k,), (d_v,) = _of_keys(*given, of_k=True, of_v=False), _of_keys(*given, of_k=False, of_v=True)
    return d_k, d_v


def _of_keys(
    plan: Plan,
    rule: Rule,
    q: Array,
    k: Array,
    v: Array,
    d_out: Array,
    rows: Rows,
    delta: Array | None,
    *,
    of_k: bool,
    of_v: bool,
) -> list[Array]:
    """Those of the gradients of k and v that are asked for."""
    lines, stages, width = plan.gradient_lines, plan.gradient_stages, plan.width
    arrays = rows if delta is None else (*rows, delta)

    def body(*refs: Ref, **scratch: Ref) -> None:
        q_ref, k_ref, v_ref, d_ref, *row_refs = refs[: 4 + len(arrays)]
        out_refs = refs[4 + len(arrays) :]
        first = lax.axis_index("tile") * ROWS
        key_head, batch = lax.axis_index("head"), lax.axis_index("batch")
        start, left, whole, end = query_blocks(plan, lines, first)
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
                slot = parts.slot_of(done + j - start, stages)
                q_tile, d_tile = scratch["q"].at[slot], scratch["d"].at[slot]
                plgpu.barrier_wait(scratch["filled"].at[slot])
                factors = [(k_tile, q_tile), (v_tile, d_tile)]
                scores, *d_weights = parts.products(plan, factors if of_k else factors[:1])
                scores = scores * plan.scale
                loaded = tuple(parts.loaded(plan, scratch["rows"].at[slot, i], 0) for i in range(len(arrays)))
                keys = parts.indices(plan, shape, 0) + here if hides else None

                def narrow(x: Array) -> Array:
                    # Made anew for each of the two gradients: kept, it would take registers, which are scarce here.
                    if keys is not None:
                        seen = parts.visible(plan, parts.indices(plan, shape, 1) + j * lines, keys)
                        x = jnp.where(seen, x, 0.0)
                    return x.astype(plan.dtype)

                pairs = []
                if of_k:
                    d_scores = rule.back(scores, d_weights[0], loaded[: len(rows)], _last(loaded, delta), spread)
                    pairs.append((narrow(d_scores), q_tile))
                if of_v:
                    pairs.append((narrow(rule.weight(scores, loaded[: len(rows)], spread)), d_tile))
                gradients = parts.added(plan, gradients, pairs)
                plgpu.barrier_arrive(scratch["free"].at[slot])
                return gradients

            def of_head(member: Any, gradients: Any) -> Any:
                done = member * steps
                gradients = parts.loop(start, left, partial(step, done=done, hides=True), gradients)
                gradients = parts.loop(left, whole, partial(step, done=done, hides=False), gradients)
                return parts.loop(whole, end, partial(step, done=done, hides=True), gradients)

            zero = parts.laid(plan, jnp.zeros((GROUP, width), jnp.float32))
            gradients = (zero,) * (of_k + of_v)
            if plan.group == 1:
                gradients = of_head(np.int32(0), gradients)
            else:
                gradients = parts.loop(0, plan.group, of_head, gradients)
            if of_k:
                gradients = (gradients[0] * plan.scale, *gradients[1:])
            # By way of tiles that have been read for the last time.
            tiles = (k_tile, v_tile)[: len(gradients)]
            parts.stored([(x, y, z.at[mine]) for x, y, z in zip(gradients, tiles, out_refs, strict=True)])

        def copy() -> None:
            def fetch(step: Any, slot: Any) -> None:
                member = lax.div(step, np.int32(steps) if isinstance(steps, int) else steps)
                head, there = key_head * plan.group + member, pl.ds((start + step - member * steps) * lines, lines)
                filled = scratch["filled"].at[slot]
                plgpu.copy_gmem_to_smem(q_ref.at[batch, there, head], scratch["q"].at[slot], filled)
                plgpu.copy_gmem_to_smem(d_ref.at[batch, there, head], scratch["d"].at[slot], filled)
                for i, ref in enumerate(row_refs):
                    plgpu.copy_gmem_to_smem(ref.at[batch, head, there], scratch["rows"].at[slot, i], filled)

            parts.copied_ahead(
                steps * plan.group, plan.group * plan.query_rows // lines, stages, fetch, [scratch["free"]]
            )

        parts.split_roles(multiply, copy)

    scratch = {
        "k": parts.tile_memory(plan, MULTIPLIERS, GROUP, width),
        "v": parts.tile_memory(plan, MULTIPLIERS, GROUP, width),
        "q": parts.tile_memory(plan, stages, lines, width),
        "d": parts.tile_memory(plan, stages, lines, width),
        "ready": plgpu.Barrier(num_arrivals=2, num_barriers=MULTIPLIERS),
        "filled": plgpu.Barrier(num_arrivals=2 + len(arrays), num_barriers=stages),
        "free": plgpu.Barrier(num_arrivals=MULTIPLIERS, num_barriers=stages),
    }
    if arrays:
        scratch["rows"] = plgpu.SMEM((stages, len(arrays), lines), jnp.float32)
    outs = [jax.ShapeDtypeStruct(k.shape, q.dtype)] * (of_k + of_v)
    grid = (plan.key_rows // ROWS, plan.key_heads, plan.batch)
    return list(parts.kernel(plan, body, outs, scratch, grid)(q, k, v, d_out, *arrays))


def received(plan: Plan, weight: Weight, q: Array, k: Array, rows: Rows) -> Array:
    """Sum over the queries of the weights on each key, float32 [B, N, S]; arguments as in `sweep`."""
    lines, width = plan.received_lines, plan.width

    def body(*refs: Ref, **scratch: Ref) -> None:
        q_ref, k_ref, *row_refs, out_ref = refs
        first = lax.axis_index("tile") * ROWS
        head, batch = lax.axis_index("head"), lax.axis_index("batch")
        start, left, whole, end = query_blocks(plan, lines, first)
        shape = (GROUP, lines)
        spread = parts.spread_over(shape, 1)

        def multiply(group: Array) -> None:
            here = first + group * GROUP
            ready, k_tile = scratch["ready"].at[group], scratch["k"].at[group]
            key_head = quotient(head, plan.group)
            plgpu.copy_gmem_to_smem(k_ref.at[batch, pl.ds(here, GROUP), key_head], k_tile, ready)
            plgpu.barrier_wait(ready)

            # Summed over the lines at the end alone: every sum of a row takes an exchange between threads.
            def step(j: Any, totals: Array, hides: bool) -> Array:
                slot = parts.slot_of(j - start, STAGES)
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
                return totals + weights

            totals = parts.laid(plan, jnp.zeros(shape, jnp.float32))
            totals = parts.loop(start, left, partial(step, hides=True), totals)
            totals = parts.loop(left, whole, partial(step, hides=False), totals)
            totals = parts.loop(whole, end, partial(step, hides=True), totals)
            parts.stored(
                [(jnp.sum(totals, axis=1), scratch["total"].at[group], out_ref.at[batch, head, pl.ds(here, GROUP)])]
            )

        def copy() -> None:
            def fetch(step: Any, slot: Any) -> None:
                there, filled = pl.ds((start + step) * lines, lines), scratch["filled"].at[slot]
                plgpu.copy_gmem_to_smem(q_ref.at[batch, there, head], scratch["q"].at[slot], filled)
                for i, ref in enumerate(row_refs):
                    plgpu.copy_gmem_to_smem(ref.at[batch, head, there], scratch["rows"].at[slot, i], filled)

            parts.copied_ahead(end - start, plan.query_rows // lines, STAGES, fetch, [scratch["free"]])

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
