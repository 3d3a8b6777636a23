"""The trigger task of 2603.11487 through `jaxsink.attention`: constructed and trained weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsink.attention import Causal, ReLU, RowMap, Softmax, attend_with_aux
from jaxsink.attention.row_map import AttentionDims, Params, Properties, RowContext
from theory.calculations.base import Calculation
from theory.necessity import Weights, draw, relu_construction, softmax_construction

# Sequences whose whole output is stored, for the identity that every softmax solution obeys.
_PROBES = 8
# Spread of the initial weights: scores near 0, so that every variant starts without a preferred key.
_INITIAL = 0.1


@dataclass(frozen=True)
class PrecedingReLU:
    """ReLU attention with the source's divisor, relu(score) / max(i, 1) with i the 0-based position of the query.

    It counts the keys after the first and so leaves `<s>` out of the mean; `jaxsink.attention.ReLU` divides by i + 1.

    Source: Ran-Milo 2026 (arXiv 2603.11487).
    """

    properties: ClassVar[Properties] = ReLU.properties

    def init(self, key: jax.Array, dims: AttentionDims) -> Params:
        return {}

    def weights(self, scores: jax.Array, context: RowContext, params: Params) -> jax.Array:
        divisor = jnp.maximum(context.query_positions, 1).astype(scores.dtype)
        return jax.nn.relu(scores) / divisor[:, None, :, None]


def _attend(weights: dict[str, jax.Array], x: jax.Array, row_map: RowMap) -> tuple[jax.Array, jax.Array]:
    """(output [N, L, n], pattern [N, L, L]) of one causal head."""
    q, k, v = ((x @ weights[name])[:, :, None] for name in ("query", "key", "value"))
    out, aux = attend_with_aux(q, k, v, row_map, mask=Causal(), scale=1.0, want=("weights",))
    assert aux.weights is not None
    return out[:, :, 0], aux.weights[:, 0]


_attended = jax.jit(_attend, static_argnames="row_map")


def _target(x: jax.Array, trigger: jax.Array, every: bool | jax.Array = False) -> jax.Array:
    """The answer as running means, at the trigger or, if `every`, in all rows but the first."""
    rows = jnp.arange(1, x.shape[1] + 1)[None]
    means = jnp.cumsum(x.at[:, 0].set(0.0), 1) / jnp.maximum(rows - 1, 1).astype(x.dtype)[..., None]
    return jnp.where(((rows == trigger[:, None]) | every)[..., None], means, 0.0)


def _as_arrays(weights: Weights) -> dict[str, jax.Array]:
    return {name: jnp.asarray(matrix) for name, matrix in weights.items()}


@dataclass(frozen=True)
class ReluConstruction(Calculation):
    """N1: the weights of the ReLU construction, under ReLU attention or, where they must fail, under softmax.

    Arrays: x [N, L, n], trigger [N], output [N, L, n], start (the largest weight on `<s>`), and output_by_row, the
    output under the divisor of `jaxsink.attention.ReLU`.
    """

    attention: Literal["relu", "softmax"] = "relu"
    sequences: int = 64
    length: int = 16
    width: int = 16
    seconds: ClassVar[float] = 0.3

    @property
    def label(self) -> str:
        """The calculation in words."""
        return f"trigger task, ReLU construction under {self.attention}, {self.sequences} sequences"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        """See the class."""
        x, trigger = draw(np.random.default_rng(seed), (self.sequences,), self.length, self.width)
        weights = _as_arrays(relu_construction(self.width))
        own, by_row = (PrecedingReLU(), ReLU()) if self.attention == "relu" else (Softmax(), Softmax())
        output, pattern = _attended(weights, jnp.asarray(x), own)
        found = {
            "x": x,
            "trigger": trigger,
            "output": output,
            "start": pattern[:, :, 0].max(),
            "output_by_row": _attended(weights, jnp.asarray(x), by_row)[0],
        }
        return {name: np.asarray(value) for name, value in found.items()}


@dataclass(frozen=True)
class SoftmaxConstruction(Calculation):
    """N2: the weights of the softmax construction at several logits c on `<s>`.

    Arrays: x [N, L, n], trigger [N], logits [C], output [C, N, L, n], elsewhere [C, N, L] (summed weight off `<s>`),
    leak [C] (largest coordinate 0 past row 1 where the value map keeps it) and loss [C].

    Attributes:
      logits: c. seen: how much of c the keys carry; 0 leaves every logit at 0.
    """

    logits: tuple[float, ...] = (5.0, 10.0, 20.0)
    seen: float = 1.0
    sequences: int = 64
    length: int = 16
    width: int = 16
    seconds: ClassVar[float] = 0.3

    @property
    def label(self) -> str:
        """The calculation in words."""
        return f"trigger task, softmax construction, {self.seen:g} of the logits, {self.sequences} sequences"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        """See the class."""
        x, trigger = draw(np.random.default_rng(seed), (self.sequences,), self.length, self.width)
        target = _target(jnp.asarray(x), jnp.asarray(trigger))
        outputs, off, leaks, losses = [], [], [], []
        for logit in self.logits:
            weights = softmax_construction(self.width, self.seen * logit)
            output, pattern = _attended(_as_arrays(weights), jnp.asarray(x), Softmax())
            kept = softmax_construction(self.width, self.seen * logit, keep_start=True)
            leaking, _ = _attended(_as_arrays(kept), jnp.asarray(x), Softmax())
            outputs.append(output)
            off.append(pattern[:, :, 1:].sum(-1))
            leaks.append(jnp.abs(leaking[:, 1:, 0]).max())
            losses.append(((output - target) ** 2).sum(-1).mean())
        found = {"output": outputs, "elsewhere": off, "leak": leaks, "loss": losses}
        arrays = {name: np.stack([np.asarray(value) for value in values]) for name, values in found.items()}
        return {"x": np.asarray(x), "trigger": np.asarray(trigger), "logits": np.array(self.logits), **arrays}


_Matrices = dict[str, jax.Array]
_Carry = tuple[_Matrices, optax.OptState]


def _forward(weights: _Matrices, x: jax.Array, relu: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The two attentions share one program, for the time of compiling it.
    return jax.lax.cond(relu, lambda: _attend(weights, x, PrecedingReLU()), lambda: _attend(weights, x, Softmax()))


@jax.jit
def _trained(
    carry: _Carry, x: jax.Array, trigger: jax.Array, relu: jax.Array, every: jax.Array, rate: jax.Array
) -> _Carry:
    """Adam on the batches x [steps, N, L, n], trigger [steps, N], one after the other."""
    optimiser = optax.adam(rate)

    def loss(weights: _Matrices, x: jax.Array, trigger: jax.Array) -> jax.Array:
        return ((_forward(weights, x, relu)[0] - _target(x, trigger, every)) ** 2).sum(-1).mean()

    def step(carry: _Carry, batch: tuple[jax.Array, jax.Array]) -> tuple[_Carry, None]:
        weights, state = carry
        gradient = jax.grad(loss)(weights, *batch)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its float32 constants with float64
            updates, state = optimiser.update(gradient, state)
            return (optax.apply_updates(weights, updates), state), None

    return jax.lax.scan(step, carry, (x, trigger))[0]


@jax.jit
def _read(
    weights: _Matrices, x: jax.Array, trigger: jax.Array, relu: jax.Array, every: jax.Array
) -> dict[str, jax.Array]:
    """One level of the arrays of `TriggerTraining`."""
    output, pattern = _forward(weights, x, relu)
    start = pattern[:, :, 0]
    rows = jnp.arange(1, x.shape[1] + 1)[None]
    # Row 1 sees `<s>` alone, so it is left out.
    dormant = ((rows != trigger[:, None]) & (rows > 1))[:, 1:]
    return {
        "loss": ((output - _target(x, trigger, every)) ** 2).sum(-1).mean(),
        "start_by_row": jnp.mean(start[:, 1:], axis=0, where=dormant),
        "start": jnp.mean(start[:, 1:], where=dormant),
        "value": weights["value"],
        "output": output[:_PROBES],
        "start_weight": start[:_PROBES],
    }


@dataclass(frozen=True)
class TriggerTraining(Calculation):
    """N3 and N4: one head trained on the task by Adam on fresh sequences, read on P held-out ones.

    Arrays, with K levels of the training: loss [K] (mean over sequences and rows of the squared norm of the error),
    start [K] (mean weight on `<s>` over non-trigger rows 2..L), start_by_row [K, L-1], value [K, n, n]; of 8 sequences
    output [K, 8, L, n] and start_weight [K, 8, L]; trigger [P], zero_loss (of the answer 0), length, width.

    Attributes:
      attention: which row map is trained. every: ask for the running mean in all rows, so that there is no default.
      levels: K. steps: between two of them. batch: sequences a step. rate: of Adam. held_out: P.
    """

    attention: Literal["softmax", "relu"] = "softmax"
    every: bool = False
    levels: int = 10
    steps: int = 100
    batch: int = 64
    rate: float = 0.01
    held_out: int = 512
    length: int = 16
    width: int = 16
    seconds: ClassVar[float] = 1.5

    @property
    def label(self) -> str:
        """The calculation in words."""
        task = "running mean in every row" if self.every else "trigger task"
        return f"{task}, one {self.attention} head, {self.levels * self.steps} steps"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        """See the class."""
        rng = np.random.default_rng(seed)
        initial = _INITIAL * rng.normal(size=(3, self.width, self.width))
        weights = dict(zip(("query", "key", "value"), map(jnp.asarray, initial), strict=True))
        relu, every, rate = (jnp.asarray(value) for value in (self.attention == "relu", self.every, self.rate))
        carry = weights, optax.adam(self.rate).init(weights)
        x, trigger = draw(rng, (self.held_out,), self.length, self.width)
        readings = []
        for _ in range(self.levels):
            carry = _trained(carry, *draw(rng, (self.steps, self.batch), self.length, self.width), relu, every, rate)
            readings.append(_read(carry[0], jnp.asarray(x), jnp.asarray(trigger), relu, every))
        return {
            **{name: np.stack([np.asarray(reading[name]) for reading in readings]) for name in readings[0]},
            "trigger": trigger,
            "zero_loss": np.asarray((_target(jnp.asarray(x), jnp.asarray(trigger), every) ** 2).sum(-1).mean()),
            "length": np.asarray(self.length),
            "width": np.asarray(self.width),
        }
