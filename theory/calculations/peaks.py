"""The residual scale of `<s>` under optimisers of optax."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsink.training import Adam, Optimiser
from theory.calculations.base import Calculation
from theory.descent import descend

RATE, START = 0.3, 10.0


@dataclass(frozen=True)
class Peaks(Calculation):
    """Iterates of an optimiser on the scale m of `<s>`, whose gradient dies out.

    Attributes:
      optimiser: with its rate. steps: how many.
      coupled: the loss is e^{-y n} of a sink logit y, which learns too, and of n = m / sqrt(m^2 + 1); otherwise
        dL/dm = -log t / (t m^3) whatever the network does.
      starts: how many m_0; the first is 10, the others are drawn between 5 and 20.

    Evidence: "start" [M], "peak" [M, steps]: m after 1, 2, ... updates.
    """

    optimiser: Optimiser = Adam(RATE, b2=0.999)
    steps: int = 10_000
    coupled: bool = False
    starts: int = 4
    seconds: ClassVar[float] = 1.0

    @property
    def label(self) -> str:
        kind = "with its sink logit" if self.coupled else "alone"
        settings = f"{type(self.optimiser).__name__} {self.optimiser.rate:g}"
        return f"{self.steps} steps of {settings} on the residual scale of <s> {kind}"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        drawn = np.random.default_rng(seed).uniform(5, 20, self.starts - 1)
        start = np.append(START, drawn)
        run = _coupled if self.coupled else _alone
        return {"start": start, "peak": np.asarray(run(jnp.asarray(start), self.optimiser, self.steps))}


@dataclass(frozen=True)
class PeakSweep(Calculation):
    """Where Adam takes m from 10 in some steps, for several of its settings.

    Attributes:
      settings: pairs of beta_2 and eps. steps: how many.

    Evidence: "settings" [S, 2], "final" [S].
    """

    settings: tuple[tuple[float, float], ...]
    steps: int = 10_000
    seconds: ClassVar[float] = 2.0

    @property
    def label(self) -> str:
        return f"{self.steps} steps of Adam {RATE:g} on the residual scale of <s>, {len(self.settings)} settings"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        optimisers = [Adam(RATE, b2=b2, eps=eps) for b2, eps in self.settings]
        final = [np.asarray(_alone(jnp.full(1, START), each, self.steps))[0, -1] for each in optimisers]
        return {"settings": np.asarray(self.settings), "final": np.asarray(final)}


@partial(jax.jit, static_argnums=(1, 2))
def _alone(start: jax.Array, optimiser: Optimiser, steps: int) -> jax.Array:
    """[M, steps] from starts [M]."""
    rule = optimiser.build()

    def one(m: jax.Array) -> jax.Array:
        def step(
            carry: tuple[jax.Array, optax.OptState], t: jax.Array
        ) -> tuple[tuple[jax.Array, optax.OptState], jax.Array]:
            m, state = carry
            # optax mixes Python floats with int32 counters, which strict promotion forbids.
            with jax.numpy_dtype_promotion("standard"):
                update, state = rule.update(-jnp.log(t) / (t * m**3), state, m)
            return (m + update, state), m + update

        return jax.lax.scan(step, (m, rule.init(m)), jnp.arange(1.0, steps + 1))[1]

    return jax.vmap(one)(start)


@partial(jax.jit, static_argnums=(1, 2))
def _coupled(start: jax.Array, optimiser: Optimiser, steps: int) -> jax.Array:
    """[M, steps] from starts [M], with y from 0."""

    def slope(at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        y, m = at
        n = m / jnp.sqrt(m**2 + 1)
        return -n * jnp.exp(-y * n), -jnp.exp(-y * n) * y / (m**2 + 1) ** 1.5

    def one(m: jax.Array) -> jax.Array:
        return descend(slope, optimiser.build(), (jnp.zeros_like(m), m), steps)[1][1:]

    return jax.vmap(one)(start)
