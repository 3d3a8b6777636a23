"""No check on trained networks is vacuous: on made-up evidence each claim is supported where it holds, and each of its
measures can refute it. The last part shows that a control which fails to fail is noticed. Claims that are computed
have their mutants instead (`test_mutation`).
"""

import contextlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from jaxsink.training import TrainConfig
from theory.claim import TIERS
from theory.claims import BUILT_IN
from theory.judge import judge

# Loaded by its path: this folder is no package, so that its name cannot hide the real one.
_spec = importlib.util.spec_from_file_location("ideal_evidence", Path(__file__).with_name("ideal_evidence.py"))
made_up = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_up)

SEEDS = range(3)
TRAINED = [
    c for c in BUILT_IN if all(isinstance(s, TrainConfig) for by_arm in c.evidence.values() for s in by_arm.values())
]


def evidence(claim, tier):
    """Per seed {arm: run}, in which everything published holds."""
    return [{arm: made_up.ideal(arm, spec, seed) for arm, spec in claim.evidence[tier].items()} for seed in SEEDS]


def edited(seeds, *edits):
    """The evidence with arrays of some arms rewritten: each edit is (arm, array, function of all its arrays)."""
    result = []
    for runs in seeds:
        runs = dict(runs)
        for arm, name, change in edits:
            old = runs[arm]
            assert name in old.arrays
            new = np.asarray(change({n: a.copy() for n, a in old.arrays.items()}))
            assert new.shape == old.arrays[name].shape
            runs[arm] = made_up.IdealRun({**old.arrays, name: new}, old.manifest)
        result.append(runs)
    return result


# Ways to rewrite a curve ----------------------------------------------------------------------------------------
def end(name, value):
    """Another value at the last log point."""

    def change(arrays):
        arrays[name][-1] = value
        return arrays[name]

    return change


def first(name, value):
    """Another value at the first log point, or where block 0 is removed."""

    def change(arrays):
        arrays[name][0] = value
        return arrays[name]

    return change


def whole(value):
    """Another number, or the same one all along."""
    return lambda arrays: value


def flat(name, value):
    return lambda arrays: np.full_like(arrays[name], value)


def as_curve(name, function):
    """A curve that is a function of the step, in all layers."""

    def change(arrays):
        values = function(arrays["step"].astype(np.float64))
        return values if arrays[name].ndim == 1 else np.repeat(values[:, None], arrays[name].shape[1], axis=1)

    return change


def scaled(name, factor):
    return lambda arrays: arrays[name] * factor


def before_the_fall(arrays):
    """A sink that is there before there is anything to gain from it, and then as it was."""
    arrays["attn_start"][arrays["backcopy"] > 0.9 * arrays["backcopy"].max()] = 0.5
    return arrays["attn_start"]


def by_share(function):
    """A function of the share of the run that is done, as one of the step."""
    return lambda step: function(step / step[-1])


def rippled(step):
    # Two waves over the logarithm of the slow phase, on a slope as it was: still a better fit than that on t.
    return np.log1p(step / 50) + 1.5 * np.sin(4 * np.log1p(step))


def nearer_a_line(step):
    # Logarithm and line, each by its spread in the slow phase, with a little more of the line.
    slow = step > 200
    return np.log1p(step) / np.log1p(step)[slow].std() + 1.03 * step / step[slow].std()


