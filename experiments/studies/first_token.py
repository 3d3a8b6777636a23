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
from jaxsink.probing import Set, stages
from theory.bootstrap import BY_SAMPLE
from theory.checkpoint import FirstToken

NAME = "first_token"
VERSION = 3
SIDE_BY_SIDE = True
# From the name of a part to the site of what it adds to the residual stream.
PARTS = {"attention": "attn_out", "mlp": "mlp_out"}
_CAPTURE = {"resid_post": residual_norms}


def label(spec: FirstToken) -> str:
    """A study in words."""
    return f"{spec.model} on {spec.count} first tokens of {spec.domain}, each attention and each MLP removed"


def cost(spec: FirstToken) -> float:
    """Work of one seed in multiplications, for the time left: some sixty passes of so many tokens, and loading."""
    return (2e-9 * identify(spec.model).size * spec.count + 4) * PER_SECOND


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
            every = self._norms(tokens)
            advance(1 / len(seeds))
            words = [] if self.loaded.tokenizer is None else list(self.loaded.tokenizer.tokens(tokens[:, 0]))
            about = {"tokens": words, BY_SAMPLE: list(every)}
            manifest = {"label": label(self.spec), **about, "seconds": time.monotonic() - start}
            products.append(Product(every, {}, manifest))
        return products

    def _norms(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """Norms of the residual stream at the first position after each block: "resid_norm" [B, L], and
        "without_<part>" [B, L, L] with that part of one block removed, which is the second axis.

        All are one pass: the batch holds the tokens once more for each part that is removed.
        """
        model, params = self.loaded.model, self.loaded.params
        count, layers = len(tokens), model.config.n_layers
        removed = [("nothing", 0), *((part, layer) for part in PARTS for layer in range(layers))]

        def where(part: str, layer: int) -> jax.Array:
            """bool [B, 1, 1], the copies of the tokens that go without this part."""
            return jnp.repeat(jnp.array([each == (part, layer) for each in removed]), count)[:, None, None]

        edits = {
            f"blocks.{layer}.{site}": Set(0.0, where(part, layer))
            for part, site in PARTS.items()
            for layer in range(layers)
        }
        copies = jnp.tile(jnp.asarray(tokens), (len(removed), 1))
        found = [
            np.asarray(stage.captured["resid_post"][:, 0], np.float32)
            for stage in stages(model, params, copies, capture=_CAPTURE, edits=edits)
        ]
        every = np.stack(found, axis=1).reshape(len(removed), count, layers).swapaxes(0, 1)
        without = {f"without_{part}": every[:, 1 + i * layers :][:, :layers] for i, part in enumerate(PARTS)}
        return {"resid_norm": every[:, 0], **without}
