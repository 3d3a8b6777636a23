"""Producer of evidence: a small decoder or encoder, trained, and what its tokens receive under each control."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.studies import bigram_backcopy
from experiments.studies.product import PER_SECOND, Advance, Product
from jaxsink import control
from jaxsink.metrics import queries_after, value_norms
from jaxsink.models import Transformer
from jaxsink.probing import Edits, Set, run
from jaxsink.training import TrainState, make_program, seed_keys
from jaxsink.training.loop import compiled, initial
from theory.small_models import LOOKS, SmallModel

NAME = "small_models"
VERSION = 1
# As for other small trainings: alone, one leaves the second core idle half of the time.
SIDE_BY_SIDE = True
# A model compiles for some five seconds.
_COMPILING = 5 * PER_SECOND
_SEES: Mapping[str, control.Sees] = {"mask": control.itself, "last_five": control.last(5)}


def label(spec: SmallModel) -> str:
    """A model in words."""
    scheme = "no positions" if spec.scheme == "none" else f"positions {spec.scheme}"
    return f"{spec.kind} with {scheme}; {bigram_backcopy.label(spec.run)}"


def cost(spec: SmallModel) -> float:
    """Work of one seed in multiplications, for the time left."""
    return bigram_backcopy.cost(spec.run) + _COMPILING


def controls(spec: SmallModel, model: Transformer) -> tuple[Edits, jax.Array]:
    """The edits and the positions [C, T] that make the looks of `LOOKS`, every array with a leading axis of looks.

    All looks have edits of the same sites, which hide nothing where the look is not one of the mask, so that they are
    one compiled program.
    """
    length, layers = spec.run.length, range(spec.run.model.n_layers)
    masks = {look: control.restrict_rows(model, layers, spec.row, sees, length) for look, sees in _SEES.items()}
    nothing = {name: Set(-jnp.inf, jnp.zeros((length, length), bool)) for name in masks["mask"]}
    positions = np.tile(np.arange(length), (len(LOOKS), 1))
    for look, number in (("position", 0), ("interior", spec.interior)):
        positions[list(LOOKS).index(look), spec.row] = number
    edits = [masks.get(look, nothing) for look in LOOKS]
    return jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *edits), jnp.asarray(positions)


class Trainer:
    """Trains one model for any seeds, with a single compilation.

    Args:
      spec: the model. group: how many seeds come at once; they are trained one after the other.
    """

    def __init__(self, spec: SmallModel, group: int) -> None:
        self.spec, self.task = spec, spec.run.task.build()
        self.causal = spec.kind == "decoder"
        # Both kinds have the embedding of a mask token, which a decoder never sees, so that they are of one size.
        self.mask_id = self.task.vocab_size
        self.model = Transformer(self.task.vocab_size + 1, spec.run.length, spec.run.model, causal=self.causal)
        program = make_program(
            init_params=partial(initial, self.model),
            loss=lambda state, exercise: self.loss(state.params, exercise),
            sample_many=self.sample_many,
            optimiser=spec.run.optimiser.build(),
            measure=self.measure,
            chunk_steps=spec.run.chunk_steps,
        )
        self.program = compiled(program, seed_keys(0))

    def exercise(self, tokens: jax.Array, key: jax.Array) -> jax.Array:
        """int [2, B, T] from sequences [B, T + 1]: what the model sees and what it is to predict, -1 for nothing."""
        seen = tokens[:, :-1]
        if self.causal:
            return jnp.stack([seen, tokens[:, 1:]])
        # A start token is there in every sequence, and predicting it teaches nothing.
        hidden = jax.random.bernoulli(key, self.spec.masked, seen.shape) & (seen != self.task.start_id)
        return jnp.stack([jnp.where(hidden, self.mask_id, seen), jnp.where(hidden, seen, -1)])

    def sample_many(self, keys: jax.Array) -> jax.Array:
        """Exercises [C, 2, B, T], each made from its key."""
        tokens = self.task.sample_many(keys, self.spec.run.batch, self.spec.run.length)
        return jax.vmap(lambda of, key: self.exercise(of, jax.random.fold_in(key, 1)))(tokens, keys)

    def loss(self, params: Any, exercise: jax.Array) -> jax.Array:
        """Mean cross-entropy (nats) of what is to be predicted."""
        seen, wanted = exercise
        logits, _ = run(self.model, params, seen)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(wanted, 0))
        weight = (wanted >= 0).astype(losses.dtype)
        # A batch in which nothing is hidden trains nothing, instead of dividing by zero.
        return (losses * weight).sum() / jnp.maximum(weight.sum(), 1.0)

    def measure(self, state: TrainState, key: jax.Array) -> dict[str, jax.Array]:
        """The loss, and for each of `LOOKS` "received" [C, L, N, T] and "value_norm" [C, L, T] of a probe batch.

        "received" is the mean weight on a key of the queries that see it, without its own, which a row that sees
        itself alone spends on itself; the last key of a decoder has no other, and 0. "value_norm" is the geometric
        mean over sequences of the norm over the median of its sequence, a median of logarithms. "even" [T] is what
        "received" would be if every query attended evenly.
        """
        length = self.spec.run.length
        tokens = self.task.sample(key, self.spec.run.probe_batch, length)
        exercise = self.exercise(tokens, jax.random.fold_in(key, 1))
        every = jnp.ones((1, length), bool)
        others = jnp.stack([queries_after(every, causal=self.causal, key=j)[0] for j in range(length)])
        counted = others.astype(jnp.float32)
        counted /= jnp.maximum(counted.sum(-1, keepdims=True), 1.0)
        looks = controls(self.spec, self.model)
        received, norms = jax.lax.map(lambda look: self._look(state.params, exercise[0], counted, *look), looks)
        seen = jnp.arange(1, length + 1) if self.causal else jnp.full(length, length)
        even = counted @ (1 / seen.astype(jnp.float32))
        return {"loss": self.loss(state.params, exercise), "received": received, "value_norm": norms, "even": even}

    def _look(
        self, params: Any, seen: jax.Array, counted: jax.Array, edits: Edits, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        layers = range(self.spec.run.model.n_layers)
        names = [f"blocks.{i}.{site}" for i in layers for site in ("pattern", "v")]
        _, found = run(self.model, params, seen, capture=names, edits=edits, inputs={"positions": positions})
        received = [jnp.einsum("bnqk,kq->nk", found[f"blocks.{i}.pattern"], counted) for i in layers]
        norms = jnp.log(jnp.stack([value_norms(found[f"blocks.{i}.v"]) for i in layers]))
        relative = norms - jnp.median(norms, axis=-1, keepdims=True)
        return jnp.stack(received) / len(seen), jnp.exp(relative.mean(1))

    def run(self, seeds: Sequence[int], partial: Path, advance: Advance) -> list[Product]:
        """Train and measure the seeds. One takes seconds, so nothing is kept of a killed one."""
        products, chunks = [], self.spec.run.steps // self.spec.run.chunk_steps
        for seed in seeds:
            start, keys = time.monotonic(), seed_keys(seed)
            state = self.program.init(keys.init)
            for _ in range(chunks):
                state, _ = self.program.chunk(state, keys.data)
                advance(1 / chunks / len(seeds))
            arrays = {name: np.asarray(x) for name, x in self.program.measure(state, keys.probe).items()}
            about = {"kind": self.spec.kind, "scheme": self.spec.scheme, "looks": list(LOOKS), "row": self.spec.row}
            manifest = {"label": label(self.spec), **about, "seconds": time.monotonic() - start}
            products.append(Product(arrays, jax.device_get(state.params), manifest))
        return products
