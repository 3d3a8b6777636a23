"""Theorem 1 of 2410.13835 in a real transformer: its exact risks on Bigram-Backcopy sequences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxsink.metrics import excess_risk
from jaxsink.models import Transformer
from jaxsink.tasks import BigramBackcopy, BigramChain, dirichlet, shakespeare
from theory.calculations.base import Calculation
from theory.construction import construct, log_law, log_rows, network

# Tokens, their law, and where they are triggers and where dormant.
_Data = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


@dataclass(frozen=True)
class Shakespeare:
    """The bundled chain, one for all seeds."""

    def build(self, seed: int) -> BigramChain:
        return shakespeare()


@dataclass(frozen=True)
class RandomChain:
    """A Dirichlet chain of its own for every seed."""

    size: int = 16
    concentration: float = 1.0

    def build(self, seed: int) -> BigramChain:
        return dirichlet(self.size, self.concentration, seed)


@partial(jax.jit, static_argnums=0)
def _risks(
    model: Transformer, log_p: jax.Array, dormant: jax.Array, ratio: jax.Array, scales: jax.Array, data: _Data
) -> tuple[jax.Array, jax.Array]:
    """([C], [C]) Backcopy and Bigram risk with lambda = xi = c, alpha = ratio c on the dormant characters, beta = 0."""
    tokens, law, trigger, ordinary = data

    def at(c: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = construct(model, log_p, ratio * c * dormant, c, jnp.full(dormant.shape, c), jnp.zeros(dormant.shape))
        log_probs = log_law(model, params, tokens)
        return excess_risk(log_probs, law, trigger), excess_risk(log_probs, law, ordinary)

    return jax.lax.map(at, scales)


def _moments(tokens: np.ndarray, ordinary: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([T], [T, 3]) share of the dormant queries, and means of Var N, Cov(N, e_prev), Var e_prev, by position."""
    size, length = p.shape[0], tokens.shape[1]
    one_hot = np.eye(size + 1)[tokens][..., :size]
    counts = np.cumsum(one_hot, axis=1)
    previous = np.pad(one_hot[:, :-1], ((0, 0), (1, 0), (0, 0)))
    rows = np.pad(p, ((0, 1), (0, 0)))[tokens]

    def mean(x: np.ndarray) -> np.ndarray:
        return (rows * x).sum(-1)

    found = np.stack(
        [
            mean(counts**2) - mean(counts) ** 2,
            mean(counts * previous) - mean(counts) * mean(previous),
            mean(previous) - mean(previous) ** 2,
        ],
        axis=-1,
    )
    # A position without a dormant query has share 0, and moments that count for nothing.
    number = ordinary.sum(0)
    moments = (found * ordinary[..., None]).sum(0) / np.maximum(number, 1)[:, None]
    return number / number.sum(), moments.reshape(length, 3)


@dataclass(frozen=True)
class Construction(Calculation):
    """Risks of the construction over its scale c.

    Arrays:
      scale [C]; backcopy, bigram [C] (nats); characters []; share [T] and moments [T, 3] as
      `theory.construction.bigram_risk` takes them.

    Attributes:
      chain: of the task, which has three triggers. length: T. batch: number of sequences.
      logit_ratio: alpha over lambda. The construction needs 2.
      fine: where c runs in quarters, from 0; coarse: where it runs in ones after that.
    """

    chain: Shakespeare | RandomChain = Shakespeare()
    length: int = 32
    batch: int = 32
    logit_ratio: float = 2.0
    fine: float = 4.0
    coarse: float = 20.0
    seconds: ClassVar[float] = 2.0

    @property
    def label(self) -> str:
        name = "Shakespeare" if isinstance(self.chain, Shakespeare) else f"random chains of {self.chain.size}"
        return f"theorem 1 in a transformer, alpha = {self.logit_ratio:g} lambda, {name}, T {self.length}"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        task = BigramBackcopy.make(self.chain.build(seed))
        p, size = task.chain.transition, task.chain.size
        tokens = task.sample(jax.random.key(seed), self.batch, self.length)[:, :-1]
        trigger = task.is_trigger(tokens)
        ordinary = ~trigger & (jnp.arange(self.length) > 0)[None]
        dormant = np.ones(size)
        dormant[list(task.triggers)] = 0.0
        scales = np.concatenate([np.arange(0, self.fine, 0.25), np.arange(self.fine, self.coarse + 0.5)])
        backcopy, bigram = _risks(
            network(size, self.length),
            jnp.asarray(log_rows(p, task.triggers)),
            jnp.asarray(dormant),
            jnp.asarray(self.logit_ratio),
            jnp.asarray(scales),
            (tokens, task.law(tokens), trigger, ordinary),
        )
        share, moments = _moments(np.asarray(tokens), np.asarray(ordinary), p)
        return {
            "scale": scales,
            "backcopy": np.asarray(backcopy),
            "bigram": np.asarray(bigram),
            "characters": np.asarray(size),
            "share": share,
            "moments": moments,
        }
