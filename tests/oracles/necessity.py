"""The trigger task of 2603.11487 and one causal head as loops over sequences, rows and keys in float64."""

import math


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def times(x, matrix):
    """Row vector times matrix."""
    return [dot(x, [row[c] for row in matrix]) for c in range(len(matrix[0]))]


def answer(x, trigger):
    """One sequence [L, n]; trigger counts from 1."""
    rows = []
    for i in range(1, len(x) + 1):
        tokens = [x[k - 1] for k in range(2, i + 1)] if i == trigger else []
        rows.append([sum(t[c] for t in tokens) / len(tokens) if tokens else 0.0 for c in range(len(x[0]))])
    return rows


def relu_row(scores, divisor):
    return [max(score, 0.0) / divisor for score in scores]


def softmax_row(scores):
    top = max(scores)
    parts = [math.exp(score - top) for score in scores]
    return [part / sum(parts) for part in parts]


def head(x, weights, row_map):
    """(output [L, n], pattern: row i holds i weights). row_map takes the i scores of row i and i, from 1."""
    queries, keys, values = ([times(token, weights[name]) for token in x] for name in ("query", "key", "value"))
    output, pattern = [], []
    for i in range(1, len(x) + 1):
        row = row_map([dot(queries[i - 1], keys[k]) for k in range(i)], i)
        pattern.append(row)
        output.append([sum(row[k] * values[k][c] for k in range(i)) for c in range(len(x[0]))])
    return output, pattern
