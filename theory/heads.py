"""Heads by domain of text: what zeroing each costs, and which of them differ between two domains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from theory.checkpoint import Passages

# Expected share of false discoveries among the heads that are said to differ.
RATE = 0.05
# With more splits of the passages than this, so many are drawn at random.
SPLITS = 20_000

Array = NDArray[np.float64]


class Comparison(NamedTuple):
    """Two groups of passages compared head by head, arrays of the heads' shape.

    Attributes:
      gap: mean over the first group minus mean over the second.
      adjusted: p-values of the permutation test, adjusted by Benjamini and Hochberg over all heads.
    """

    gap: Array
    adjusted: Array

    def differs(self, least: float = 0.0) -> NDArray[np.bool_]:
        """The heads that differ, with a gap of `least` or more, at a false-discovery rate of `RATE`."""
        return np.asarray((self.adjusted <= RATE) & (np.abs(self.gap) >= least))


def permutation_p_values(first: Array, second: Array, seed: int = 0) -> Array:
    """Two-sided p-values of the difference of the means of two groups, for each head.

    If both come from one law, every split of all passages into groups of these sizes is equally likely. All heads are
    split alike. The test is exact where there are at most `SPLITS` splits.

    Args:
      first: [A, ...] a number for each passage and head. second: [B, ...].
      seed: of the splits drawn where there are more.

    Returns:
      [...], twice the smaller of the two one-sided p-values, at most 1.

    Raises:
      ValueError: a group has fewer than two passages, or heads differ.
    """
    if min(len(first), len(second)) < 2 or first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"two groups of at least two passages with the same heads are compared, but their shapes are "
            f"{first.shape} and {second.shape}; take more passages of one model."
        )
    pooled = np.concatenate([first, second]).reshape(len(first) + len(second), -1)
    # The difference of the means grows with the sum over the first group, whatever the split.
    sums = _splits(len(first), len(second), seed) @ pooled
    seen, rounding = pooled[: len(first)].sum(0), 1e-12 * np.abs(pooled).sum(0)
    as_large, as_small = ((sign * (sums - seen) >= -rounding).mean(0) for sign in (1, -1))
    return np.minimum(1.0, 2 * np.minimum(as_large, as_small)).reshape(first.shape[1:])


@lru_cache(maxsize=1)
def _splits(first: int, second: int, seed: int) -> Array:
    """[S, first + second], 1 for each passage that a split puts into the first group; the split seen is among them."""
    total = first + second
    if math.comb(total, first) <= SPLITS:
        chosen = np.array(list(combinations(range(total), first)))
        splits = np.zeros((len(chosen), total))
        np.put_along_axis(splits, chosen, 1.0, axis=1)
        return splits
    seen = np.repeat([1.0, 0.0], [first, second])
    drawn = np.random.default_rng(seed).permuted(np.tile(seen, (SPLITS, 1)), axis=1)
    return np.concatenate([seen[None], drawn])


def compare(first: NDArray[Any], second: NDArray[Any]) -> Comparison:
    """Which heads differ between two groups of passages.

    Args:
      first: [A, ...] a number for each passage and head. second: [B, ...].

    Raises:
      ValueError: as `permutation_p_values`.

    Source: elementary; the control of false discoveries is that of Benjamini and Hochberg (1995), as scipy has it.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    p_values = permutation_p_values(one, other)
    adjusted = stats.false_discovery_control(p_values, axis=None, method="bh")
    return Comparison(one.mean(0) - other.mean(0), np.asarray(adjusted).reshape(p_values.shape))


@dataclass(frozen=True)
class HeadZeroing:
    """Heads of a decoder zeroed one at a time, on passages that the seed draws.

    Attributes:
      passages: what the loss is measured on.
      every: the heads of every so many blocks are zeroed, the last block's among them; 1 is all heads.

    Raises:
      ValueError: `every` is below 1, or the passages have a control.
    """

    passages: Passages
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1, but {self.every} was given; 1 zeroes the heads of all blocks.")
        if self.passages.control is not None:
            raise ValueError("heads are zeroed in a model as it is, but the passages have a control; leave it out.")

    def layers(self, count: int) -> tuple[int, ...]:
        """The blocks, of `count`, whose heads are zeroed."""
        return tuple(layer for layer in range(count) if (count - 1 - layer) % self.every == 0)

    def describe(self) -> dict[str, Any]:
        """The specification as plain JSON data, with the identity of the weights."""
        return {"type": "HeadZeroing", "passages": self.passages.describe(), "every": self.every}
