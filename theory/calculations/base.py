"""What a calculation is: a description of numbers that follow from a seed."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from jaxsink.training import plain


class Calculation:
    """Evidence of a theoretical claim, as a frozen dataclass whose fields are all that it depends on besides a seed.

    A subclass computes what the mathematics or a network does, never what is predicted: the measures of a claim
    compare the two when it is judged.

    Attributes:
      version: raise it when the same fields give other numbers, so that stored evidence is made anew.
      seconds: what one seed takes, roughly, for the time left.
    """

    version: ClassVar[int] = 1
    seconds: ClassVar[float] = 1.0

    @property
    def label(self) -> str:
        """The calculation in words, for progress and report."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """The calculation as plain JSON data; equal descriptions mean equal numbers."""
        return {**plain(self), "version": self.version}

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        """The numbers of one seed, by name. It runs with float64 on; jitted functions at module level are compiled
        once for all seeds.
        """
        raise NotImplementedError
