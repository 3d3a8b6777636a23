"""Float64 loops for the metrics of pretrained models, written from the definitions, without code of the package."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _average(numbers: Iterable[float]) -> float:
    listed = [float(number) for number in numbers]
    return math.fsum(listed) / len(listed) if listed else math.nan


def _norm(vector: Array) -> float:
    return math.sqrt(math.fsum(float(x) ** 2 for x in np.ravel(vector)))


def _median(numbers: Sequence[float]) -> float:
    ordered = sorted(float(number) for number in numbers)
    if not ordered:
        return math.nan
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _over(above: float, below: float) -> float:
    if math.isnan(below):
        return math.nan
    if below == 0.0:
        return 1.0 if above == 0.0 else math.inf
    return above / below


def _tokens(valid: Array, b: int) -> list[int]:
    return [t for t in range(valid.shape[1]) if valid[b, t]]


def seen_by(valid: Array, *, causal: bool) -> Array:
    counts = np.zeros(valid.shape, int)
    for b, key in np.ndindex(*valid.shape):
        if valid[b, key]:
            counts[b, key] = sum(1 for query in _tokens(valid, b) if query >= key or not causal)
    return counts


def queries_after(valid: Array, *, causal: bool, key: int = 0) -> Array:
    chosen = np.zeros(valid.shape, bool)
    for b in range(valid.shape[0]):
        tokens = _tokens(valid, b)
        for t in tokens:
            chosen[b, t] = len(tokens) > key and (t > tokens[key] if causal else t != tokens[key])
    return chosen


def attention_received(weights: Array, valid: Array, *, causal: bool) -> Array:
    received = np.zeros(weights.shape[:-2] + weights.shape[-1:])
    for place in np.ndindex(*received.shape):
        b, key = place[0], place[-1]
        if valid[b, key]:
            seeing = [t for t in _tokens(valid, b) if t >= key or not causal]
            # All valid queries, as the weight of those that do not see the key is 0.
            total = math.fsum(float(weights[(*place[:-1], t, key)]) for t in _tokens(valid, b))
            received[place] = total / len(seeing)
    return received


def mean_received(received: Array, valid: Array, *, causal: bool) -> Array:
    counts = seen_by(valid, causal=causal)
    means = np.zeros(received.shape)
    for place in np.ndindex(*received.shape):
        if counts[place[0], place[-1]]:
            means[place] = received[place] / counts[place[0], place[-1]]
    return means


def attention_shares(weights: Array) -> Array:
    shares = np.zeros(weights.shape)
    for place in np.ndindex(*weights.shape[:-1]):
        total = math.fsum(abs(float(w)) for w in weights[place])
        if total != 0.0:
            shares[place] = [abs(float(w)) / total for w in weights[place]]
    return shares


def sink_rate(received: Array, valid: Array, epsilon: float = 0.3, key: int = 0) -> Array:
    rates = np.zeros(received.shape[1:-1])
    for head in np.ndindex(*rates.shape):
        judged = []
        for b in range(received.shape[0]):
            tokens = _tokens(valid, b)
            if len(tokens) > key:
                judged.append(float(received[(b, *head, tokens[key])] > epsilon))
        rates[head] = _average(judged)
    return rates


def sink_position(received: Array, where: Array) -> Array:
    found = np.full(received.shape[:-1], -1)
    for place in np.ndindex(*found.shape):
        for t in _tokens(where, place[0]):
            if found[place] < 0 or received[(*place, t)] > received[(*place, found[place])]:
                found[place] = t
    return found


def secondary_sinks(received: Array, where: Array, epsilon: float = 0.3) -> Array:
    found = np.zeros(received.shape, bool)
    for place in np.ndindex(*received.shape[:-1]):
        for t in _tokens(where, place[0])[1:]:
            found[(*place, t)] = received[(*place, t)] > epsilon
    return found


def aligned_with_first(resid: Array, valid: Array, threshold: float = 0.9) -> Array:
    found = np.zeros(resid.shape[:-1], bool)
    for place in np.ndindex(*resid.shape[:-2]):
        tokens = _tokens(valid, place[0])
        for t in tokens[1:]:
            one, other = resid[(*place, t)], resid[(*place, tokens[0])]
            sizes = _norm(one) * _norm(other)
            found[(*place, t)] = sizes > 0 and abs(float(one @ other)) / sizes > threshold
    return found


def _entries(x: Array, valid: Array, place: tuple[int, ...]) -> list[tuple[float, int, int]]:
    return [(float(x[(*place, t, d)]), t, d) for t in _tokens(valid, place[0]) for d in range(x.shape[-1])]


def massive_activations(resid: Array, valid: Array, magnitude: float = 100.0, ratio: float = 1000.0) -> Array:
    found = np.zeros(resid.shape, bool)
    for place in np.ndindex(*resid.shape[:-2]):
        entries = _entries(resid, valid, place)
        median = _median([abs(value) for value, _, _ in entries])
        for value, t, d in entries:
            found[(*place, t, d)] = abs(value) > magnitude and abs(value) > ratio * median
    return found


def max_median_ratio(resid: Array, valid: Array) -> Array:
    ratios = np.full(resid.shape[:-2], math.nan)
    for place in np.ndindex(*ratios.shape):
        sizes = [abs(value) for value, _, _ in _entries(resid, valid, place)]
        if sizes:
            ratios[place] = _over(max(sizes), _median(sizes))
    return ratios


def largest_activations(resid: Array, valid: Array, k: int = 3) -> tuple[Array, Array, Array]:
    value = np.zeros((*resid.shape[:-2], k))
    position, dimension = np.full(value.shape, -1), np.full(value.shape, -1)
    for place in np.ndindex(*resid.shape[:-2]):
        ordered = sorted(_entries(resid, valid, place), key=lambda entry: -abs(entry[0]))
        for i, (v, t, d) in enumerate(ordered[:k]):
            value[(*place, i)], position[(*place, i)], dimension[(*place, i)] = v, t, d
    return value, position, dimension


def top_dimensions(resid: Array, k: int = 1) -> tuple[Array, Array]:
    dimension, share = np.zeros((*resid.shape[:-1], k), int), np.zeros((*resid.shape[:-1], k))
    for place in np.ndindex(*resid.shape[:-1]):
        energy = [float(x) ** 2 for x in resid[place]]
        for i, d in enumerate(sorted(range(len(energy)), key=lambda d: -energy[d])[:k]):
            dimension[(*place, i)] = d
            share[(*place, i)] = energy[d] / math.fsum(energy) if any(energy) else 0.0
    return dimension, share


def kurtosis(x: Array, valid: Array) -> Array:
    result = np.full(x.shape[:-2], math.nan)
    for place in np.ndindex(*result.shape):
        entries = [value for value, _, _ in _entries(x, valid, place)]
        if entries:
            mean = _average(entries)
            variance = math.fsum((value - mean) ** 2 for value in entries) / max(len(entries) - 1, 1)
            result[place] = _average((value - mean) ** 4 for value in entries) / (math.sqrt(variance) ** 4 + 1e-6)
    return result


def infinity_norm(x: Array, valid: Array) -> Array:
    result = np.full(x.shape[:-2], math.nan)
    for place in np.ndindex(*result.shape):
        entries = [abs(value) for value, _, _ in _entries(x, valid, place)]
        if entries:
            result[place] = max(entries)
    return result


def _spectrum(x: Array, valid: Array, place: tuple[int, ...]) -> list[float]:
    """Shares of the squared singular values: of the eigenvalues of the smaller product of the rows that there are."""
    rows = np.array([x[(*place, t)] for t in _tokens(valid, place[0])], np.float64).reshape(-1, x.shape[-1])
    product = rows @ rows.T if len(rows) < x.shape[-1] else rows.T @ rows
    energy = [max(float(e), 0.0) for e in np.linalg.eigvalsh(product)]
    return [e / math.fsum(energy) for e in energy] if any(energy) else []


def matrix_entropy(x: Array, valid: Array) -> Array:
    result = np.zeros(x.shape[:-2])
    for place in np.ndindex(*result.shape):
        result[place] = -math.fsum(p * math.log(p) for p in _spectrum(x, valid, place) if p > 0.0)
    return result


def anisotropy(x: Array, valid: Array) -> Array:
    result = np.zeros(x.shape[:-2])
    for place in np.ndindex(*result.shape):
        result[place] = max(_spectrum(x, valid, place), default=0.0)
    return result


def stable_rank(x: Array, valid: Array) -> Array:
    shares = anisotropy(x, valid)
    return np.array([1.0 / s if s else 0.0 for s in shares.ravel()]).reshape(shares.shape)


def attention_entropy(weights: Array) -> Array:
    shares = attention_shares(weights)
    result = np.zeros(weights.shape[:-1])
    for place in np.ndindex(*result.shape):
        result[place] = -math.fsum(float(p) * math.log(p) for p in shares[place] if p > 0.0)
    return result


def value_norms(values: Array) -> Array:
    norms = np.zeros(values.shape[:-2])
    for place in np.ndindex(*norms.shape):
        norms[place] = _norm(values[place])
    return norms


def value_norms_by_head(values: Array, query_heads: int) -> Array:
    group = query_heads // values.shape[-2]
    norms = np.zeros((*values.shape[:-3], query_heads, values.shape[-3]))
    for place in np.ndindex(*norms.shape):
        norms[place] = _norm(values[(*place[:-2], place[-1], place[-2] // group)])
    return norms


def head_scores(on_first: Array, entropy: Array, values: Array, outputs: Array, valid: Array) -> tuple[Array, ...]:
    norms = value_norms_by_head(values, outputs.shape[-2])
    scores = tuple(np.full(on_first.shape[:-1], math.nan) for _ in range(6))
    for place in np.ndindex(*scores[0].shape):
        tokens = _tokens(valid, place[0])
        if tokens:
            written = [_norm(outputs[(*place[:-1], t, place[-1])]) for t in tokens]
            of_head = (
                _average(on_first[(*place, t)] for t in tokens),
                _average(entropy[(*place, t)] for t in tokens),
                norms[(*place, tokens[0])],
                _average(norms[(*place, t)] for t in tokens),
                written[-1],
                _average(written),
            )
            for score, number in zip(scores, of_head, strict=True):
                score[place] = number
    return scores


def layer_normalised(scores: Array, reference: Array | None = None) -> Array:
    average = scores if reference is None else reference
    result = np.zeros(scores.shape)
    for place in np.ndindex(*scores.shape):
        result[place] = _over(float(scores[place]), _average(average[place[:-1]]))
    return result


def _ranks(numbers: Sequence[float]) -> list[float]:
    return [sum(1.0 for y in numbers if y < x) + (sum(1.0 for y in numbers if y == x) + 1) / 2 for x in numbers]


def rank_correlation(x: Array, y: Array, where: Array) -> Array:
    result = np.full(x.shape[:-1], math.nan)
    for place in np.ndindex(*result.shape):
        tokens = _tokens(where, place[0])
        if tokens:
            one, other = _ranks([x[(*place, t)] for t in tokens]), _ranks([y[(*place, t)] for t in tokens])
            flat = len(set(one)) == 1 or len(set(other)) == 1
            result[place] = 0.0 if flat else np.corrcoef(one, other)[0, 1]
    return result


def waiver_element(received: Array, norms: Array, where: Array) -> tuple[Array, Array, Array]:
    ratio, coincide = np.full(received.shape[:-1], math.nan), np.zeros(received.shape[:-1], bool)
    for place in np.ndindex(*ratio.shape):
        tokens = _tokens(where, place[0])
        if tokens:
            most = max(tokens, key=lambda t: (received[(*place, t)], -t))
            least = min(tokens, key=lambda t: (norms[(*place, t)], t))
            ratio[place] = _over(norms[(*place, most)], _average(norms[(*place, t)] for t in tokens if t != most))
            coincide[place] = most == least
    return rank_correlation(received, norms, where), ratio, coincide


def sink_contribution(on_sink: Array, sink_norm: Array, outputs: Array, where: Array) -> Array:
    result = np.full(sink_norm.shape, math.nan)
    for place in np.ndindex(*result.shape):
        tokens = _tokens(where, place[0])
        if tokens:
            added = _average(abs(float(on_sink[(*place, t)])) * float(sink_norm[place]) for t in tokens)
            written = _average(_norm(outputs[(*place[:-1], t, place[-1])]) for t in tokens)
            result[place] = 0.0 if added == 0.0 else _over(added, written)
    return result


def sink_mechanism(values: Array, outputs: Array, valid: Array, key: int = 0) -> tuple[Array, Array]:
    norms = value_norms_by_head(values, outputs.shape[-2])
    ratio = np.full(norms.shape[:-1], math.nan)
    for place in np.ndindex(*ratio.shape):
        tokens = _tokens(valid, place[0])
        if len(tokens) > key:
            others = [norms[(*place, t)] for i, t in enumerate(tokens) if i != key]
            ratio[place] = _over(norms[(*place, tokens[key])], _average(others))
    by_head = [stable_rank(outputs[..., n, :], valid) for n in range(outputs.shape[-2])]
    return ratio, np.stack(by_head, axis=-1)
