"""What the tests of the store, the runner and the command line share."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import pytest
from beside import load
from matplotlib.figure import Figure
from rich.console import Console
from typer.testing import CliRunner, Result

from experiments import cli
from experiments.evidence import EvidenceStore
from experiments.studies import PRODUCERS


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    return load(__file__, "tiny_claims")


@pytest.fixture(scope="session")
def numbers() -> ModuleType:
    return load(__file__, "number_study")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small decoder, a small encoder, and the decoder without a tokenizer."""
    small, folder = load(__file__, "small_checkpoints"), tmp_path_factory.mktemp("checkpoints")
    small.checkpoint(folder / "llama", small.LLAMA, tokenizer=True)
    small.checkpoint(folder / "bert", small.BERT, tokenizer=True)
    small.checkpoint(folder / "bare", small.LLAMA, tokenizer=False)
    return folder


@pytest.fixture
def study(numbers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The study of numbers, registered."""
    producer = numbers.Study()
    monkeypatch.setitem(PRODUCERS, numbers.Number, producer)
    return producer


@pytest.fixture
def store(tmp_path: Path) -> EvidenceStore:
    return EvidenceStore(tmp_path / "runs")


@pytest.fixture
def elsewhere() -> Callable[[], AbstractContextManager[None]]:
    """Another environment for the time of a block: this one with another precision of matrix products."""

    @contextmanager
    def environment() -> Iterator[None]:
        before = jax.config.jax_default_matmul_precision
        jax.config.update("jax_default_matmul_precision", "highest")
        try:
            yield
        finally:
            jax.config.update("jax_default_matmul_precision", before)

    return environment


@dataclass
class CommandLine:
    """`jaxsink` in this process, in a folder of its own, with the study of numbers and claims on it.

    Attributes:
      folder: where it works. study: the producer of numbers. patch: lasts as long as the test.
    """

    folder: Path
    study: Any
    patch: pytest.MonkeyPatch

    def offer(self, *claims: Any) -> None:
        """Let the module `number_claims` hold these claims."""
        self.patch.setitem(sys.modules, "number_claims", SimpleNamespace(CLAIMS=claims))

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(cli.app, list(words))

    def verify(self, *words: str) -> Result:
        return self("verify", "NA1", "NB", "--claims", "number_claims", *words)

    @staticmethod
    def code(result: Result) -> int:
        """The exit code of a command that ended by itself, and not by an exception that nobody caught."""
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert "Traceback" not in result.output
        return result.exit_code

    def assert_mistake(self, result: Result, *words: str) -> None:
        """The request was refused: exit code 2 and one line that says why."""
        assert self.code(result) == 2
        assert result.stderr.count("\n") == 1, result.stderr
        assert result.stderr.startswith("jaxsink: ")
        assert result.stderr.endswith(".\n")
        for part in words:
            assert part in result.stderr

    @property
    def report(self) -> dict[str, bytes]:
        out = self.folder / "out"
        return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    @property
    def claims(self) -> dict[str, dict[str, Any]]:
        data = json.loads((self.folder / "out" / "verify-quick" / "claims.json").read_text())
        return {claim["id"]: claim for claim in data["claims"]}

    @property
    def runs(self) -> list[str]:
        """What follows the names of stored runs: nothing for finished ones."""
        return sorted(folder.suffix for folder, _, _ in EvidenceStore(self.folder / "runs").entries())


def save_nothing(figure: Figure, path: Path) -> None:
    """In place of drawing, which takes most of the time: a PNG of 3 x 2 pixels, as far as the report reads it."""
    path.with_name(path.name + ".png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x03\0\0\0\x02")
    path.with_name(path.name + ".svg").write_bytes(b"<?xml")


@pytest.fixture
def jaxsink(numbers: ModuleType, study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    command = CommandLine(tmp_path, study, monkeypatch)
    command.offer(*numbers.three())
    monkeypatch.chdir(tmp_path)
    # Wide enough that no table breaks a line, however long the folder's name.
    monkeypatch.setattr(cli, "console", lambda: Console(width=1000))
    monkeypatch.setattr("experiments.publish.figures.save", save_nothing)
    return command
