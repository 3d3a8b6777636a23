"""What a network does on one token repeated T times: closed forms and bounds (2410.10781, appendix C.1, and new).

All positions hold the same query, key and value before positions enter, so that scores depend on the distance n = i - j
alone: s_ij = f(n). Positions are counted from t = 1, distances from 0. Statements marked new are this project's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Array = NDArray[np.float64]
_LAYER = ("norm_attention", "norm_mlp", "value", "output", "mlp_in", "mlp_out")


# Hidden states -------------------------------------------------------------------------------------------------
def _rms_norm(x: Array, gain: Array, eps: float = 1e-6) -> Array:
    return np.asarray(x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * gain)


def one_token_states(weights: Mapping[str, Array]) -> Array:
    """Hidden states of a pre-norm transformer on a context of one token, after each layer.

    The output of attention is the value of the token, whatever the scores: where rows add up to one, and so the values
    of a repeated token average to one of them, every position has these states.

    Args:
      weights: "embedding" [M, D], and by layer "norm_attention" and "norm_mlp" [M, L, D], "value", "output"
        [M, L, D, D], "mlp_in" [M, L, D, F], "mlp_out" [M, L, F, D]; vectors multiply from the left.

    Returns:
      [M, L, D].
    """
    x, states = weights["embedding"][:, None], []
    for layer in range(weights["value"].shape[1]):
        w = {name: weights[name][:, layer] for name in _LAYER}
        x = x + _rms_norm(x, w["norm_attention"][:, None]) @ w["value"] @ w["output"]
        x = x + np.maximum(_rms_norm(x, w["norm_mlp"][:, None]) @ w["mlp_in"], 0) @ w["mlp_out"]
        states.append(x[:, 0])
    return np.stack(states, 1)


def rotary_scores(query: Array, key: Array, length: int, base: float = 10000.0) -> Array:
    """f(n) of a repeated query and key under RoPE on halves: Re sum_f q_f conj(k_f) e^{i n base^(-2f/H)} / sqrt(H).

    Args:
      query, key: [..., H]. length: T.

    Returns:
      [..., T] for n = 0..T-1.
    """
    half = query.shape[-1] // 2
    q, k = (x[..., :half] + 1j * x[..., half:] for x in (query, key))
    angle = np.arange(length)[:, None] * base ** (-np.arange(half) / half)
    turned = (q * k.conj())[..., None, :] * np.exp(1j * angle)
    return np.asarray(turned.sum(-1).real / np.sqrt(query.shape[-1]))


def sink_logit_mass(scores: Array, sink: Array) -> Array:
    """Mass on real keys of the first T rows of a sink logit (new): S_t / (S_t + e^a), S_t = sum_{n<t} e^{f(n)}.

    Args:
      scores: [..., T], f. sink: [...], a.
    """
    total = np.cumsum(np.exp(scores), -1)
    return np.asarray(total / (total + np.exp(sink)[..., None]))


def sigmoid_mass(scores: Array) -> Array:
    """Mass of the first T rows of sigmoid attention (new), sum_{n<t} sigmoid(f(n)); `scores` [..., T] is f."""
    return np.asarray(np.cumsum(1 / (1 + np.exp(-scores)), -1))


def relu_mass(scores: Array) -> Array:
    """Mass of the first T rows of ReLU attention (new), sum_{n<t} relu(f(n)) / t; `scores` [..., T] is f."""
    return np.asarray(np.cumsum(np.maximum(scores, 0), -1) / np.arange(1, scores.shape[-1] + 1))


def softpick_mass(scores: Array, eps: float) -> Array:
    """Mass of the first T rows of softpick (new): sum relu(e^f - 1) / (sum |e^f - 1| + eps e^max(f, 0)), n < t.

    Args:
      scores: [..., T], f. eps: of the row map.
    """
    terms = np.expm1(scores)
    floor = eps * np.exp(np.maximum.accumulate(np.maximum(scores, 0), -1))
    return np.asarray(np.cumsum(np.maximum(terms, 0), -1) / (np.cumsum(np.abs(terms), -1) + floor))


# Attention weights ---------------------------------------------------------------------------------------------
def even_weights(rows: NDArray[np.int64], length: int) -> Array:
    """NoPE: A_{t,i} = 1/t for i <= t.

    Args:
      rows: [R], the t asked for. length: T.

    Returns:
      [R, T].
    """
    return np.where(np.arange(1, length + 1) <= rows[:, None], 1 / rows[:, None], 0)


def alibi_weights(slopes: Array, rows: NDArray[np.int64], length: int) -> Array:
    """ALiBi: A_{t,i} = e^{-m(t-i)} (1 - e^{-m}) / (1 - e^{-m t}) for i <= t.

    Within a row the weights fall with the distance; between rows they do not compare, since the normaliser moves.

    Args:
      slopes: [N], m. rows: [R], the t asked for. length: T.

    Returns:
      [N, R, T].
    """
    m, t = slopes[:, None, None], rows[:, None]
    distance = t - np.arange(1, length + 1)
    row = np.exp(-m * np.maximum(distance, 0)) * np.expm1(-m) / np.expm1(-m * t)
    return np.where(distance >= 0, row, 0)


def rope_bound(xi: Array, t: NDArray[np.int64]) -> Array:
    """Largest weight in row t if all scores lie in [-xi, xi]: e^{2 xi} / (e^{2 xi} + t - 1).

    Args:
      xi: |q||k|/sqrt(H). t: positions from 1; both broadcast.
    """
    return np.asarray(1 / (1 + (t - 1) * np.exp(-2 * xi)))


def first_key_bound(xi: Array, length: int) -> Array:
    """Mean of `rope_bound` over the rows 1..T: what the importance alpha_1 of the first key cannot exceed.

    A first token that differs from all others attains it, with score xi on it and -xi on the rest (new).

    Args:
      xi: [...]. length: T.

    Returns:
      [...].
    """
    return np.asarray(rope_bound(np.asarray(xi)[..., None], np.arange(1, length + 1)).mean(-1))


def sink_free_xi(length: int, threshold: float) -> float:
    """xi below which `first_key_bound` excludes a first-key sink; 1.09 for T = 64 and a threshold of .3.

    Args:
      length: T. threshold: on alpha_1, above the H_T / T of even attention.
    """
    return float(brentq(lambda xi: float(first_key_bound(np.asarray(xi), length)) - threshold, 0, 50, xtol=1e-13))


def second_row_weight(xi: Array) -> Array:
    """Largest weight in row 2 that RoPE can reach on a repeated token (new): 1 / (1 + e^{-2 xi sin(1/2)}).

    f(1) - f(0) is largest with all of q and k in the fastest pair, which turns by one radian.
    """
    return np.asarray(1 / (1 + np.exp(-2 * np.asarray(xi) * np.sin(0.5))))


def distance_bound(xi: Array, length: int) -> Array:
    """What alpha_1 cannot exceed where scores depend on the distance alone and lie within 2 xi of each other (new).

    (1 + (T-1) (1 - (1 + (T-1) e^{2 xi})^{-1/(T-1)})) / T. With S_t as above, A_{t,1} = 1 - S_{t-1}/S_t: row 1 gives 1,
    and the others have a product of 1 - A_{t,1} of S_1/S_T >= 1 / (1 + (T-1) e^{2 xi}), under which their sum is
    largest if all are equal.

    Args:
      xi: [...]. length: T.

    Returns:
      [...].
    """
    rows = length - 1
    return np.asarray((1 - rows * np.expm1(-np.logaddexp(0, np.log(rows) + 2 * np.asarray(xi)) / rows)) / length)


def distance_sink_free_xi(length: int, threshold: float) -> float:
    """xi below which `distance_bound` excludes a first-key sink (new); 8.67 for T = 64 and a threshold of .3.

    Args:
      length: T. threshold: on alpha_1, above the .08 (T = 64) that the bound leaves at xi = 0.
    """
    return float(
        brentq(lambda xi: float(distance_bound(np.asarray(xi), length)) - threshold, 0, 50 * length, xtol=1e-13)
    )
