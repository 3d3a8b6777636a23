"""Ways to make the predictions of TH2 and TH3 wrong: (function, text in its source, what replaces it, claims)."""

PREDICTIONS = "theory.predictions"
MUTANTS = [
    # The slope 1/2, the weight pi_v, the variance, the constant 2, and the two parts of the next order.
    (f"{PREDICTIONS}.sink_logit", "0.5 * np.log(scale)", "np.log(scale) / 3", ("TH2a",)),
    (f"{PREDICTIONS}.sink_logit", "scale = 2 * pi[None] * variance", "scale = 2 * variance", ("TH2a",)),
    (f"{PREDICTIONS}.sink_logit", "scale = 2 * pi", "scale = pi", ("TH2a",)),
    (
        f"{PREDICTIONS}.sink_logit",
        "variance, third = (p * centred**2)",
        "variance, third = (p * abs(centred))",
        ("TH2a",),
    ),
    (f"{PREDICTIONS}.sink_logit", "- 3 * total", "- 2 * total", ("TH2a",)),
    (f"{PREDICTIONS}.sink_logit", "third / (2 * variance)", "-third / (2 * variance)", ("TH2a",)),
    # e^{-alpha}, the mean of B, W in the place of B, means over everything instead of components.
    (f"{PREDICTIONS}.value_limit", "np.exp(-alpha)", "np.exp(-2 * alpha)", ("TH2b",)),
    (f"{PREDICTIONS}.value_limit", "_means(model, beta + drained)", "_means(model, beta)", ("TH2b",)),
    (f"{PREDICTIONS}.value_limit", "_means(model, beta + drained)", "(beta + drained).mean()", ("TH2b",)),
    (f"{PREDICTIONS}.value_limit", "drained = b * np", "drained = float(model.total[0]) + 0 * b * np", ("TH2b",)),
    (f"{PREDICTIONS}.value_limit", "- drained", "+ drained", ("TH2b",)),
    # The wrong eigenvalue, a in the place of a^2, no weights.
    (
        f"{PREDICTIONS}.value_rate",
        "[len(np.unique(components(model)))]",
        "[len(np.unique(components(model))) + 1]",
        ("TH2b",),
    ),
    (f"{PREDICTIONS}.value_rate", "[len(np.unique(components(model)))]", "[-1]", ("TH2b",)),
    (f"{PREDICTIONS}.value_rate", "a**2 *", "a *", ("TH2b",)),
    (f"{PREDICTIONS}.value_rate", "np.diag(pi @ p)", "np.diag(p.mean(0))", ("TH2b",)),
    (
        f"{PREDICTIONS}.components",
        "links, directed=False)[1][:size]",
        "links, directed=False)[1][:size] * 0",
        ("TH2b",),
    ),
    (f"{PREDICTIONS}.distance_from_stationary", "np.exp(-alpha)", "np.exp(-2 * alpha)", ("TH2c",)),
    (f"{PREDICTIONS}.distance_from_stationary", "beta[None] + ", "beta[None] - ", ("TH2c",)),
    (f"{PREDICTIONS}.distance_from_stationary", "* b[None]", "* float(model.total[0])", ("TH2c",)),
    # Each term of the energy.
    (f"{PREDICTIONS}.conserved", "0.5 * (beta", "(beta", ("TH2d",)),
    (f"{PREDICTIONS}.conserved", "(beta - b / total)", "beta", ("TH2d",)),
    (f"{PREDICTIONS}.conserved", "(alpha + np.exp(alpha) / total)", "alpha", ("TH2d",)),
    (f"{PREDICTIONS}.conserved", "np.exp(alpha) / total", "np.exp(alpha)", ("TH2d",)),
    (f"{PREDICTIONS}.conserved", "beta @ tokens", "beta**2 @ tokens", ("TH2d",)),
    (f"{PREDICTIONS}.freezing_logit", "(np.exp(-a) + 1 / total) ** 2", "np.exp(-2 * a)", ("TH2d",)),
    (f"{PREDICTIONS}.freezing_logit", "b.size * shift**2", "0 * shift**2", ("TH2d",)),
    (f"{PREDICTIONS}.freezing_logit", "alpha.size * (a", "(a", ("TH2d",)),
    # The slope is not a number of these functions; r_v is, with its balance and its variance.
    (f"{PREDICTIONS}.growing_constant", "2 * variance / pi", "variance / pi", ("TH2e",)),
    (f"{PREDICTIONS}.growing_constant", "2 * variance / pi", "2 * variance", ("TH2e",)),
    (f"{PREDICTIONS}.growing_constant", "shared = covariance @ g @ mean", "shared = 0 * pi", ("TH2e",)),
    (f"{PREDICTIONS}.growing_constant", "- (b @ p.T) ** 2", "- 0 * (b @ p.T) ** 2", ("TH2e",)),
    ("theory.peak.force", "m**3", "m**2", ("TH3",)),
    ("theory.peak.force", "math.log(step)", "1.0", ("TH3",)),
    ("theory.peak.sgd_peak", "4 * rate", "2 * rate", ("TH3",)),
    ("theory.peak.sgd_peak", "** 0.25", "** 0.5", ("TH3",)),
    ("theory.peak.adam_peak", "(1 - b2) * push**2", "push**2", ("TH3",)),
    ("theory.peak.adam_peak", "first / (1 - b1**t)", "first", ("TH3",)),
    ("theory.peak.adam_peak", "second / (1 - b2**t)", "second", ("TH3",)),
    ("theory.peak.turning_step", "increments.argmin()", "increments.argmax()", ("TH3",)),
]
# TH2f and TH3b predict no function that could be rewritten: what they predict stands in their tolerances, and their
# controls show that these bite.
