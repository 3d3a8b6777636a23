"""The minimal network of theorem 1 trained on Bigram-Backcopy: sink logits and the value of `<s>` free, the rest fixed.

The loss stands at the non-trigger positions. Trigger positions would need lambda, and pull on beta as long as they are
not solved; they are left out, and lambda is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsink.models import Transformer
from jaxsink.probing import run
from jaxsink.tasks import BigramBackcopy, dirichlet
from jaxsink.training import SGD, Adam, Program, TrainState, make_program, seed_keys, train
from theory.calculations.base import Calculation
from theory.construction import Params, construct, log_law, log_rows, network, with_free
from theory.flow import integrate

Free = tuple[jax.Array, jax.Array]
# Of a step of the solver. The readings have three digits.
TOLERANCE = 1e-7
# Norm of the velocity at which a flow has arrived. It is far below 1 / (2 t), the velocity of what still grows.
ARRIVED = 1e-11
# Sequences on which the attention of a trained network is measured.
PROBED = 64


@dataclass(frozen=True)
class Minimal:
    """The task, one for all seeds, and the network.

    Attributes:
      characters: V of a Dirichlet chain. chain_seed: its seed. triggers: how many. length: T.
      xi: scale of the values.
    """

    characters: int = 6
    chain_seed: int = 0
    triggers: int = 1
    length: int = 8
    xi: float = 3.0

    @property
    def task(self) -> BigramBackcopy:
        return BigramBackcopy.make(dirichlet(self.characters, 1.0, self.chain_seed), k=self.triggers)

    @property
    def model(self) -> Transformer:
        return network(self.characters, self.length)

    @property
    def queries(self) -> np.ndarray:
        """[n] the characters that are not triggers."""
        return np.setdiff1d(np.arange(self.characters), self.task.triggers)

    def params(self, at: Free) -> Params:
        """The network with these sink logits and this value of `<s>`."""
        size, p = self.characters, self.task.chain.transition
        log_p, none = jnp.asarray(log_rows(p, self.task.triggers)), jnp.zeros(())
        params = construct(self.model, log_p, jnp.zeros(size), none, jnp.full(size, self.xi), jnp.zeros(size))
        return with_free(params, self.queries, *at)

    def loss(self, at: Free, tokens: jax.Array, weight: jax.Array) -> jax.Array:
        """Cross-entropy (nats) against the rows of the queries, summed with weights [B, T]."""
        size, p = self.characters, self.task.chain.transition
        log_q = log_law(self.model, self.params(at), tokens)[..., :size]
        law = jnp.pad(jnp.asarray(p), ((0, 1), (0, 0)))[tokens]
        return -(weight[..., None] * law * log_q).sum()

    def attention(self, at: Free, tokens: jax.Array, weight: jax.Array) -> jax.Array:
        """[] attention on `<s>`, read off the network's pattern and summed with weights [B, T]."""
        pattern = run(self.model, self.params(at), tokens, capture=["blocks.0.pattern"])[1]["blocks.0.pattern"]
        return (weight * pattern[:, 0, :, 0]).sum()

    def dormant(self, tokens: jax.Array) -> jax.Array:
        """[B, T] weights, sum 1: even on the positions whose loss counts, 0 elsewhere."""
        counts = (~self.task.is_trigger(tokens) & (jnp.arange(tokens.shape[1]) > 0)[None]).astype(jnp.float64)
        return counts / counts.sum()


class Sample(NamedTuple):
    """Sequences int [B, T], the weight [B, T] of each position in the loss, sum 1."""

    tokens: jax.Array
    weight: jax.Array


@partial(jax.jit, static_argnums=0)
def _flow(minimal: Minimal, sample: Sample, moves: Free, start: Free, times: jax.Array) -> Free:
    def velocity(at: Free) -> Free:
        d_alpha, d_beta = jax.grad(minimal.loss)(at, *sample)
        return -moves[0] * d_alpha, -moves[1] * d_beta

    return integrate(velocity, start, times, tolerance=TOLERANCE, stop_below=ARRIVED)


@partial(jax.jit, static_argnums=0)
def _attention(minimal: Minimal, sample: Sample, alphas: jax.Array, betas: jax.Array) -> jax.Array:
    return jax.lax.map(lambda at: minimal.attention(at, *sample), (alphas, betas))


