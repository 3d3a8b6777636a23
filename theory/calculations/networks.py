"""A real transformer whose queries all see the same key counts: the restricted model of 2410.13835, and its training.

n sequences, each `<s>` and an order of one multiset of characters that ends in the query v; the loss stands at the last
position only, with weights pi_v. The query is a key as well, so W counts every character of the sequence.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxsink.models import Transformer
from jaxsink.training import SGD, Adam
from theory.calculations.base import Calculation
from theory.construction import construct, log_law, network, with_free
from theory.descent import descend

Free = tuple[jax.Array, jax.Array]


class Setting(NamedTuple):
    """Random instances, each with n queries over V characters, and where training starts; a leading axis of I.

    Attributes:
      tokens: int [I, n, T] sequences. p: [I, n, V], pi: [I, n]: rows and weights of the queries. xi: [I, V].
      alpha: [I, n], beta: [I, V]. The queries of every instance are the characters 0 to n - 1.
    """

    tokens: jax.Array
    p: jax.Array
    pi: jax.Array
    xi: jax.Array
    alpha: jax.Array
    beta: jax.Array


@dataclass(frozen=True)
class Size:
    """How many instances, and of what size: n queries over V characters, of which `extra` stand twice or more often.

    Attributes:
      own_counts: give every query a multiset of its own, of the same number of characters.
    """

    instances: int = 8
    characters: int = 6
    queries: int = 4
    extra: int = 5
    own_counts: bool = False

    @property
    def model(self) -> Transformer:
        return network(self.characters, 1 + self.characters + self.extra)

    def draw(self, seed: int) -> tuple[Setting, np.ndarray]:
        """The instances and the counts [I, V] of the characters in their sequences, the mean over the queries."""
        rng = np.random.default_rng(seed)
        i, n, v = self.instances, self.queries, self.characters
        extras = rng.multinomial(self.extra, np.full(v, 1 / v), (i, n))
        counts = 1 + (extras if self.own_counts else np.repeat(extras[:, :1], n, axis=1))
        tokens = np.full((i, n, 1 + v + self.extra), v)
        for at, query in np.ndindex(i, n):
            others = np.repeat(np.arange(v), counts[at, query] - (np.arange(v) == query))
            tokens[at, query, 1:] = np.append(rng.permutation(others), query)
        setting = Setting(
            tokens=jnp.asarray(tokens, jnp.int32),
            p=jnp.asarray(rng.dirichlet(np.ones(v), (i, n))),
            pi=jnp.asarray(rng.dirichlet(np.ones(n), i)),
            xi=jnp.asarray(rng.uniform(0.5, 2.0, (i, v))),
            alpha=jnp.asarray(rng.normal(0, 1, (i, n))),
            beta=jnp.asarray(rng.normal(0, 1, (i, v))),
        )
        return setting, counts.mean(1)


def _loss(model: Transformer, setting: Setting, at: Free) -> jax.Array:
    """Excess cross-entropy (nats) of one instance's network at its last position, weighted over the sequences."""
    size, queries = setting.xi.shape[0], np.arange(setting.pi.shape[0])
    log_p = jnp.zeros((size, size)).at[queries].set(jnp.log(setting.p))
    none = jnp.zeros(())
    params = construct(model, log_p, jnp.zeros(size), none, setting.xi, jnp.zeros(size))
    log_q = log_law(model, with_free(params, queries, *at), setting.tokens)[:, -1, :size]
    return (setting.pi[:, None] * setting.p * (jnp.log(setting.p) - log_q)).sum()


@partial(jax.jit, static_argnums=0)
def _loss_and_gradient(model: Transformer, setting: Setting) -> tuple[jax.Array, Free]:
    def one(setting: Setting) -> tuple[jax.Array, Free]:
        return jax.value_and_grad(_loss, 2)(model, setting, (setting.alpha, setting.beta))

    return jax.vmap(one)(setting)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _descents(
    model: Transformer, optimiser: SGD | Adam, steps: int, every: int, setting: Setting, rates: jax.Array
) -> Free:
    """Iterates of every instance at every rate: [I, S, steps / every + 1, ...]."""

    def one(setting: Setting, rate: jax.Array) -> Free:
        # A traced rate, which optax takes like a number.
        rule = dataclasses.replace(optimiser, rate=cast(float, rate)).build()
        return descend(
            jax.grad(partial(_loss, model, setting)), rule, (setting.alpha, setting.beta), steps=steps, every=every
        )

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(setting, rates)


def _inputs(setting: Setting, counts: np.ndarray) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(value) for name, value in setting._asdict().items() if name != "tokens"}
    return arrays | {"counts": counts}


@dataclass(frozen=True)
class EqualCounts(Calculation):
    """Loss of the network and its gradient, by automatic differentiation through the network, at random points.

    Arrays:
      loss [I], d_alpha [I, n], d_beta [I, V]; p, pi, xi, counts, alpha, beta as `theory.restricted` takes them.
    """

    size: Size = Size(instances=32)
    seconds: ClassVar[float] = 0.5

    @property
    def label(self) -> str:
        counts = "key counts of its own for every query" if self.size.own_counts else "equal key counts"
        return f"network with {counts}, {self.size.instances} instances"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        setting, counts = self.size.draw(seed)
        loss, (d_alpha, d_beta) = _loss_and_gradient(self.size.model, setting)
        found = {"loss": loss, "d_alpha": d_alpha, "d_beta": d_beta}
        return {name: np.asarray(value) for name, value in found.items()} | _inputs(setting, counts)


@dataclass(frozen=True)
class Trajectories(Calculation):
    """The network's training from one start at rates that halve: full batch, over one and the same rate x step.

    Arrays:
      rate [S]; time [P], rate x step, the last of them at the end; alphas [I, S, P, n], betas [I, S, P, V];
      p, pi, xi, counts, alpha, beta as in `EqualCounts`.

    Attributes:
      optimiser: its rate is the largest one. steps: at that rate. points: P. halvings: S - 1.
    """

    size: Size = Size(instances=2)
    optimiser: SGD | Adam = field(default_factory=lambda: SGD(rate=1.0, weight_decay=0.0))
    steps: int = 100
    points: int = 10
    halvings: int = 3
    seconds: ClassVar[float] = 2.0

    @property
    def label(self) -> str:
        name = type(self.optimiser).__name__
        return f"network with equal key counts under {name}, rates {self.optimiser.rate:g} and halved"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        setting, counts = self.size.draw(seed)
        finest = 2**self.halvings
        rates = self.optimiser.rate / 2.0 ** np.arange(self.halvings + 1)
        every = self.steps // self.points
        # One compiled scan for all rates: the larger ones run on past the end, where they are not read.
        alphas, betas = _descents(
            self.size.model, self.optimiser, self.steps * finest, every, setting, jnp.asarray(rates)
        )
        read = [2**level * np.arange(1, self.points + 1) for level in range(self.halvings + 1)]
        found = {
            name: np.stack([np.asarray(values)[:, level, at] for level, at in enumerate(read)], axis=1)
            for name, values in (("alphas", alphas), ("betas", betas))
        }
        time = self.optimiser.rate * every * np.arange(1, self.points + 1)
        return found | {"rate": rates, "time": time} | _inputs(setting, counts)
