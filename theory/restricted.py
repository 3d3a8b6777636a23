"""The restricted model of 2410.13835 (section 2.2): sink logits alpha, value state beta, everything else fixed.

With a_v = e^{alpha_v} / (e^{alpha_v} + W) the output of query v is u_v = a_v beta + (1 - a_v) B / W, its law
q_v = softmax(log p_v + u_v), and the risk R = sum_v pi_v KL(p_v || q_v), averaged over contexts (W, B).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RestrictedModel:
    """What is fixed: n non-trigger queries over V tokens, seen in C contexts. Build it with `restricted_model`.

    Attributes:
      p: [n, V] bigram rows. pi: [n] weights of the queries, positive.
      total: [C] W, number of keys in each context. mean_value: [C, V] B / W, their mean value state.
    """

    p: jax.Array
    pi: jax.Array
    total: jax.Array
    mean_value: jax.Array


def restricted_model(
    p: np.ndarray, pi: np.ndarray, counts: np.ndarray, values: np.ndarray | float = 1.0
) -> RestrictedModel:
    """The restricted model of given bigram rows and key counts.

    Args:
      p: [n, V] rows that sum to one; zeros are allowed. pi: [n] positive weights.
      counts: [V], or [C, V] for several contexts: how often each token stands among the keys, not negative.
      values: [V] or a number: xi, the scale of each token's value state xi_k e_k.

    Raises:
      ValueError: a shape or a range does not fit.
    """
    rows, weights = np.asarray(p, np.float64), np.asarray(pi, np.float64)
    keys = np.atleast_2d(np.asarray(counts, np.float64))
    if rows.ndim != 2 or weights.shape != rows.shape[:1] or keys.ndim != 2 or keys.shape[1] != rows.shape[1]:
        raise ValueError(
            f"p, pi and counts must have shapes [n, V], [n] and [V] or [C, V], but have {rows.shape}, "
            f"{weights.shape} and {np.shape(counts)}; make n and V agree."
        )
    if rows.min() < 0 or not np.allclose(rows.sum(1), 1):
        raise ValueError("p must hold probabilities, rows that sum to one, but does not; normalise the rows.")
    if weights.min() <= 0:
        raise ValueError(f"pi must be positive, but its smallest entry is {weights.min()}; drop such queries.")
    if keys.min() < 0 or keys.sum(1).min() <= 0:
        raise ValueError("counts must not be negative and must name at least one key, but does not; add a key.")
    total = keys.sum(1)
    mean_value = keys * np.broadcast_to(values, keys.shape[1:]) / total[:, None]
    return RestrictedModel(*map(jnp.asarray, (rows, weights, total, mean_value)))


def _deviation(model: RestrictedModel, alpha: jax.Array, beta: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(a [C, n], q - p [C, n, V], KL [C, n]) in the centred form, which keeps its digits near the optimum.

    With w = p expm1(u - E_p u) and S = sum w: q - p = (w - p S) / (1 + S) and KL(p || q) = log(1 + S).
    """
    a = jax.nn.sigmoid(alpha[None, :] - jnp.log(model.total)[:, None])
    u = a[:, :, None] * beta[None, None, :] + (1 - a)[:, :, None] * model.mean_value[:, None, :]
    p = model.p[None]
    centred = u - (p * u).sum(-1, keepdims=True)
    w = p * jnp.expm1(centred)
    s = w.sum(-1, keepdims=True)
    return a, (w - p * s) / (1 + s), jnp.log1p(s[..., 0])


def risk(model: RestrictedModel, alpha: jax.Array, beta: jax.Array) -> jax.Array:
    """R in nats, the mean over contexts.

    Args:
      model: what is fixed. alpha: [n] sink logits. beta: [V] value state of `<s>`.
    """
    return (model.pi[None, :] * _deviation(model, alpha, beta)[2]).sum(-1).mean()


def gradient(model: RestrictedModel, alpha: jax.Array, beta: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(dR/dalpha [n], dR/dbeta [V]) in closed form (2410.13835, appendix; centred for this project).

    Automatic differentiation of R agrees far from the optimum and loses all digits near it.

    Args:
      model: what is fixed. alpha: [n] sink logits. beta: [V] value state of `<s>`.
    """
    a, difference, _ = _deviation(model, alpha, beta)
    pull = (difference * (model.mean_value - beta[None])[:, None, :]).sum(-1)
    d_alpha = -model.pi * (a * (1 - a) * pull).mean(0)
    d_beta = (model.pi[None, :, None] * a[:, :, None] * difference).sum(1).mean(0)
    return d_alpha, d_beta
