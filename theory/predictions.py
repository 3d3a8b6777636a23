"""What gradient flow on the restricted model must do, in closed form (2410.13835, theorem 2, and beyond).

Statements marked new are this project's. All of them are for one context unless they say otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from theory.restricted import RestrictedModel

Array = NDArray[np.float64]
# Rounds of the fixed point for g, which contracts by the share of B that contexts have in common.
_ITERATIONS = 10_000
# Singular values below this share of the largest belong to directions without force, which rounding leaves near 1e-16;
# the smallest others are some 1e-7, on Shakespeare's bigrams.
_NULL = 1e-12


def _one_context(model: RestrictedModel) -> tuple[Array, Array, float, Array]:
    """(p, pi, W, B) of a model with one context."""
    if model.total.shape[0] != 1:
        raise ValueError(
            f"model must have one context for this prediction, but has {model.total.shape[0]}; build it with one."
        )
    total = float(model.total[0])
    return np.asarray(model.p), np.asarray(model.pi), total, total * np.asarray(model.mean_value[0])


def sink_logit(model: RestrictedModel, time: Array) -> Array:
    """alpha_v(t) for beta frozen at a constant vector: theorem 2(a) with its constant and next order (new).

    alpha_v = 1/2 log(2 pi_v Var t) + (kappa_3 / (2 Var) - 3 W) / sqrt(2 pi_v Var t), with variance and third cumulant
    of B under p_v. A query with Var = 0 feels no force: NaN.

    Args:
      model: with one context. time: [P] late times.

    Returns:
      [P, n].
    """
    p, pi, total, b = _one_context(model)
    centred = b[None] - (p * b[None]).sum(1, keepdims=True)
    variance, third = (p * centred**2).sum(1), (p * centred**3).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 2 * pi[None] * variance[None] * np.asarray(time)[:, None]
        value = 0.5 * np.log(scale) + (third / (2 * variance) - 3 * total)[None] / np.sqrt(scale)
    return np.where(variance[None] > 0, value, np.nan)


def components(model: RestrictedModel) -> NDArray[np.int64]:
    """[V] component of each token: tokens that some row p_v supports together hang together."""
    rows, tokens = np.nonzero(np.asarray(model.p))
    n, size = model.p.shape
    links = coo_array((np.ones(rows.size), (tokens, size + rows)), shape=(size + n, size + n))
    return np.asarray(connected_components(links, directed=False)[1][:size], np.int64)


def _means(model: RestrictedModel, x: Array) -> Array:
    """[V] the mean of x over each token's component."""
    label = components(model)
    return (np.bincount(label, x) / np.bincount(label))[label]


def value_limit(model: RestrictedModel, alpha: float, beta: Array) -> Array:
    """beta* for alpha frozen at alpha 1: theorem 2(b), exact, with means over components for sparse rows (new).

    beta* = [mean beta(0) + e^{-alpha} mean B] 1 - e^{-alpha} B. A token that no row supports never moves.

    Args:
      model: with one context. alpha: the frozen logit. beta: [V], beta(0).
    """
    *_, b = _one_context(model)
    drained = b * np.exp(-alpha)
    return _means(model, beta + drained) - drained


def value_rate(model: RestrictedModel, alpha: float) -> float:
    """Exponential rate at which beta reaches `value_limit`: the smallest nonzero eigenvalue of the Hessian there.

    rate = lambda( a^2 sum_v pi_v (diag p_v - p_v p_v^T) ), a = e^alpha / (e^alpha + W).

    Args:
      model: with one context. alpha: the frozen logit.
    """
    p, pi, total, _ = _one_context(model)
    a = 1 / (1 + total * np.exp(-alpha))
    hessian = a**2 * (np.diag(pi @ p) - (p * pi[:, None]).T @ p)
    # One zero for each component, whose sum is conserved; a token without support is a component of its own.
    return float(np.linalg.eigvalsh(hessian)[len(np.unique(components(model)))])


def distance_from_stationary(model: RestrictedModel, alpha: Array, beta: Array) -> float:
    """How far a point is from theorem 2(c)'s stationary set, beta + e^{-alpha_v} B constant on every S_v.

    Returns:
      The largest standard deviation under a row p_v of beta + e^{-alpha_v} B; zero exactly on the set, where R = 0.
    """
    p, _, _, b = _one_context(model)
    x = beta[None] + np.exp(-alpha)[:, None] * b[None]
    return float(np.sqrt((p * (x - (p * x).sum(1, keepdims=True)) ** 2).sum(1)).max())


