"""`jaxsink bench scan`: what it costs to look at every layer, against the same pass without looking and a peer."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.commands.bench import REPEATS, median_seconds
from experiments.commands.bench_peer import eager_or_sdpa
from experiments.environment import environment
from jaxsink.checkpoints import load
from jaxsink.models import Decoder, DecoderConfig, Encoder, init
from jaxsink.probing import stages
from jaxsink.scanning import readings

# Shapes of models that are measured with random weights, without a checkpoint.
SHAPES = {
    "llama-3-8b": DecoderConfig(
        vocab_size=128256,
        n_layers=32,
        n_heads=32,
        n_key_heads=8,
        head_size=128,
        d_model=4096,
        d_mlp=14336,
        max_length=8192,
        rope_base=500000.0,
        norm_eps=1e-5,
        dtype="bfloat16",
    )
}
PEER = "transformers"


def _norms(x: jax.Array) -> jax.Array:
    return jnp.linalg.norm(x.astype(jnp.float32).reshape(*x.shape[:2], -1), axis=-1)


def _itself(x: jax.Array) -> jax.Array:
    return x


# What can be seen in one pass at any length: attention to the first key, value norms, residual norms.
ESSENTIALS = {"attn_on_first": _itself, "v": _norms, "resid_post": _norms}


def random_params(model: Decoder) -> dict[str, Any]:
    """Random parameters in the dtype of the activations; one block after another, so that nothing is made twice."""
    one = Decoder(replace(model.config, n_layers=1))
    params = jax.jit(lambda key: jax.tree.map(lambda x: x.astype(model.config.dtype), init(one, key)))(
        jax.random.key(0)
    )
    block = params["blocks_0"]
    # Copies: blocks that shared their arrays would be read from the cache.
    return params | {f"blocks_{i}": jax.tree.map(jnp.copy, block) for i in range(1, model.config.n_layers)}


def _pass(model: Decoder | Encoder, params: Any, tokens: jax.Array, capture: Any) -> Any:
    """The residual stream after the last block, and what was captured."""
    kept = []
    for stage in stages(model, params, tokens, capture=capture):
        kept.append(stage.captured)
    return stage.resid, kept


def _row(table: Table, what: str, length: int, seconds: float | None, plain: float, peer: float | None) -> None:
    if seconds is None:
        table.add_row(what, str(length), *("-",) * 3)
        return
    over_peer = "-" if peer is None else f"{seconds / peer:.2f}"
    table.add_row(what, str(length), f"{1e3 * seconds:.1f}", f"{seconds / plain:.3f}", over_peer)


def bench(name: str, lengths: list[int], console: Console) -> None:
    """Print the table: a plain pass, one that reads what is cheap at any length, a whole scan, and the peer.

    Args:
      name: one of `SHAPES`, with random weights, or a checkpoint.
      lengths: tokens of the one sequence. console: where the table goes.

    Raises:
      ValueError: there is no such checkpoint, or a length is too small.
    """
    if bad := [length for length in lengths if length < 8]:
        raise ValueError(f"lengths must be at least 8, but {bad[0]} was given; take longer ones.")
    if name in SHAPES:
        model: Decoder | Encoder = Decoder(SHAPES[name])
        params = random_params(Decoder(SHAPES[name]))
    else:
        loaded = load(name)
        model, params = loaded.model, loaded.params
    env, dtype = environment(), model.config.dtype
    small = dtype == "float32"
    table = Table(
        title=f"{name}, {dtype}, one sequence, without the read-out; {env['device']} ({env['platform']}), "
        f"jax {env['jax']}, {date.today():%d %B %Y}, median of {REPEATS}",
        title_justify="left",
    )
    for column in ("pass", "tokens", "ms", "over plain", f"over {PEER}"):
        table.add_column(column)
    for length in lengths:
        tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (1, length), dtype=np.int32)
        ours = jnp.asarray(tokens)
        plain = median_seconds(lambda ours=ours: _pass(model, params, ours, ()))  # type: ignore[misc]
        console.print(f"{length} tokens, plain: {1e3 * plain:.1f} ms", highlight=False)
        looked = median_seconds(lambda ours=ours: _pass(model, params, ours, ESSENTIALS))  # type: ignore[misc]
        console.print(f"{length} tokens, essentials: {1e3 * looked:.1f} ms", highlight=False)
        whole = median_seconds(lambda ours=ours: readings(model, params, ours)) if small else None  # type: ignore[misc]
        work = eager_or_sdpa(model.config, tokens, maps=small)
        peer = None if work is None else median_seconds(work)
        _row(table, "plain", length, plain, plain, peer)
        _row(table, "first-key mass, value and residual norms", length, looked, plain, peer)
        if small:
            _row(table, "all readings of a scan", length, whole, plain, peer)
        _row(table, f"{PEER}, " + ("eager, all maps" if small else "sdpa, no maps"), length, peer, plain, peer)
    console.print(table)
