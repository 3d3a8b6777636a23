"""What is measured on a network trained on Bigram-Backcopy: the definitions of 2410.13835, at one set of params."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsink import metrics
from jaxsink.models import Transformer
from jaxsink.probing import Edits, Set, merge, run
from jaxsink.tasks import BigramBackcopy

Params = Any
Measured = dict[str, jax.Array]

# What `observe` measures on the attention of a block, one number each.
ATTENTION_SCALARS = (
    "attn_start",
    "attn_start_trigger",
    "attn_prev_trigger",
    "dlogit",
    "sink_logit_std",
    "other_logit_std",
    "sink_logit_mean",
    "value_norm_start",
    "value_ratio",
    "sink_share",
    "row_mass",
    "sink_strength",
)


def _query_masks(task: BigramBackcopy, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(copy positions, dormant positions): triggers, and the other positions after the start tokens."""
    trigger = task.is_trigger(tokens)
    after_start = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None, :] >= task.starts, tokens.shape)
    return trigger, after_start & ~trigger


def risks(task: BigramBackcopy, log_probs: jax.Array, tokens: jax.Array) -> Measured:
    """Excess risk in nats at the copy positions ("backcopy") and at the other positions ("bigram").

    Args:
      task: what the law is. log_probs: [B, T, V], of the next token. tokens: int [B, T], inputs.
    """
    trigger, dormant = _query_masks(task, tokens)
    law = task.law(tokens)
    return {
        "backcopy": metrics.excess_risk(log_probs, law, trigger),
        "bigram": metrics.excess_risk(log_probs, law, dormant),
    }


