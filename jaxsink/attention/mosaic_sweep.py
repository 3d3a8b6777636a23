"""The sweep over keys of fused attention on Hopper GPUs: weighted values, sums of rows, or both."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxsink.attention import mosaic_parts as parts
from jaxsink.attention.mosaic_parts import Ref
from jaxsink.attention.mosaic_plan import GROUP, MULTIPLIERS, ROWS, STAGES, Plan, key_blocks, quotient
from jaxsink.attention.mosaic_rules import LOG2_E, Rows, Sums, Weight


def sweep(
    plan: Plan, weight: Weight | None, sums: Sums | None, q: Array, k: Array, v: Array | None, rows: Rows
) -> tuple[Array | None, Array | None, Array | None]:
    """Weighted values, sums of rows, or both in one sweep over the keys.

    Args:
        weight: given the row arguments; None for the numerators of `sums`.
        sums: what to add up on the way, or None.
        q: [B, T, N, H]. k: [B, S, K, H]. v: [B, S, K, H], or None for sums alone. All padded.
        rows: row arguments of `weight`, float32 [B, N, T], padded.

    Returns:
        (out [B, T, N, H] in the dtype of q, largest exponents and sums float32 [B, N, T]), each None if not asked for.
    """
    columns, width = plan.columns, plan.width
    tiles = plan.query_rows // ROWS
    scaled = sums is not None and sums.exponent is not None
    kinds = [v is not None, scaled, sums is not None]
    of_row = jax.ShapeDtypeStruct((plan.batch, plan.query_heads, plan.query_rows), jnp.float32)
    everything = (jax.ShapeDtypeStruct(q.shape, q.dtype), of_row, of_row)
    outs = [out for out, kind in zip(everything, kinds, strict=True) if kind]

    def body(*refs: Ref, **scratch: Ref) -> None:
        given = iter(refs)
        q_ref, k_ref = next(given), next(given)
        v_ref = next(given) if v is not None else None
        row_refs = [next(given) for _ in rows]
        outputs: list[Any] = [next(given) if kind else None for kind in kinds]
        to_out, to_top, to_total = outputs
        head, batch = lax.axis_index("head"), lax.axis_index("batch")
        # The longest rows first: what is left at the end then is short.
        tile = tiles - 1 - lax.axis_index("tile")
        first = tile * ROWS
        begin, left, whole, end = key_blocks(plan, columns, first, exact=sums is not None)

        def take_turns() -> None:
            if v is not None:
                plgpu.barrier_arrive(scratch["turn"])
                plgpu.barrier_wait(scratch["turn"])

        def multiply(group: Array) -> None:
            here = first + group * GROUP
            mine = (batch, head, pl.ds(here, GROUP))
            ready = scratch["ready"].at[group]
            q_tile = scratch["q"].at[group]
            plgpu.copy_gmem_to_smem(q_ref.at[batch, pl.ds(here, GROUP), head], q_tile, ready)
            for i, ref in enumerate(row_refs):
                plgpu.copy_gmem_to_smem(ref.at[mine], scratch["rows"].at[i, group], ready)
            plgpu.barrier_wait(ready)
            arguments = tuple(parts.loaded(plan, scratch["rows"].at[i, group], 1) for i in range(len(rows)))
            spread = parts.spread_over((GROUP, columns), 0)

            def step(j: Any, carry: Any, hides: bool) -> Any:
                out, top, total = carry
                slot = parts.slot_of(j - begin, STAGES)
                plgpu.barrier_wait(scratch["k_ready"].at[slot])

                (scores,) = parts.products(plan, [(q_tile, scratch["k"].at[slot])], take_turns)
                scores = scores * plan.scale
                plgpu.barrier_arrive(scratch["k_free"].at[slot])
                seen = None
                if hides:
                    lines = parts.indices(plan, (GROUP, columns), 0) + here
                    seen = parts.visible(plan, lines, parts.indices(plan, (GROUP, columns), 1) + j * columns)

                def kept(x: Array, otherwise: float = 0.0) -> Array:
                    return x if seen is None else jnp.where(seen, x, otherwise)

                if sums is not None:
                    if sums.exponent is not None:
                        higher = jnp.maximum(top, jnp.max(kept(sums.exponent(scores), sums.lowest), axis=1))
                        shrunk = jnp.exp2((top - higher) * LOG2_E)
                        total = total * (
                            shrunk if sums.power == 1.0 else jnp.exp2((top - higher) * (LOG2_E * sums.power))
                        )
                        if v is not None:
                            out = out * lax.broadcast_in_dim(shrunk, out.shape, (0,))
                        top = higher
                    total = total + jnp.sum(kept(sums.size(scores, top, spread)), axis=1)
                if v is None:
                    return out, top, total
                if weight is not None:
                    weights = weight(scores, arguments, spread)
                else:
                    assert sums is not None
                    assert sums.numerator is not None
                    weights = sums.numerator(scores, top, spread)
                narrow = kept(weights).astype(plan.dtype)
                plgpu.barrier_arrive(scratch["turn"])
                plgpu.barrier_wait(scratch["v_ready"].at[slot])
                plgpu.barrier_wait(scratch["turn"])
                (out,) = parts.added(plan, (out,), [(narrow, scratch["v"].at[slot])])
                plgpu.barrier_arrive(scratch["v_free"].at[slot])
                return out, top, total

            def filled(value: float) -> Array:
                return parts.laid(plan, jnp.full((GROUP,), value, jnp.float32), 1)

            out = None if v is None else parts.laid(plan, jnp.zeros((GROUP, width), jnp.float32))
            top = filled(sums.lowest) if scaled and sums is not None else None
            carry = out, top, None if sums is None else filled(0.0)
            pl.when(group == 1)(take_turns)
            carry = parts.loop(begin, left, partial(step, hides=True), carry)
            carry = parts.loop(left, whole, partial(step, hides=False), carry)
            carry = parts.loop(whole, end, partial(step, hides=True), carry)
            pl.when(group == 0)(take_turns)
            out, top, total = carry
            if out is not None and weight is None:
                assert sums is not None
                assert sums.factor is not None
                out = out * lax.broadcast_in_dim(sums.factor(top, total), out.shape, (0,))
            written: list[Any] = []
            if out is not None:
                written.append((out, q_tile, to_out.at[batch, pl.ds(here, GROUP), head]))
            if top is not None:
                written.append((top, scratch["top"].at[group], to_top.at[mine]))
            if total is not None:
                written.append((total, scratch["total"].at[group], to_total.at[mine]))
            parts.stored(written)

        def copy() -> None:
            key_head = quotient(head, plan.group)

            def fetch(j: Any, slot: Any) -> None:
                there = (batch, pl.ds((begin + j) * columns, columns), key_head)
                plgpu.copy_gmem_to_smem(k_ref.at[there], scratch["k"].at[slot], scratch["k_ready"].at[slot])
                if v_ref is not None:
                    plgpu.copy_gmem_to_smem(v_ref.at[there], scratch["v"].at[slot], scratch["v_ready"].at[slot])

            free = [scratch[name] for name in ("k_free", "v_free") if name in scratch]
            parts.copied_ahead(end - begin, plan.key_rows // columns, STAGES, fetch, free)

        parts.split_roles(multiply, copy)

    scratch = {
        "q": parts.tile_memory(plan, MULTIPLIERS, GROUP, width),
        "k": parts.tile_memory(plan, STAGES, columns, width),
        "ready": plgpu.Barrier(num_arrivals=1 + len(rows), num_barriers=MULTIPLIERS),
        "k_ready": plgpu.Barrier(num_barriers=STAGES),
        "k_free": plgpu.Barrier(num_arrivals=MULTIPLIERS, num_barriers=STAGES),
    }
    if v is not None:
        scratch |= {
            "v": parts.tile_memory(plan, STAGES, columns, width),
            "v_ready": plgpu.Barrier(num_barriers=STAGES),
            "v_free": plgpu.Barrier(num_arrivals=MULTIPLIERS, num_barriers=STAGES),
            "turn": plgpu.Barrier(num_arrivals=MULTIPLIERS),
        }
    if rows:
        scratch["rows"] = plgpu.SMEM((len(rows), MULTIPLIERS, GROUP), jnp.float32)
    if scaled:
        scratch["top"] = plgpu.SMEM((MULTIPLIERS, GROUP), jnp.float32)
    if sums is not None:
        scratch["total"] = plgpu.SMEM((MULTIPLIERS, GROUP), jnp.float32)
    operands = (q, k, *(() if v is None else (v,)), *rows)
    found = iter(parts.kernel(plan, body, outs, scratch, (tiles, plan.query_heads, plan.batch))(*operands))
    out, top, total = (next(found) if kind else None for kind in kinds)
    return out, top, total
