"""What the evidence of a checkpoint says: where the sinks of each layer and passage are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from theory.claim import Run

Profile = NDArray[np.float64]
# A layer has a sink in a passage where one position receives more than this share of attention on average.
SINK = 0.2


def profile(run: Run, name: str) -> Profile:
    """[B, L, T]: "received", "value_norm" or "resid_norm" at the positions that are compared.

    Under a causal mask these are the positions that at least half of the queries see: a late one receives what few
    queries give it, mostly its own weight on itself.
    """
    values = np.asarray(run.arrays[name], np.float64)
    return values[..., : values.shape[-1] // 2] if run.manifest["causal"] else values


def rank_correlations(one: ArrayLike, other: ArrayLike) -> Profile:
    """[...]: Spearman correlations along the last axis of two arrays of one shape; scipy's takes a row at a time."""
    x, y = (ranks - ranks.mean(-1, keepdims=True) for ranks in (rankdata(one, axis=-1), rankdata(other, axis=-1)))
    return np.asarray((x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1)))


def sink_positions(run: Run) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """(the position [B, L] that receives most attention, whether it is a sink [B, L])."""
    received = profile(run, "received")
    return received.argmax(-1), received.max(-1) > SINK
