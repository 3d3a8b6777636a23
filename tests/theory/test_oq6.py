"""OQ6 on made-up surveys: supported where every variant does what is expected of it, refuted where some do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from theory.claims.oq6 import EXPECTED, OQ6
from theory.judge import Verdict, judge

NAMES = list(EXPECTED)
STRENGTH = {"keeps": 0.9, "removes": 0.01, "open": 0.5}


class Run(NamedTuple):
    arrays: Mapping[str, np.ndarray]
    manifest: Mapping[str, Any]


def judged(change: Callable[[str], dict[str, float]] = lambda name: {}) -> Verdict:
    """The verdict on three seeds in which `change` says what is not as expected of a variant."""
    seeds = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        ideal = [
            {"sink_strength": STRENGTH[EXPECTED[name]], "baseline": 0.1, "backcopy": 0.02} | change(name)
            for name in NAMES
        ]
        arrays = {
            key: np.array([row[key] for row in ideal]) * rng.uniform(0.95, 1.05, size=len(NAMES)) for key in ideal[0]
        }
        arrays["sink_strength"] = arrays["sink_strength"][:, None]  # a layer
        seeds.append({"survey": Run(arrays, {"variants": NAMES, "environment": "made up"})})
    return judge(OQ6, "quick", seeds)


def test_it_is_supported_where_all_do_what_is_expected() -> None:
    verdict = judged()
    assert (verdict.status, verdict.control_status) == ("supported", "refuted")


@pytest.mark.parametrize(
    ("measure", "change"),
    [
        (0, lambda name: {"sink_strength": 0.05} if EXPECTED[name] == "keeps" else {}),
        (1, lambda name: {"sink_strength": 0.9} if EXPECTED[name] == "removes" else {}),
        (2, lambda name: {"backcopy": 1.0} if EXPECTED[name] == "removes" else {}),
        # A run that diverged has no sink.
        (0, lambda name: {"sink_strength": np.nan} if EXPECTED[name] == "keeps" else {}),
    ],
)
def test_each_measure_can_refute_it(measure: int, change: Callable[[str], dict[str, float]]) -> None:
    verdict = judged(change)
    assert verdict.status == "refuted"
    assert [m.inside for m in verdict.measures] == [i != measure for i in range(3)]


def test_variants_that_are_all_alike_support_neither_the_claim_nor_its_control() -> None:
    verdict = judged(lambda name: {"sink_strength": 0.9})
    assert (verdict.status, verdict.control_status) == ("refuted", "refuted")
