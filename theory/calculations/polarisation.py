"""The value-softmax model of 2603.06248 and its unnormalised relatives, integrated by automatic differentiation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from theory import polarisation
from theory.calculations.base import Calculation


@jax.jit
def _flow(
    kind: jax.Array, direction: jax.Array, value: jax.Array, logits: jax.Array, times: jax.Array
) -> dict[str, jax.Array]:
    values, all_logits = polarisation.gradient_flow(kind, direction, value, logits, times)

    def velocity(state: polarisation.State, time: jax.Array) -> polarisation.State:
        return polarisation.flow_velocity(kind, direction, state, time)

    d_value, d_logits = jax.vmap(velocity)((values, all_logits), times)
    u, d_u = (jnp.einsum("id,pidn->pin", direction, x) for x in (values, d_value))
    return {
        "u": u,
        "logits": all_logits,
        "weights": polarisation.weights(kind, all_logits),
        "d_u": d_u,
        "d_logits": d_logits,
    }


@dataclass(frozen=True)
class Polarisation(Calculation):
    """N random instances of the model, V(0) and the direction normal, read at P times.

    Arrays: u_start, logits_start [N, n]; log_time [P], log(1 + t); u, logits, weights [P, N, n]; d_u, d_logits
    [P, N, n], the derivatives in log(1 + t).

    Attributes:
      kind: what makes weights of logits. start: a(0), "equal" (0, or 1/n for linear weights) or "random" (normal).
      instances: N. values: n. width: d. decades: log10 t at which it is read.
    """

    kind: Literal["softmax", "linear", "sigmoid"] = "softmax"
    start: Literal["equal", "random"] = "equal"
    instances: int = 200
    values: int = 8
    width: int = 4
    decades: tuple[float, ...] = (1.0, 3.0, 10.0, 50.0, 100.0)
    seconds: ClassVar[float] = 0.7

    @property
    def label(self) -> str:
        """The calculation in words."""
        return f"value-{self.kind} model from {self.start} logits, {self.instances} instances"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        """See the class."""
        rng = np.random.default_rng(seed)
        value = rng.normal(size=(self.instances, self.width, self.values))
        direction = rng.normal(size=(self.instances, self.width))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        random = rng.normal(size=(self.instances, self.values))
        equal = np.full_like(random, 1 / self.values if self.kind == "linear" else 0.0)
        logits = random if self.start == "random" else equal
        times = np.log1p(10.0 ** np.array(self.decades))
        kind = jnp.asarray(list(polarisation.WEIGHTS).index(self.kind))
        found = _flow(kind, *(jnp.asarray(x) for x in (direction, value, logits, times)))
        return {
            "u_start": np.einsum("id,idn->in", direction, value),
            "logits_start": logits,
            "log_time": times,
            **{name: np.asarray(x) for name, x in found.items()},
        }
