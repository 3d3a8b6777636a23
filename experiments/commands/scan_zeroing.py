"""What it costs to zero each head of a model, one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from jaxsink.checkpoints import Loaded
from jaxsink.models import Decoder, Encoder
from jaxsink.probing import heads_of_block, read_out, stages, sweep_blocks


class Measure(NamedTuple):
    """What is said of an edited model: its name, and the unit in words."""

    name: str
    words: str


def measure_of(model: Decoder | Encoder) -> Measure:
    """What is measured of this model."""
    if isinstance(model, Decoder):
        return Measure("loss", "increase of the mean loss of the next token, in nats")
    output = "logits" if model.config.mlm_head else "last hidden states"
    return Measure(
        "change",
        f"relative change of the {output}, since an encoder has no loss of the next token: the norm of the difference "
        "over the norm, averaged over tokens",
    )


class Zeroing:
    """The heads of a model zeroed on one batch of samples.

    Args:
      loaded: the model.
      tokens: int [B, T]. real: bool [B, T], which of them are no padding.
    """

    def __init__(self, loaded: Loaded, tokens: NDArray[np.int32], real: NDArray[np.bool_]) -> None:
        self.model, self.params = loaded.model, loaded.params
        self.tokens = jnp.asarray(tokens)
        self.inputs = {} if real.all() else {"valid": jnp.asarray(real)}
        output = read_out(self.model, self.params, self._resid())
        self.read = _loss(tokens, real) if isinstance(self.model, Decoder) else _change(output, real)
        self.unedited = float(self.read(output))

    def _resid(self) -> jax.Array:
        """The residual stream after the last block, without an edit."""
        *_, last = stages(self.model, self.params, self.tokens, inputs=self.inputs)
        return last.resid

    def estimate(self) -> float:
        """Seconds that `costs` will take, from the time of a pass and of the last block's heads, compiled."""
        layers, heads = self.model.config.n_layers, self.model.config.n_heads

        def passed() -> None:
            jax.block_until_ready(self._resid())

        def swept() -> None:
            jax.block_until_ready(list(self._sweep([layers - 1])))

        block = _seconds(passed) / layers
        # The blocks up to the last, then its heads and the read-out for each.
        reading = max(0.0, _seconds(swept) - (layers + heads) * block)
        return layers * block + heads * block * layers * (layers + 1) / 2 + layers * reading

    def costs(self) -> Iterator[NDArray[np.float64]]:
        """For one layer after another, [N], what zeroing each head adds."""
        for _, found in self._sweep(None):
            yield np.asarray(found, np.float64) - self.unedited

    def _sweep(self, layers: list[int] | None) -> Iterator[tuple[int, jax.Array]]:
        return sweep_blocks(
            self.model,
            self.params,
            self.tokens,
            heads_of_block(self.model),
            self.read,
            layers=layers,
            inputs=self.inputs,
        )


def _seconds(work: Callable[[], None]) -> float:
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _loss(tokens: NDArray[np.int32], real: NDArray[np.bool_]) -> Callable[[jax.Array], jax.Array]:
    """Mean loss in nats of the next token, where it is real."""
    target, counted = jnp.asarray(tokens[:, 1:]), jnp.asarray(real[:, 1:])

    def loss(logits: jax.Array) -> jax.Array:
        each = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], target)
        return jnp.sum(jnp.where(counted, each, 0.0)) / jnp.sum(counted).astype(each.dtype)

    return loss


def _change(unedited: jax.Array, real: NDArray[np.bool_]) -> Callable[[jax.Array], jax.Array]:
    """Mean over real tokens of |edited - unedited| / |unedited|."""
    counted = jnp.asarray(real)

    def change(output: jax.Array) -> jax.Array:
        each = jnp.linalg.norm(output - unedited, axis=-1) / jnp.linalg.norm(unedited, axis=-1)
        return jnp.sum(jnp.where(counted, each, 0.0)) / jnp.sum(counted).astype(each.dtype)

    return change
