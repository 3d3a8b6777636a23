"""`check` reports on one variant, `parametrize` makes tests of many."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxsink.attention import Variant
from jaxsink.attention.checks import check_variant
from theory.laws.declared import LAWS as _DECLARED
from theory.laws.law import Law, LawBroken, Outcome, variant_name
from theory.laws.numerics import LAWS as _NUMERICS
from theory.laws.visibility import LAWS as _VISIBILITY

if TYPE_CHECKING:
    import pytest

LAWS: tuple[Law, ...] = (*_VISIBILITY, *_DECLARED, *_NUMERICS)

_STYLES = {"holds": "green", "BROKEN": "bold red", "not applicable": "dim"}


class Report(Mapping[str, Outcome]):
    """What came of each law, by its name. It has no truth value: look at `broken`.

    Attributes:
        variant: the variant in words.
    """

    def __init__(self, variant: str, outcomes: Sequence[Outcome]) -> None:
        self.variant = variant
        self._outcomes = {outcome.law: outcome for outcome in outcomes}

    def __getitem__(self, name: str) -> Outcome:
        return self._outcomes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outcomes)

    def __len__(self) -> int:
        return len(self._outcomes)

    def __bool__(self) -> bool:
        raise ValueError("a report has no truth value, because laws may not apply; compare report.broken with ()")

    def __repr__(self) -> str:
        return f"Report({self.variant}, broken={self.broken})"

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the laws that are broken."""
        return tuple(name for name, outcome in self._outcomes.items() if outcome.status == "BROKEN")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _outcome(law: Law, variant: Variant, examples: int, seed: int) -> Outcome:
    try:
        return law.verify(variant, examples=examples, seed=seed)
    except LawBroken as broken:
        return broken.outcome
    except Exception as error:  # the variant's own code may raise anything
        return Outcome(law.name, "BROKEN", None, _first_line(error))


def check(variant: Variant, *, examples: int = 5, seed: int = 0, laws: Sequence[Law] = LAWS) -> Report:
    """Try the laws on a variant, and print a table of what came of them.

    The time goes into compilation: a few seconds for a new variant, little more for more examples.

    Args:
        variant: any row map or composite, best a frozen dataclass.
        examples: number of random inputs per law.
        seed: the inputs depend on it and on nothing else.
        laws: the laws to try.

    Returns:
        The outcomes by name of the law; `report.broken == ()` if none is broken. A law is broken, too, if the
        variant raises an error in it.

    Raises:
        ValueError: the variant is neither row map nor composite, or there is no example.
    """
    check_variant(variant)
    if examples < 1:
        raise ValueError(f"examples must be at least 1, but is {examples}; a law that is not tried never holds")
    # Without a terminal Rich would break lines at 80 columns, in logs too.
    terminal = sys.stdout.isatty()
    console = Console() if terminal else Console(width=160)
    outcomes = []
    for law in laws:
        with console.status(law.name) if terminal else nullcontext():
            outcomes.append(_outcome(law, variant, examples, seed))
    name = variant_name(variant)
    table = Table("law", "outcome", "nearest to its bound, or why", title=escape(name), title_justify="left")
    for outcome in outcomes:
        style = _STYLES[outcome.status]
        table.add_row(outcome.law, f"[{style}]{outcome.status}[/]", escape(outcome.text))
    console.print(table)
    return Report(name, outcomes)


def parametrize(variants: Iterable[Variant], *, laws: Sequence[Law] = LAWS) -> pytest.MarkDecorator:
    """A decorator that makes one test of each law and variant, for a test function of `law` and `variant`.

        @laws.parametrize([MyVariant(), MyVariant(temperature=2.0)])
        def test_law(law, variant):
            law.verify(variant)

    Laws that do not apply to what a variant declares make no test.

    Args:
        variants: row maps and composites.
        laws: the laws to try.

    Returns:
        A pytest mark.

    Raises:
        ValueError: one of the variants is neither row map nor composite, or there is none.
        ImportError: pytest is not installed.
    """
    try:
        import pytest
    except ImportError as error:
        raise ImportError(
            "laws.parametrize needs pytest, which is missing; install pytest or use laws.check"
        ) from error
    chosen = tuple(variants)
    for variant in chosen:
        check_variant(variant)
    if not chosen:
        raise ValueError("variants must hold at least one variant, but is empty; without any nothing would be tested")
    return pytest.mark.parametrize(
        ("law", "variant"),
        [
            pytest.param(law, variant, id=f"{law.name}-{variant_name(variant)}")
            for variant in chosen
            for law in laws
            if law.objection(variant) is None
        ],
    )
