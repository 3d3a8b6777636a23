"""Attention in float64 loops; a row map is a function of one row of visible scores."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Row = Callable[[np.ndarray, int, float], np.ndarray]
"""Weights of one row from its visible scores, the 0-based query position, and its head's parameter (or 0)."""


@dataclass(frozen=True)
class PlacedRow:
    """A row map that needs to know more: scores, indices of their keys, query position, head size, parameter."""

    weights: Callable[[np.ndarray, list[int], int, int, float], np.ndarray]


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


def scaled(factor: float) -> Row:
    return lambda scores, position, parameter: factor * softmax(scores, position, parameter)


def p_normalised(p: float) -> Row:
    def row(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
        top = max(scores)
        norm = sum(math.exp(p * (s - top)) for s in scores) ** (1.0 / p)
        return np.array([math.exp(s - top) / norm for s in scores])

    return row


def relu_over_length(length: int, exponent: float) -> Row:
    return lambda scores, position, parameter: np.array([max(s, 0.0) / length**exponent for s in scores])


def squared_relu(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
    return np.array([max(s, 0.0) * max(s, 0.0) / len(scores) for s in scores])


def gelu(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
    return np.array([0.5 * s * math.erfc(-s / math.sqrt(2.0)) / len(scores) for s in scores])


def elu_plus_one(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
    return np.array([s + 1.0 if s >= 0.0 else math.exp(s) for s in scores])


def identity(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
    return np.array(scores)


def normalised_sigmoid(eps: float) -> Row:
    def row(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
        terms = sigmoid(0.0)(scores, position, parameter)
        return np.array([t / (sum(terms) + eps) for t in terms])

    return row


def normalised_linear(eps: float) -> Row:
    def row(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
        terms = [max(s, 0.0) for s in scores]
        return np.array([t / (sum(terms) + eps) for t in terms])

    return row


def clamped_linear(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
    return np.array([s / max(abs(sum(scores)), 1.0) for s in scores])


def entmax(alpha: float) -> Row:
    def row(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
        gaps = [(alpha - 1.0) * (s - max(scores)) for s in scores]

        def weight(gap: float, tau: float) -> float:
            return max(gap - tau, 0.0) ** (1.0 / (alpha - 1.0))

        tau = _threshold(lambda t: sum(weight(gap, t) for gap in gaps), -1.0, 0.0)
        return np.array([weight(gap, tau) for gap in gaps])

    return row


def threshold_rectified(exponent: float, kappa: float) -> PlacedRow:
    def row(scores: np.ndarray, keys: list[int], position: int, size: int, beta: float) -> np.ndarray:
        tau = beta * math.sqrt(2.0 * max(math.log((position + 1) / kappa), 0.0) / size)
        return np.array([max(s - tau, 0.0) ** exponent for s in scores])

    return PlacedRow(row)


def _stick_breaking(scores: np.ndarray, keys: list[int], position: int, size: int, parameter: float) -> np.ndarray:
    found, left = np.zeros(len(scores)), 1.0
    for at in reversed(range(len(keys))):
        if keys[at] != position:
            found[at] = left * 0.5 * (1.0 + math.tanh(scores[at] / 2.0))
            left *= 1.0 / (1.0 + math.exp(min(scores[at], 700.0)))  # not 1 - sigmoid, which loses its digits
    return found


stick_breaking = PlacedRow(_stick_breaking)


def row_weights(
    row: Row | PlacedRow, scores: np.ndarray, keys: list[int], position: int, size: int, parameter: float
) -> np.ndarray:
    """Weights of one row of visible scores."""
    if isinstance(row, PlacedRow):
        return row.weights(scores, keys, position, size, parameter)
    return row(scores, position, parameter)


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
    row: Row | PlacedRow,
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
                weights[b, n, t, seen] = row_weights(row, shown, seen, offset + t, size, float(per_head[n]))
                lse[b, n, t] = max(shown) + math.log(sum(math.exp(s - max(shown)) for s in shown))
                for j in seen:
                    out[b, t, n] += weights[b, n, t, j] * v[b, j, n // group]
    return Attended(out, weights, scores, lse)


def masked_pairs(rule: Callable[[int, int, int], bool], batch: int, queries: int, keys: int) -> np.ndarray:
    """bool [B, T, S] from rule(b, t, j)."""
    return np.array(
        [[[rule(b, t, j) for j in range(keys)] for t in range(queries)] for b in range(batch)], dtype=bool
    ).reshape(batch, queries, keys)