# How each measure of each claim is made false, in the order of the claim's measures. All else stays as it was, and
# no other measure may notice, so that none is covered by its neighbours.
FALSE = {
    "BB1": [
        [("softmax", "backcopy", as_curve("backcopy", lambda t: 4.3 / (1 + t / 100)))],
        [("softmax", "bigram", as_curve("bigram", lambda t: 2.0 / (1 + t / 100)))],
    ],
    "BB2": [
        # Backcopy falls below .1 at once and below .05 late; then Bigram does the converse.
        [("softmax", "backcopy", as_curve("backcopy", lambda t: np.where(t < 40, 4.3, np.where(t < 700, 0.07, 0.01))))],
        [("softmax", "bigram", as_curve("bigram", lambda t: np.where(t < 40, 2.0, np.where(t < 700, 0.07, 0.01))))],
    ],
    "BB3": [
        [("softmax", "attn_start", as_curve("attn_start", lambda t: 0.1 + 0.05 / (1 + t / 100)))],
        [("softmax", "attn_start", before_the_fall)],
    ],
    "BB4": [
        [("softmax", "value_norm_start", as_curve("value_norm_start", lambda t: 4 * (0.05 + 0.95 / (1 + t / 100))))],
        [("softmax", "value_norm_start", as_curve("value_norm_start", lambda t: 4 + 2 * t / (t + 100)))],
        [("softmax", "value_ratio", end("value_ratio", 0.8))],
    ],
    "BB5": [
        [("softmax", "attn_start", end("attn_start", 0.4))],
        [("softmax", "attn_start_trigger", end("attn_start_trigger", 0.3))],
        [("softmax", "attn_prev_trigger", end("attn_prev_trigger", 0.5))],
    ],
    "BB6": [
        [("softmax", "dlogit", as_curve("dlogit", rippled))],
        [("softmax", "dlogit", as_curve("dlogit", nearer_a_line))],
        [("softmax", "dlogit", scaled("dlogit", -1))],
    ],
    "BB7": [
        [("softmax", "no_attention_bigram", whole(0.5))],
        [("softmax", "no_attention_backcopy", whole(1.0))],
        [("softmax", "no_mlp_bigram", whole(0.5))],
    ],
    "BB8": [[("softmax", "sink_logit_std", end("sink_logit_std", 0.9))]],
    "BB9": [[("softmax", "peak_ratio", end("peak_ratio", 3.0))]],
    "BB11": [
        [("relu", "attn_start", end("attn_start", 0.3))],
        [("relu", "value_norm_start", end("value_norm_start", 0.5))],
        [("relu", "backcopy", end("backcopy", 0.5))],
        [("relu", "bigram", end("bigram", 0.5))],
    ],
    "RP1": [
        [("deep_adam", "resid_norm_start", as_curve("resid_norm_start", by_share(lambda x: 10 + 200 * x**6)))],
        [
            ("deep_adam", "resid_norm_start", as_curve("resid_norm_start", by_share(lambda x: 10 + 7 * x))),
            ("deep_adam", "resid_norm_other", flat("resid_norm_other", 10.0)),
        ],
        [("deep_adam", "resid_norm_other", lambda arrays: arrays["resid_norm_start"] * 0.9)],
    ],
    "RP2": [
        [("deep_sgd", "resid_norm_start", scaled("resid_norm_start", 15))],
        [("deep_sgd", "peak_ratio", end("peak_ratio", 40.0))],
        [("deep_sgd", "attn_start", flat("attn_start", 0.2))],
        [("deep_sgd_0.1", "resid_norm_start", scaled("resid_norm_start", 15))],
    ],
    "RP3": [
        [("deep_relu", "peak_ratio", end("peak_ratio", 2.0))],
        [("deep_relu", "attn_start", end("attn_start", 0.5))],
    ],
    "RP4": [
        [("two_blocks", "resid_norm_other", scaled("resid_norm_other", 0.2))],
        [("attention_block_mlp", "resid_norm_other", scaled("resid_norm_other", 0.2))],
        [("two_blocks", "resid_norm_start", first("resid_norm_start", 2.0))],
        [("attention_block_mlp", "resid_norm_start", first("resid_norm_start", 2.0))],
    ],
    "RP5": [
        [("deep_adam", "removed_peak_ratio", first("removed_peak_ratio", 4.0))],
        [("deep_adam", "removed_dlogit", first("removed_dlogit", 3.0))],
        [("deep_adam", "removed_value_ratio", first("removed_value_ratio", 0.05))],
    ],
    "RP6": [
        [("deep_adam", "gradient_start", lambda arrays: arrays["gradient_content"])],
        [("deep_adam", "gradient_start_image", flat("gradient_start_image", 1.0))],
    ],
    "RP6b": [
        [("deep_adam", "residual_start", lambda arrays: arrays["residual_content"])],
        [("deep_adam", "residual_start_image", end("residual_start_image", 1.0))],
    ],
    "RP8": [
        [("deep_relu", "backcopy", end("backcopy", 0.5))],
        [("deep_sgd", "bigram", end("bigram", 0.5))],
    ],
    "BB10a": [
        [("attention_uniform", "value_norm_start", as_curve("value_norm_start", lambda t: 4 / (1 + t / 100)))],
        [("attention_uniform", "value_ratio", scaled("value_ratio", 0.05))],
    ],
    "BB10b": [
        # A free run with as little of a sink; a norm that is neither large nor small; cuts that strengthen nothing.
        [("softmax", "attn_start", scaled("attn_start", 0.5))],
        [("norm_held_peak", "attn_start", scaled("attn_start", 1.4))],
        [("norm_held_start", "attn_start", scaled("attn_start", 0.92))],
        [("value_frozen", "attn_start", scaled("attn_start", 0.92))],
    ],
    "BB10c": [[("norm_held_late", "attn_start", scaled("attn_start", 1.3))]],
    "BB12": [
        [("without_start", "attention_by_token", whole(np.array([[0.15, 0.4, 0.15, 0.15, 0.15]])))],
        [("without_start", "value_norm_by_token", flat("value_norm_by_token", 4.0))],
    ],
    "BB13": [
        [("markov", "attn_start", end("attn_start", 0.3))],
        [("markov", "no_attention_backcopy", whole(1.0))],
        [("half_copied", "no_attention_backcopy", whole(0.0))],
        [("half_copied", "no_attention_backcopy", whole(12.0))],
        [("half_copied", "attn_start", end("attn_start", 0.02))],
        [("half_copied", "attn_start", end("attn_start", 0.95))],
    ],
    "BB-T1": [[("softmax", "extracted_alpha_variation", whole(0.5))]],
    "BB-T2": [
        [("softmax", "extracted_cosine", whole(0.5))],
        [("softmax", "extracted_drain", whole(5.0))],
    ],
    "WV9": [
        [("equal_values", "attn_start", scaled("attn_start", 0.2))],
        [("equal_outputs", "attn_start", scaled("attn_start", 0.2))],
        [("equal_values", "attention_by_token", whole(np.array([[0.05, 0.6, 0.05, 0.05, 0.25]])))],
        [("equal_outputs", "attention_by_token", whole(np.array([[0.05, 0.6, 0.05, 0.05, 0.25]])))],
    ],
    "WV9b": [
        [("equal_values", "attn_start", scaled("attn_start", 0.4))],
        [("equal_outputs", "attn_start", scaled("attn_start", 0.4))],
        [("equal_values", "bigram", end("bigram", 0.1))],
        [("equal_outputs", "bigram", end("bigram", 0.1))],
    ],
    "WV9c": [[("equal_values", "value_ratio", end("value_ratio", 0.9))]],
    "WV9d": [[("equal_outputs", "extracted_drain", whole(0.3))]],
}
# One measure that holds another: the smallest ratio over the rates of SGD is no larger than that at the paper's.
IMPLIED = {("RP2", "paper", 0): {3}}

