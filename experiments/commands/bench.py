"""`jaxsink bench`: speed as ratios against a peer in the same run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from experiments.environment import environment
from experiments.studies.bigram_backcopy import cost
from jaxsink.training import TrainConfig, seed_keys
from jaxsink.training.runs import build, next_token_loss
from theory.claim import Tier
from theory.claims import arms

ARMS = {
    "1 layer, softmax": arms.SOFTMAX,
    "1 layer, ReLU": arms.RELU,
    "3 layers, AdamW": arms.DEEP_ADAM,
    "3 layers, SGD": arms.DEEP_SGD,
}
REPEATS = 3
# Calls that together take less are timed together: the time that Python takes to start one would count otherwise.
_LEAST_SECONDS, _MOST_CALLS = 0.1, 50
# Quick runs that an accelerator trains at once.
SEEDS = 128


def median_seconds(work: Callable[[], Any]) -> float:
    """Median seconds of a call, compiled and warm."""

    def seconds(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls - 1):
            work()
        jax.block_until_ready(work())
        return (time.perf_counter() - start) / calls

    seconds(1)
    once = seconds(1)
    calls = math.ceil(min(_LEAST_SECONDS / once, _MOST_CALLS))
    found = [once] if calls == 1 else []
    return float(np.median(found + [seconds(calls) for _ in range(REPEATS - len(found))]))


def _host_loop(spec: TrainConfig, steps: int) -> float:
    """Seconds per step of the naive peer: one jitted step called from Python, its batch by another jitted call."""
    program, model, task = build(spec)
    keys, optimiser = seed_keys(0), spec.optimiser.build()
    state = program.init(keys.init)
    sample = jax.jit(lambda key: task.sample(key, spec.batch, spec.length))

    @jax.jit
    def step(params: Any, opt_state: Any, batch: jax.Array) -> tuple[Any, Any]:
        gradient = jax.grad(lambda p: next_token_loss(model, task, p, batch, spec.loss_on))(params)
        updates, opt_state = optimiser.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def work() -> Any:
        params, opt_state = state.params, state.opt_state
        for number in range(steps):
            params, opt_state = step(params, opt_state, sample(jax.random.fold_in(keys.data, number)))
        return params

    return median_seconds(work) / steps


class Timed(NamedTuple):
    """Milliseconds of a step with its data, of the data alone, and of a log point; TFLOP/s of the step."""

    step: float
    data: float
    probe: float
    speed: float


def _timed(spec: TrainConfig, steps: int, seeds: int = 1) -> Timed:
    """Time the compiled program of a run, for that many seeds at once."""
    program, _, task = build(spec, ensemble=seeds > 1)
    each, chunks = [seed_keys(seed) for seed in range(seeds)], max(1, steps // spec.chunk_steps)
    keys = jax.tree.map(lambda *k: jnp.stack(k), *each) if seeds > 1 else each[0]

    def work() -> Any:
        state = program.init(keys.init)
        for _ in range(chunks):
            state, loss = program.chunk(state, keys.data)
        return loss

    def batches(key: jax.Array) -> jax.Array:
        numbers = jnp.arange(spec.chunk_steps)
        return task.sample_many(jax.vmap(jax.random.fold_in, (None, 0))(key, numbers), spec.batch, spec.length)

    sample = jax.jit(jax.vmap(batches) if seeds > 1 else batches)
    step = median_seconds(work) / (chunks * spec.chunk_steps)
    data = median_seconds(lambda: sample(keys.data)) / spec.chunk_steps
    state = program.init(keys.init)
    probe = median_seconds(lambda: program.measure(state, keys.probe))
    return Timed(1e3 * step, 1e3 * data, 1e3 * probe, seeds * cost(spec) / spec.steps / step / 1e12)


def bench(profile: Tier, steps: int, console: Console) -> None:
    """Print the table: every arm in float32 and, on an accelerator, in bfloat16, and many quick seeds at once."""
    env, accelerator = environment(), jax.default_backend() != "cpu"
    table = Table(title=f"{env['device']} ({env['platform']}), jax {env['jax']}, {profile} sizes, median of {REPEATS}")
    for name in ("arm", "size", "compute", "ms/step", "of it data", "ms/log point", "TFLOP/s", "over naive float32"):
        table.add_column(name)

    def row(arm: str, spec: TrainConfig, naive: float | None, seeds: int = 1) -> None:
        timed, model = _timed(spec, steps, seeds), spec.model
        compute = model.compute_dtype or model.dtype
        # Each as it comes: at the paper's size all of them take minutes, and an interrupt should not lose them.
        console.print(f"{arm}, {compute}: {timed.step:.2f} ms a step", highlight=False)
        size = f"d {model.d_model}, T {spec.length}, batch {spec.batch}"
        ratio = "" if naive is None else f"{timed.step / naive:.2f}"
        cells = (f"{timed.step:.2f}", f"{timed.data:.2f}", f"{timed.probe:.1f}", f"{timed.speed:.3g}", ratio)
        table.add_row(arm, size, compute, *cells)

    for arm, tiers in ARMS.items():
        spec = tiers[profile]
        naive = 1e3 * _host_loop(spec, max(1, steps // spec.chunk_steps) * spec.chunk_steps)
        console.print(f"{arm}, naive float32 loop: {naive:.2f} ms a step", highlight=False)
        row(arm, spec, naive)
        if accelerator:
            row(arm, replace(spec, model=replace(spec.model, compute_dtype="bfloat16")), naive)
    if accelerator:
        row(f"1 layer, {SEEDS} seeds", arms.SOFTMAX["quick"], None, SEEDS)
    console.print(table)
