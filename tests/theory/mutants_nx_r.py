"""Mutants of what holds on a repeated token: (target, text that stands once in it, other text, claims refuted)."""

_R = "theory.repeated."

MUTANTS = [
    # The network of one token: what attention passes on, the residual stream, the norm, the MLP.
    (
        _R + "one_token_states",
        'x + _rms_norm(x, w["norm_attention"]',
        'x + 0.99 * _rms_norm(x, w["norm_attention"]',
        ("NX-R1",),
    ),
    (_R + "one_token_states", 'x + _rms_norm(x, w["norm_attention"]', '_rms_norm(x, w["norm_attention"]', ("NX-R1",)),
    (_R + "one_token_states", 'w["value"] @ w["output"]', 'w["output"] @ w["value"]', ("NX-R1",)),
    (_R + "one_token_states", "np.maximum(", "np.minimum(", ("NX-R1",)),
    (_R + "one_token_states", 'w["norm_mlp"]', 'w["norm_attention"]', ("NX-R1",)),
    (_R + "_rms_norm", "eps: float = 1e-6", "eps: float = 1e-5", ("NX-R1",)),
    (_R + "_rms_norm", ".mean(-1", ".sum(-1", ("NX-R1",)),
    # RoPE: which pairs, which way, how fast, which scale. NoPE and sigmoid read distance 0, where the angle is 0.
    (_R + "rotary_scores", ":half] + 1j", ":half] - 1j", ("NX-R2",)),
    (_R + "rotary_scores", "1j * angle", "-1j * angle", ("NX-R2",)),
    (_R + "rotary_scores", "(-np.arange(half) / half)", "(np.arange(half) / half)", ("NX-R2",)),
    (_R + "rotary_scores", "base: float = 10000.0", "base: float = 9999.0", ("NX-R2",)),
    (_R + "rotary_scores", "/ np.sqrt(query.shape[-1])", "", ("NX-R2",)),
    (_R + "rotary_scores", "k.conj()", "k", ("NX-R2",)),
    # Masses of rows.
    (_R + "sink_logit_mass", "np.exp(sink)", "np.exp(-sink)", ("NX-R2",)),
    (_R + "sink_logit_mass", "np.exp(sink)", "1 + 0 * sink", ("NX-R2",)),
    (_R + "sink_logit_mass", "np.cumsum(np.exp(scores), -1)", "np.exp(scores)", ("NX-R2",)),
    (_R + "sigmoid_mass", "(-scores)", "(scores)", ("NX-R2",)),
    (_R + "sigmoid_mass", "np.cumsum(1 / (1 + np.exp(-scores)), -1)", "1 / (1 + np.exp(-scores))", ("NX-R2",)),
    (_R + "relu_mass", "np.arange(1, scores.shape[-1] + 1)", "np.arange(2, scores.shape[-1] + 2)", ("NX-R2",)),
    (_R + "relu_mass", "np.maximum(scores, 0)", "np.maximum(scores, 0.01)", ("NX-R2",)),
    (_R + "softpick_mass", "np.expm1(scores)", "np.exp(scores)", ("NX-R2",)),
    (_R + "softpick_mass", "np.abs(terms)", "np.maximum(terms, 0)", ("NX-R2",)),
    (_R + "softpick_mass", "eps * np.exp", "0 * np.exp", ("NX-R2",)),
    (_R + "softpick_mass", "np.maximum.accumulate(np.maximum(scores, 0), -1)", "0 * scores", ("NX-R2",)),
    # Weights in closed form.
    (_R + "even_weights", "1 / rows[:, None]", "1 / (rows[:, None] + 1)", ("NX-R3",)),
    (_R + "even_weights", "<= rows", "< rows", ("NX-R3",)),
    (_R + "alibi_weights", "np.exp(-m * np", "np.exp(m * np", ("NX-R3",)),
    (_R + "alibi_weights", "np.expm1(-m * t)", "np.expm1(-m * (t + 1))", ("NX-R3",)),
    (_R + "alibi_weights", "* np.expm1(-m) /", "* m /", ("NX-R3",)),
    (_R + "alibi_weights", "distance >= 0", "distance > 0", ("NX-R3",)),
    # Bounds: exponent, count of keys, mean, threshold.
    (_R + "rope_bound", "-2 * xi", "-xi", ("NX-R4",)),
    (_R + "rope_bound", "-2 * xi", "-3 * xi", ("NX-R4",)),
    (_R + "rope_bound", "(t - 1)", "t", ("NX-R4",)),
    (_R + "first_key_bound", "np.arange(1, length + 1)", "np.arange(2, length + 2)", ("NX-R4",)),
    (_R + "first_key_bound", "np.arange(1, length + 1)", "np.arange(1, length)", ("NX-R4",)),
    (_R + "sink_free_xi", "- threshold", "- 1.05 * threshold", ("NX-R4",)),
    (_R + "sink_free_xi", "- threshold", "- 0.95 * threshold", ("NX-R4",)),
    (_R + "second_row_weight", "np.sin(0.5)", "np.sin(1.0)", ("NX-R4",)),
    (_R + "second_row_weight", "np.sin(0.5)", "0.5", ("NX-R4",)),
    (_R + "second_row_weight", "-2 * np", "-np", ("NX-R4",)),
    (_R + "distance_bound", "+ 2 * np", "+ np", ("NX-R5",)),
    (_R + "distance_bound", "+ 2 * np", "+ 3 * np", ("NX-R5",)),
    (_R + "distance_bound", "(1 - rows", "(0 - rows", ("NX-R5",)),
    (_R + "distance_bound", "np.log(rows) +", "", ("NX-R5",)),
    (_R + "distance_bound", "(1 - rows", "(9 - rows", ("NX-R5",)),
    (_R + "distance_sink_free_xi", "- threshold", "- 1.15 * threshold", ("NX-R5",)),
    (_R + "distance_sink_free_xi", "- threshold", "- 0.9 * threshold", ("NX-R5",)),
]
