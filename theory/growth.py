"""How the sink logits of a minimal network grow under gradient flow, from the contexts that its queries see.

The network is that of `theory.construction` with lambda = 0 and alpha, beta free, in which a query at position i sees
W = i ordinary keys with B_k = W_k xi_k. On real sequences the contexts (W, B) of a query v have a law of their own, so
that the statements of `theory.predictions` need expectations under that law. All of this is new.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# The fixed point for g contracts by the share of B that contexts have in common; with 1 it never settles.
_ITERATIONS = 10_000
# Singular values below this share of the largest belong to directions without force, which rounding leaves near 1e-16;
# the smallest others are some 1e-7, on Shakespeare's bigrams.
_NULL = 1e-12


@dataclass(frozen=True)
class Contexts:
    """What the queries see, as far as late growth depends on it. Means are over the contexts of query v.

    Attributes:
      p: [n, V], pi: [n]: rows and weights of the queries.
      mean_b: [n, V] E B. variance: [n] E Var_v B, third: [n] E kappa_3 of B under p_v.
      crowded: [n] E W Var_v B.
    """

    p: Array
    pi: Array
    mean_b: Array
    variance: Array
    third: Array
    crowded: Array


def contexts(p: Array, query: NDArray[np.int64], weight: Array, total: Array, b: Array) -> Contexts:
    """The contexts of every query, from samples of them.

    Args:
      p: [n, V] rows. query: [S] which of them each sample asks for. weight: [S] share of each sample in the loss.
      total: [S] W. b: [S, V] B.
    """
    rows, n = p[query], p.shape[0]
    pi = np.asarray(np.bincount(query, weight, n), np.float64)

    def mean(x: Array) -> Array:
        return np.bincount(query, weight * x, n) / pi

    centred = b - (rows * b).sum(1, keepdims=True)
    variance, third = (rows * centred**2).sum(1), (rows * centred**3).sum(1)
    mean_b = np.stack([mean(column) for column in b.T], axis=1)
    return Contexts(p, pi, mean_b, mean(variance), mean(third), mean(total * variance))


def frozen_logit(seen: Contexts, time: Array) -> Array:
    """alpha_v(t) with beta frozen at a constant vector: theorem 2(a) for a law of contexts, with its next order.

    alpha_v = 1/2 log(2 pi_v E Var_v B t) + E[kappa_3 / 2 - 3 W Var_v B] / (E Var_v B sqrt(2 pi_v E Var_v B t)).

    Args:
      seen: the contexts. time: [P] late times.

    Returns:
      [P, n].
    """
    scale = 2 * (seen.pi * seen.variance)[None] * time[:, None]
    return 0.5 * np.log(scale) + ((seen.third / 2 - 3 * seen.crowded) / seen.variance)[None] / np.sqrt(scale)


def joint_constant(seen: Contexts) -> Array:
    """[n] r_v in alpha_v = 1/2 log t + r_v under the joint flow, where the contexts of a query differ.

    Late in the flow beta = constant - g / sqrt(t), and with Cov_v = diag p_v - p_v p_v^T

      sum_v pi_v Cov_v g = sum_v pi_v e^{-r_v} Cov_v E B,
      1 = 2 pi_v [ e^{-2 r_v} E Var_v B - e^{-r_v} E B . Cov_v g ].

    Args:
      seen: the contexts.

    Returns:
      r_v to leading order; NaN where the contexts do not differ enough for growth, as where there is one.
    """
    covariance = seen.p[:, :, None] * np.eye(seen.p.shape[1])[None] - seen.p[:, :, None] * seen.p[:, None, :]
    balance = np.linalg.pinv(np.einsum("v,vij->ij", seen.pi, covariance), rcond=_NULL, hermitian=True)
    shrink = np.ones_like(seen.pi)  # e^{-r_v}
    for _ in range(_ITERATIONS):
        g = balance @ np.einsum("v,vij,vj->i", seen.pi * shrink, covariance, seen.mean_b)
        shared = np.einsum("vi,vij,j->v", seen.mean_b, covariance, g)
        new = (shared + np.sqrt(shared**2 + 2 * seen.variance / seen.pi)) / (2 * seen.variance)
        if np.allclose(new, shrink, rtol=1e-12, atol=0):
            return -np.log(new)
        shrink = new
    return np.full_like(shrink, np.nan)
