"""A survey: one training run for each of many attention variants, alike in everything else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from jaxsink.attention import VARIANTS
from jaxsink.training import TrainConfig, plain


@dataclass(frozen=True)
class Survey:
    """What is trained.

    Attributes:
      base: the run; its attention variant is replaced by each of the others.
      variants: names in `jaxsink.attention.VARIANTS`.

    Raises:
      ValueError: a name is unknown.
    """

    base: TrainConfig
    variants: tuple[str, ...] = tuple(VARIANTS)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.variants if name not in VARIANTS]:
            raise ValueError(f"variants must be names of the catalogue, but {unknown[0]!r} is none; see VARIANTS.")

    def runs(self) -> Iterator[tuple[str, TrainConfig]]:
        """Every variant's name and run."""
        for name in self.variants:
            model = replace(self.base.model, attention=VARIANTS[name].variant)
            yield name, replace(self.base, model=model)

    def describe(self) -> dict[str, Any]:
        """The survey as plain JSON data."""
        variants = {name: plain(VARIANTS[name].variant) for name in self.variants}
        return {"type": "Survey", "base": self.base.describe(), "variants": variants}
