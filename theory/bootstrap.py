"""How sure a number is that was measured on samples, passages of text say: intervals by the bootstrap over them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


class _Resampled(Mapping[str, np.ndarray]):
    """Arrays of one arm with the samples of all seeds in another order, some missing and some more than once."""

    def __init__(self, runs: Sequence[Run], index: NDArray[np.intp]) -> None:
        self._runs, self._index = runs, index

    def __getitem__(self, name: str) -> np.ndarray:
        each = [run.arrays[name] for run in self._runs]
        if name in self._runs[0].manifest[BY_SAMPLE]:
            return np.concatenate(each)[self._index]
        # What no draw changes, as the vectors of positions, needs no samples.
        if all(np.array_equal(each[0], other) for other in each[1:]):
            return each[0]
        raise _Unsampled

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs[0].arrays)

    def __len__(self) -> int:
        return len(self._runs[0].arrays)


@dataclass(frozen=True)
class _Pooled:
    arrays: Mapping[str, np.ndarray]
    manifest: Mapping[str, Any]


def _samples(runs: Sequence[Run]) -> int | None:
    """How many samples an arm has in all seeds; None where it does not say which of its arrays have them."""
    names = runs[0].manifest.get(BY_SAMPLE)
    return sum(len(run.arrays[names[0]]) for run in runs) if names else None


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
    arms = {name: [seed[name] for seed in seeds] for name in seeds[0]}
    counts = {name: count for name, runs in arms.items() if (count := _samples(runs)) is not None}
    sizes = sorted(set(counts.values()))
    if len(counts) < len(arms) or not sizes or sizes[0] < 2:
        return None

    def value(*chosen: NDArray[np.intp]) -> float:
        index = dict(zip(sizes, chosen, strict=True))
        number = measure.extract(
            {name: _Pooled(_Resampled(runs, index[counts[name]]), runs[0].manifest) for name, runs in arms.items()}
        )
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
