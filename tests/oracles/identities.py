"""Attention with sinks and slots, uniform attention, path sums and spectra as loops over tokens in float64."""

import itertools
import math


def row(scores, visible, constant=0.0):
    """Weights of one row with a constant added to the denominator; none for a row that sees nothing."""
    sizes = [math.exp(s) if seen else 0.0 for s, seen in zip(scores, visible, strict=True)]
    total = constant + sum(sizes)
    return [size / total if total else 0.0 for size in sizes]


def log_sum_exp(scores, visible):
    """Of one row."""
    seen = [math.exp(s) for s, v in zip(scores, visible, strict=True) if v]
    return math.log(sum(seen)) if seen else -math.inf


def average(weights, values):
    """Sum of w_j v_j for one head."""
    return [sum(w * v[h] for w, v in zip(weights, values, strict=True)) for h in range(len(values[0]))]


def slot_output(scores, visible, values, slot_score, slot_value):
    """Output of one row over its keys and a slot that it always sees."""
    return average(row([slot_score, *scores], [True, *visible]), [slot_value, *values])


def first_key_mass(length, first_query=0):
    """Mean over the queries from `first_query` on of 1 / (number of keys that it sees)."""
    return sum(1.0 / (i + 1) for i in range(first_query, length)) / (length - first_query)


def path_sum(factors, growth, end, start):
    """Sum over all paths of L steps from start to end of the products of growth x factor."""
    tokens, total = range(len(factors[0])), 0.0
    for between in itertools.product(tokens, repeat=len(factors) - 1):
        path, product = (start, *between, end), 1.0
        for layer, factor in enumerate(factors):
            product *= growth * factor[path[layer + 1]][path[layer]]
        total += product
    return total


def factor(weights, i, j, rho=None, signed=False):
    """Factor of the step to i from j: of weights [H][T][T], with sink masses rho [H][T]."""
    heads, own = len(weights), 1.0 if i == j else 0.0
    if signed:
        return own + sum(abs(weights[h][i][j]) for h in range(heads))
    kept = [1.0 if rho is None else 1.0 - rho[h][i] for h in range(heads)]
    return sum(abs(kept[h] * weights[h][i][j] + own / heads) for h in range(heads))


def difference_quotients(function, x, step=1e-5):
    """Jacobian [output][input] of a function of a list by central differences."""
    columns = []
    for i in range(len(x)):
        above, below = ([*x[:i], x[i] + sign * step, *x[i + 1 :]] for sign in (1, -1))
        columns.append([(u - v) / (2 * step) for u, v in zip(function(above), function(below), strict=True)])
    return [list(entry) for entry in zip(*columns, strict=True)]


def gated(value, weight):
    """v sigmoid(v . w)."""
    logit = sum(v * w for v, w in zip(value, weight, strict=True))
    return [v / (1.0 + math.exp(-logit)) for v in value]


def rms_norm(x, gain, eps):
    """g x / sqrt(mean x^2 + eps)."""
    root = math.sqrt(sum(u * u for u in x) / len(x) + eps)
    return [g * u / root for g, u in zip(gain, x, strict=True)]


def alignment(first, rest):
    """sum |x|^2 cos^2(x, first) / sum |x|^2."""
    along = total = 0.0
    for x in rest:
        size = sum(u * u for u in x)
        cosine = sum(u * v for u, v in zip(x, first, strict=True)) / math.sqrt(size * sum(v * v for v in first))
        along, total = along + size * cosine**2, total + size
    return along / total


def entropy_of_spread(p, rank):
    """Entropy of one share p and rank - 1 equal ones."""
    shares = [p] + [(1 - p) / (rank - 1)] * (rank - 1)
    return -sum(q * math.log(q) for q in shares)
