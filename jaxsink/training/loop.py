"""Training as one compiled program per chunk of steps: data, gradients and updates in a `lax.scan`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsink.models import Model, init
from jaxsink.probing.edits import known

Params = Any
Measured = dict[str, jax.Array]


class TrainState(NamedTuple):
    """Everything that a step changes. `step` is int32 []; with an ensemble every leaf has a leading seed axis.

    `held` is what interventions hold on to, arrays by name: {} in a run without any.
    """

    params: Params
    opt_state: Any
    step: jax.Array
    held: dict[str, jax.Array]


class Program(NamedTuple):
    """The three functions of a run; all are pure, and the last two are compiled.

    Attributes:
      init: key -> TrainState. It consists of calls that other runs of the same network have compiled already.
      chunk: (TrainState, data key) -> (TrainState, mean loss of the chunk []). Donates the state it is given.
      measure: (TrainState, key) -> named arrays. It only observes.
      chunk_steps: steps in one chunk.
    """

    init: Callable[[jax.Array], TrainState]
    chunk: Callable[[TrainState, jax.Array], tuple[TrainState, jax.Array]]
    measure: Callable[[TrainState, jax.Array], Measured]
    chunk_steps: int


class Keys(NamedTuple):
    """The three independent streams of randomness of one seed."""

    init: jax.Array
    data: jax.Array
    probe: jax.Array


def seed_keys(seed: int) -> Keys:
    """The PRNG keys of a run, a pure function of its seed."""
    return Keys(*jax.random.split(jax.random.key(seed), 3))


def make_program(
    init_params: Callable[[jax.Array], Params],
    loss: Callable[[TrainState, jax.Array], jax.Array],
    sample_many: Callable[[jax.Array], jax.Array],
    optimiser: optax.GradientTransformation,
    measure: Callable[[TrainState, jax.Array], Measured],
    chunk_steps: int,
    *,
    held: Callable[[TrainState], dict[str, jax.Array]] = lambda state: {},
    ensemble: bool = False,
) -> Program:
    """Compile a training run from its pure parts.

    The batch of step s depends on (data key, s) alone, so neither the chunk length nor a resume moves it.

    Args:
      init_params: key -> params, best from `jax.jit`, as `initial` is.
      loss: (state, batch) -> scalar, of which the gradient is taken in the parameters.
      sample_many: keys [chunk_steps] -> batches with a leading axis of chunk_steps, made in one go.
      optimiser: an optax transformation. measure: (state, key) -> named arrays, called at log points.
      chunk_steps: steps in one compiled program.
      held: what a state holds, from its parameters, its step and what was held one step before ({} at step 0).
      ensemble: put a leading seed axis on every argument and result (`jax.vmap`).
    """
    held_first = jax.jit(held)

    def init(key: jax.Array) -> TrainState:
        params = init_params(key)
        state = TrainState(params, optimiser.init(params), jnp.zeros((), jnp.int32), {})
        return state._replace(held=held_first(state))

    def step(state: TrainState, batch: jax.Array) -> tuple[TrainState, jax.Array]:
        value, gradient = jax.value_and_grad(lambda params: loss(state._replace(params=params), batch))(state.params)
        # optax mixes Python floats with int32 counters, which strict promotion (our tests' climate) forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimiser.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = TrainState(params, opt_state, state.step + 1, state.held)
        return state._replace(held=held(state)), value

    def chunk(state: TrainState, data_key: jax.Array) -> tuple[TrainState, jax.Array]:
        numbers = state.step + jnp.arange(chunk_steps, dtype=jnp.int32)
        batches = sample_many(jax.vmap(jax.random.fold_in, (None, 0))(data_key, numbers))
        state, losses = jax.lax.scan(step, state, batches)
        return state, losses.mean()

    if ensemble:
        init, chunk, measure = jax.vmap(init), jax.vmap(chunk), jax.vmap(measure)
    return Program(init, jax.jit(chunk, donate_argnums=0), jax.jit(measure), chunk_steps)


def compiled(program: Program, keys: Keys) -> Program:
    """The same program, compiled now: a function from `jax.jit` that several threads call first compiles in each.

    Args:
      program: from `make_program`. keys: of any seed, or stacked over seeds; what is compiled fits others like it.
    """
    # Called once, `init` has compiled its parts.
    state = program.init(keys.init)
    return program._replace(
        chunk=ahead(program.chunk, state, keys.data),
        measure=ahead(program.measure, state, keys.probe),
    )


def compiler_options() -> dict[str, Any]:
    """What the programs of a run are compiled with here.

    On a CPU LLVM's level 1 instead of XLA's 3: steps and measurements run as fast and compile in little more than half
    the time, which would be a quarter of a short run.
    """
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}


@cache
def _init(alone: bool) -> Callable[[Model, jax.Array], Params]:
    return jax.jit(init, static_argnums=0, compiler_options=compiler_options() if alone else None)


def initial(model: Model, key: jax.Array) -> Params:
    """`jaxsink.models.init`, compiled once for all runs of one network, whatever they are trained on."""
    # A function that is part of another's program is compiled with the options of that one.
    return _init(known(key))(model, key)


def ahead(function: Any, *arguments: Any) -> Any:
    """A function from `jax.jit`, compiled for arguments of these shapes."""
    return function.lower(*arguments).compile(compiler_options=compiler_options())


class Point(NamedTuple):
    """What stands at one log point: the state after `step` steps, its measurements, the chunk's mean loss."""

    step: int
    state: TrainState
    measured: Measured
    loss: jax.Array


def train(program: Program, state: TrainState, keys: Keys, points: Sequence[int]) -> Iterator[Point]:
    """Run to every log point in turn, from wherever `state` stands, and yield what is measured there.

    The state given is donated; a yielded state is only valid until the next one is asked for.

    Args:
      program: from `make_program`. state: fresh or restored. keys: of the seed, or stacked over seeds.
      points: increasing multiples of the chunk length; those at or before the state's step are passed over,
        save the start itself.
    """
    step = int(jnp.ravel(state.step)[0])
    loss = jnp.full(state.step.shape, jnp.nan)
    for point in points:
        if point < step or (point == step and step > 0):
            continue
        while step < point:
            state, loss = program.chunk(state, keys.data)
            step += program.chunk_steps
        yield Point(step, state, program.measure(state, keys.probe), loss)
