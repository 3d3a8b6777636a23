"""Every test that can be skipped is listed, with its reason, in QUARANTINE.md; and nothing else is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SKIPPING = {"skip", "skipif", "importorskip", "xfail", "skipIf", "skipUnless", "SkipTest", "skipTest"}


def skips(source: str) -> set[str]:
    """The names (`test_a`, `Class::test_b`, "" for the module) under which something may be skipped."""

    def visit(node: ast.AST, scope: tuple[str, ...]) -> Iterator[str]:
        match node:
            case ast.Attribute(attr=name) if name in SKIPPING:
                yield "::".join(scope)
            case ast.ImportFrom(module="pytest" | "unittest", names=names):
                if any(alias.name in SKIPPING for alias in names):
                    yield "::".join(scope)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                scope = (*scope, name)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, scope)

    return set(visit(ast.parse(source), ()))


def listed(table: str) -> dict[str, str]:
    """Test id -> reason, from the rows of the Markdown table below its header."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
    header = next(i for i, cells in enumerate(rows) if cells[0] == "test")
    return {cells[0].strip("`"): cells[1] for cells in rows[header + 2 :] if cells[0]}


def test_skips_and_table_agree() -> None:
    found = set()
    for path in TESTS.rglob("*.py"):
        where = path.relative_to(TESTS.parent).as_posix()
        found |= {f"{where}::{name}" if name else where for name in skips(path.read_text("utf-8"))}
    table = listed((TESTS / "QUARANTINE.md").read_text("utf-8"))
    assert found - set(table) == set(), "these can be skipped but have no row in tests/QUARANTINE.md"
    assert set(table) - found == set(), "these rows of tests/QUARANTINE.md name nothing that can be skipped"
    assert all(table.values()), "a row of tests/QUARANTINE.md gives no reason"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def test_a():\n    pass", set()),
        ("import pytest\n@pytest.mark.skip\ndef test_a(): pass", {"test_a"}),
        ("class TestB:\n    @mark.skipif(True, reason='')\n    def test_b(self): pass", {"TestB::test_b"}),
        ("torch = pytest.importorskip('torch')", {""}),
        ("def test_c():\n    pytest.skip('no')", {"test_c"}),
        ("from pytest import skip as leave", {""}),
        ("@parametrize('a', [param(1, marks=pytest.mark.xfail)])\ndef test_d(a): pass", {"test_d"}),
        ("def test_e(skip=True):\n    assert skip", set()),
    ],
)
def test_finder_sees_each_way_to_skip(source: str, expected: set[str]) -> None:
    assert skips(source) == expected


def test_table_rows_are_read() -> None:
    table = "words\n\n| test | reason | back |\n|---|---|---|\n| `tests/test_a.py::test_b` | slow | never |\n"
    assert listed(table) == {"tests/test_a.py::test_b": "slow"}
