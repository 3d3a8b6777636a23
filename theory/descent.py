"""Iterates of an optimiser on a differentiable risk, as one compiled scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax

Point = TypeVar("Point")


def descend(
    loss_gradient: Callable[[Point], Point],
    optimiser: optax.GradientTransformation,
    start: Point,
    steps: int,
    every: int = 1,
) -> Point:
    """Run an optimiser and keep every `every`-th iterate. Works under jit and vmap.

    Args:
      loss_gradient: from a point to the gradient there, of the same structure: that of a network's loss, or
        `lambda at: restricted.gradient(model, *at)`.
      optimiser: an optax transformation.
      start: the first iterate, any pytree of arrays.
      steps: how many updates. every: how far apart the iterates are kept, a divisor of `steps`.

    Returns:
      The structure of `start`, every leaf with a leading axis of steps / every + 1: iterates 0, every, ..., steps.

    Raises:
      ValueError: `every` does not divide `steps`.
    """
    if every < 1 or steps < 1 or steps % every:
        raise ValueError(f"every must be a positive divisor of steps, but {every} and {steps} were given; change one.")

    def step(carry: tuple[Point, optax.OptState], _: None) -> tuple[tuple[Point, optax.OptState], None]:
        at, state = carry
        # optax mixes Python floats with int32 counters, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(loss_gradient(at), state, at)
        return (optax.apply_updates(at, updates), state), None

    def stretch(carry: tuple[Point, optax.OptState], _: None) -> tuple[tuple[Point, optax.OptState], Point]:
        carry, _ = jax.lax.scan(step, carry, None, every)
        return carry, carry[0]

    start = jax.tree.map(jnp.asarray, start)
    _, kept = jax.lax.scan(stretch, (start, optimiser.init(start)), None, steps // every)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, kept)
