"""Made-up evidence in which the published statements hold: smooth curves in the format of stored runs."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxsink.training import TrainConfig, log_points

Arrays = dict[str, np.ndarray]
BASELINE = 0.1
PER_LAYER = (
    "attn_start",
    "attn_start_trigger",
    "attn_prev_trigger",
    "dlogit",
    "value_norm_start",
    "value_ratio",
    "resid_norm_start",
    "resid_norm_other",
    "resid_norm_content",
    "peak_ratio",
    "sink_logit_std",
    "other_logit_std",
)
# Of five tokens, the last of them `<s>` where there is one: where the sink is.
_SHARE = np.array([0.05, 0.8, 0.05, 0.05, 0.05])
_NORM = np.array([4.0, 0.4, 4.2, 3.8, 4.0])
# The sink on `<s>`, and none.
_ON_START, _NOWHERE = np.roll(_SHARE, 3), np.full(5, 0.2)

# How many times the norm at `<s>` grows, by structure.
_PEAK = {
    "deep_adam": 20,
    "three_blocks": 20,
    "two_blocks_mlp": 16,
    "two_blocks": 4,
    "mlp_block_mlp": 3.5,
    "attention_block_mlp": 1,
}


class IdealRun(NamedTuple):
    """Evidence of one seed, as `theory.claim.Run` wants it."""

    arrays: Arrays
    manifest: Mapping[str, Any]


def _of_several_blocks(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    """What only a network of several blocks has: block 0 makes the peak, in one direction that no value map sees."""
    points, blocks = arrays["peak_ratio"].shape
    removed = {
        f"removed_{name}": np.vstack([np.full((1, blocks), cut), np.repeat(arrays[name][-1:], blocks - 1, axis=0)])
        for name, cut in (("peak_ratio", 1.0), ("dlogit", 0.1), ("value_ratio", 0.9))
    }
    direction, other = rng.standard_normal(16), rng.standard_normal((2, points, 16))
    return removed | {
        "gradient_start": np.repeat(direction[None], points, axis=0),
        "gradient_content": other[0],
        "residual_start": arrays["resid_norm_start"][:, :1] * direction[None],
        "residual_content": other[1],
        **{f"{name}_start_image": np.full((points, blocks), 0.1) for name in ("gradient", "residual")},
        **{f"{name}_content_image": np.ones((points, blocks)) for name in ("gradient", "residual")},
    }


def _falling(step: np.ndarray, top: float, half: float, power: float, floor: float) -> np.ndarray:
    return (top - floor) / (1 + (step / half) ** power) + floor


def ideal(arm: str, spec: TrainConfig, seed: int) -> IdealRun:
    """What a run would log if all claims held.

    Args:
      arm: its name in the claims: softmax, relu, triggers_only, without_start, markov, half_copied,
        attention_uniform, value_frozen, norm_held_<when>, free, equal_<what>, deep_adam, three_blocks, deep_relu,
        deep_sgd or deep_sgd_<rate>.
      spec: how long and deep it is. seed: of the small noise on every number.
    """
    step = np.array(log_points(spec.steps, spec.chunk_steps), np.float64)
    relu, sgd, triggers_only = "relu" in arm, "sgd" in arm, arm in ("triggers_only", "equal_triggers")
    peak = _PEAK.get(arm, 0.0) * step / step[-1]
    still = np.ones_like(step)

    # SGD ends a little behind Adam, which passes that risk late in its run.
    backcopy = _falling(step, 4.3, 100, 3, 0.0055 if sgd else 0.005)
    bigram = 2 + 5 * step / step[-1] if triggers_only else _falling(step, 2.0, 20, 2, 0.004)
    learned = 1 - backcopy / backcopy[0]
    late = np.log1p(step / 50)
    drain = _falling(step, 1.0, 150, 2, 0.05)
    bump = 1 + step / 100 * np.exp(1 - step / 50)  # highest, 1.5, at step 50
    copied = {"markov": 0.0, "half_copied": 0.5}.get(arm, 1.0)
    sinks = not relu and arm not in ("triggers_only", "equal_triggers", "markov", "attention_uniform")
    # How much of a sink is left where the value of <s> is held: large, or small from the start.
    sink = {"norm_held_peak": 0.4, "norm_held_start": 0.88, "value_frozen": 0.88}.get(arm, 0.8)
    curves = {
        "attn_start": BASELINE + sink * copied * learned if sinks else BASELINE * (1 - 0.5 * learned),
        "attn_start_trigger": BASELINE * (1 - 0.9 * learned),
        "attn_prev_trigger": BASELINE + 0.89 * learned,
        "dlogit": late if sinks else -late,
        "value_norm_start": 4 * bump * drain if sinks else 4 * (1 + 0.3 * learned),
        "value_ratio": drain if sinks else 1.2 * still,
        "resid_norm_start": 10 * (1 + peak),
        "resid_norm_other": 10 * (1 + 0.2 * learned),
        "resid_norm_content": 10 * (1 + 0.2 * learned),
        "peak_ratio": 1 + peak,
        "sink_logit_std": _falling(step, 1.0, 150, 2, 0.1),
        "other_logit_std": still,
    }
    assert set(curves) == set(PER_LAYER)
    arrays = {name: np.repeat(values[:, None], spec.model.n_layers, axis=1) for name, values in curves.items()}
    arrays |= {
        "backcopy": backcopy,
        "bigram": bigram,
        "loss": 2 + bigram,
        "no_attention_backcopy": backcopy[-1] + 6.0 * copied,
        "no_attention_bigram": np.float64(2.5 if triggers_only else bigram[-1] + 0.002),
        "copy_share": np.float64(0.25),
        "attention_by_token": np.repeat(_SHARE[None], spec.model.n_layers, axis=0),
        "value_norm_by_token": np.repeat(_NORM[None], spec.model.n_layers, axis=0),
        "no_mlp_backcopy": np.float64(4.0),
        "no_mlp_bigram": np.float64(2.0),
        "uniform_backcopy": np.float64(4.2),
        "uniform_bigram": np.float64(2.05),
        "extracted_alpha_variation": np.float64(0.05 if sinks else 1.0),
        "extracted_cosine": np.float64(0.99 if sinks else 0.1),
        "extracted_drain": np.float64(1.0 if sinks else 5.0),
        "extracted_drain_limit": np.float64(1.0),
    }
    if arm in ("free", "equal_values", "equal_outputs", "equal_triggers"):
        equal = arm in ("equal_outputs", "equal_triggers")
        if equal:
            arrays["value_ratio"] = np.ones_like(arrays["value_ratio"])
        arrays["attention_by_token"] = (_ON_START if sinks else _NOWHERE)[None]
        # In logits the value of `<s>` has a size of one: that of the others, or a quarter of it.
        arrays["extracted_values"] = np.eye(4) * (1.0 if equal else 4.0)
    rng = np.random.default_rng([seed, zlib.crc32(arm.encode())])
    if spec.model.n_layers > 1:
        arrays |= _of_several_blocks(arrays, rng)
    # A thousandth of noise: intervals then have a width, and every tolerance is many times further away.
    noisy = {name: np.asarray(x * (1 + 1e-3 * rng.standard_normal(np.shape(x)))) for name, x in arrays.items()}
    exact = {"step": step.astype(np.int64), "baseline": np.float64(BASELINE)}
    return IdealRun({**noisy, **exact}, {"environment": {"device": "none"}, "seed": seed})
