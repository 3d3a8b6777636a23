"""Claim OQ6: which attention variants lose the sink on Bigram-Backcopy, and at what risk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jaxsink.training import AdamW
from theory.claim import Arms, Claim, Control, Measure, Tier
from theory.claims import arms
from theory.survey import Survey

Expectation = Literal["keeps", "removes", "open"]

# What the sources of the variants and the theory of the sink let expect, set down before any run. A sink is needed
# where a row must put a fixed mass on real keys, and not where mass may go nowhere, onto a slot, or be gated away.
EXPECTED: Mapping[str, Expectation] = {
    # One unit of mass on real keys, whatever the row is about.
    "softmax": "keeps",
    "scaled-softmax": "keeps",
    "p-normalised": "keeps",
    "sparsemax": "keeps",
    "entmax-1.5": "keeps",
    "entmax": "keeps",
    "normalised-sigmoid": "keeps",
    "elu-kernel": "keeps",
    "value-bias": "keeps",
    "qk-norm": "keeps",
    "cosine": "keeps",
    "gate-unconditional": "keeps",
    # A virtual slot takes the mass.
    "softmax-n": "removes",
    "sink-logit": "removes",
    "key-bias": "removes",
    "key-value-bias": "removes",
    # No mass is due.
    "relu": "removes",
    "relu-over-length": "removes",
    "squared-relu": "removes",
    "gelu": "removes",
    "rela": "removes",
    "sigmoid": "removes",
    "elu-plus-one": "removes",
    "identity": "removes",
    "clamped-linear": "removes",
    "mlp-kernel": "removes",
    "softpick": "removes",
    "elastic": "removes",
    "threshold-rectified": "removes",
    "cosine-threshold": "removes",
    "threshold-differential": "removes",
    "stick-breaking": "removes",
    # A gate that knows the query closes the head.
    "gate-per-token": "removes",
    "g1-headwise": "removes",
    "g1-elementwise": "removes",
    "value-state-gate-output": "removes",
    # The sources disagree, say "less", or do not treat a causal task.
    "clipped": "open",
    "normalised-linear": "open",
    "forget-gate": "open",
    "gate-per-head": "open",
    "g2-value-gate": "open",
    "input-gate": "open",
    "value-state-gate-source": "open",
    "head-rms-norm": "open",
    "differential": "open",
}
# A sink is more than this many times even attention on <s>, measured against what the head puts out where it is active
# (`metrics.sink_strength`): by its share of the row alone, a head that is all but switched off would have one, too.
SINK = 2.0

_SURVEYS: Mapping[Tier, Survey] = {
    "quick": Survey(
        replace(
            arms.SOFTMAX["quick"],
            optimiser=AdamW(rate=1e-2),
            batch=16,
            steps=300,
            chunk_steps=300,
            probe_batch=128,
        )
    ),
    "paper": Survey(replace(arms.DEEP_ADAM["paper"], batch=128, steps=4000)),
}


def _by_expectation(a: Arms, name: str, expectation: Expectation) -> NDArray[np.float64]:
    """The largest value over the layers of every variant of which this is expected."""
    run = a["survey"]
    names = run.manifest["variants"]
    values = np.asarray(run.arrays[name], np.float64).reshape(len(names), -1).max(axis=1)
    return np.array([v for v, variant in zip(values, names, strict=True) if EXPECTED[variant] == expectation])


def _has_sink(a: Arms, expectation: Expectation) -> NDArray[np.bool_]:
    # NaN, of a run that diverged, is no sink.
    return _by_expectation(a, "sink_strength", expectation) > SINK * _by_expectation(a, "baseline", expectation)


_WORDS = {"keeps": "variants expected to keep the sink", "removes": "variants expected to lose it"}


def _measures(keepers: Expectation, removers: Expectation) -> tuple[Measure, ...]:
    def risk(a: Arms) -> float:
        run = a["survey"]
        softmax = np.asarray(run.arrays["backcopy"])[run.manifest["variants"].index("softmax")]
        return float(np.nanmedian(_by_expectation(a, "backcopy", removers)) - softmax)

    return (
        Measure(
            f"share of {_WORDS[keepers]} with more than {SINK:g} times even attention on <s>",
            lambda a: float(_has_sink(a, keepers).mean()),
            "> 0.8",
            (0.8, math.inf),  # an interval may end above 1
        ),
        Measure(
            f"share of {_WORDS[removers]} with at most {SINK:g} times even attention on <s>",
            lambda a: float((~_has_sink(a, removers)).mean()),
            "> 0.8",
            (0.8, math.inf),  # an interval may end above 1
        ),
        Measure(
            f"median Backcopy risk of {_WORDS[removers]} above softmax's, nats",
            risk,
            "< 0.1",
            (-math.inf, 0.1),
        ),
    )


OQ6 = Claim(
    id="OQ6",
    source="open question; 2410.10781, tables 6 and 15, and the source of each variant (`jaxsink variants`)",
    statement=(
        "On Bigram-Backcopy the sink goes where a row need not put mass on a real key or a gate can close the head, at "
        "little risk, and stays where a row must add up to one."
    ),
    kind="training",
    evidence={tier: {"survey": survey} for tier, survey in _SURVEYS.items()},
    measures={tier: _measures("keeps", "removes") for tier in _SURVEYS},
    expected={"quick": "refuted", "paper": "supported"},
    control=Control(
        "the expectations exchanged: variants said to keep the sink are asked to lose it, and the reverse",
        measures={tier: _measures("removes", "keeps") for tier in _SURVEYS},
    ),
    figure="variant_survey",
    note=(
        "The figure has every variant with its share of attention on <s>, value drain, residual ratio and both risks. "
        "gate-per-head averages over the whole sequence and so sees the future: its risks are no comparison. The quick "
        "tier has one layer, in which no residual peak is due."
    ),
)

CLAIMS = (OQ6,)