def conserved(model: RestrictedModel, alpha: Array, beta: Array) -> tuple[Array, Array]:
    """What the joint flow conserves (new): (an energy [..., G], the sum of beta [..., G]) of each component.

    The energy of a component is 1/2 ||beta - B/W||^2 - sum_v (alpha_v + e^{alpha_v} / W) over its tokens and queries.

    Args:
      model: with one context. alpha: [..., n]. beta: [..., V].
    """
    p, _, total, b = _one_context(model)
    of_token = components(model)
    of_query = of_token[p.argmax(1)]
    groups = np.arange(of_token.max() + 1)
    tokens, queries = ((of[:, None] == groups[None]).astype(np.float64) for of in (of_token, of_query))
    return 0.5 * (beta - b / total) ** 2 @ tokens - (alpha + np.exp(alpha) / total) @ queries, beta @ tokens


def freezing_logit(model: RestrictedModel, alpha: Array, beta: Array) -> float:
    """The common value at which the joint flow of one context freezes all sink logits (new).

    The unique root a of 1/2 [V m^2 + (e^{-a} + 1/W)^2 ||B - mean B||^2] - n (a + e^a / W) = energy at the start, with
    m = mean beta(0) - mean B / W.

    Args:
      model: with one context and one component. alpha: [n], alpha(0). beta: [V], beta(0).

    Raises:
      ValueError: the rows fall into several components, each of which freezes by itself.
    """
    _, _, total, b = _one_context(model)
    energies = conserved(model, alpha, beta)[0]
    if energies.size > 1:
        raise ValueError(
            f"model must have one component, but its rows fall into {energies.size}, which freeze apart; split it."
        )
    energy = float(energies[0])
    shift, spread = beta.mean() - b.mean() / total, ((b - b.mean()) ** 2).sum()

    def excess(a: float) -> float:
        kept = 0.5 * (b.size * shift**2 + (np.exp(-a) + 1 / total) ** 2 * spread)
        return float(kept - alpha.size * (a + np.exp(a) / total) - energy)

    # It falls strictly from infinity to minus infinity; beyond 300 the squares would overflow.
    return float(brentq(excess, -300, 300, xtol=1e-13))


def growing_constant(model: RestrictedModel) -> Array:
    """[n] r_v in alpha_v = 1/2 log t + r_v for several contexts under the joint flow (new, exact to leading order).

    Late in the flow beta = constant - g / sqrt(t), where g balances all queries and every logit keeps its pace:

      sum_v pi_v Cov_v g = sum_v pi_v e^{-r_v} Cov_v mean B,
      1 = 2 pi_v [ e^{-2 r_v} E_c Var_v B_c - e^{-r_v} mean B . Cov_v g ],

    with Cov_v = diag p_v - p_v p_v^T and the mean over contexts. Were all r_v equal, g would be e^{-r} mean B and
    r_v = 1/2 log(2 pi_v E_c Var_v(B_c - mean B)).

    Args:
      model: with at least two contexts, over which B varies.

    Raises:
      ValueError: there is one context, or the iteration for g does not settle.
    """
    if model.total.shape[0] < 2:
        raise ValueError("model must have two contexts or more, but has one, with which the joint flow freezes.")
    p, pi, b = np.asarray(model.p), np.asarray(model.pi), np.asarray(model.total[:, None] * model.mean_value)
    covariance = p[:, :, None] * np.eye(p.shape[1]) - p[:, :, None] * p[:, None, :]
    mean, variance = b.mean(0), ((b**2) @ p.T - (b @ p.T) ** 2).mean(0)
    balance = np.linalg.pinv(np.einsum("v,vij->ij", pi, covariance), rcond=_NULL, hermitian=True)
    shrink = np.ones_like(pi)  # e^{-r_v}
    for _ in range(_ITERATIONS):
        g = balance @ np.einsum("v,vij,j->i", pi * shrink, covariance, mean)
        shared = covariance @ g @ mean
        new = (shared + np.sqrt(shared**2 + 2 * variance / pi)) / (2 * variance)
        if np.allclose(new, shrink, rtol=1e-12, atol=0):
            return -np.log(new)
        shrink = new
    raise ValueError(f"model varies too little over its contexts: r_v has not settled after {_ITERATIONS} rounds.")
