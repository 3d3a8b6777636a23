"""Where a run stops to be measured: every chunk at first, then geometrically further apart."""

from __future__ import annotations

import numpy as np


def log_points(steps: int, chunk: int, dense: int = 60, growth: float = 1.06) -> tuple[int, ...]:
    """Steps at which a run is measured, all multiples of `chunk`, from 0 to `steps`.

    Args:
      steps: length of the run, a multiple of `chunk`. chunk: steps in one compiled program.
      dense: number of chunks measured one by one at the beginning.
      growth: ratio of neighbouring points after that.

    Raises:
      ValueError: `steps` is not a positive multiple of `chunk`.
    """
    if steps < chunk or steps % chunk:
        raise ValueError(
            f"steps must be a positive multiple of the chunk of {chunk} steps, but {steps} was given; "
            f"use {max(1, round(steps / chunk)) * chunk}."
        )
    last = steps // chunk
    points = set(range(min(dense, last) + 1)) | {last}
    position = float(dense)
    while position < last:
        points.add(round(position))
        position = max(position * growth, position + 1)
    return tuple(int(p) * chunk for p in np.sort(np.array(sorted(points))))
