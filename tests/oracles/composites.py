"""Wrapped row maps and operators in float64 loops, each from its own formula; `oracles.attention` does the rows."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oracles import attention as plain
from oracles.attention import Attended, Row


@dataclass(frozen=True)
class Given:
    """The arguments of one call in float64; `visible` and `bias` are full, query t stands at `offset + t`.

    q [B, T, N, H], k [B, S, K, H], v [B, S, K, Hv], x [B, T, D] or None, params nested as the variant makes them.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    x: np.ndarray | None
    params: Mapping[str, Any]
    visible: np.ndarray
    offset: int = 0
    bias: np.ndarray | None = None
    scale: float | None = None
    softcap: float | None = None


Oracle = Callable[[Given], Attended]


def given(
    q: Any, k: Any, v: Any, x: Any, params: Mapping[str, Any], visible: Any, offset: int = 0, **options: Any
) -> Given:
    """Widen everything to float64 and the mask to full size."""
    full = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])

    def wide(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: wide(entry) for name, entry in value.items()}
        return None if value is None else np.asarray(value, np.float64)

    return Given(wide(q), wide(k), wide(v), wide(x), wide(params), np.broadcast_to(visible, full), offset, **options)


def attended(g: Given, row: Row = plain.softmax, parameters: np.ndarray | None = None) -> Attended:
    """What the row map makes of the arguments; `parameters` are one per query head."""
    params = {} if parameters is None else {"per_head": parameters}
    options = {"bias": g.bias, "scale": g.scale, "softcap": g.softcap, "offset": g.offset}
    found = plain.attend(g.q, g.k, np.zeros(g.k.shape), row, params, g.visible, **options)
    out = np.zeros((*g.q.shape[:3], g.v.shape[3]))
    for b, t, n, j in np.ndindex(*g.q.shape[:3], g.k.shape[1]):
        out[b, t, n] += found.weights[b, n, t, j] * g.v[b, j, n * g.k.shape[2] // g.q.shape[2]]
    return found._replace(out=out)


def sigmoid(z: float) -> float:
    return 0.5 * (1.0 + math.tanh(z / 2.0))


def each_vector(array: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply `change` to each vector on the last axis."""
    out = np.zeros(array.shape)
    for index in np.ndindex(array.shape[:-1]):
        out[index] = change(array[index])
    return out


def gated(found: Attended, gate: Callable[[int, int, int], Any]) -> Attended:
    """Multiply the output of sequence b, query t and head n with gate(b, t, n), a number or one per channel."""
    out = found.out.copy()
    for b, t, n in np.ndindex(out.shape[:3]):
        out[b, t, n] = out[b, t, n] * gate(b, t, n)
    return found._replace(out=out)


def dot(a: np.ndarray, b: np.ndarray) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def normed(eps: float, gain: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda z: z / math.sqrt(sum(c * c for c in z) / len(z) + eps) * gain


# Slots


def _one_more_key(g: Given, key: np.ndarray, value: np.ndarray, row: Row, parameters: Any) -> Attended:
    """Keys [S + 1] of which the last is `key` [K, H] with `value` [K, Hv], visible to all and without a bias."""
    wider = [np.concatenate([a, np.repeat(b[None, None], len(a), 0)], 1) for a, b in ((g.k, key), (g.v, value))]
    column = (*g.visible.shape[:3], 1)
    visible = np.concatenate([g.visible, np.ones(column, bool)], -1)
    bias = None if g.bias is None else np.concatenate([g.bias, np.zeros(column)], -1)
    found = attended(replace(g, k=wider[0], v=wider[1], visible=visible, bias=bias), row, parameters)
    return found._replace(weights=found.weights[..., :-1], scores=found.scores[..., :-1])


def key_bias(g: Given, row: Row = plain.softmax, parameters: Any = None) -> Attended:
    key = g.params["key_bias"]["k"]
    return _one_more_key(g, key, np.zeros((len(key), g.v.shape[3])), row, parameters)


def key_value_bias(g: Given, row: Row = plain.softmax, parameters: Any = None) -> Attended:
    own = g.params["key_value_bias"]
    return _one_more_key(g, own["k"], own["v"], row, parameters)


def value_bias(g: Given) -> Attended:
    found = attended(g)
    group = g.q.shape[2] // g.k.shape[2]
    out = found.out.copy()
    for b, t, n in np.ndindex(out.shape[:3]):
        out[b, t, n] += g.params["value_bias"]["v"][n // group]
    return found._replace(out=out)


# Queries and keys


def qk_norm(g: Given) -> Attended:
    own = g.params["qk_norm"]
    q, k = (each_vector(a, normed(1e-6, own[name])) for a, name in ((g.q, "q_gain"), (g.k, "k_gain")))
    return attended(replace(g, q=q, k=k))


def _cosines(g: Given, factor: float) -> Given:
    q, k = (each_vector(a, lambda z: z / math.sqrt(dot(z, z))) for a in (g.q, g.k))
    return replace(g, q=q, k=k, scale=factor)


def cosine(factor: float) -> Oracle:
    return lambda g: attended(_cosines(g, factor))


def _normalised(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
    total = sum(max(s, 0.0) for s in scores) + 1e-8
    return np.array([max(s, 0.0) / total for s in scores])


def elu_kernel(g: Given) -> Attended:
    def features(z: np.ndarray) -> np.ndarray:
        return np.array([c + 1.0 if c > 0.0 else math.exp(c) for c in z])

    return attended(replace(g, q=each_vector(g.q, features), k=each_vector(g.k, features)), _normalised)


def _clamped(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
    total = sum(scores)
    return np.array([s / max(abs(total), 1.0) for s in scores])


def mlp_kernel(g: Given) -> Attended:
    own = g.params["mlp_features"]

    def features(z: np.ndarray) -> np.ndarray:
        hidden = np.array([max(dot(z, column), 0.0) for column in own["w_1"].T])
        return np.array([dot(hidden, column) for column in own["w_2"].T])

    return attended(replace(g, q=each_vector(g.q, features), k=each_vector(g.k, features)), _clamped)


def decay(log_forget: np.ndarray) -> np.ndarray:
    """bias [B, N, T, T] from log f [B, T, N]: what is lost between the key and the query, gained the other way."""
    batch, tokens, heads = log_forget.shape
    bias = np.zeros((batch, heads, tokens, tokens))
    for b, n, i, j in np.ndindex(bias.shape):
        between = range(j + 1, i + 1) if j < i else range(i + 1, j + 1)
        lost = sum(log_forget[b, m, n] for m in between)
        bias[b, n, i, j] = lost if j < i else -lost
    return bias


def forget_gate(g: Given) -> Attended:
    own = g.params["forget_gate"]
    log_forget = np.zeros((*g.x.shape[:2], g.q.shape[2]))
    for b, t, n in np.ndindex(log_forget.shape):
        log_forget[b, t, n] = -math.log1p(math.exp(-dot(g.x[b, t], own["w"][:, n]) - own["b"][n]))
    bias = decay(log_forget)
    return attended(replace(g, bias=bias if g.bias is None else g.bias + bias))


# Gates


def gate_unconditional(g: Given) -> Attended:
    return gated(attended(g), lambda b, t, n: sigmoid(g.params["unconditional_gate"]["b"][n]))


def gate_per_head(g: Given) -> Attended:
    own, size = g.params["per_head_gate"], g.x.shape[2] // g.q.shape[2]

    def gate(b: int, t: int, n: int) -> float:
        logits = [dot(token[n * size : (n + 1) * size], own["w"][n]) for token in g.x[b]]
        return sigmoid(sum(logits) / len(logits) + own["b"][n])

    return gated(attended(g), gate)


def gate_per_token(g: Given) -> Attended:
    own, size = g.params["per_token_gate"], g.x.shape[2] // g.q.shape[2]
    return gated(
        attended(g),
        lambda b, t, n: sigmoid(dot(g.x[b, t, n * size : (n + 1) * size], own["w"][n]) + own["b"][n]),
    )


def g1_headwise(g: Given, found: Attended | None = None) -> Attended:
    weights = g.params["headwise_gate"]["w"]
    return gated(attended(g) if found is None else found, lambda b, t, n: sigmoid(dot(g.x[b, t], weights[:, n])))


def g1_elementwise(g: Given) -> Attended:
    weights = g.params["elementwise_gate"]["w"]
    return gated(attended(g), lambda b, t, n: np.array([sigmoid(dot(g.x[b, t], column)) for column in weights[:, n].T]))


def _gated_values(g: Given, gate: Callable[[int, int, int], Any]) -> Attended:
    v = g.v.copy()
    for b, j, head in np.ndindex(v.shape[:3]):
        v[b, j, head] = v[b, j, head] * gate(b, j, head)
    return attended(replace(g, v=v))


def g2_value_gate(g: Given) -> Attended:
    weights = g.params["value_gate"]["w"]
    return _gated_values(
        g, lambda b, j, head: np.array([sigmoid(dot(g.x[b, j], column)) for column in weights[:, head].T])
    )


def input_gate(g: Given) -> Attended:
    weights = g.params["input_gate"]["w"]
    return _gated_values(g, lambda b, j, head: sigmoid(dot(g.x[b, j], weights[:, head])))


def value_state_gate_source(g: Given) -> Attended:
    weights = g.params["value_state_gate"]["w"]
    return _gated_values(g, lambda b, j, head: sigmoid(dot(g.v[b, j, head], weights[head])))


def value_state_gate_output(g: Given) -> Attended:
    weights = g.params["value_state_output_gate"]["w"]

    def gate(b: int, t: int, n: int) -> float:
        own = g.v[b, g.offset + t]
        return sigmoid(sum(dot(own[head], weights[head, :, n]) for head in range(len(own))))

    return gated(attended(g), gate)


# Norms of the output and operators


def head_rms_norm(g: Given) -> Attended:
    found = attended(g)
    return found._replace(out=each_vector(found.out, normed(1e-6, g.params["head_rms_norm"]["gain"])))


def rela(g: Given) -> Attended:
    found = attended(g, lambda scores, position, parameter: np.array([max(s, 0.0) for s in scores]))
    return found._replace(out=each_vector(found.out, normed(1e-6, g.params["head_rms_norm"]["gain"])))


def _thresholded(size: int) -> Row:
    def row(scores: np.ndarray, position: int, parameter: float) -> np.ndarray:
        tau = parameter * math.sqrt(2.0 * math.log(position + 1) / size)
        return np.array([max(s - tau, 0.0) ** 2 for s in scores])

    return row


def cosine_threshold(g: Given) -> Attended:
    return attended(_cosines(g, 1.0), _thresholded(g.q.shape[3]), g.params["row_map"]["beta"])


def _halves(g: Given) -> tuple[Given, Given]:
    size = g.q.shape[3] // 2
    return tuple(replace(g, q=g.q[..., part], k=g.k[..., part]) for part in (slice(size), slice(size, None)))


def _subtracted(first: Attended, second: Attended, share: float, finish: Callable[[np.ndarray], Any]) -> Attended:
    nan = np.full_like(first.scores, np.nan)
    return Attended(
        each_vector(first.out - share * second.out, finish), first.weights - share * second.weights, nan, nan[..., 0]
    )


def differential(depth: int) -> Oracle:
    def oracle(g: Given) -> Attended:
        vectors, start = g.params["lambda"], 0.8 - 0.6 * math.exp(-0.3 * depth)
        share = math.exp(dot(vectors["q_1"], vectors["k_1"])) - math.exp(dot(vectors["q_2"], vectors["k_2"])) + start
        norm = normed(1e-5, g.params["norm"]["gain"])
        return _subtracted(*(attended(half) for half in _halves(g)), share, lambda z: (1.0 - start) * norm(z))

    return oracle


def threshold_differential(g: Given) -> Attended:
    share = min(max(float(g.params["lambda"]["value"]), 0.0), 1.0)
    row, beta = _thresholded(g.q.shape[3] // 2), g.params["row_map"]["beta"]
    parts = (attended(_cosines(half, 1.0), row, beta) for half in _halves(g))
    return _subtracted(*parts, share, normed(1e-6, g.params["norm"]["gain"]))
