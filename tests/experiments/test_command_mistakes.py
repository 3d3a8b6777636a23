"""Mistakes on the command line and a full disk: one sentence, exit code 2, and nothing lost."""

import errno
import importlib
import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def test_an_unknown_claim_brings_the_nearest(jaxsink: Any) -> None:
    for wanted, nearest in (("bb1", "BB1'"), ("BB111", "BB11'"), ("RP99", "RP"), ("XX9", "")):
        result = jaxsink("verify", wanted)
        jaxsink.assert_mistake(result, f"there is no claim '{wanted}'; the nearest is '{nearest}", "jaxsink claims")
    jaxsink.assert_mistake(jaxsink("claims", "XX9"), "there is no claim 'XX9'")
    assert list(jaxsink.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "triggers", "words"),
    [
        (None, 3, ["cannot be read", "No such file"]),
        (b"", 3, ["has 0", "longer text"]),
        (b"aaaa", 3, ["has 1"]),
        (b"\xffabc", 3, ["UTF-8"]),
        (b"abcabc", 4, ["4"]),
        (b"abcabc", 3, ["3"]),
    ],
)
def test_a_text_that_will_not_do(jaxsink: Any, content: bytes | None, triggers: int, words: list[str]) -> None:
    if content is not None:
        Path("text").write_bytes(content)
    result = jaxsink("verify", "BB1", "--text", "text", "--triggers", str(triggers))
    jaxsink.assert_mistake(result, *words)
    assert not Path("out").exists()
    assert not Path("runs").exists()


def test_a_folder_in_place_of_a_text(jaxsink: Any) -> None:
    jaxsink.assert_mistake(jaxsink("verify", "BB1", "--text", "."), "cannot be read")


@pytest.mark.parametrize("out", ["file", "file/out", "/proc/out", "mine"])
def test_an_output_folder_that_will_not_do(jaxsink: Any, out: str) -> None:
    Path("file").write_text("mine")
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("mine")
    jaxsink.assert_mistake(jaxsink.verify("--out", out), f"--out {out} ")
    assert jaxsink.study.made == []
    assert [Path(p).read_text() for p in ("file", "mine/thesis.txt")] == ["mine"] * 2
    assert len(list(Path("mine").iterdir())) == 1


@pytest.mark.parametrize("runs", ["file", "file/runs", "/proc/runs"])
def test_a_folder_of_runs_that_will_not_do(jaxsink: Any, runs: str) -> None:
    Path("file").write_text("mine")
    jaxsink.assert_mistake(jaxsink.verify("--runs", runs), runs, "--runs")
    assert jaxsink.study.made == []


def test_from_results_and_force_exclude_each_other(jaxsink: Any) -> None:
    jaxsink.assert_mistake(jaxsink.verify("--from-results", "--force"), "--from-results", "--force")


def test_claims_of_ones_own_that_will_not_do(
    jaxsink: Any, numbers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    jaxsink.assert_mistake(jaxsink("verify", "--claims", "no_such_module"), "'no_such_module' must be importable")
    monkeypatch.setitem(sys.modules, "bare", ModuleType("bare"))
    jaxsink.assert_mistake(jaxsink("claims", "--claims", "bare"), "must be importable and hold a tuple CLAIMS")
    monkeypatch.syspath_prepend(jaxsink.folder)
    Path("misspelt.py").write_text("CLAIMS = (\n")
    importlib.invalidate_caches()
    jaxsink.assert_mistake(jaxsink("verify", "--claims", "misspelt"), "'misspelt' must be importable")
    jaxsink.offer(numbers.claim("BB1", numbers.Number("left")))
    jaxsink.assert_mistake(jaxsink.verify(), "'BB1' is taken by two claims")


def test_a_figure_that_does_not_exist_is_a_mistake_before_anything_is_made(jaxsink: Any, numbers: ModuleType) -> None:
    jaxsink.offer(*numbers.three()[1:], numbers.claim("NA1", numbers.Number("left"), figure="dynamic"))
    jaxsink.assert_mistake(jaxsink.verify(), "NA1", "'dynamic'", "'dynamics'")
    assert jaxsink.study.made == []


def test_evidence_of_another_version_has_a_way_out(jaxsink: Any) -> None:
    assert jaxsink.code(jaxsink.verify()) == 0
    report = jaxsink.report
    manifest = next(Path("runs").rglob("manifest.json"))
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": 0}))
    for words in ((), ("--from-results",)):
        jaxsink.assert_mistake(
            jaxsink.verify(*words), "another version", "schema 0", "jaxsink evidence prune", "--runs"
        )
    assert jaxsink.report == report
    assert jaxsink.code(jaxsink("evidence", "prune", "--yes")) == 0
    assert jaxsink.code(jaxsink.verify()) == 0
    assert len(jaxsink.study.made) == 10


def test_evidence_without_its_arrays_has_a_way_out(jaxsink: Any) -> None:
    assert jaxsink.code(jaxsink.verify()) == 0
    arrays = next(Path("runs").rglob("arrays.npz"))
    arrays.unlink()
    jaxsink.assert_mistake(jaxsink.verify(), str(arrays), "--runs")


# A full disk ----------------------------------------------------------------------------------------------------
@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """Let the system refuse files larger than `limit` bytes, in the middle of writing them."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("writer", ["experiments.evidence.np.savez_compressed", "experiments.evidence.os.replace"])
@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_is_one_sentence_and_costs_nothing(
    jaxsink: Any, monkeypatch: pytest.MonkeyPatch, writer: str, force: bool
) -> None:
    assert jaxsink.code(jaxsink("verify", "NB1", "--claims", "number_claims")) == 0
    report = jaxsink.report
    jaxsink.study.shift = 0.25
    with monkeypatch.context() as patch:
        patch.setattr(writer, full)
        jaxsink.assert_mistake(
            jaxsink.verify(*["--force"] * force), "No space left on device", "--runs", "finished runs are kept"
        )
    assert jaxsink.report == report
    assert jaxsink.runs == ["", "", "", ".partial"]
    if force:
        assert jaxsink.code(jaxsink("verify", "NB1", "--claims", "number_claims", "--from-results")) == 0
        assert jaxsink.claims["NB1"]["measures"][0]["values"] == [1.0, 1.01, 1.02]
    assert jaxsink.code(jaxsink.verify()) == 0


def test_a_disk_that_fills_up_under_the_parameters_is_one_sentence(jaxsink: Any, numbers: ModuleType) -> None:
    # 4 MB of zeros: compressed arrays stay small, the parameters are refused while they are written.
    jaxsink.offer(numbers.claim("NA1", numbers.Number("left", weight=4_000_000)), *numbers.three()[1:])
    with small_files(1_000_000):
        jaxsink.assert_mistake(jaxsink.verify(), "writing failed", "finished runs are kept")
    assert jaxsink.runs == [".partial"]
    assert not list(Path("out").rglob("*.*"))
    assert jaxsink.code(jaxsink.verify()) == 0
