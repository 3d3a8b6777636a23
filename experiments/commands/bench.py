"""`jaxsink bench`: speed as ratios against a peer in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from experiments.environment import environment
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


def median_seconds(work: Callable[[], Any]) -> float:
    """Median seconds of a call, compiled and warm."""
    jax.block_until_ready(work())
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _host_loop(spec: TrainConfig, steps: int) -> float:
    """Seconds per step of the peer: one jitted step called from Python, its batch by another jitted call."""
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


def _row(spec: TrainConfig, steps: int) -> tuple[float, float, float, float]:
    """(ms per step with data, ms of data per step, ms per log point, ratio to the host loop)."""
    program, _, task = build(spec)
    keys, chunks = seed_keys(0), max(1, steps // spec.chunk_steps)

    def work() -> Any:
        state = program.init(keys.init)
        for _ in range(chunks):
            state, loss = program.chunk(state, keys.data)
        return loss

    step = median_seconds(work) / (chunks * spec.chunk_steps)
    numbers = jnp.arange(spec.chunk_steps)
    sample = jax.jit(
        lambda: task.sample_many(jax.vmap(jax.random.fold_in, (None, 0))(keys.data, numbers), spec.batch, spec.length)
    )
    data = median_seconds(sample) / spec.chunk_steps
    params = program.init(keys.init).params
    probe = median_seconds(lambda: program.measure(params, keys.probe))
    return 1e3 * step, 1e3 * data, 1e3 * probe, step / _host_loop(spec, chunks * spec.chunk_steps)


def bench(profile: Tier, steps: int, console: Console) -> None:
    """Print the table."""
    env = environment()
    table = Table(title=f"{env['device']} ({env['platform']}), jax {env['jax']}, {profile} sizes, median of {REPEATS}")
    for name in ("arm", "size", "ms/step", "of it data", "data share", "ms/log point", "step over host loop"):
        table.add_column(name)
    for name, tiers in ARMS.items():
        spec = tiers[profile]
        step, data, probe, ratio = _row(spec, steps)
        size = f"d {spec.model.d_model}, T {spec.length}, batch {spec.batch}"
        cells = (f"{step:.2f}", f"{data:.2f}", f"{data / step:.1%}", f"{probe:.1f}", f"{ratio:.2f}")
        table.add_row(name, size, *cells)
    console.print(table)
