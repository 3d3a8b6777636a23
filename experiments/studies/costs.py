"""Producer of evidence: a `theory.costs.Costs`, a network trained to a loss and its risk under each condition."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies import bigram_backcopy
from experiments.studies.product import PER_SECOND, Advance, Product
from jaxsink import metrics
from jaxsink.probing import Chain, Edits, Round, Set, levels_of, rounded_params, run
from jaxsink.probing.rounding import Per
from jaxsink.training import seed_keys
from jaxsink.training.loop import ahead
from jaxsink.training.runs import build
from theory.costs import CONDITIONS, LONGER, Costs, other_text

NAME = "costs"
VERSION = 3
# As for other small trainings: alone, one leaves the second core idle half of the time.
SIDE_BY_SIDE = True
# A network compiles for some eight seconds.
_COMPILING = 8 * PER_SECOND
# What may share one scale.
_SHARED: tuple[Per, ...] = ("tensor", "token", "channel")

Array = jax.Array


def label(spec: Costs) -> str:
    """A network in words."""
    return f"{bigram_backcopy.label(spec.run)}, to {spec.target:g} nats"


def cost(spec: Costs) -> float:
    """Work of one seed in multiplications, for the time left."""
    return bigram_backcopy.cost(spec.run) + _COMPILING


def bits(condition: str, part: str) -> int | None:
    """How many bits a part, "weights" or "residual", has under a condition; None for all that it has."""
    found = condition.split("_")
    return int(found[1]) if found[0] == part else None


def weights(params: Any, condition: str) -> Any:
    """The parameters under a condition."""
    k = bits(condition, "weights")
    return params if k is None else rounded_params(params, k)


def edits(condition: str, layers: int, length: int) -> dict[str, Chain | Set]:
    """The edits of a condition, alike for all conditions but for their numbers: one compiled program fits them.

    Args:
      condition: of `CONDITIONS`. layers: of the network. length: T of the texts.
    """
    k, position, rows = bits(condition, "residual"), np.arange(length), np.arange(length)[:, None]
    rounded = position >= (condition == "residual_4_rest") if k else np.zeros(length, bool)
    levels = jnp.float32(levels_of(k or 8))
    shared = next((per for per in _SHARED[1:] if condition.endswith(f"_{per}")), _SHARED[0])
    stream = Chain(tuple(Round(levels, (rounded & (per == shared))[:, None], per) for per in _SHARED))
    # The late half of the queries is far enough from either key to have no use for it as the token before.
    late = rows >= length // 2
    evicted = {"evicted_0": 0, "evicted_1": 1, "evicted_previous": rows - 1}.get(condition, -1)
    gone = Set(jnp.float32(-jnp.inf), late & (position == evicted))
    return {f"blocks.{i}.resid_post": stream for i in range(layers)} | {
        f"blocks.{i}.attn_scores": gone for i in range(layers)
    }


class Trainer:
    """Trains one network for any seeds, with a single compilation.

    Args:
      spec: the network. group: how many seeds come at once; they are trained one after the other.
    """

    def __init__(self, spec: Costs, group: int) -> None:
        self.spec, (length, layers) = spec, (spec.run.length, spec.run.model.n_layers)
        self.program, self.model, self.task = build(spec.run)
        self.other = other_text(self.task, spec.shuffle)
        self.edits = {name: edits(name, layers, length) for name in CONDITIONS}
        keys = seed_keys(0)
        state = self.program.init(keys.init)
        self.chunk = ahead(self.program.chunk, state, keys.data)
        # One program for all conditions, and for the look that says when to stop.
        texts = self.texts(keys.probe)
        self.look = ahead(jax.jit(self.measure), state.params, texts, self.edits["free"])
        self.longer = [ahead(jax.jit(self.late), state.params, self.texts(keys.probe, times)) for times in LONGER]

    def texts(self, key: Array, times: int = 1) -> Array:
        """Probe texts [B, T] of so many times the length of training."""
        length = times * self.spec.run.length
        return self.task.sample(key, self.spec.run.probe_batch, length)[:, :-1]

    def measure(self, params: Any, tokens: Array, given: Edits | None = None) -> dict[str, Array]:
        """Excess risks (nats) of texts [B, T] against the law of the task, whatever chain they are of.

        Returns:
          Scalars "all", "late", "backcopy", "bigram", as `theory.costs.risk` has them, "baseline", and "sink_strength"
          and "peak_ratio" [L], as `training.observe` has them.
        """
        layers, length = range(self.spec.run.model.n_layers), tokens.shape[1]
        model = self.model.clone(max_length=length)
        sites = [f"blocks.{i}.{site}" for i in layers for site in ("pattern", "resid_post")]
        logits, found = run(model, params, tokens, capture=sites, edits=given)
        trigger, ordinary = self.task.is_trigger(tokens), jnp.broadcast_to(jnp.arange(length) > 0, tokens.shape)
        dormant, late = ordinary & ~trigger, jnp.broadcast_to(jnp.arange(length) >= length // 2, tokens.shape)
        log_probs, law = jax.nn.log_softmax(logits), self.task.law(tokens)
        where = {"all": ordinary, "late": late, "backcopy": trigger, "bigram": dormant}
        sinks = [metrics.sink_strength(found[f"blocks.{i}.pattern"], dormant, trigger) for i in layers]
        peaks = [metrics.peak_ratio(metrics.residual_norms(found[f"blocks.{i}.resid_post"])) for i in layers]
        risks = {name: metrics.excess_risk(log_probs, law, chosen) for name, chosen in where.items()}
        seen = {"sink_strength": jnp.stack(sinks), "peak_ratio": jnp.stack(peaks)}
        return risks | seen | {"baseline": metrics.uniform_baseline(dormant)}

    def late(self, params: Any, tokens: Array) -> Array:
        """The excess risk in the late half of texts [B, T]; the rest of what is measured is not computed."""
        return self.measure(params, tokens)["late"]

    def conditions(self, params: Any, key: Array) -> dict[str, np.ndarray]:
        """What `measure` finds under each of `CONDITIONS`, with a leading axis C, and "longer", for each of `LONGER`.

        Longer texts have keys of their own.
        """
        tokens = self.texts(key)
        other = self.other.sample(key, len(tokens), tokens.shape[1])[:, :-1]
        found = [
            self.look(weights(params, name), other if name == "other_text" else tokens, self.edits[name])
            for name in CONDITIONS
        ]
        stacked = {name: np.stack([np.asarray(one[name]) for one in found]) for name in found[0]}
        longer = [
            self.longer[i](params, self.texts(jax.random.fold_in(key, times), times)) for i, times in enumerate(LONGER)
        ]
        return stacked | {"longer": np.asarray(longer)}

    def run(self, seeds: Sequence[int], partial: Path, advance: Advance) -> list[Product]:
        """Train and measure the seeds. One takes seconds, so nothing is kept of a killed one."""
        products, chunks = [], self.spec.run.steps // self.spec.run.chunk_steps
        for seed in seeds:
            start, keys = time.monotonic(), seed_keys(seed)
            state, done, excess = self.program.init(keys.init), 0, np.inf
            # Stopped by other texts than those measured, or the luck of these would be part of the result.
            watched = self.texts(jax.random.fold_in(keys.probe, 1))
            while done < chunks and not excess <= self.spec.target:
                state, _ = self.chunk(state, keys.data)
                done += 1
                excess = float(self.look(state.params, watched, self.edits["free"])["all"])
                advance(1 / chunks / len(seeds))
            arrays = self.conditions(state.params, keys.probe)
            arrays["steps"] = np.asarray(done * self.spec.run.chunk_steps, np.int32)
            advance((chunks - done) / chunks / len(seeds))
            manifest = {"label": label(self.spec), "conditions": list(CONDITIONS), "longer": list(LONGER)}
            seconds = {"seconds": time.monotonic() - start}
            products.append(Product(arrays, jax.device_get(state.params), {**manifest, **seconds}))
        return products
