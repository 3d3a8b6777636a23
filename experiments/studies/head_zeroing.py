"""Producer of evidence: what zeroing each head of a decoder adds to its loss, beside the head's sink mass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies import checkpoint
from experiments.studies.product import PER_SECOND, Advance, Product
from jaxsink.checkpoints import identify
from jaxsink.models import Decoder
from jaxsink.probing import heads_of_block, read_out, stages, sweep_blocks
from theory.heads import HeadZeroing

NAME = "head_zeroing"
VERSION = 2
SIDE_BY_SIDE = True


def label(spec: HeadZeroing) -> str:
    """A study in words."""
    which = "each head" if spec.every == 1 else f"each head of one block in {spec.every}"
    return f"{checkpoint.label(spec.passages)}; {which} zeroed"


def cost(spec: HeadZeroing) -> float:
    """Work of one seed in multiplications, for the time left: as many passes as 0.7 of the heads, and loading.

    The number of heads stands in the weights' file, which is not opened here: it is taken to be 270.
    """
    passages = spec.passages
    one = 3e-8 * identify(passages.model).size * passages.count * passages.length / 1024
    return PER_SECOND * (0.7 * 270 / spec.every * one + 4)


# A function of a module, since `stages` compiles anew for another one.
_CAPTURE = {"attn_on_first": checkpoint.after_first}


class Trainer:
    """Zeroes heads of one decoder, which is loaded once, on the passages of any seeds.

    Args:
      spec: the heads and passages. group: how many seeds come at once; they are run one after the other.

    Raises:
      ValueError: the model is no decoder.
    """

    def __init__(self, spec: HeadZeroing, group: int) -> None:
        self.spec, self.loaded = spec, checkpoint.loaded(spec.passages.model)
        if not isinstance(self.loaded.model, Decoder):
            raise ValueError(
                f"{spec.passages.model!r} is no decoder, so it has no loss of the next token; choose a decoder."
            )
        self.layers = spec.layers(self.loaded.model.config.n_layers)

    def run(self, seeds: Sequence[int], partial: Path, advance: Advance) -> list[Product]:
        """Measure the seeds. One takes half a minute at most, so nothing is kept of a killed one."""
        products = []
        for seed in seeds:
            start = time.monotonic()
            arrays = self._zeroed(seed, lambda: advance(1 / len(seeds) / len(self.layers)))
            manifest = {"label": label(self.spec), "seconds": time.monotonic() - start}
            products.append(Product(arrays, {}, manifest))
        return products

    def _zeroed(self, seed: int, layer_done: Callable[[], None]) -> dict[str, np.ndarray]:
        """Of the Z blocks whose heads are zeroed: which they are [Z], and by passage and head [B, Z, N].

        These are the sink mass, the cost in nats that zeroing adds to the loss of the next token, and the divergence of
        the model with the zeroed head from that with it, which is the cost that is to be expected if the model is
        right about the next token: it hangs on fewer chances of the text.
        """
        model, params = self.loaded.model, self.loaded.params
        tokens = jnp.asarray(checkpoint.drawn(self.spec.passages, self.loaded, seed))
        masses = []
        for stage in stages(model, params, tokens, capture=_CAPTURE):
            masses.append(stage.captured["attn_on_first"])
        whole = jax.nn.log_softmax(read_out(model, params, stage.resid)[:, :-1])
        shares = jnp.exp(whole)
        right = jnp.take_along_axis(whole, tokens[:, 1:, None], axis=-1)[..., 0]

        def changes(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
            """([B] cost, [B] divergence)."""
            edited = jax.nn.log_softmax(logits[:, :-1])
            likelihood = jnp.take_along_axis(edited, tokens[:, 1:, None], axis=-1)[..., 0]
            return (right - likelihood).mean(-1), jnp.sum(shares * (whole - edited), axis=-1).mean(-1)

        found = []
        for _, each in sweep_blocks(model, params, tokens, heads_of_block(model), changes, layers=self.layers):
            found.append([np.asarray(x, np.float32).T for x in each])
            layer_done()
        costs, divergences = (np.stack(each, axis=1) for each in zip(*found, strict=True))
        return {
            "layers": np.array(self.layers),
            "sink_mass": np.stack([np.asarray(masses[layer], np.float32) for layer in self.layers], axis=1),
            "cost": costs,
            "divergence": divergences,
            "loss": -np.asarray(right.mean(-1), np.float32),
        }
