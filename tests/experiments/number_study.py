"""A study that costs nothing: its evidence is one number. For the tests of store, runner, report and command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from theory.claim import Arms, Claim, Control, Measure, Status


@dataclass(frozen=True)
class Number:
    """A specification; seed s measures `value` + s / 100."""

    name: str
    value: float = 1.0
    # Size of the stored parameters in bytes.
    weight: int = 8

    def describe(self) -> dict[str, Any]:
        return {"type": "Number", "name": self.name, "value": self.value, "weight": self.weight}


class Product(NamedTuple):
    arrays: Mapping[str, np.ndarray]
    params: Any
    manifest: Mapping[str, Any]


class Study:
    """The producer, in place of a module.

    Attributes:
      made: (name, seed) of every run, in order. groups: the seeds of every call of a trainer.
      before: called with (name, seed) half-way through a run. shift: added to every number.
    """

    NAME = "number"
    VERSION = 1
    SIDE_BY_SIDE = False

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self.groups: list[tuple[int, ...]] = []
        self.before: Callable[[str, int], None] = lambda name, seed: None
        self.shift = 0.0

    def cost(self, spec: Number) -> float:
        return 2.0

    def label(self, spec: Number) -> str:
        return f"number {spec.name}"

    def Trainer(self, spec: Number, group: int) -> Trainer:
        return Trainer(self, spec)


@dataclass(frozen=True)
class Trainer:
    study: Study
    spec: Number

    def run(self, seeds: Sequence[int], partial: Path, advance: Callable[[float], None]) -> list[Product]:
        self.study.groups.append(tuple(seeds))
        (partial / "state").write_text("half")
        advance(0.25)
        products = []
        for seed in seeds:
            self.study.before(self.spec.name, seed)
            self.study.made.append((self.spec.name, seed))
            value = np.float64(self.spec.value + self.study.shift + seed / 100)
            params = {"weight": np.zeros(self.spec.weight // 8)}
            manifest = {"label": self.study.label(self.spec), "seconds": 0.5, "grouped_seeds": list(seeds)}
            products.append(Product({"value": value}, params, manifest))
        advance(0.75)
        return products


def reading(arm: str, low: float, high: float) -> Measure:
    """The number of an arm against a tolerance."""

    def extract(arms: Arms) -> float:
        return float(arms[arm].arrays["value"])

    return Measure(f"number of {arm}", extract, f"{low} to {high}", (low, high))


def claim(identifier: str, *arms: Number, low: float = 0.0, high: float = 2.0, **changes: Any) -> Claim:
    """A quick claim on the numbers of the arms; its control cannot hold."""
    fields: dict[str, Any] = {
        "id": identifier,
        "source": "no paper",
        "statement": f"The numbers of {identifier} are as they should be.",
        "kind": "training",
        "evidence": {"quick": {arm.name: arm for arm in arms}},
        "measures": {"quick": tuple(reading(arm.name, low, high) for arm in arms)},
        "expected": {"quick": "supported"},
        "control": Control("a larger number", measures={"quick": (reading(arms[0].name, 100.0, math.inf),)}),
    }
    return Claim(**{**fields, **changes})


def three(status: Status = "supported") -> tuple[Claim, ...]:
    """NA1 needs two specifications, NB1 the first of them, and NB2 one of its own; NB1 is expected to be `status`."""
    left, right, other = Number("left"), Number("right", 1.5), Number("other", 7.0)
    return (
        claim("NA1", left, right),
        claim("NB1", left, expected={"quick": status}),
        claim("NB2", other, expected={"quick": "refuted"}),
    )
