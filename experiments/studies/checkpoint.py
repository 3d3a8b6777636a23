"""Producer of evidence: attention received, value norm and residual norm at each position of passages of text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies.product import PER_SECOND, Advance, Product
from experiments.texts import DOMAINS
from jaxsink.checkpoints import Tokenizer, find_asset, load
from jaxsink.metrics import mean_received, residual_norms, value_norms
from jaxsink.models import Decoder
from jaxsink.probing import stages
from theory.checkpoint import Passages

NAME = "checkpoint"
VERSION = 2
SIDE_BY_SIDE = False
# A token of the packaged tokenizers stands for fewer characters than this on average, so that passages are long enough.
_CHARACTERS = 8


def label(spec: Passages) -> str:
    """A study in words."""
    special = "" if spec.special else ", no special tokens"
    special += f", from position {spec.first_position}" if spec.first_position else ""
    return f"{spec.model} on {spec.count} passages of {spec.domain}, {spec.length} tokens each{special}"


def cost(spec: Passages) -> float:
    """Work of one seed in multiplications, for the time left: three per parameter and token, and loading."""
    return 3e-8 * PER_SECOND * find_asset(spec.model).size * spec.count * spec.length / 1024 + 4 * PER_SECOND


def drawn(spec: Passages, tokenizer: Tokenizer, seed: int) -> np.ndarray:
    """The passages of a seed as tokens, int32 [B, T]."""
    size = _CHARACTERS * spec.length
    passages = DOMAINS[spec.domain](size, spec.count, seed)
    rows = []
    for passage in passages:
        ids = tokenizer.encode(passage, special=False)
        before, after = _special(tokenizer) if spec.special else ((), ())
        inner = spec.length - len(before) - len(after)
        if len(ids) < inner:
            raise ValueError(
                f"a passage of {spec.domain} has {len(ids)} tokens, but length={spec.length} was asked for; lower it."
            )
        rows.append(np.concatenate([before, ids[:inner], after]).astype(np.int32))
    return np.stack(rows)


def _special(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the model is made to see around a text: [CLS] and [SEP], or nothing where it has neither."""
    if tokenizer.cls_id is None or tokenizer.sep_id is None:
        return (), ()
    return (tokenizer.cls_id,), (tokenizer.sep_id,)


def _mean_head(received: jax.Array) -> jax.Array:
    return received.mean(axis=1, keepdims=True)


# Functions of modules, since `stages` compiles anew for other ones.
CAPTURE = {"attn_received": _mean_head, "v": value_norms, "resid_post": residual_norms}


class Trainer:
    """Runs the passages of any seeds through one checkpoint, which is loaded once.

    Args:
      spec: the passages. group: how many seeds come at once; they are run one after the other.
    """

    def __init__(self, spec: Passages, group: int) -> None:
        self.spec, self.loaded = spec, load(spec.model)

    def run(self, seeds: Sequence[int], partial: Path, advance: Advance) -> list[Product]:
        """Measure the seeds. One takes seconds, so nothing is kept of a killed one."""
        products = []
        for seed in seeds:
            start = time.monotonic()
            arrays, tokens = self._profiles(seed)
            advance(1 / len(seeds))
            tokenizer = self.loaded.tokenizer
            words = [] if tokenizer is None else list(tokenizer.tokens(tokens[0]))
            manifest = {"label": label(self.spec), "tokens": words, "causal": isinstance(self.loaded.model, Decoder)}
            products.append(Product(arrays, {}, {**manifest, "seconds": time.monotonic() - start}))
        return products

    def _profiles(self, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The profiles [B, L, T] of a seed's passages, and their tokens [B, T]."""
        model, params, tokenizer = self.loaded.model, self.loaded.params, self.loaded.tokenizer
        if tokenizer is None:
            raise ValueError(f"the checkpoint {self.spec.model!r} has no tokenizer, so it cannot read text.")
        tokens = drawn(self.spec, tokenizer, seed)
        inputs = {}
        if self.spec.first_position:
            inputs["positions"] = jnp.arange(self.spec.length) + self.spec.first_position
        found = [s.captured for s in stages(model, params, jnp.asarray(tokens), capture=CAPTURE, inputs=inputs)]
        profiles = {name: np.stack([np.asarray(layer[name]) for layer in found], axis=1) for name in CAPTURE}
        every, causal = jnp.ones(tokens.shape, bool), isinstance(model, Decoder)
        arrays = {
            "received": mean_received(profiles["attn_received"], every, causal=causal)[:, :, 0],
            "value_norm": profiles["v"],
            "resid_norm": profiles["resid_post"],
        }
        return {name: np.asarray(values, np.float32) for name, values in arrays.items()}, tokens
