"""Bounds on weights, spectra and Jacobians, and the Jacobian of a gated value, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def largest_weight(keys: Array, cap: float) -> Array:
    """Upper bound of a softmax weight where no score exceeds c in size: 1 / (1 + (n - 1) e^{-2c}).

    It is attained by one score at c and all others at -c.

    Args:
      keys: n, visible keys of the row, at least 1. cap: c, above 0.

    Source: elementary; soft-caps and QK-norm bound the scores so.
    """
    return np.asarray(1 / (1 + (keys - 1) * np.exp(-2 * cap)))


def rms_norm_jacobian(x: Array, gain: Array, eps: float) -> Array:
    """Upper bound of the spectral norm of the Jacobian of RMSNorm: max |g| / sqrt(|x|^2 / d + eps).

    It is attained where x is 0 at the largest gain. The larger the residual state, the flatter the norm.

    Args:
      x: [..., d]. gain: g, [..., d]. eps: as in g x / sqrt(mean x^2 + eps).

    Returns:
      [...].

    Source: elementary: the Jacobian is diag(g) (1 - x x^T / (d r^2)) / r, r the root above.
    """
    return np.asarray(np.abs(gain).max(-1) / np.sqrt((x**2).mean(-1) + eps))


def alignment(first: Array, rest: Array) -> Array:
    """How far the rows lie along the first: alpha = sum_{i>0} |x_i|^2 cos^2(x_i, x_0) / sum_{i>0} |x_i|^2.

    Args:
      first: x_0, [..., D], not 0. rest: [..., T - 1, D], not all 0.

    Returns:
      [...], in [0, 1].

    Source: 2510.06477, theorem 1.
    """
    direction = first / np.linalg.norm(first, axis=-1, keepdims=True)
    along = np.einsum("...td,...d->...t", rest, direction)
    return np.asarray((along**2).sum(-1) / (rest**2).sum((-1, -2)))


def leading_singular_value(first: Array, rest: Array, alpha: Array) -> Array:
    """Lower bound of the largest squared singular value: M + alpha R, M = |x_0|^2, R = sum_{i>0} |x_i|^2.

    It is attained where x_0 is itself the leading right singular vector.

    Args:
      first: x_0, [..., D]. rest: [..., T - 1, D]. alpha: [...], see `alignment`.

    Returns:
      [...].

    Source: 2510.06477, theorem 1.
    """
    return np.asarray((first**2).sum(-1) + alpha * (rest**2).sum((-1, -2)))


def matrix_entropy(ratio: Array, alpha: Array, rank: Array) -> Array:
    """Upper bound (nats) of the entropy of the normalised squared singular values.

    In the direction of x_0 stands the share p = (c + alpha) / (c + 1), c = M / R, and what is left is at most spread
    evenly over r - 1 others: -p log p - (1 - p) log((1 - p) / (r - 1)). The source states it for p >= 1/r, from where
    on it falls as c grows; it holds for every p (new), since the entropy of the shares in any orthonormal basis is no
    less than that of the spectrum. It is attained where x_0 is a right singular vector and the rest is spread evenly.

    Args:
      ratio: c, above 0. alpha: see `alignment`, below 1. rank: r, at least 2.

    Source: 2510.06477, the corollary of theorem 1 on matrix entropy.
    """
    p = (ratio + alpha) / (ratio + 1)
    return np.asarray(-p * np.log(p) - (1 - p) * np.log((1 - p) / (rank - 1)))


def path_factors(weights: Array) -> Array:
    """Factors of the path sums for frozen attention without negative weights: sum_h |a^h_ij + delta_ij / H|.

    Args:
      weights: a, [..., H, T, T], H the number of heads.

    Returns:
      [..., T, T].

    Source: 2504.02732, the theorem on over-squashing with the residual stream shared out over the heads.
    """
    heads, tokens = weights.shape[-3], weights.shape[-1]
    return np.asarray(np.abs(weights + np.eye(tokens) / heads).sum(-3))


def signed_path_factors(weights: Array) -> Array:
    """The same where weights may be negative: sum_h |a^h_ij| + delta_ij (new).

    Args:
      weights: a, [..., H, T, T].

    Returns:
      [..., T, T].
    """
    return np.asarray(np.abs(weights).sum(-3) + np.eye(weights.shape[-1]))


def path_factors_beside_sink(weights: Array, sink_mass: Array) -> Array:
    """The same where each row puts mass rho on a sink of value zero: (1 - rho) on all that the row attends to.

    Args:
      weights: a, [..., H, T, T], the weights without the sink, not negative. sink_mass: rho, [..., H, T].

    Returns:
      [..., T, T].

    Source: 2504.02732: a sink slows the mixing.
    """
    kept = (1 - sink_mass)[..., None] * weights
    return np.asarray(kept.sum(-3) + np.eye(weights.shape[-1]))


def path_sum(factors: Array, growth: Array) -> Array:
    """Upper bound of |dy_n / dv_i| after L layers: C^L times the sum over paths of the products of their factors.

    Args:
      factors: [B, L, T, T], first layer first. growth: C, [B], at least 1 and at least every |W_O W_V|.

    Returns:
      [B, T, T], to n from i.

    Source: 2504.02732.
    """
    total = np.broadcast_to(np.eye(factors.shape[-1]), factors[:, 0].shape)
    for layer in range(factors.shape[1]):
        total = factors[:, layer] @ total
    return np.asarray(growth[:, None, None] ** factors.shape[1] * total)


def value_gated_jacobian(value: Array, gate_weight: Array) -> Array:
    """d(g v)/dv for a gate that reads the value, g = sigmoid(v.w): g 1 + g (1 - g) v w^T.

    Args:
      value: v, [..., d]. gate_weight: w, broadcastable to it.

    Returns:
      [..., d, d], output by input.

    Source: 2510.09017, the gradient of value-state gating.
    """
    g = 1 / (1 + np.exp(-(value * gate_weight).sum(-1)))[..., None, None]
    weight = np.broadcast_to(gate_weight, value.shape)
    return np.asarray(g * np.eye(value.shape[-1]) + g * (1 - g) * value[..., :, None] * weight[..., None, :])


def input_gated_jacobian(logit: Array, size: int) -> Array:
    """d(g v)/dv for a gate that does not read the value, g = sigmoid(logit): g 1.

    Args:
      logit: [...]. size: d.

    Returns:
      [..., d, d].
    """
    return np.asarray(np.eye(size) / (1 + np.exp(-logit))[..., None, None])
