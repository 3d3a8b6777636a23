"""Producer of evidence: the residual norm of first tokens with each attention and each MLP removed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies.checkpoint import drawn, loaded
from experiments.studies.product import PER_SECOND, Advance, Product
from jaxsink.checkpoints import identify
from jaxsink.metrics import residual_norms
from jaxsink.models import Decoder
from jaxsink.probing import Edits, Set, stages
from theory.checkpoint import FirstToken

NAME = "first_token"
VERSION = 1
SIDE_BY_SIDE = True
# From the name of a part to the site of what it adds to the residual stream.
PARTS = {"attention": "attn_out", "mlp": "mlp_out"}
_CAPTURE = {"resid_post": residual_norms}


def label(spec: FirstToken) -> str:
    """A study in words."""
    return f"{spec.model} on {spec.count} first tokens of {spec.domain}, each attention and each MLP removed"


def cost(spec: FirstToken) -> float:
    """Work of one seed in multiplications, for the time left: reading the weights some sixty times, and loading."""
    return (8e-8 * identify(spec.model).size + 4) * PER_SECOND


class Trainer:
    """Runs the first tokens of any seeds through one decoder, which is loaded once.

    Args:
      spec: the tokens. group: how many seeds come at once; they are run one after the other.

    Raises:
      ValueError: the model is no decoder.
    """

    def __init__(self, spec: FirstToken, group: int) -> None:
        self.spec, self.loaded = spec, loaded(spec.model)
        if not isinstance(self.loaded.model, Decoder):
            raise ValueError(
                f"{spec.model!r} is no decoder, so its first position sees the others; choose one with a causal mask."
            )

    def run(self, seeds: Sequence[int], partial: Path, advance: Advance) -> list[Product]:
        """Measure the seeds. One takes seconds, so nothing is kept of a killed one."""
        products = []
        for seed in seeds:
            start = time.monotonic()
            tokens = drawn(self.spec.passages(), self.loaded, seed)[:, :1]
            layers, every = range(self.loaded.model.config.n_layers), {}
            every["resid_norm"] = self._norms(tokens, {})
            for part, site in PARTS.items():
                removed = [self._norms(tokens, {f"blocks.{i}.{site}": Set(0.0)}) for i in layers]
                every[f"without_{part}"] = np.stack(removed, axis=1)
            advance(1 / len(seeds))
            words = [] if self.loaded.tokenizer is None else list(self.loaded.tokenizer.tokens(tokens[:, 0]))
            manifest = {"label": label(self.spec), "tokens": words, "seconds": time.monotonic() - start}
            products.append(Product(every, {}, manifest))
        return products

    def _norms(self, tokens: np.ndarray, edits: Edits) -> np.ndarray:
        """[B, L], norm of the residual stream at the first position after each block."""
        model, params = self.loaded.model, self.loaded.params
        found = stages(model, params, jnp.asarray(tokens), capture=_CAPTURE, edits=edits)
        norms: list[jax.Array] = [stage.captured["resid_post"][:, 0] for stage in found]
        return np.stack([np.asarray(x, np.float32) for x in norms], axis=1)
