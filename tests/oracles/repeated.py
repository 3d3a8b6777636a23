"""One repeated token in float64 loops: scores by rotation matrices, weights by the definition of softmax."""

import math

import numpy as np


def rms_norm(x: list[float], gain: list[float]) -> list[float]:
    size = math.sqrt(sum(v * v for v in x) / len(x) + 1e-6)
    return [v / size * g for v, g in zip(x, gain, strict=True)]


def vector_matrix(x: list[float], matrix: np.ndarray) -> list[float]:
    return [sum(x[i] * matrix[i, j] for i in range(len(x))) for j in range(matrix.shape[1])]


def one_token(weights: dict[str, np.ndarray]) -> list[list[float]]:
    """States of one network, weights without the axis of networks."""
    x, states = list(weights["embedding"]), []
    for layer in range(len(weights["value"])):
        normed = rms_norm(x, weights["norm_attention"][layer])
        value = vector_matrix(vector_matrix(normed, weights["value"][layer]), weights["output"][layer])
        x = [a + b for a, b in zip(x, value, strict=True)]
        hidden = vector_matrix(rms_norm(x, weights["norm_mlp"][layer]), weights["mlp_in"][layer])
        update = vector_matrix([max(h, 0.0) for h in hidden], weights["mlp_out"][layer])
        x = [a + b for a, b in zip(x, update, strict=True)]
        states.append(x)
    return states


def rotary_score(query: np.ndarray, key: np.ndarray, i: int, j: int) -> float:
    """q_i . k_j / sqrt(H) with each turned at its own position by 2 x 2 matrices."""
    half, total = len(query) // 2, 0.0
    for f in range(half):
        turned = []
        for vector, at in ((query, i), (key, j)):
            angle = at / 10000 ** (2 * f / len(query))
            a, b = vector[f], vector[f + half]
            turned.append((a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)))
        total += turned[0][0] * turned[1][0] + turned[0][1] * turned[1][1]
    return total / math.sqrt(len(query))


def softmax_row(scores: list[float]) -> list[float]:
    return [math.exp(s) / sum(math.exp(u) for u in scores) for s in scores]


def first_key_mean(scores_by_distance: list[float]) -> float:
    """Mean over rows of the softmax weight on key 1, where scores depend on the distance."""
    rows = [softmax_row([scores_by_distance[t - j] for j in range(t + 1)]) for t in range(len(scores_by_distance))]
    return sum(row[0] for row in rows) / len(rows)


def worst_first_key_mean(xi: float, length: int) -> float:
    """The same with score xi on key 1 and -xi on the others, in every row."""
    rows = [softmax_row([xi, *([-xi] * t)]) for t in range(length)]
    return sum(row[0] for row in rows) / length