@dataclass(frozen=True)
class MinimalFlow(Calculation):
    """Gradient flow of the network's own loss, by automatic differentiation through the network.

    Arrays:
      time [P]; alphas [P, n], betas [P, V], attention [P] (on `<s>`, mean over the loss).
      alpha [n], beta [V], the start; p [n, V].
      query [S] (row of p), weight [S], total [S] and b [S, V]: every term of the loss, with W and B of its context.

    Attributes:
      contexts: "many": sequences of the task, which stand for the average over fresh ones. "one": every query ends one
        and the same multiset of characters, drawn from the task.
      value: of `<s>`: "joint" for free, "constant" for frozen at 0, "frozen" for frozen at random.
      batch: sequences. decades: of time, from 1. points: readings per decade.
    """

    minimal: Minimal = Minimal()
    contexts: Literal["many", "one"] = "many"
    value: Literal["joint", "constant", "frozen"] = "joint"
    batch: int = 16
    decades: int = 6
    points: int = 4
    version: ClassVar[int] = 2
    seconds: ClassVar[float] = 2.0

    @property
    def label(self) -> str:
        value = {"joint": "free", "constant": "frozen at a constant", "frozen": "frozen at random"}[self.value]
        contexts = "one context" if self.contexts == "one" else "many contexts"
        return f"minimal network under gradient flow, {contexts}, value of <s> {value}"

    def _sample(self, seed: int) -> Sample:
        minimal = self.minimal
        drawn = minimal.task.sample(jax.random.key(seed), self.batch, minimal.length)[:, :-1]
        if self.contexts == "many":
            return Sample(drawn, minimal.dormant(drawn))
        # The queries and, to fill the length, characters of a sequence; query v comes last, their order is free.
        queries, n = minimal.queries, minimal.queries.size
        rng = np.random.default_rng(seed)
        keys = np.append(queries, np.asarray(drawn)[0, 1 : minimal.length - n])
        tokens, weight = np.array(drawn), np.zeros(drawn.shape)
        for row, query in enumerate(queries):
            others = np.delete(keys, row)
            tokens[row, 1:] = np.append(rng.permutation(others), query)
        weight[:n, -1] = 1 / n
        return Sample(jnp.asarray(tokens), jnp.asarray(weight))

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        minimal, rng = self.minimal, np.random.default_rng(seed)
        queries, size = minimal.queries, minimal.characters
        sample = self._sample(seed)
        alpha, beta = rng.normal(0, 0.3, queries.size), rng.normal(0, 1, size)
        if self.value == "constant":
            beta = np.zeros(size)
        moves = (jnp.ones(()), jnp.asarray(float(self.value == "joint")))
        time = np.logspace(0, self.decades, self.decades * self.points + 1)
        alphas, betas = _flow(minimal, sample, moves, (jnp.asarray(alpha), jnp.asarray(beta)), jnp.asarray(time))
        tokens, weight = np.asarray(sample.tokens), np.asarray(sample.weight)
        counts = np.cumsum(np.eye(size + 1)[tokens][..., :size], axis=1)
        used = weight > 0
        return {
            "time": time,
            "alphas": np.asarray(alphas),
            "betas": np.asarray(betas),
            "attention": np.asarray(_attention(minimal, sample, alphas, betas)),
            "alpha": alpha,
            "beta": beta,
            "p": minimal.task.chain.transition[queries],
            "query": np.searchsorted(queries, tokens[used]),
            "weight": weight[used],
            "total": counts[used].sum(1),
            "b": minimal.xi * counts[used],
        }


@lru_cache
def _program(minimal: Minimal, optimiser: SGD | Adam, batch: int, chunk: int) -> Program:
    def loss(state: TrainState, tokens: jax.Array) -> jax.Array:
        inputs = tokens[:, :-1]
        return minimal.loss(state.params, inputs, minimal.dormant(inputs))

    def measure(state: TrainState, key: jax.Array) -> dict[str, jax.Array]:
        at: Free = state.params
        inputs = minimal.task.sample(key, PROBED, minimal.length)[:, :-1]
        attention = minimal.attention(at, inputs, minimal.dormant(inputs))
        return {"alpha": at[0], "beta": at[1], "attention": attention}

    def start(key: jax.Array) -> Free:
        of_alpha, of_beta = jax.random.split(key)
        return (
            0.3 * jax.random.normal(of_alpha, (minimal.queries.size,)),
            jax.random.normal(of_beta, (minimal.characters,)),
        )

    return make_program(
        init_params=start,
        loss=loss,
        sample_many=lambda keys: minimal.task.sample_many(keys, batch, minimal.length),
        optimiser=optimiser.build(),
        measure=measure,
        chunk_steps=chunk,
    )


@dataclass(frozen=True)
class MinimalTraining(Calculation):
    """The network trained by an optimiser on fresh sequences in every step.

    Arrays:
      step [P], rate [], alphas [P, n], betas [P, V], attention [P] (on `<s>`, mean over dormant queries).

    Attributes:
      batch: sequences in a step. chunk: steps in one compiled program, the spacing of the readings.
    """

    minimal: Minimal = Minimal()
    optimiser: SGD | Adam = field(default_factory=lambda: SGD(rate=5.0, weight_decay=0.0))
    batch: int = 16
    steps: int = 3000
    chunk: int = 100
    version: ClassVar[int] = 2
    seconds: ClassVar[float] = 2.0

    @property
    def label(self) -> str:
        name = f"{type(self.optimiser).__name__} {self.optimiser.rate:g}"
        return f"minimal network under {name}, fresh sequences, {self.steps} steps"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        program, keys = _program(self.minimal, self.optimiser, self.batch, self.chunk), seed_keys(seed)
        points = range(0, self.steps + 1, self.chunk)
        read = [(p.step, jax.device_get(p.measured)) for p in train(program, program.init(keys.init), keys, points)]
        return {
            "step": np.array([step for step, _ in read]),
            "rate": np.asarray(self.optimiser.rate),
            "alphas": np.stack([at["alpha"] for _, at in read]),
            "betas": np.stack([at["beta"] for _, at in read]),
            "attention": np.stack([at["attention"] for _, at in read]),
        }
