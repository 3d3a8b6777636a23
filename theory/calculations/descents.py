"""Discrete optimisers on random restricted models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxsink.training import Adam, Optimiser
from theory.calculations.random_models import RandomModels, model_arrays
from theory.descent import descend
from theory.restricted import RestrictedModel, gradient


@dataclass(frozen=True)
class RandomDescents(RandomModels):
    """Iterates of an optimiser on random restricted models.

    Attributes:
      optimiser: with its rate. steps: how many. every: steps between two that are kept.

    Evidence: that of `model_arrays` and "step" [P], "alpha" [M, P, n], "beta" [M, P, V].
    """

    optimiser: Optimiser = Adam()
    steps: int = 15_000
    every: int = 100
    seconds: ClassVar[float] = 3.0

    @property
    def label(self) -> str:
        return f"{self.steps} steps of {type(self.optimiser).__name__} {self.optimiser.rate:g} on {self.words}"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        models, start = self.drawn(seed)
        alpha, beta = _descents(models, *map(jnp.asarray, start), self.optimiser, self.steps, self.every)
        step = np.arange(0, self.steps + 1, self.every)
        return model_arrays(models, start) | {"step": step, "alpha": np.asarray(alpha), "beta": np.asarray(beta)}


@partial(jax.jit, static_argnums=(3, 4, 5))
def _descents(
    models: RestrictedModel, alpha: jax.Array, beta: jax.Array, optimiser: Optimiser, steps: int, every: int
) -> tuple[jax.Array, jax.Array]:
    def one(model: RestrictedModel, start: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return descend(lambda at: gradient(model, *at), optimiser.build(), start, steps, every)

    return jax.vmap(one)(models, (alpha, beta))
