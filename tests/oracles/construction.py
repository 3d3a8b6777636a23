"""The network of theorem 1 of 2410.13835, and what is read off a trained one, as loops in float64."""

import math


def attention_logit(tokens, i, j, alpha, lam, start):
    """Logit of query i on key j; alpha by character, 0 for triggers."""
    on_start = alpha[tokens[i]] if tokens[j] == start and tokens[i] != start else 0.0
    return on_start + (lam if j == i - 1 else 0.0)


def output(tokens, i, alpha, lam, xi, beta):
    """[V] what attention adds to the output logits of query i."""
    start = len(beta)
    weights = [math.exp(attention_logit(tokens, i, j, alpha, lam, start)) for j in range(i + 1)]
    total = [0.0] * len(beta)
    for j, weight in enumerate(weights):
        share = weight / sum(weights)
        if tokens[j] == start:
            total = [t + share * b for t, b in zip(total, beta, strict=True)]
        else:
            total[tokens[j]] += share * xi[tokens[j]]
    return total


def log_law(tokens, i, log_p, alpha, lam, xi, beta):
    """[V] log-probabilities of the character after query i, a character."""
    logits = [a + b for a, b in zip(log_p[tokens[i]], output(tokens, i, alpha, lam, xi, beta), strict=True)]
    largest = max(logits)
    z = largest + math.log(sum(math.exp(x - largest) for x in logits))
    return [x - z for x in logits]


def adam(gradient, x, rate, b1, b2, eps, steps):
    """Iterates of Adam (1412.6980, algorithm 1) of one number, the start first."""
    path, m, v = [x], 0.0, 0.0
    for t in range(1, steps + 1):
        g = gradient(x)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        x -= rate * (m / (1 - b1**t)) / (math.sqrt(v / (1 - b2**t)) + eps)
        path.append(x)
    return path