CASES = [(claim, tier, i) for claim in TRAINED for tier in TIERS for i in range(len(claim.measures.get(tier, ())))]


def in_each_tier(claims):
    """Parametrise over the claims and the tiers that they have."""
    each = [(claim, tier) for claim in claims for tier in TIERS if tier in claim.evidence]
    return pytest.mark.parametrize(("claim", "tier"), each, ids=[f"{claim.id}-{tier}" for claim, tier in each])


@in_each_tier(TRAINED)
def test_a_claim_that_holds_is_supported(claim, tier):
    verdict = judge(claim, tier, evidence(claim, tier))
    assert [m.name for m in verdict.measures if m.inside is not True] == []
    assert verdict.control_status == claim.control.expected
    assert verdict.status == "supported"


def test_every_measure_has_a_way_to_be_false():
    assert list(FALSE) == [claim.id for claim in TRAINED]
    for claim in TRAINED:
        assert len(FALSE[claim.id]) == max(map(len, claim.measures.values()))


@pytest.mark.parametrize(("claim", "tier", "i"), CASES, ids=[f"{c.id}-{tier}-{i}" for c, tier, i in CASES])
def test_a_claim_whose_measure_is_false_is_refuted(claim, tier, i):
    verdict = judge(claim, tier, edited(evidence(claim, tier), *FALSE[claim.id][i]))
    measures = verdict.measures
    assert measures[i].inside is False, measures[i]
    others = {j for j, measure in enumerate(measures) if measure.inside is not True} - {i}
    assert others == IMPLIED.get((claim.id, tier, i), set()), [measures[j] for j in others]
    assert (verdict.status, verdict.control_status) == ("refuted", claim.control.expected)


