"""Gradient flow on restricted models: batches of random ones, and that of Shakespeare's bigrams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxsink.tasks import BigramBackcopy, shakespeare
from theory.calculations.base import Calculation
from theory.calculations.random_models import RandomModels, Start, model_arrays
from theory.flow import State, integrate
from theory.restricted import RestrictedModel, gradient, restricted_model, risk

Freeze = Literal["alpha", "beta", "nothing"]
# Forty points a decade: the slowest mode of a frozen flow is seen alone over a third of a decade only.
TIMES = np.logspace(0, 9, 361)
# Norm of the gradient at which a flow counts as arrived: rounding is all that is left.
_ARRIVED = 1e-12


def _flow(
    model: RestrictedModel, alpha: jax.Array, beta: jax.Array, times: jax.Array, moves: jax.Array, stop: jax.Array
) -> State:
    """`theory.flow.gradient_flow` with what is frozen as numbers, so that one compilation serves all choices of it.

    Args:
      moves: [2] 1 or 0 for alpha and for beta: whether it moves.
    """

    def velocity(state: State) -> State:
        d_alpha, d_beta = gradient(model, *state)
        return -moves[0] * d_alpha, -moves[1] * d_beta

    return integrate(velocity, (alpha, beta), times, stop_below=stop)


_flows = jax.jit(jax.vmap(_flow, in_axes=(0, 0, 0, None, None, None)))
_risks = jax.jit(jax.vmap(risk))


def _evidence(models: RestrictedModel, start: Start, freeze: Freeze) -> dict[str, np.ndarray]:
    times, alpha_and_beta = jnp.asarray(TIMES), map(jnp.asarray, start)
    moves = jnp.asarray([freeze != "alpha", freeze != "beta"], float)
    stop = jnp.asarray(_ARRIVED if freeze == "nothing" else 0.0)
    alpha, beta = _flows(models, *alpha_and_beta, times, moves, stop)
    final = _risks(models, alpha[:, -1], beta[:, -1])
    flow = {"times": times, "alpha": alpha, "beta": beta, "final_risk": final}
    return model_arrays(models, start) | {name: np.asarray(values) for name, values in flow.items()}


@dataclass(frozen=True)
class RandomFlows(RandomModels):
    """Gradient flows of random restricted models, to t = 1e9 or to where the gradient is below 1e-12.

    Attributes:
      freeze: what is held at its start.

    Evidence: that of `model_arrays` and "times" [P], "alpha" [M, P, n], "beta" [M, P, V], "final_risk" [M] (nats).
    """

    freeze: Freeze = "nothing"
    seconds: ClassVar[float] = 2.0

    @property
    def label(self) -> str:
        held = "" if self.freeze == "nothing" else f", {self.freeze} frozen"
        return f"gradient flow of {self.words}{held}"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        return _evidence(*self.drawn(seed), self.freeze)


@dataclass(frozen=True)
class ShakespeareFlow(Calculation):
    """The flow of the restricted model of Bigram-Backcopy on Shakespeare's bigrams.

    Rows are those of the non-trigger characters, the most frequent first, pi their occupation in sampled sequences
    (the same for all seeds); contexts are the character counts of a seed's own sequences.

    Attributes:
      freeze: what is held at its start. logit: where all alpha start. spread: standard deviation of beta(0).
      queries: how many of the most frequent non-trigger characters ask; all that occur if None.
      contexts: C. length: characters of a sequence.

    Evidence: as of `RandomFlows` with M = 1.
    """

    freeze: Freeze = "nothing"
    logit: float = 0.0
    spread: float = 1.0
    queries: int | None = None
    contexts: int = 1
    length: int = 255
    seconds: ClassVar[float] = 5.0

    @property
    def label(self) -> str:
        held = "" if self.freeze == "nothing" else f", {self.freeze} frozen"
        contexts = "one context" if self.contexts == 1 else f"{self.contexts} contexts"
        return f"gradient flow of the restricted model of Shakespeare's bigrams ({contexts}{held})"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        task = BigramBackcopy.make(shakespeare(), k=3)
        occupation = self._counts(task, jax.random.key(0), 256).sum(0)
        occupation[list(task.triggers)] = 0
        # Characters in order of their frequency; those that never occur have no weight and so no force.
        moving = np.argsort(-occupation, kind="stable")[: np.count_nonzero(occupation)][: self.queries]
        counts = self._counts(task, jax.random.key(seed + 1), self.contexts)
        pi = occupation[moving] / occupation[moving].sum()
        model = restricted_model(np.asarray(task.chain.transition, np.float64)[moving], pi, counts)
        rng = np.random.default_rng(seed)
        start = np.full((1, pi.size), self.logit), rng.normal(0, self.spread, (1, counts.shape[1]))
        return _evidence(jax.tree.map(lambda leaf: leaf[None], model), start, self.freeze)

    def _counts(self, task: BigramBackcopy, key: jax.Array, sequences: int) -> np.ndarray:
        """[sequences, V] how often each character stands in sampled sequences, `<s>` aside."""
        tokens = np.asarray(task.sample(key, sequences, self.length))[:, 1:]
        return np.stack([np.bincount(row, minlength=task.chain.size) for row in tokens]).astype(np.float64)
