"""A mistake in an argument is one ValueError of one sentence that names the argument."""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from jaxsink import metrics

WEIGHTS = np.zeros((2, 3, 4, 4), np.float32)
WHERE = np.ones((2, 4), bool)
TOKENS = np.zeros((2, 4), np.int32)
NORMS = np.ones((2, 4), np.float32)
LAW = np.ones((2, 4, 1), np.float32)
VALUES = np.ones((2, 4, 2, 3), np.float32)
W_O = np.ones((4, 3, 5), np.float32)
STEP, CURVE = np.arange(5.0), np.arange(5.0)[::-1]

MISTAKES: dict[str, tuple[str, Callable[[], Any]]] = {
    "risk rank": ("log_probs", lambda: metrics.excess_risk(LAW[0], LAW, WHERE)),
    "risk vocabulary": ("law", lambda: metrics.excess_risk(LAW, np.ones((2, 4, 2), np.float32), WHERE)),
    "risk mask": ("where", lambda: metrics.excess_risk(LAW, LAW, WHERE[:, :3])),
    "risk integers": ("log_probs", lambda: metrics.excess_risk(LAW.astype(np.int32), LAW, WHERE)),
    "attention rank": ("weights", lambda: metrics.attention_to_key(WEIGHTS[0], WHERE)),
    "attention mask type": ("where", lambda: metrics.attention_to_key(WEIGHTS, WHERE.astype(np.int32))),
    "attention mask batch": ("where", lambda: metrics.attention_to_key(WEIGHTS, WHERE[:1])),
    "key too large": ("key", lambda: metrics.attention_to_key(WEIGHTS, WHERE, key=4)),
    "key negative": ("key", lambda: metrics.attention_to_key(WEIGHTS, WHERE, key=-1)),
    "key fractional": ("key", lambda: metrics.attention_to_key(WEIGHTS, WHERE, key=0.0)),  # type: ignore[arg-type]
    "key traced": ("key", lambda: jax.jit(metrics.attention_to_key)(WEIGHTS, WHERE, 0)),
    "previous not square": ("weights", lambda: metrics.attention_to_previous(WEIGHTS[:, :, :3], WHERE)),
    "baseline rank": ("where", lambda: metrics.uniform_baseline(WHERE[0])),
    "tokens type": ("tokens", lambda: metrics.attention_to_key_by_token(WEIGHTS, NORMS, 3)),
    "tokens shape": ("tokens", lambda: metrics.sink_logit_gap_by_token(WEIGHTS, TOKENS[:, :2], 3)),
    "vocabulary empty": ("vocab_size", lambda: metrics.sink_logit_gap_by_token(WEIGHTS, TOKENS, 0)),
    "by token key": ("key", lambda: metrics.attention_to_key_by_token(WEIGHTS, TOKENS, 3, key=9)),
    "triggers rank": ("weights", lambda: metrics.detect_triggers(WEIGHTS[0], TOKENS, 3)),
    "gap not square": ("scores", lambda: metrics.sink_logit_gap(WEIGHTS[:, :, :, :3], WHERE)),
    "concentration mask": ("where", lambda: metrics.logit_concentration(WEIGHTS, WHERE[:, :1])),
    "values rank": ("values", lambda: metrics.value_output_norms(VALUES[0], W_O)),
    "values head size": ("w_o", lambda: metrics.value_output_norms(VALUES, W_O[:, :2])),
    "values groups": ("w_o", lambda: metrics.value_output_norms(VALUES, W_O[:3])),
    "ratio mask": ("where", lambda: metrics.value_ratio(NORMS, WHERE[:1])),
    "ratio key": ("key", lambda: metrics.value_ratio(NORMS, WHERE, key=4)),
    "resid rank": ("resid", lambda: metrics.residual_norms(NORMS)),
    "peak key": ("key", lambda: metrics.peak_ratio(NORMS, key=4)),
    "norm mask": ("where", lambda: metrics.norm_at(NORMS, WHERE[:, :1])),
    "too few axes": ("weights", lambda: metrics.attention_received(WEIGHTS[0, 0], WHERE, causal=True)),
    "maps not square": ("weights", lambda: metrics.attention_received(WEIGHTS[..., :3], WHERE, causal=True)),
    "valid length": ("valid", lambda: metrics.mean_received(WEIGHTS[..., 0], WHERE[:, :3], causal=True)),
    "valid type": ("valid", lambda: metrics.seen_by(TOKENS, causal=True)),
    "key beyond": ("key", lambda: metrics.sink_rate(WEIGHTS[..., 0], WHERE, key=4)),
    "layers differ": ("norms", lambda: metrics.waiver_element(WEIGHTS[..., 0], NORMS[:, None], WHERE)),
    "heads differ": ("outputs", lambda: metrics.head_scores(WEIGHTS[..., 0], WEIGHTS[..., 0], VALUES, VALUES, WHERE)),
    "heads not grouped": ("outputs", lambda: metrics.sink_mechanism(VALUES, VALUES[:, :, [0, 1, 1]], WHERE)),
    "query heads": ("query_heads", lambda: metrics.value_norms_by_head(VALUES, 3)),
    "no query heads": ("query_heads", lambda: metrics.value_norms_by_head(VALUES, 0)),
    "entries": ("k", lambda: metrics.largest_activations(LAW, WHERE, k=5)),
    "dimensions": ("k", lambda: metrics.top_dimensions(LAW, k=0)),
    "peak tokens": ("valid", lambda: metrics.peak_ratio(NORMS, valid=WHERE[:, :2])),
    "state shape": ("on_sink", lambda: metrics.update_sink_mass(metrics.init_mean((2,)), WEIGHTS[..., 0], WHERE)),
    "curve rank": ("curve", lambda: metrics.first_passage(STEP, NORMS, 0.5)),
    "curve length": ("curve", lambda: metrics.first_passage(STEP, CURVE[:3], 0.5)),
    "curve not finite": ("curve", lambda: metrics.first_passage(STEP, CURVE * np.nan, 0.5)),
    "step not increasing": ("step", lambda: metrics.first_passage(STEP[::-1], CURVE, 0.5)),
    "step empty": ("step", lambda: metrics.value_at([], [], 0.5)),
    "threshold": ("threshold", lambda: metrics.first_passage(STEP, CURVE, np.nan)),
    "outside the log": ("at_step", lambda: metrics.value_at(STEP, CURVE, 4.5)),
    "transition order": ("lower", lambda: metrics.transition(CURVE, 1.0, 2.0)),
    "fit length": ("y", lambda: metrics.line_fit(STEP, CURVE[:2])),
    "correlation not finite": ("x", lambda: metrics.correlation([np.inf, 1.0], [0.0, 1.0])),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake: str) -> None:
    argument, call = MISTAKES[mistake]
    with pytest.raises(ValueError, match=rf"^{argument} must ") as caught:
        call()
    message = str(caught.value)
    assert re.fullmatch(r"[^\n]+\.", message)
    assert re.search(r"\. [A-Z]", message) is None
