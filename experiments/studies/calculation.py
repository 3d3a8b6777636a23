"""Producer of evidence: whatever a `theory.calculations.Calculation` computes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from experiments.studies.product import PER_SECOND, Advance, Product
from theory.calculations import Calculation

NAME = "calculation"
# Of this file. Each calculation has a version of its own in its description.
VERSION = 1
# Most of one goes into compiling and integrating, which keep one core busy.
SIDE_BY_SIDE = True


def label(spec: Calculation) -> str:
    """A calculation in words."""
    return spec.label


def cost(spec: Calculation) -> float:
    """Work of one seed in multiplications, for the time left."""
    return PER_SECOND * spec.seconds


class Trainer:
    """Computes one specification for any seeds.

    Args:
      spec: the calculation. group: how many seeds come at once; they are computed one after the other.
    """

    def __init__(self, spec: Calculation, group: int) -> None:
        self.spec = spec

    def run(self, seeds: Sequence[int], partial: Path, advance: Advance) -> list[Product]:
        """Compute the seeds. A calculation takes seconds, so nothing is kept of a killed one."""
        products = []
        for seed in seeds:
            start = time.monotonic()
            with jax.enable_x64(True):
                arrays = {name: np.asarray(values) for name, values in self.spec.arrays(seed).items()}
            manifest = {"label": label(self.spec), "seconds": time.monotonic() - start}
            products.append(Product(arrays, {}, manifest))
            advance(1 / len(seeds))
        return products
