"""Intervals over samples: those of scipy for a mean, pairs kept together, and none where there are no samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

from theory.bootstrap import BY_SAMPLE, RESAMPLES, sample_interval
from theory.claim import Arms, Claim, Control, Measure
from theory.judge import judge


class Run(NamedTuple):
    arrays: Mapping[str, np.ndarray]
    manifest: Mapping[str, Any]


def run(*, by_sample: Sequence[str] = ("x",), **arrays: np.ndarray) -> Run:
    return Run(arrays, {BY_SAMPLE: list(by_sample), "environment": "made up"})


def measure(extract: Callable[[Arms], float]) -> Measure:
    return Measure("x", extract, "any", (-np.inf, np.inf))


def mean_of(arm: str, name: str = "x") -> Measure:
    return measure(lambda arms: float(arms[arm].arrays[name].mean()))


@pytest.fixture
def parts() -> list[np.ndarray]:
    """Twelve samples in three seeds."""
    return list(np.random.default_rng(0).normal(size=(3, 4)))


def test_it_is_the_percentile_interval_over_the_samples_of_all_seeds(parts: list[np.ndarray]) -> None:
    found = sample_interval(mean_of("a"), [{"a": run(x=part)} for part in parts])
    expected = stats.bootstrap(
        [np.concatenate(parts)], np.mean, n_resamples=RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # The judge hands it on for the measures of the claim, and judges by the seeds.
    claim = Claim("T1", "", "", "", {"quick": {}}, {"quick": (mean_of("a"),)}, {}, Control("b", {"a": "b"}))
    verdict = judge(claim, "quick", [{"a": run(x=part), "b": run(x=part + 1)} for part in parts])
    assert verdict.measures[0].over_samples == found
    assert verdict.measures[0].interval not in (None, found)
    assert verdict.control_measures[0].over_samples is None


def test_arms_of_as_many_samples_are_resampled_alike(parts: list[np.ndarray]) -> None:
    # The largest: that of the means is the same in any order.
    difference = measure(lambda arms: float((arms["a"].arrays["x"] - arms["b"].arrays["x"]).max()))
    seeds = [{"a": run(x=part), "b": run(x=part - 2.0)} for part in parts]
    np.testing.assert_allclose(sample_interval(difference, seeds), (2.0, 2.0), rtol=1e-12)
    # One with fewer is drawn by itself.
    fewer = [{"a": run(x=part), "b": run(x=part[:2] - 2.0)} for part in parts]
    low, high = sample_interval(difference_of_means, fewer) or (np.nan, np.nan)
    assert high - low > 0.5


difference_of_means = measure(lambda arms: float(arms["a"].arrays["x"].mean() - arms["b"].arrays["x"].mean()))


def test_what_no_draw_changes_needs_no_samples(parts: list[np.ndarray]) -> None:
    scaled = measure(lambda arms: float(arms["a"].arrays["x"].mean() * arms["a"].arrays["of"][1]))
    seeds = [{"a": run(x=part, of=np.array([1.0, 3.0]))} for part in parts]
    low, high = sample_interval(mean_of("a"), seeds) or (np.nan, np.nan)
    np.testing.assert_allclose(sample_interval(scaled, seeds), (3 * low, 3 * high), rtol=1e-12)


@pytest.mark.parametrize(
    ("seeds", "of"),
    [
        ([{"a": run(x=np.arange(4.0))}, {"a": run(x=np.arange(4.0) + 1)}], mean_of("a", "y")),
        ([{"a": run(by_sample=(), x=np.arange(4.0))}] * 2, mean_of("a")),
        ([{"a": Run({"x": np.arange(4.0)}, {})}] * 2, mean_of("a")),
        ([{"a": run(x=np.arange(1.0))}], mean_of("a")),
        ([{"a": run(x=np.array([1.0, np.nan]))}] * 2, mean_of("a")),
    ],
    ids=["an array by seed", "no array", "no entry", "one sample", "not finite"],
)
def test_there_is_none_without_samples(seeds: list[dict[str, Run]], of: Measure) -> None:
    for i, seed in enumerate(seeds):
        seed["a"] = Run({**seed["a"].arrays, "y": np.full(4, float(i))}, seed["a"].manifest)
    assert sample_interval(of, seeds) is None
