"""Producer of evidence: a small language model trained on several kinds of text, followed from its start."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.studies.product import PER_SECOND, Advance, Product
from experiments.texts import DOMAINS
from jaxsink.models import Decoder
from jaxsink.probing import run
from jaxsink.training import TrainState, log_points, make_program, seed_keys, train
from jaxsink.training.loop import compiled, initial
from jaxsink.trajectory import at_checkpoint, stacked
from theory.small_language import START, SmallLanguage

NAME = "trajectory"
VERSION = 2
# As for other small trainings: alone, one leaves the second core idle half of the time.
SIDE_BY_SIDE = True
# A model compiles for some ten seconds, and the library of Python is read in three.
_COMPILING = 13 * PER_SECOND
# Each text is made of pieces that are longer than this, in an order that no seed changes.
_PIECE = 2000
# Log points: so many chunks one by one, and then steps that grow by this factor.
_DENSE, _GROWTH = 5, 1.25


def label(spec: SmallLanguage) -> str:
    """A model in words."""
    model = spec.model
    start = "" if spec.start else ", no start token"
    size = f"d {model.d_model}, T {spec.length}, batch {spec.batch}, {spec.steps} steps"
    attention = type(model.attention).__name__
    return f"{model.n_layers} layers on {' and '.join(spec.domains)}, {attention}{start}; {size}"


def cost(spec: SmallLanguage) -> float:
    """Work of one seed in multiplications, for the time left: six per parameter and token, and T x T maps."""
    model, tokens = spec.model, spec.batch * spec.length
    width = model.n_heads * model.head_size
    weights = model.n_layers * (4 * model.d_model * width + 3 * model.d_model * model.d_mlp)
    maps = model.n_layers * 2 * spec.length * width
    return 6.0 * spec.steps * tokens * (weights + maps + 2 * model.vocab_size * model.d_model) + _COMPILING


def text(spec: SmallLanguage) -> np.ndarray:
    """Codes int32 [D, characters] of each domain; a character that is not ASCII is "?".

    Raises:
      ValueError: a domain has fewer characters.
    """
    found = []
    for domain in spec.domains:
        pieces = DOMAINS[domain](_PIECE, -(-spec.characters // _PIECE), 0)
        codes = np.frombuffer("\n".join(pieces).encode("ascii", "replace"), np.uint8)[: spec.characters]
        found.append(np.where(codes == START, ord("?"), codes).astype(np.int32))
    return np.stack(found)


def cut(texts: jax.Array, starts: jax.Array, spec: SmallLanguage, length: int) -> jax.Array:
    """Sequences int [D, B, length] of texts [D, C] from the places [D, B]; behind a start token if there is one."""
    characters = length - spec.start
    found = jax.vmap(lambda one, at: one[at[:, None] + jnp.arange(characters)[None]])(texts, starts)
    return jnp.pad(found, ((0, 0), (0, 0), (length - characters, 0)), constant_values=START)


class Trainer:
    """Trains one model for any seeds, with a single compilation.

    Args:
      spec: the model. group: how many seeds come at once; they are trained one after the other.
    """

    def __init__(self, spec: SmallLanguage, group: int) -> None:
        self.spec, self.model, texts = spec, Decoder(spec.model), text(spec)
        self.seen, self.held_out = (jnp.asarray(part) for part in np.split(texts, [-spec.held_out], axis=1))
        program = make_program(
            init_params=partial(initial, self.model),
            loss=lambda state, batch: self.loss(state.params, batch),
            sample_many=jax.vmap(self.sample),
            optimiser=spec.optimiser.build(),
            measure=lambda state, key: at_checkpoint(self.model, state.params, self.passages(key)),
            chunk_steps=spec.chunk_steps,
        )
        self.program = compiled(program, seed_keys(0))

    def sample(self, key: jax.Array) -> jax.Array:
        """A batch int [B, T + 1] of what is trained on, as many sequences of each domain."""
        domains, characters = self.seen.shape
        shape, length = (domains, self.spec.batch // domains), self.spec.length + 1
        starts = jax.random.randint(key, shape, 0, characters - length + 1)
        return cut(self.seen, starts, self.spec, length).reshape(-1, length)

    def passages(self, key: jax.Array) -> jax.Array:
        """Passages int [D, B, T] of what is held out, which do not overlap."""
        length, (domains, characters) = self.spec.length, self.held_out.shape
        keys = jax.random.split(key, domains)
        slots = jax.vmap(lambda of: jax.random.permutation(of, characters // length))(keys)
        return cut(self.held_out, slots[:, : self.spec.passages] * length, self.spec, length)

    def loss(self, params: Any, batch: jax.Array) -> jax.Array:
        """Mean cross-entropy (nats) of the next character."""
        logits, _ = run(self.model, params, batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    def run(self, seeds: Sequence[int], partial: Path, advance: Advance) -> list[Product]:
        """Train and follow the seeds. Nothing is kept of a killed one."""
        products, spec = [], self.spec
        for seed in seeds:
            start, keys, done = time.monotonic(), seed_keys(seed), 0
            state: TrainState = self.program.init(keys.init)
            steps, rows = [], []
            points = log_points(spec.steps, spec.chunk_steps, dense=_DENSE, growth=_GROWTH)
            for point in train(self.program, state, keys, points):
                state = point.state
                steps.append(point.step)
                rows.append(jax.device_get(point.measured))
                advance((point.step - done) / spec.steps / len(seeds))
                done = point.step
            about = {"domains": list(spec.domains), "start": spec.start}
            manifest = {"label": label(spec), **about, "seconds": time.monotonic() - start}
            products.append(Product(stacked(steps, rows), jax.device_get(state.params), manifest))
        return products
