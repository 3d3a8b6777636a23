"""Attention in float64 loops; a row map is a function of one row of visible scores."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Row = Callable[[np.ndarray, int, float], np.ndarray]
"""Weights of one row from its visible scores, the 0-based query position, and its head's parameter (or 0)."""


def softmax(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
    top = max(scores, default=0.0)
    terms = [math.exp(s - top) for s in scores]
    return np.array([t / sum(terms) for t in terms])


def softmax_n(n: float) -> Row:
    def row(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
        top = max([*scores, 0.0])
        terms = [math.exp(s - top) for s in scores]
        return np.array([t / (n * math.exp(-top) + sum(terms)) for t in terms])

    return row


def sink_logit(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
    top = max([*scores, parameter])
    terms = [math.exp(s - top) for s in scores]
    return np.array([t / (math.exp(parameter - top) + sum(terms)) for t in terms])


def relu(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
    return np.array([max(s, 0.0) / (position + 1) for s in scores])


def sigmoid(bias: float) -> Row:
    def row(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
        return np.array([0.5 * (1.0 + math.tanh((s + bias) / 2.0)) for s in scores])

    return row


def clipped(gamma: float, zeta: float) -> Row:
    def row(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
        stretched = [(zeta - gamma) * p + gamma for p in softmax(scores, position, parameter)]
        return np.array([min(max(w, 0.0), 1.0) for w in stretched])

    return row


def _threshold(mass: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling mass passes one, by bisection down to neighbouring numbers."""
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (middle, high) if mass(middle) > 1.0 else (low, middle)
    return high


def sparsemax(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
    top = max(scores)
    tau = _threshold(lambda t: sum(max(s - top - t, 0.0) for s in scores), -1.0, 0.0)
    return np.array([max(s - top - tau, 0.0) for s in scores])


def entmax15(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
    top = max(scores)
    tau = _threshold(lambda t: sum(max((s - top) / 2.0 - t, 0.0) ** 2 for s in scores), -1.0, 0.0)
    return np.array([max((s - top) / 2.0 - tau, 0.0) ** 2 for s in scores])


def elastic(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
    shares = softmax(scores, position, parameter)
    return np.array([max(p + parameter / len(scores), 0.0) for p in shares])


def softpick(eps: float) -> Row:
    def row(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
        top = max([*scores, 0.0])
        terms = [math.exp(s - top) - math.exp(-top) for s in scores]
        return np.array([max(t, 0.0) / (sum(abs(u) for u in terms) + eps) for t in terms])

    return row


class Attended(NamedTuple):
    """out [B, T, N, H]; weights and scores [B, N, T, S]; lse [B, N, T]."""

    out: np.ndarray
    weights: np.ndarray
    scores: np.ndarray
    lse: np.ndarray


def attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    row: Row,
    params: Mapping[str, np.ndarray],
    visible: np.ndarray,
    *,
    bias: np.ndarray | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    offset: int = 0,
) -> Attended:
    """Attention by definition; `visible` and `bias` are full [B, N, T, S], query t stands at `offset + t`."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    (batch, queries, heads, size), (_, keys, key_heads, _) = q.shape, k.shape
    group = heads // key_heads
    per_head = next(iter(params.values()), np.zeros(heads))
    out = np.zeros((batch, queries, heads, size))
    weights = np.zeros((batch, heads, queries, keys))
    scores = np.zeros((batch, heads, queries, keys))
    lse = np.full((batch, heads, queries), -np.inf)
    for b in range(batch):
        for n in range(heads):
            for t in range(queries):
                for j in range(keys):
                    s = sum(q[b, t, n, h] * k[b, j, n // group, h] for h in range(size))
                    s = s / math.sqrt(size) if scale is None else s * scale
                    s = s if softcap is None else softcap * math.tanh(s / softcap)
                    scores[b, n, t, j] = s if bias is None else s + bias[b, n, t, j]
                seen = [j for j in range(keys) if visible[b, n, t, j]]
                if not seen:
                    continue
                shown = scores[b, n, t, seen]
                weights[b, n, t, seen] = row(shown, offset + t, float(per_head[n]))
                lse[b, n, t] = max(shown) + math.log(sum(math.exp(s - max(shown)) for s in shown))
                for j in seen:
                    out[b, t, n] += weights[b, n, t, j] * v[b, j, n // group]
    return Attended(out, weights, scores, lse)


def masked_pairs(rule: Callable[[int, int, int], bool], batch: int, queries: int, keys: int) -> np.ndarray:
    """bool [B, T, S] from rule(b, t, j)."""
    return np.array(
        [[[rule(b, t, j) for j in range(keys)] for t in range(queries)] for b in range(batch)], dtype=bool
    ).reshape(batch, queries, keys)
