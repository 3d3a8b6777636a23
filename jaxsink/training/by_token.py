"""Attention and values by the type of the key token: where the sink is, whatever its position."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxsink import metrics
from jaxsink.models import Transformer
from jaxsink.probing import Edits, run
from jaxsink.tasks import BigramBackcopy


def by_token(
    model: Transformer, task: BigramBackcopy, params: Any, tokens: jax.Array, edits: Edits | None = None
) -> dict[str, jax.Array]:
    """Attention of the dormant queries and size of the values, by the token that the key holds. Jittable.

    Dormant queries are the positions after the start tokens that are no triggers, without the first position of a
    sequence, whose weight on itself is forced. A weight counts by its size, so that variants whose rows do not add up
    to one, or have weights below zero, can be compared.

    Args:
      model, task, params: the network and what it was trained on.
      tokens: int [B, T], inputs. edits: as for `probing.run`: what is measured is the network with them.

    Returns:
      Arrays by name, V + 1 tokens with `<s>` last, L blocks:
      "attention_by_token" [L, V + 1], share of the dormant queries' attention that falls on keys of each type, its sum
      1 (mean over heads; NaN where there is no attention at all). "uniform_by_token" [V + 1], the share under even
      attention to all visible keys. "value_norm_by_token" [L, V + 1], mean |W_O v| over the keys of a type, in units
      of the residual stream, NaN for a type that does not occur. "copy_share" [], the share of copy positions in all
      positions that the risks are about.

    Source: the measurements are those of 2410.13835, section 2, for a sequence without `<s>`.
    """
    layers, skip, length = range(model.config.n_layers), model.config.registers, tokens.shape[1]
    with_attention = [i for i in layers if i not in model.config.layers_without_attention]
    wanted = [f"blocks.{i}.{site}" for i in with_attention for site in ("pattern", "v")]
    _, captured = run(model, params, tokens, capture=wanted, edits=edits)
    position, trigger = jnp.arange(length), task.is_trigger(tokens)
    dormant = ~trigger & (position >= max(task.starts, 1))[None]
    dtype = jnp.result_type(float)
    is_type = jax.nn.one_hot(tokens, task.vocab_size, dtype=dtype)
    count = is_type.sum((0, 1))

    def shares(weights: jax.Array) -> jax.Array:
        """[V + 1] from weights [B, T, T] of queries on keys."""
        received = jnp.where(dormant[:, :, None], jnp.abs(weights), 0.0).sum(1).astype(dtype)
        return jnp.einsum("bk,bkv->v", received, is_type) / received.sum()

    def attention_of(layer: int) -> dict[str, jax.Array]:
        pattern = captured[f"blocks.{layer}.pattern"][:, :, skip:, skip:]
        w_o = params[f"blocks_{layer}"]["W_O"].reshape(model.config.n_heads, -1, model.config.d_model)
        norms = metrics.value_output_norms(captured[f"blocks.{layer}.v"][:, skip:], w_o)
        return {
            "attention_by_token": jax.vmap(shares, in_axes=1)(pattern).mean(0),
            "value_norm_by_token": jnp.einsum("bk,bkv->v", norms.astype(dtype), is_type) / count,
        }

    absent = jnp.full(task.vocab_size, jnp.nan)
    without = {"attention_by_token": absent, "value_norm_by_token": absent}
    per_layer = [attention_of(i) if i in with_attention else without for i in layers]
    even = jnp.tri(length, dtype=dtype) / (position + 1).astype(dtype)[:, None]
    counted = tokens.shape[0] * (length - task.starts)
    return jax.tree.map(lambda *x: jnp.stack(x), *per_layer) | {
        "uniform_by_token": shares(jnp.broadcast_to(even[None], (*tokens.shape, length))),
        "copy_share": trigger.sum().astype(dtype) / counted,
    }
