"""What every study hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

Advance = Callable[[float], None]
# Multiplications that a CPU core does in a second of training: studies state their cost in multiplications.
PER_SECOND = 8e10


class Product(NamedTuple):
    """What one seed's run leaves: arrays by name, final parameters, and entries of the manifest."""

    arrays: Mapping[str, np.ndarray]
    params: Any
    manifest: Mapping[str, Any]


class Trainer(Protocol):
    """What makes evidence of one specification, for any seeds; whatever is compiled is compiled once."""

    def run(self, seeds: Sequence[int], partial: Path, advance: Advance) -> list[Product]:
        """Make the evidence of a group of seeds.

        Args:
          seeds: as many as the group holds. partial: folder for checkpoints of an unfinished run.
          advance: to be called with the share of the work (0 to 1) done since the last call; it raises where the run
            is to stop.
        """
