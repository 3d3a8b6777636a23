"""How sure a number is that was measured on samples, passages of text say: intervals by the bootstrap over them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from theory.claim import Arms, Measure, Run

RESAMPLES = 400
CONFIDENCE = 0.95
# Entry of a run's manifest: names of its arrays whose first axis is that of the samples.
BY_SAMPLE = "by_sample"


class _Unsampled(Exception):
    """A measure reads what is not kept for each sample, or is not a number on some of them."""


@dataclass(frozen=True)
class _Pooled:
    """The samples of an arm in all seeds: `by_sample` with an axis of them, and `fixed`, which no draw changes."""

    by_sample: Mapping[str, np.ndarray]
    fixed: Mapping[str, np.ndarray]
    manifest: Mapping[str, Any]

    @property
    def count(self) -> int:
        return len(next(iter(self.by_sample.values()), ()))


class _Resampled(Mapping[str, np.ndarray]):
    """The arrays of an arm with some of its samples missing and some more than once."""

    def __init__(self, pooled: _Pooled, index: NDArray[np.intp]) -> None:
        self._pooled, self._index = pooled, index

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._pooled.by_sample:
            return self._pooled.by_sample[name][self._index]
        if name in self._pooled.fixed:
            return self._pooled.fixed[name]
        raise _Unsampled

    def __iter__(self) -> Iterator[str]:
        return iter({**self._pooled.by_sample, **self._pooled.fixed})

    def __len__(self) -> int:
        return len(self._pooled.by_sample) + len(self._pooled.fixed)


class _Run(NamedTuple):
    arrays: Mapping[str, np.ndarray]
    manifest: Mapping[str, Any]


def _pooled(runs: Sequence[Run]) -> _Pooled:
    names = runs[0].manifest.get(BY_SAMPLE, ())
    by_sample = {name: np.concatenate([run.arrays[name] for run in runs]) for name in names}
    others = {name: [run.arrays[name] for run in runs] for name in runs[0].arrays if name not in by_sample}
    fixed = {name: each[0] for name, each in others.items() if all(np.array_equal(each[0], x) for x in each[1:])}
    return _Pooled(by_sample, fixed, runs[0].manifest)


def sample_interval(measure: Measure, seeds: Sequence[Arms]) -> tuple[float, float] | None:
    """95 % percentile interval of a measure over the samples of all seeds, resampled with replacement.

    Arms of as many samples are resampled alike, since they are the same samples under another treatment.

    Args:
      measure: what is measured. seeds: for every seed its arms; the manifest of each run names the arrays whose first
        axis is that of the samples (`BY_SAMPLE`).

    Returns:
      (lower, upper), or None where an arm does not name any, where the measure reads an array that is not kept by
      sample, or where it is not finite on some of the resampled ones.

    Source: elementary; Efron's percentile interval, as scipy has it.
    """
    arms = {name: _pooled([seed[name] for seed in seeds]) for name in seeds[0]}
    sizes = sorted({arm.count for arm in arms.values()})
    if not sizes or sizes[0] < 2:
        return None

    def value(*chosen: NDArray[np.intp]) -> float:
        index = dict(zip(sizes, chosen, strict=True))
        runs = {name: _Run(_Resampled(arm, index[arm.count]), arm.manifest) for name, arm in arms.items()}
        number = measure.extract(runs)
        if not math.isfinite(number):
            raise _Unsampled
        return number

    try:
        found = stats.bootstrap(
            [np.arange(size) for size in sizes],
            value,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            vectorized=False,
            rng=0,
        ).confidence_interval
    except _Unsampled:
        return None
    return float(found.low), float(found.high)
