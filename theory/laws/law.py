"""What a law is: a statement about variants that follows from what they declare, and how it is examined."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from jaxsink.attention import Properties, Trait, Variant
from jaxsink.attention.checks import check_variant
from theory.laws.example import Example, draw, shapes, traits
from theory.laws.finding import Finding

Status = Literal["holds", "BROKEN", "not applicable"]


@dataclass(frozen=True)
class Outcome:
    """What came of one law.

    Attributes:
        law: name of the law.
        status: "holds" in every example, "BROKEN" in one, or "not applicable" to what the variant declares.
        finding: the number nearest to its bound, or the first beyond it; None if there is no number.
        text: the finding in words, the error that the variant raised, or why the law does not apply.
    """

    law: str
    status: Status
    finding: Finding | None
    text: str


class LawBroken(AssertionError):
    """A variant breaks a law; `outcome` has the numbers."""

    def __init__(self, message: str, outcome: Outcome) -> None:
        super().__init__(message)
        self.outcome = outcome


def variant_name(variant: Variant) -> str:
    """The variant in words: with its fields if it is a dataclass, else its class."""
    return repr(variant) if dataclasses.is_dataclass(variant) else type(variant).__name__


@dataclass(frozen=True)
class Law:
    """A statement about every variant that declares certain properties.

    Attributes:
        name: a few words joined with hyphens.
        statement: one sentence.
        examine: what the law finds in one example.
        applies: whether the law says anything about a variant that declares these properties.
        needs: what a variant must declare for it, in words.
        unless: traits of composites of which the law does not speak.
    """

    name: str
    statement: str
    examine: Callable[[Example], Iterable[Finding]]
    applies: Callable[[Properties], bool] = lambda properties: True
    needs: str = "nothing"
    unless: frozenset[Trait] = frozenset()

    def objection(self, variant: Variant) -> str | None:
        """Why the law says nothing about a variant, or None if it does."""
        if not self.applies(variant.properties):
            return f"only where the variant declares {self.needs}"
        exempt = sorted(trait.value for trait in self.unless & traits(variant))
        return f"not where the variant {' and '.join(exempt)}" if exempt else None

    def verify(self, variant: Variant, *, examples: int = 5, seed: int = 0) -> Outcome:
        """Examine the law on random inputs.

        Args:
            variant: any row map or composite.
            examples: number of inputs; their shapes take turns, so that two see every shape.
            seed: the inputs depend on it and on nothing else.

        Returns:
            An outcome that holds or does not apply.

        Raises:
            LawBroken: in one of the examples the variant breaks the law.
            ValueError: the variant is neither row map nor composite, or there is no example.
        """
        check_variant(variant)
        if examples < 1:
            raise ValueError(f"examples must be at least 1, but is {examples}; a law that is not tried never holds")
        objection = self.objection(variant)
        if objection is not None:
            return Outcome(self.name, "not applicable", None, objection)
        tightest: Finding | None = None
        for index in range(examples):
            shape = shapes(variant)[index % len(shapes(variant))]
            for finding in self.examine(draw(variant, shape, (seed, index))):
                if not finding.holds:
                    raise LawBroken(
                        f"{variant_name(variant)} breaks the law {self.name}: {finding} "
                        f"(example {index + 1} of {examples}, seed {seed}). {self.statement}",
                        Outcome(self.name, "BROKEN", finding, str(finding)),
                    )
                if tightest is None or finding.used > tightest.used:
                    tightest = finding
        return Outcome(self.name, "holds", tightest, str(tightest))