STRUCTURES = ("deep_adam", "two_blocks_mlp", "two_blocks", "mlp_block_mlp", "attention_block_mlp")
# What a control looks like that passes the claim's own test. A swapped arm is replaced by a copy of the arm it
# stands in for; the controls with measures of their own read these.
BROKEN_BY_ARRAYS = {
    "BB1": [("softmax", "no_attention_backcopy", whole(0.001))],
    # A little more attention to <s> and of its worth with every p, and never more than a Markov chain may have.
    "BB13": [
        ("half_copied", "attn_start", flat("attn_start", 0.12)),
        ("softmax", "attn_start", flat("attn_start", 0.14)),
        ("half_copied", "no_attention_backcopy", lambda arrays: arrays["backcopy"][-1] + 0.012),
        ("softmax", "no_attention_backcopy", lambda arrays: arrays["backcopy"][-1] + 0.024),
    ],
    "BB8": [("softmax", "sink_logit_std", flat("sink_logit_std", 0.1))],
    "RP1": [("deep_adam", "resid_norm_content", lambda arrays: arrays["resid_norm_start"])],
    "RP4": [(arm, "resid_norm_content", lambda arrays: arrays["resid_norm_start"]) for arm in STRUCTURES],
    "RP5": [
        ("deep_adam", name, lambda arrays, name=name: np.broadcast_to(arrays[name][:1], arrays[name].shape))
        for name in ("removed_peak_ratio", "removed_dlogit", "removed_value_ratio")
    ],
    "RP6": [
        ("deep_adam", "gradient_content", lambda arrays: arrays["gradient_start"]),
        ("deep_adam", "gradient_content_image", lambda arrays: arrays["gradient_start_image"]),
    ],
    "RP6b": [
        ("deep_adam", "residual_content", lambda arrays: arrays["residual_start"]),
        ("deep_adam", "residual_content_image", lambda arrays: arrays["residual_start_image"]),
    ],
    "RP8": [
        (arm, f"no_attention_{part}", lambda arrays, part=part: arrays[part][-1])
        for arm in ("deep_relu", "deep_sgd")
        for part in ("backcopy", "bigram")
    ],
}


NEGATIVE = [claim for claim in TRAINED if claim.control.expected == "refuted"]


@in_each_tier(NEGATIVE)
def test_a_control_that_passes_breaks_the_check(claim, tier):
    seeds = evidence(claim, tier)
    if claim.control.measures is None:
        seeds = [{**runs, **{to: runs[of] for of, to in claim.control.swap.items()}} for runs in seeds]
    else:
        seeds = edited(seeds, *BROKEN_BY_ARRAYS[claim.id])
    verdict = judge(claim, tier, seeds)
    assert all(m.inside for m in verdict.measures)
    assert (verdict.status, verdict.control_status) == ("check broken", "supported")


# How a control fails that must pass: it finds no sink where there is one.
BLIND = {"BB12": [("softmax", "attention_by_token", whole(np.full((1, 5), 0.2)))]}


@in_each_tier([claim for claim in TRAINED if claim not in NEGATIVE])
def test_a_control_that_must_pass_and_fails_breaks_the_check(claim, tier):
    verdict = judge(claim, tier, edited(evidence(claim, tier), *BLIND[claim.id]))
    assert all(m.inside for m in verdict.measures)
    assert (verdict.status, verdict.control_status) == ("check broken", "refuted")


@pytest.mark.parametrize("claim", TRAINED, ids=lambda claim: claim.id)
def test_a_diverged_seed_is_never_support(claim):
    tier = next(iter(claim.evidence))
    seeds = evidence(claim, tier)
    nan = {
        arm: made_up.IdealRun(
            {n: a if n in ("step", "baseline") else np.full(np.shape(a), np.nan) for n, a in run.arrays.items()},
            run.manifest,
        )
        for arm, run in seeds[0].items()
    }
    supported = False
    # Readings that need finite curves refuse; the runner then reports the claim as not run, with the reason.
    with contextlib.suppress(ValueError):
        supported = judge(claim, tier, [nan, *seeds[1:]]).status == "supported"
    assert not supported
