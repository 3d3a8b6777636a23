"""Theorem 1 of 2410.13835 as weights of a real transformer, and what its risks must be.

One layer, one head, no normalisation, one-hot embeddings, a linear MLP, and V positions that are never used: their
coordinates carry the output. With W_K = sqrt(d) I the entries of W_Q are the logits themselves: alpha_v from query v on
`<s>`, and lambda from every position on the one before it. The value of token k is xi_k on the coordinate of output k
and that of `<s>` is beta; the MLP writes log p_v there; W_U reads them.

"lambda for triggers only" would need a product of token and position. With additive one-hots every query puts lambda on
the key before it, and the others are kept from it by alpha = 2 lambda on `<s>`. With alpha = lambda half of their
attention stays on that key, and the Bigram risk grows with xi.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from jaxsink.models import Transformer, TransformerConfig

Params = dict[str, Any]
Array = NDArray[np.float64]
# The logit of an output that must not occur: in float64 e^-1000 is exactly 0.
NEVER = -1e3


def network(characters: int, length: int) -> Transformer:
    """The transformer that holds the construction. `<s>` is token V, as in `jaxsink.tasks.BigramBackcopy`.

    Args:
      characters: V. length: T, the largest number of input positions that is used.
    """
    vocab_size, max_length = characters + 1, length + characters
    config = TransformerConfig(
        d_model=vocab_size + max_length,
        d_mlp=vocab_size,
        mlp="linear",
        normalise=False,
        one_hot=True,
        dtype="float64",
    )
    return Transformer(vocab_size, max_length, config)


def log_rows(p: Array, triggers: Sequence[int] = ()) -> Array:
    """[V, V] what the MLP returns: log p_v with a finite value for log 0, and 0 on triggers.

    Args:
      p: [V, V] bigram rows. triggers: tokens.
    """
    rows = np.log(p, where=p > 0, out=np.full(p.shape, NEVER))
    rows[list(triggers)] = 0.0
    return rows


def construct(
    model: Transformer, log_p: jax.Array, alpha: jax.Array, lam: jax.Array, xi: jax.Array, beta: jax.Array
) -> Params:
    """Parameters of the construction. Differentiable and jittable.

    Args:
      model: from `network`, with V characters and T positions.
      log_p: [V, V] what the MLP returns for each query, from `log_rows`.
      alpha: [V] logit of each query on `<s>`, 0 for triggers. lam: [] logit of every query on the key before it.
      xi: [V] scale of each character's value. beta: [V] value of `<s>`.

    Source: 2410.13835, theorem 1; the one-hot realisation is this project's.
    """
    size, d = model.vocab_size - 1, model.config.d_model
    tokens, characters, start, spare = np.arange(size + 1), np.arange(size), size, np.arange(d - size, d)
    positions = np.arange(size + 1, d - size)
    zeros = jnp.zeros((d, d))
    w_q = zeros.at[characters, start].set(alpha).at[positions[1:], positions[:-1]].set(lam)
    w_v = zeros.at[characters, spare].set(xi).at[start, spare].set(beta)
    w_in = jnp.zeros((d, size + 1)).at[tokens, tokens].set(1.0)
    w_out = jnp.zeros((size + 1, d)).at[:size, spare].set(log_p)
    # Every query carries one token, and with it the logit that keeps `<s>` from being predicted.
    w_u = jnp.zeros((d, size + 1)).at[spare, characters].set(1.0).at[tokens, start].set(NEVER)
    block = {"W_Q": w_q, "W_K": np.sqrt(d) * jnp.eye(d), "W_V": w_v, "W_O": jnp.eye(d), "W_in": w_in, "W_out": w_out}
    return {"blocks_0": block, "W_U": w_u}


def log_law(model: Transformer, params: Params, tokens: jax.Array) -> jax.Array:
    """[B, T, V + 1] log-probabilities of the next token, for tokens int [B, T]."""
    # Flax types `apply` for every way of calling it; without mutable collections it returns the output alone.
    return jax.nn.log_softmax(cast(jax.Array, model.apply({"params": params}, tokens)))


def with_free(params: Params, queries: ArrayLike, alpha: jax.Array, beta: jax.Array) -> Params:
    """The network with other sink logits and another value of `<s>`. Gradients flow to both.

    Args:
      params: from `construct`. queries: n characters. alpha: [n] their logits on `<s>`. beta: [V].
    """
    block = params["blocks_0"]
    start = params["W_U"].shape[1] - 1
    block = block | {
        "W_Q": block["W_Q"].at[np.asarray(queries), start].set(alpha),
        "W_V": block["W_V"].at[start, -start:].set(beta),
    }
    return params | {"blocks_0": block}


def free(params: Params, queries: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """(alpha [n], beta [V]) of a network, the inverse of `with_free`; of its gradient, the gradient in them."""
    start = params["W_U"].shape[1] - 1
    return params["blocks_0"]["W_Q"][np.asarray(queries), start], params["blocks_0"]["W_V"][start, -start:]


def backcopy_risk(scale: Array, characters: int) -> Array:
    """Backcopy risk (nats) of the construction with lambda = xi = c: (V - 1) e^{-c} to leading order (2410.13835).

    A trigger copies with logit xi a against V - 1 others, where a = e^c / (e^c + i) is its weight on the key before it.
    What is left out is relative, of the order c T e^{-c}.

    Args:
      scale: c. characters: V.
    """
    return (characters - 1) * np.exp(-scale)


def bigram_risk(scale: Array, share: Array, moments: Array) -> Array:
    """Bigram risk (nats) of the construction with alpha = 2c, lambda = xi = c, beta = 0, to second order in its output.

    At position i a non-trigger query adds u = c (N + (e^c - 1) e_prev) / (e^{2c} + e^c + i - 1) to log p, where N
    counts the characters so far. The risk is log E e^u - E u = Var u / 2, up to a third of the range of u, relative.

    Args:
      scale: [C] c. share: [T] of the non-trigger queries, which stand at each position; those at 0 and 1 are left out,
        since they have no character before them.
      moments: [T, 3] mean of Var N, Cov(N, e_prev) and Var e_prev under the row of the query.

    Returns:
      [C].
    """
    growth = np.exp(scale)[:, None]
    keys = growth**2 + growth + np.arange(share.size)[None] - 1
    more = growth - 1
    variance = moments[None, :, 0] + 2 * more * moments[None, :, 1] + more**2 * moments[None, :, 2]
    value: Array = 0.5 * ((share[None] * variance)[:, 2:] * (scale[:, None] / keys[:, 2:]) ** 2).sum(1)
    return value


def bigram_peak(share: Array, moments: Array) -> float:
    """The scale c at which `bigram_risk` is largest: about 1/2 log T, where e^{2c} on `<s>` passes the number of keys.

    Args:
      share: [T], moments: [T, 3], as in `bigram_risk`.
    """
    found = minimize_scalar(
        lambda c: -bigram_risk(np.array([c]), share, moments)[0], bounds=(0.1, 10), method="bounded"
    )
    return float(found.x)


def solving_scale(risk: float, characters: int) -> float:
    """The scale c from which on both risks stay below `risk`: log((V - 1) / risk), as the Backcopy risk is the larger.

    Args:
      risk: nats, small. characters: V.
    """
    return float(np.log((characters - 1) / risk))
