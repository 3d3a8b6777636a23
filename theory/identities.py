"""Exact identities of attention: right-hand sides in float64, by which what the code does is judged.

Weights and scores are [..., N, T, S] or as said, outputs [..., T, N, H] as `jaxsink.attention` returns them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sink_gate(lse: Array, sink: Array) -> Array:
    """The gate by which a sink logit a multiplies the softmax output: sigmoid(LSE - a).

    It is also the mass left on the keys. A row that sees no key has LSE = -inf and gate 0.

    Args:
      lse: log-sum-exp of the visible scores. sink: a, broadcastable to it.

    Returns:
      In the broadcast shape.

    Source: elementary; the sink logit is that of gpt-oss (2508.10925).
    """
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(sink - lse)))


def equivalent_sink(n: Array) -> Array:
    """The sink logit that softmax_n is: log n, 0 for softmax1 (2309.17453, section 3.3; 2410.17174).

    Args:
      n: the constants added to the denominator, above 0.
    """
    return np.asarray(np.log(n))


def slot_logit(query: Array, key: Array, softcap: float | None = None) -> Array:
    """The sink logit that a key-value slot is to each query: q.k* / sqrt(d), capped like every other score.

    A soft-cap c stands before the mask and the normalisation, so that it applies to the slot too: c tanh(./c).

    Args:
      query: [B, T, N, H]. key: [B, K, H], the slot's key for every key head; query head n reads n // (N / K).
      softcap: c, or None.

    Returns:
      [B, N, T].

    Source: KV bias of 2402.17762, eq. 3, and 2410.10781, section 7.3.
    """
    heads = np.repeat(key, query.shape[2] // key.shape[1], axis=1)
    logit = np.einsum("btnh,bnh->bnt", query, heads) / np.sqrt(query.shape[3])
    return logit if softcap is None else np.asarray(softcap * np.tanh(logit / softcap))


def slot_addition(lse: Array, logit: Array, value: Array) -> Array:
    """What a key-value slot adds to the output of its sink logit: w* v*, with w* = sigmoid(a - LSE).

    A row that sees no other key has w* = 1.

    Args:
      lse: [B, N, T], of the other keys. logit: a, [B, N, T]. value: v*, [B, K, H].

    Returns:
      [B, T, N, H].

    Source: elementary; the slot is that of 2402.17762, eq. 3.
    """
    heads = np.repeat(value, lse.shape[1] // value.shape[1], axis=1)
    with np.errstate(over="ignore"):
        mass = 1 / (1 + np.exp(lse - logit))
    return np.asarray(np.swapaxes(mass, 1, 2)[..., None] * heads[:, None])


def clipped(weights: Array, gamma: float, zeta: float) -> Array:
    """Clipped softmax of softmax weights: (zeta - gamma) w + gamma, cut to [0, 1]; the identity at (0, 1).

    Args:
      weights: softmax weights. gamma: <= 0. zeta: >= 1.

    Source: 2306.12929, eq. 4.
    """
    return np.clip((zeta - gamma) * weights + gamma, 0, 1)


def first_key_mass(length: int) -> float:
    """Mean weight on the first key over all T queries of uniform causal attention: H_T / T.

    Args:
      length: T, at least 1.

    Source: elementary; the no-sink baseline of Attn_<s> (2410.13835) and of the importance score (2410.10781).
    """
    return float(np.sum(1 / np.arange(1, length + 1)) / length)


def first_key_mass_of_others(length: int) -> float:
    """The same over all queries but the first, whose weight on itself is forced: (H_T - 1) / (T - 1).

    Args:
      length: T, at least 2.
    """
    return float(np.sum(1 / np.arange(2, length + 1)) / (length - 1))


def shifted_weights(weights: Array, shift: Array) -> Array:
    """Weights of a map with a total after c has been added to all scores of a row: w e^c / (1 + M (e^c - 1)).

    M is the row's mass before. Softmax, M = 1, does not move; a null column takes less as c grows.

    Args:
      weights: [..., S], before. shift: [..., 1], c.

    Returns:
      [..., S].
    """
    mass = weights.sum(-1, keepdims=True)
    return np.asarray(weights * np.exp(shift) / (1 + mass * np.expm1(shift)))
