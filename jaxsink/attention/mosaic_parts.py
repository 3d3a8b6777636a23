"""What the kernels for Hopper GPUs share: copies ahead of use, products, and what a matrix unit needs to know.

Each kernel has two warpgroups that multiply and one that copies ahead of them. Scores, weights and sums are float32;
weights and cotangents of scores are rounded to the 16 bits of q, k and v where a matrix unit takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxsink.attention.mosaic_plan import MULTIPLIERS, Plan

# Of a thread; together they are those of a multiprocessor.
_REGISTERS, _REGISTERS_OF_COPIES = 232, 40
Ref = Any


def slot_of(step: Any, stages: int) -> Any:
    """The slot of shared memory for a step."""
    return lax.rem(step, np.int32(stages))


def loop(start: Any, end: Any, step: Callable[[Any, Any], Any], carry: Any) -> Any:
    """Fold step(index, carry) over the indices from start to end."""
    if isinstance(start, int) and isinstance(end, int):
        return carry if start == end else lax.fori_loop(np.int32(start), np.int32(end), step, carry)
    return lax.fori_loop(start, end, step, carry)


# What differs between a GPU and the interpreter -----------------------------------------------------------------
def laid(plan: Plan, x: Array, axis: int | None = None) -> Array:
    """x as a matrix unit lays out a tile, or, given an axis, what is left of one without that axis."""
    layout = plgpu.Layout.WGMMA
    return x if plan.interpreted else plgpu.layout_cast(x, layout if axis is None else layout.reduce(axis))


def loaded(plan: Plan, ref: Ref, axis: int) -> Array:
    """What is left of a tile without an axis, from shared memory."""
    if plan.interpreted:
        return ref[...]
    load: Any = (
        plgpu.load if jax.__version_info__ >= (0, 11) else lambda ref, layout: plgpu.load(ref, (), layout=layout)
    )
    found: Array = load(ref, layout=plgpu.Layout.WGMMA.reduce(axis))
    return found


def indices(plan: Plan, shape: tuple[int, int], axis: int) -> Array:
    """int32 of the shape, the index along an axis."""
    return laid(plan, lax.broadcasted_iota(jnp.int32, shape, axis))


def products(plan: Plan, pairs: list[tuple[Ref, Ref]], meanwhile: Callable[[], None] = lambda: None) -> list[Array]:
    """Each a b^T in float32, all at the same time, of tiles in shared memory; `meanwhile` is done while they run."""
    if plan.interpreted:  # of which the first versions multiply no transposed tiles
        found = [_dot(a[...], b[...], transposed=True) for a, b in pairs]
        meanwhile()
        return found

    def multiply(*sums: Ref) -> list[Array]:
        for ref, (a, b) in zip(sums, pairs, strict=True):
            plgpu.wgmma(ref, a, b.transpose((1, 0)))
        meanwhile()
        return [ref[...] for ref in sums]

    return list(
        pl.run_scoped(multiply, *(plgpu.WGMMAAccumulatorRef((a.shape[0], b.shape[0]), jnp.float32) for a, b in pairs))
    )


def added(plan: Plan, totals: tuple[Array, ...], pairs: list[tuple[Array, Ref]]) -> tuple[Array, ...]:
    """Each total + a b, all at the same time, with a in registers and b in shared memory."""
    if plan.interpreted:  # which multiplies what is in shared memory alone
        return tuple(total + _dot(a, b[...]) for total, (a, b) in zip(totals, pairs, strict=True))

    def multiply(sums: tuple[Ref, ...]) -> None:
        for ref, (a, b) in zip(sums, pairs, strict=True):
            plgpu.wgmma(ref, a, b)

    return tuple(pl.run_state(multiply)(tuple(plgpu.WGMMAAccumulatorRef.init(total) for total in totals)))


def _dot(a: Array, b: Array, transposed: bool = False) -> Array:
    axes = (((1,), (1 if transposed else 0,)), ((), ()))
    return lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


# Parts of a kernel ----------------------------------------------------------------------------------------------
def tile_memory(plan: Plan, *shape: int) -> Any:
    """Shared memory for tiles as the matrix units read them."""
    transforms = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
    return plgpu.SMEM(shape, jnp.dtype(plan.dtype), transforms=transforms)


def kernel(
    plan: Plan, body: Callable[..., None], out: list[Any], scratch: dict[str, Any], grid: tuple[int, ...]
) -> Any:
    """A kernel on a grid of (tiles, heads, sequences)."""
    return plgpu.kernel(
        body,
        out_type=out,
        scratch_types=scratch,
        grid=grid,
        grid_names=("tile", "head", "batch"),
        num_threads=MULTIPLIERS + 1,
        thread_name="group",
        compiler_params=plgpu.CompilerParams(approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Lane),
        interpret=_interpreter() if plan.interpreted else None,
    )


def _interpreter() -> Any:
    """The interpreter of Pallas for kernels of GPUs, which has no public name in the first version that has it."""
    if jax.__version_info__ >= (0, 11):
        return getattr(plgpu, "InterpretGPUParams")()  # noqa: B009 - which mypy misses in that version
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    return InterpretGPUParams()


def split_roles(multiply: Callable[[Array], None], copy: Callable[[], None]) -> None:
    """Give the warpgroups their work, and the registers for it."""
    group = lax.axis_index("group")

    @pl.when(group < MULTIPLIERS)
    def _multiply() -> None:
        plgpu.set_max_registers(_REGISTERS, action="increase")
        multiply(group)

    @pl.when(group == MULTIPLIERS)
    def _copy() -> None:
        plgpu.set_max_registers(_REGISTERS_OF_COPIES, action="decrease")
        copy()


def copied_ahead(steps: Any, most: int, stages: int, fetch: Callable[[Any, Any], None], free: list[Ref]) -> None:
    """Fetch every step, of which there are at most `most`, into one of as many slots as `stages` once it is free."""
    for step in range(min(stages, most)):
        if isinstance(steps, int):
            fetch(np.int32(step), step)
        else:
            pl.when(step < steps)(partial(fetch, np.int32(step), step))

    def follow(step: Any, _: None, fetches: bool) -> None:
        slot = slot_of(step, stages)
        for barrier in free:
            plgpu.barrier_wait(barrier.at[slot])
        if fetches:
            fetch(step, slot)

    ahead = max(steps, stages) if isinstance(steps, int) else jnp.maximum(steps, stages)
    if most > stages:
        loop(stages, ahead, partial(follow, fetches=True), None)
    loop(ahead, steps + stages, partial(follow, fetches=False), None)


def stored(pairs: list[tuple[Array, Ref, Ref]]) -> None:
    """Write arrays to global memory by way of shared memory: (array, shared, global)."""
    for array, shared, _ in pairs:
        shared[...] = array.astype(shared.dtype)
    plgpu.commit_smem()
    for _, shared, out in pairs:
        plgpu.copy_smem_to_gmem(shared, out)
    plgpu.wait_smem_to_gmem(0)


def spread_over(shape: tuple[int, int], axis: int) -> Callable[[Array], Array]:
    """A function that makes a tile of what belongs to the rows of it, which lie along an axis."""
    return lambda x: lax.broadcast_in_dim(x, shape, (axis,))


def visible(plan: Plan, rows: Array, columns: Array) -> Array:
    """bool, whether queries see keys, by their indices; padded keys are hidden."""
    if not plan.causal:
        return columns < plan.keys
    seen = columns <= jnp.minimum(rows + plan.offset, plan.keys - 1)
    return seen & (columns > rows + (plan.offset - plan.window)) if plan.window else seen
