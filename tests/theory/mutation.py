"""Mutants of predictions: a function rewritten in one place, put where the claims look it up."""

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager


class Summary:
    """A line at the end of pytest's report."""

    def __init__(self, line):
        self.line = line

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.write_line(self.line)


@contextmanager
def mutated(target: str, old: str, new: str) -> Iterator[None]:
    """Let the function `target`, "module.name", be its own source with `old`, which stands there once, as `new`."""
    module_name, name = target.rsplit(".", 1)
    module = importlib.import_module(module_name)
    original = getattr(module, name)
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(old) == 1, f"{target} holds {old!r} {source.count(old)} times"
    namespace = module.__dict__
    exec(compile(source.replace(old, new), f"<mutant of {target}>", "exec"), namespace)  # defines `name` anew
    try:
        yield
    finally:
        setattr(module, name, original)
