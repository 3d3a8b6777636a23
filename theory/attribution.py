"""How the sizes of values move the weight on `<s>`: not in the pass that uses them, but in the gradient that follows.

A query with weight a on `<s>`, whose value is beta in units of logits, and mean value b of its other keys puts out
u = a beta + (1 - a) b, and its law is q = softmax(log p + u) against p. Under gradient flow its sink logit moves with

  d alpha / dt = a (1 - a) (q - p) . (b - beta),

as in the restricted model of 2410.13835 (`theory.restricted`), before its sum over queries. What that does when a value
is made longer is this project's: derivatives in the logarithm of a norm, with the weight and all else as they are. They
answer the question of 2407.01601 how a value can be credited for an attention weight that does not depend on it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def velocity(a: Array, p: Array, q: Array, value: Array, other: Array) -> Array:
    """d alpha / dt of each query, [...], per unit of its weight in the loss.

    Args:
      a: [...] weights on `<s>`. p, q: [..., V] law and output. value: [..., V] beta. other: [..., V] b.
    """
    result: Array = a * (1 - a) * ((q - p) * (other - value)).sum(-1)
    return result


def quadratic_pull(a: Array, q: Array, value: Array, other: Array) -> Array:
    """The part of `own_pull` of second order in values, [...]: a^2 (1 - a) Cov_q(beta, b - beta) (new).

    It is what the value of `<s>` adds to the output, pushing against itself: where beta has nothing to do with b, it is
    -a^2 (1 - a) Var_q beta, and a longer value slows the sink down.

    Args:
      a, q, value, other: as for `velocity`.
    """
    result: Array = a**2 * (1 - a) * _covariance(q, value, other - value)
    return result


def own_pull(a: Array, p: Array, q: Array, value: Array, other: Array) -> Array:
    """d (d alpha / dt) / d log |beta| of each query, [...]: `quadratic_pull` - a (1 - a) (q - p) . beta (new).

    Args:
      a, p, q, value, other: as for `velocity`.
    """
    result: Array = quadratic_pull(a, q, value, other) - a * (1 - a) * ((q - p) * value).sum(-1)
    return result


def other_pull(a: Array, p: Array, q: Array, value: Array, other: Array, part: Array) -> Array:
    """d (d alpha / dt) / d log |v_k| of each query, [...], for the value of another token k (new).

    a (1 - a) [(1 - a) Cov_q(part, b - beta) + (q - p) . part].

    Args:
      a, p, q, value, other: as for `velocity`. part: [..., V], the token's part of b.
    """
    result: Array = a * (1 - a) * ((1 - a) * _covariance(q, part, other - value) + ((q - p) * part).sum(-1))
    return result


def _covariance(q: Array, x: Array, y: Array) -> Array:
    """Covariance of two functions of the token under q, [...]."""
    centred = x - (q * x).sum(-1, keepdims=True)
    result: Array = (q * centred * y).sum(-1)
    return result
