"""What a claim is: a statement, the evidence it needs, measures with tolerances, and a control that must fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

Tier = Literal["quick", "paper"]
TIERS: tuple[Tier, ...] = ("quick", "paper")
Status = Literal["supported", "refuted", "inconclusive", "check broken", "not run"]


class Run(Protocol):
    """Evidence of one seed: named arrays and the manifest that says where they come from."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]: ...

    @property
    def manifest(self) -> Mapping[str, Any]: ...


class Spec(Protocol):
    """A description of evidence up to its seed; equal descriptions mean equal evidence."""

    def describe(self) -> dict[str, Any]: ...


Arms = Mapping[str, Run]


@dataclass(frozen=True)
class Measure:
    """One number per seed and the interval it is predicted to lie in.

    Attributes:
      name: what is measured, with its unit.
      extract: one seed's run of every arm -> the value. Arms share the seed, so a comparison is paired.
      predicted: the prediction in words.
      tolerance: (lower, upper); infinite ends are allowed. It stands here before any run.
      scale: "log" for a ratio of positive quantities: its mean is geometric, its interval is of the logarithms.
    """

    name: str
    extract: Callable[[Arms], float]
    predicted: str
    tolerance: tuple[float, float]
    scale: Literal["linear", "log"] = "linear"


@dataclass(frozen=True)
class Control:
    """A setting in which the check must come out the other way.

    Attributes:
      setting: what the control changes, in words.
      swap: arms to exchange, {"softmax": "relu"}: where a measure reads `softmax` it then reads `relu`.
      measures: the measures of the control by tier; None means the claim's own, on the swapped arms.
    """

    setting: str
    swap: Mapping[str, str] = field(default_factory=dict)
    measures: Mapping[Tier, tuple[Measure, ...]] | None = None
    expected: Status = "refuted"


@dataclass(frozen=True)
class Claim:
    """A published statement, made checkable.

    Attributes:
      id: short name ("BB1"). source: paper and place. statement: the claim in this project's words.
      kind: "training", "identity", ... : what sort of evidence judges it.
      evidence: for every tier the arms, from name to specification. A tier that is absent is not run.
      measures: for every tier what is measured; all must lie inside their tolerance.
      expected: by tier the verdict on record, against which `--strict` compares: for the quick tier what its default
        seeds gave, for a tier that has not been run what the source says.
      control: the negative control.
      figure: name of the picture that shows it.
      note: what a reader of the verdict should know.
    """

    id: str
    source: str
    statement: str
    kind: str
    evidence: Mapping[Tier, Mapping[str, Spec]]
    measures: Mapping[Tier, tuple[Measure, ...]]
    expected: Mapping[Tier, Status]
    control: Control
    figure: str = "measures"
    note: str = ""
