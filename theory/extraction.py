"""The restricted model read off a trained network of one layer and one head (2410.13835, section 2.2).

The parts are those of `theory.restricted`, as the network realises them:

- alpha of a query is its logit on `<s>` minus the log-mean-exp of its other logits, so that its weight on `<s>` is
  a = e^alpha / (e^alpha + W), with W the number of its other keys, itself among them;
- a value counts by what it adds to the output logits: W_O v, through the last LayerNorm and W_U. The LayerNorm is
  replaced by its derivative at the residual stream of each dormant query, averaged over them, and the MLP's output is
  held: what attention does through the MLP is left out;
- B / W of a query is the mean value of its other keys under its own attention. Only characters count as outputs.

The restricted model holds everything else fixed, and says that beta - mean beta settles at -e^{-alpha} (B - mean B). A
full network also trains its MLP, which can cancel any beta, so nothing forces it there: how far off it is, is a result.
Its conservation law needs gradient flow, one context and nothing else in training, so it is not read here.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxsink.attention import Softmax
from jaxsink.models import Transformer
from jaxsink.probing import Edits, run
from jaxsink.tasks import BigramBackcopy

# Of the models' LayerNorm.
_EPS = 1e-5


def extractable(model: Transformer, task: BigramBackcopy) -> bool:
    """Whether `extract` knows the network: one layer with attention, one softmax head, one `<s>` a sequence."""
    c = model.config
    shape = (c.n_layers, c.n_heads, c.layers_without_attention) == (1, 1, ())
    plain = (c.attention, c.positions, c.registers) == (Softmax(), "learned", 0)
    return shape and plain and task.starts == 1


def extract(
    model: Transformer, task: BigramBackcopy, params: Any, tokens: jax.Array, edits: Edits | None = None
) -> dict[str, jax.Array]:
    """The parts of the restricted model and how they stand to its limit. Jittable; it only observes.

    Means are over the dormant queries of the batch: those after position 0 that are no triggers.

    Args:
      model, task, params: the network and what it was trained on. tokens: int [B, T], inputs.
      edits: as for `probing.run`; the network is read with them.

    Returns:
      Arrays by name, V characters:
      "extracted_share" [V], of the dormant queries, that are each character, and "extracted_alpha" [V], their mean
      alpha (NaN for one that never is). "extracted_alpha_mean", "extracted_alpha_spread" (standard deviation over
      characters, weighted by their share), "extracted_alpha_variation" (spread over |mean|).
      "extracted_keys", mean W. "extracted_beta" [V], "extracted_mean_b" [V] (mean of B), "extracted_values" [V, V]
      (value of each character, in logits; NaN for one that never stands among the keys).
      "extracted_limit" [V], where beta would settle up to a constant: -E[a (1-a) B/W] / E[a^2], which is -e^{-alpha} B
      if all contexts are alike. "extracted_cosine" of beta - mean with limit - mean; "extracted_cosine_b" with
      -(mean_b - mean). "extracted_drain", norm of beta - mean (logits), "extracted_drain_limit", of limit - mean, and
      "extracted_drain_b", of e^{-mean alpha} (mean_b - mean).

    Raises:
      ValueError: the network or the task is another one (see `extractable`).
    """
    if not extractable(model, task):
        raise ValueError("extract needs one layer, one softmax head and one start token; ask `extractable` first.")
    sites = {s: f"blocks.0.{s}" for s in ("attn_scores", "pattern", "v", "resid_post")}
    captured = run(model, params, tokens, capture=list(sites.values()), edits=edits)[1]
    scores, pattern, v = captured[sites["attn_scores"]][:, 0], captured[sites["pattern"]][:, 0], captured[sites["v"]]
    size, dtype, position = task.chain.size, scores.dtype, jnp.arange(tokens.shape[1])
    dormant = (~task.is_trigger(tokens) & (position > 0)[None]).astype(dtype)

    dormant /= dormant.sum()

    def mean(x: jax.Array) -> jax.Array:
        """Over the dormant queries, of [B, T, ...]."""
        return jnp.tensordot(dormant, x, 2)

    keys = jnp.maximum(position, 1).astype(dtype)
    other = (position[None] >= 1) & (position[None] <= position[:, None])
    rest_logits = jnp.where(other[None], scores, -jnp.inf).at[:, 0, 0].set(0.0)
    alpha = scores[:, :, 0] - jax.nn.logsumexp(rest_logits, axis=-1) + jnp.log(keys)[None]
    one_hot = jax.nn.one_hot(tokens, size, dtype=dtype)
    share = mean(one_hot)
    by_token = mean(alpha[..., None] * one_hot) / share
    alpha_mean = mean(alpha)
    spread = jnp.sqrt(jnp.where(share > 0, share * (by_token - alpha_mean) ** 2, 0.0).sum())

    read_out = _read_out(model, params, captured[sites["resid_post"]], dormant)[:, :size]
    values = v[:, :, 0] @ params["blocks_0"]["W_O"]
    on_start = pattern[:, :, 0]
    # (1 - a) B/W straight from the other keys: 1 - a would lose its digits where the sink is strong.
    rest = pattern[:, :, 1:] @ values[:, 1:]
    off_start = pattern[:, :, 1:].sum(-1).at[:, 0].set(1.0)
    beta = values[0, 0] @ read_out
    mean_b = mean(rest * (keys[None] / off_start)[..., None]) @ read_out
    limit = -mean(on_start[..., None] * rest) @ read_out / mean(on_start**2)
    as_key = one_hot[:, 1:].sum((0, 1))
    token_values = jnp.einsum("btk,btd->kd", one_hot[:, 1:], values[:, 1:]) / as_key[:, None]

    def centred(x: jax.Array) -> jax.Array:
        return x - x.mean()

    def cosine(x: jax.Array, y: jax.Array) -> jax.Array:
        x, y = centred(x), centred(y)
        return (x * y).sum() / (jnp.linalg.norm(x) * jnp.linalg.norm(y))

    found = {
        "share": share,
        "alpha": by_token,
        "alpha_mean": alpha_mean,
        "alpha_spread": spread,
        "alpha_variation": spread / jnp.abs(alpha_mean),
        "keys": mean(jnp.broadcast_to(keys[None], alpha.shape)),
        "beta": beta,
        "mean_b": mean_b,
        "values": token_values @ read_out,
        "limit": limit,
        "cosine": cosine(beta, limit),
        "cosine_b": cosine(beta, -mean_b),
        "drain": jnp.linalg.norm(centred(beta)),
        "drain_limit": jnp.linalg.norm(centred(limit)),
        "drain_b": jnp.exp(-alpha_mean) * jnp.linalg.norm(centred(mean_b)),
    }
    return {f"extracted_{name}": value for name, value in found.items()}


def _read_out(model: Transformer, params: Any, x: jax.Array, weight: jax.Array) -> jax.Array:
    """[D, V + 1] from what attention adds to the logits: the mean derivative of the last LayerNorm at x, then W_U."""
    if not model.config.normalise:
        return jnp.asarray(params["W_U"])
    d = x.shape[-1]
    centred = x - x.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt((centred**2).mean(-1) + _EPS)
    unit = (centred * inverse[..., None]).reshape(-1, d)
    weight = (weight * inverse).reshape(-1)
    # d LayerNorm(x) / dx = (1 - 1 1^T / D - unit unit^T / D) / std, before its scale.
    derivative = weight.sum() * (jnp.eye(d, dtype=x.dtype) - 1 / d) - (weight[:, None] * unit).T @ unit / d
    return (derivative * params["ln_final"]["scale"][None]) @ params["W_U"]