def _output_matrix(model: Transformer, params: Params, layer: int) -> jax.Array:
    c = model.config
    w_o = params[f"blocks_{layer}"]["W_O"]
    return jnp.reshape(w_o, (c.n_heads, c.d_model // c.n_heads, c.d_model))


def observe(
    model: Transformer, task: BigramBackcopy, params: Params, tokens: jax.Array, edits: Edits | None = None
) -> Measured:
    """Risks and, for every block, sink, drain and peak, on the tokens given. Jittable; it only observes.

    Args:
      model, task, params: the network and what it was trained on.
      tokens: int [B, T], inputs.
      edits: as for `probing.run`: what is measured is the network with them.

    Returns:
      Arrays by name: scalars "backcopy", "bigram" (nats), "baseline" (Attn_<s> of uniform attention), and with a
      leading layer axis L, averaged over heads: "attn_start", "attn_start_trigger", "attn_prev_trigger" (weights),
      "sink_share", "row_mass" and "sink_strength" at dormant positions (see `metrics`), "dlogit" [L],
      "dlogit_by_token" [L, V], "sink_logit_std", "other_logit_std", "sink_logit_mean" (logits), "value_norm_start",
      "value_ratio" (of W_O v), "resid_norm_start", "resid_norm_other", "resid_norm_content" (the most frequent
      character), "peak_ratio". A block without attention has NaN where attention is measured, and attention without
      one matrix of scores has NaN where logits are.
    """
    layers = range(model.config.n_layers)
    with_attention = [i for i in layers if i not in model.config.layers_without_attention]
    attended = ("attn_scores", "pattern", "v") if model.config.has_scores else ("pattern", "v")
    wanted = [f"blocks.{i}.{site}" for i in with_attention for site in attended]
    wanted += [f"blocks.{i}.resid_post" for i in layers]
    logits, captured = run(model, params, tokens, capture=wanted, edits=edits)
    trigger, dormant = _query_masks(task, tokens)
    ordinary = trigger | dormant
    content = ordinary & (tokens == int(np.argmax(task.chain.marginal)))
    skip = model.config.registers
    absent = dict.fromkeys(ATTENTION_SCALARS, jnp.asarray(jnp.nan, logits.dtype))
    absent["dlogit_by_token"] = jnp.full(task.vocab_size, jnp.nan, logits.dtype)

    def of_scores(layer: int) -> Measured:
        scores = captured[f"blocks.{layer}.attn_scores"][:, :, skip:, skip:]
        spread = metrics.logit_concentration(scores, dormant)
        return {
            "dlogit": metrics.sink_logit_gap(scores, dormant).mean(),
            "dlogit_by_token": metrics.sink_logit_gap_by_token(scores, tokens, task.vocab_size).mean(axis=0),
            "sink_logit_std": spread.sink_std.mean(),
            "other_logit_std": spread.other_std.mean(),
            "sink_logit_mean": spread.sink_mean.mean(),
        }

    def attention_of(layer: int) -> Measured:
        pattern = captured[f"blocks.{layer}.pattern"][:, :, skip:, skip:]
        v = captured[f"blocks.{layer}.v"][:, skip:]
        values = metrics.value_output_norms(v, _output_matrix(model, params, layer))
        return (absent | (of_scores(layer) if model.config.has_scores else {})) | {
            "attn_start": metrics.attention_to_key(pattern, dormant).mean(),
            "attn_start_trigger": metrics.attention_to_key(pattern, trigger).mean(),
            "attn_prev_trigger": metrics.attention_to_previous(pattern, trigger).mean(),
            "value_norm_start": values[:, 0].mean(),
            "value_ratio": metrics.value_ratio(values, ordinary),
            "sink_share": metrics.sink_share(pattern, dormant).mean(),
            "row_mass": metrics.row_mass(pattern, dormant).mean(),
            "sink_strength": metrics.sink_strength(pattern, dormant, trigger),
        }

    def residual_of(layer: int) -> Measured:
        norms = metrics.residual_norms(captured[f"blocks.{layer}.resid_post"][:, skip:])
        return {
            "resid_norm_start": norms[:, 0].mean(),
            "resid_norm_other": norms[:, 1:].mean(),
            "resid_norm_content": metrics.norm_at(norms, content),
            "peak_ratio": metrics.peak_ratio(norms),
        }

    per_layer = [residual_of(i) | (attention_of(i) if i in with_attention else absent) for i in layers]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *per_layer)
    return risks(task, jax.nn.log_softmax(logits), tokens) | {"baseline": metrics.uniform_baseline(dormant)} | stacked


def ablations(
    model: Transformer, task: BigramBackcopy, params: Params, tokens: jax.Array, edits: Edits | None = None
) -> Measured:
    """Risks (nats) when every attention, or every MLP, adds nothing, and when the output is uniform.

    `edits` are in force, too, as in `observe`.
    """
    layers, config = range(model.config.n_layers), model.config
    cut = {
        "attention": [f"blocks.{i}.attn_out" for i in layers if i not in config.layers_without_attention],
        "mlp": [f"blocks.{i}.mlp_out" for i in layers if i not in config.layers_without_mlp],
    }

    def without(part: jax.Array) -> Measured:
        zeros = {name: Set(0.0, part == i) for i, names in enumerate(cut.values()) for name in names}
        logits, _ = run(model, params, tokens, edits=merge(edits or {}, zeros))
        return risks(task, jax.nn.log_softmax(logits), tokens)

    # A loop of the program, so that the network is compiled once and not once a part.
    found = jax.lax.map(without, jnp.arange(len(cut)))
    result = {f"no_{part}_{name}": value[i] for i, part in enumerate(cut) for name, value in found.items()}
    uniform = jnp.full((*tokens.shape, task.vocab_size), -jnp.log(task.vocab_size))
    return result | {f"uniform_{name}": value for name, value in risks(task, uniform, tokens).items()}


def examples(
    model: Transformer,
    task: BigramBackcopy,
    params: Params,
    key: jax.Array,
    length: int,
    edits: Edits | None = None,
) -> Measured:
    """A trigger-rich and a trigger-free sequence with their maps and norms, for the pictures.

    `edits` are in force, as in `observe`.

    Returns:
      "example_tokens" int [2, T] and "example_triggers" bool [2, T]; row 0 is the sequence with the most triggers of
      512, row 1 one without any. "example_attention" [2, L, T, T] (mean over heads), "example_value_norm" and
      "example_resid_norm" [2, L, T]. The first two are NaN for a block without attention.
    """
    pool_key, free_key = jax.random.split(key)
    pool = task.sample(pool_key, 512, length)[:, :length]
    rich = pool[jnp.argmax(task.is_trigger(pool).sum(axis=1))]
    tokens = jnp.stack([rich, task.trigger_free(free_key, 1, length)[0, :length]])
    layers = range(model.config.n_layers)
    skip = model.config.registers
    with_attention = [i for i in layers if i not in model.config.layers_without_attention]
    sites = [f"blocks.{i}.{site}" for i in with_attention for site in ("pattern", "v")]
    wanted = [*sites, *(f"blocks.{i}.resid_post" for i in layers)]
    _, captured = run(model, params, tokens, capture=wanted, edits=edits)

    def attention(layer: int) -> jax.Array:
        if layer in with_attention:
            return captured[f"blocks.{layer}.pattern"].mean(axis=1)[:, skip:, skip:]
        return jnp.full((*tokens.shape, tokens.shape[1]), jnp.nan)

    def value_norms(layer: int) -> jax.Array:
        if layer in with_attention:
            v = captured[f"blocks.{layer}.v"][:, skip:]
            return metrics.value_output_norms(v, _output_matrix(model, params, layer))
        return jnp.full(tokens.shape, jnp.nan)

    def resid_norms(layer: int) -> jax.Array:
        return metrics.residual_norms(captured[f"blocks.{layer}.resid_post"][:, skip:])

    per_layer = {"attention": attention, "value_norm": value_norms, "resid_norm": resid_norms}
    return {"example_tokens": tokens, "example_triggers": task.is_trigger(tokens)} | {
        f"example_{name}": jnp.stack([of(i) for i in layers], axis=1) for name, of in per_layer.items()
    }
