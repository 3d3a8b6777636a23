"""The restricted model of 2410.13835 as loops over queries, contexts and tokens in float64."""

import math


def risk(p, pi, counts, xi, alpha, beta):
    """Sum over queries and mean over contexts of pi_v KL(p_v || q_v), from the definition."""
    total = 0.0
    for context in counts:
        big_w = sum(context)
        for v, row in enumerate(p):
            e = math.exp(alpha[v])
            u = [(e * beta[k] + context[k] * xi[k]) / (e + big_w) for k in range(len(row))]
            z = sum(row[k] * math.exp(u[k]) for k in range(len(row)))
            total += pi[v] * sum(row[k] * (math.log(z) - u[k]) for k in range(len(row)) if row[k] > 0) / len(counts)
    return total
