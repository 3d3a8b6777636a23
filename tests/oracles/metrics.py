"""Float64 loops for jaxsink.metrics, written from the definitions and sharing no code with the package."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _average(numbers: Sequence[float]) -> float:
    total = 0.0
    for number in numbers:
        total += float(number)
    return total / len(numbers) if numbers else math.nan


def _spread(numbers: Sequence[float]) -> float:
    centre = _average(numbers)
    return math.sqrt(_average([(float(number) - centre) ** 2 for number in numbers])) if numbers else math.nan


def excess_risk(log_probs: Array, law: Array, where: Array) -> float:
    divergences = []
    for b, t in zip(*np.nonzero(where), strict=True):
        cross_entropy, entropy = 0.0, 0.0
        for v in range(law.shape[2]):
            p = float(law[b, t, v])
            if p > 0.0:
                cross_entropy -= p * float(log_probs[b, t, v])
                entropy -= p * math.log(p)
        divergences.append(cross_entropy - entropy)
    return _average(divergences)


def attention_to_key(weights: Array, where: Array, key: int = 0) -> list[float]:
    heads = range(weights.shape[1])
    return [_average([weights[b, n, t, key] for b, t in zip(*np.nonzero(where), strict=True)]) for n in heads]


def sink_share(weights: Array, where: Array, key: int = 0) -> list[float]:
    shares = np.zeros(weights.shape)
    for place in np.ndindex(weights.shape[:3]):
        total = sum(abs(float(w)) for w in weights[place])
        if total != 0.0:
            shares[place] = [abs(float(w)) / total for w in weights[place]]
    return attention_to_key(shares, where, key)


def row_mass(weights: Array, where: Array) -> list[float]:
    heads = range(weights.shape[1])
    return [_average([sum(weights[b, n, t].tolist()) for b, t in zip(*np.nonzero(where), strict=True)]) for n in heads]


def sink_strength(weights: Array, dormant: Array, active: Array, key: int = 0) -> float:
    size = np.abs(weights)
    mass = _average(row_mass(size, active))
    return _average(attention_to_key(size, dormant, key)) / mass if mass > 0.0 else math.nan


def attention_to_previous(weights: Array, where: Array) -> list[float]:
    result = []
    for n in range(weights.shape[1]):
        chosen = [(b, t) for b, t in zip(*np.nonzero(where), strict=True) if t > 0]
        result.append(_average([weights[b, n, t, t - 1] for b, t in chosen]))
    return result


def uniform_baseline(where: Array) -> float:
    return _average([1.0 / (t + 1) for _, t in zip(*np.nonzero(where), strict=True)])


def attention_to_key_by_token(weights: Array, tokens: Array, vocab_size: int, key: int = 0) -> list[list[float]]:
    batch, heads, length, _ = weights.shape
    table = []
    for n in range(heads):
        row = []
        for v in range(vocab_size):
            hits = [(b, t) for b in range(batch) for t in range(key + 1, length) if tokens[b, t] == v]
            row.append(_average([weights[b, n, t, key] for b, t in hits]))
        table.append(row)
    return table


def detect_triggers(weights: Array, tokens: Array, vocab_size: int, cutoff: float = 0.89) -> list[list[bool]]:
    table = attention_to_key_by_token(weights, tokens, vocab_size)
    return [[not math.isnan(mean) and mean < cutoff for mean in row] for row in table]


def _gap(scores: Array, b: int, n: int, i: int) -> float:
    others = [scores[b, n, i, j] for j in range(1, i)]
    return float(scores[b, n, i, 0]) - _average(others)


def sink_logit_gap(scores: Array, where: Array) -> list[float]:
    result = []
    for n in range(scores.shape[1]):
        chosen = [(b, i) for b, i in zip(*np.nonzero(where), strict=True) if i >= 2]
        result.append(_average([_gap(scores, b, n, i) for b, i in chosen]))
    return result


def sink_logit_gap_by_token(scores: Array, tokens: Array, vocab_size: int) -> list[list[float]]:
    batch, heads, length, _ = scores.shape
    table = []
    for n in range(heads):
        row = []
        for v in range(vocab_size):
            hits = [(b, i) for b in range(batch) for i in range(2, length) if tokens[b, i] == v]
            row.append(_average([_gap(scores, b, n, i) for b, i in hits]))
        table.append(row)
    return table


def logit_concentration(scores: Array, where: Array) -> tuple[list[float], list[float], list[float]]:
    sink_std, other_std, sink_mean = [], [], []
    for n in range(scores.shape[1]):
        sink: list[float] = []
        other: list[float] = []
        for b, i in zip(*np.nonzero(where), strict=True):
            if i >= 2:
                sink.append(scores[b, n, i, 0])
                other.extend(scores[b, n, i, j] for j in range(1, i))
        sink_std.append(_spread(sink))
        other_std.append(_spread(other))
        sink_mean.append(_average(sink))
    return sink_std, other_std, sink_mean


def value_output_norms(values: Array, w_o: Array) -> Array:
    batch, length, key_heads, size = values.shape
    query_heads, _, width = w_o.shape
    norms = np.zeros((batch, length))
    for b in range(batch):
        for s in range(length):
            written = [0.0] * width
            for n in range(query_heads):
                k = n // (query_heads // key_heads)
                for h in range(size):
                    for d in range(width):
                        written[d] += float(values[b, s, k, h]) * float(w_o[n, h, d])
            norms[b, s] = math.sqrt(sum(x * x for x in written))
    return norms


def value_ratio(norms: Array, where: Array, key: int = 0) -> float:
    ratios = []
    for row, chosen in zip(norms, where, strict=True):
        ordinary = sorted(float(x) for x, take in zip(row, chosen, strict=True) if take)
        if not ordinary:
            return math.nan
        half = len(ordinary) // 2
        median = ordinary[half] if len(ordinary) % 2 else (ordinary[half - 1] + ordinary[half]) / 2
        ratios.append(float(row[key]) / median)
    return _average(ratios)


def residual_norms(resid: Array) -> list[list[float]]:
    return [[math.sqrt(sum(float(x) ** 2 for x in vector)) for vector in sequence] for sequence in resid]


def peak_ratio(norms: Array, key: int = 0, valid: Array | None = None) -> float:
    ratios = []
    for b, row in enumerate(norms):
        others = [float(x) for t, x in enumerate(row) if t != key and (valid is None or valid[b, t])]
        ratios.append(float(row[key]) / _average(others))
    return _average(ratios)


def norm_at(norms: Array, where: Array) -> float:
    return _average([norms[b, t] for b, t in zip(*np.nonzero(where), strict=True)])


def first_passage(step: Array, curve: Array, threshold: float) -> float:
    for p in range(len(curve)):
        if curve[p] <= threshold:
            if p == 0:
                return float(step[0])
            fraction = (threshold - curve[p - 1]) / (curve[p] - curve[p - 1])
            return float(step[p - 1]) * (1 - fraction) + float(step[p]) * fraction
    return math.inf


def value_at(step: Array, curve: Array, at_step: float) -> float:
    for p in range(len(step)):
        if step[p] == at_step:
            return float(curve[p])
        if p and step[p - 1] < at_step < step[p]:
            fraction = (at_step - step[p - 1]) / (step[p] - step[p - 1])
            return float(curve[p - 1]) * (1 - fraction) + float(curve[p]) * fraction
    raise ValueError(at_step)


def transition(curve: Array, upper: float, lower: float) -> list[bool]:
    inside, falling, done = [], False, False
    for value in curve:
        falling = falling or value <= upper
        inside.append(falling and not done)
        done = done or value <= lower
    return inside


def correlation(x: Sequence[float] | Array, y: Sequence[float] | Array) -> float:
    products = [(float(a) - _average(list(x))) * (float(b) - _average(list(y))) for a, b in zip(x, y, strict=True)]
    return _average(products) / (_spread(list(x)) * _spread(list(y)))


def line_fit(x: Sequence[float] | Array, y: Sequence[float] | Array) -> tuple[float, float, float]:
    """Normal equations solved by Cramer's rule, on data shifted to its first point."""
    u, w = [float(a) - float(x[0]) for a in x], [float(b) - float(y[0]) for b in y]
    n, su, sw = len(u), sum(u), sum(w)
    suu, suw = sum(a * a for a in u), sum(a * b for a, b in zip(u, w, strict=True))
    determinant = n * suu - su * su
    slope, shifted = (n * suw - su * sw) / determinant, (suu * sw - su * suw) / determinant
    missed = sum((b - shifted - slope * a) ** 2 for a, b in zip(u, w, strict=True))
    spread = sum((b - sw / n) ** 2 for b in w)
    return slope, float(y[0]) + shifted - slope * float(x[0]), 1.0 - missed / spread
