"""The evidence store: what names a run, and that a run is there whole or not at all."""

import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from experiments import evidence
from experiments.commands import evidence as command
from experiments.environment import environment, environment_digest
from experiments.evidence import EvidenceStore, StoredRun, evidence_key

KEY = evidence_key("number", 1, {"name": "a"}, 0)
ARRAYS = {"step": np.array([0, 10, 20]), "loss": np.array([[np.nan], [1.5]], np.float32), "baseline": np.float32(0.5)}
PARAMS = {"block": {"w": np.arange(6.0).reshape(2, 3)}}
Elsewhere = Callable[[], AbstractContextManager[None]]


def manifest(seed: int = 0) -> dict[str, Any]:
    return {
        "producer": "number",
        "producer_version": 1,
        "seed": seed,
        "spec": {"name": "a"},
        "seconds": 2.0,
        "label": "a",
    }


def commit(store: EvidenceStore, key: str = KEY, value: float = 1.0) -> StoredRun:
    return store.commit(key, {**ARRAYS, "value": np.float64(value)}, PARAMS, manifest())


def files(folder: Path) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and f.name != ".lock")


@pytest.mark.parametrize(
    ("producer", "version", "spec", "seed"),
    [
        ("other", 1, {"rate": 0.1, "steps": 5}, 0),
        ("number", 2, {"rate": 0.1, "steps": 5}, 0),
        ("number", 1, {"rate": 0.2, "steps": 5}, 0),
        ("number", 1, {"rate": 0.1, "steps": 5, "more": None}, 0),
        ("number", 1, {"rate": 0.1, "steps": 5}, 1),
    ],
)
def test_key_tells_apart_what_makes_other_evidence(
    producer: str, version: int, spec: dict[str, Any], seed: int
) -> None:
    key = evidence_key("number", 1, {"rate": 0.1, "steps": 5}, 0)
    assert evidence_key("number", 1, {"steps": 5, "rate": 0.1}, 0) == key
    assert evidence_key(producer, version, spec, seed) != key


def test_what_is_committed_is_found(store: EvidenceStore) -> None:
    assert store.find(KEY) is None
    assert store.find_all(KEY) == {}
    committed = commit(store)
    found = store.find(KEY)
    assert found is not None
    assert found.folder == committed.folder == store.root / KEY / environment_digest()
    assert set(found.arrays) == {*ARRAYS, "value"}
    for name, wanted in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[name], wanted)
        assert found.arrays[name].dtype == wanted.dtype
    assert found.manifest == {"schema": 1, "key": KEY, "environment": environment(), **manifest()}
    assert (found.key, found.seed) == (KEY, 0)
    (params,) = load_file(found.folder / "params.safetensors").values()
    np.testing.assert_array_equal(params, PARAMS["block"]["w"])
    place = f"{KEY}/{environment_digest()}"
    assert files(store.root) == [f"{place}/{n}" for n in ("arrays.npz", "manifest.json", "params.safetensors")]


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


STAGES = ["np.savez_compressed", "training.save", "write_json"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_failed_commit_leaves_no_run(store: EvidenceStore, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(f"experiments.evidence.{stage}", refuse)
        with pytest.raises(OSError, match="No space"):
            commit(store)
    assert not store.folder(KEY).exists()
    assert store.find(KEY) is None
    assert [m for _, m, _ in store.entries()] == [None]
    commit(store)
    assert [f.suffix for f, _, _ in store.entries()] == [""]


@pytest.mark.parametrize("stage", STAGES)
def test_a_failed_replacement_leaves_the_old_run(
    store: EvidenceStore, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    commit(store, value=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(f"experiments.evidence.{stage}", refuse)
        with pytest.raises(OSError, match="No space"):
            commit(store, value=2.0)
    found = store.find(KEY)
    assert found is not None
    assert found.arrays["value"] == 1.0
    assert commit(store, value=2.0).arrays["value"] == 2.0
    assert [f.suffix for f, _, _ in store.entries()] == [""]


def test_a_replacement_that_was_killed_between_its_renames_is_no_second_run(store: EvidenceStore) -> None:
    folder = commit(store, value=1.0).folder
    aside = folder.with_suffix(".old")
    shutil.copytree(folder, aside)
    assert list(store.find_all(KEY)) == [folder.name]
    assert commit(store, value=2.0).arrays["value"] == 2.0
    assert not aside.exists()


def test_object_arrays_are_neither_written_nor_read(store: EvidenceStore) -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        store.commit(KEY, {"value": np.array([{}], object)}, PARAMS, manifest())
    assert store.find(KEY) is None
    folder = commit(store).folder
    np.savez(folder / "arrays.npz", allow_pickle=True, value=np.array([print], object))
    with pytest.raises(ValueError, match="Object arrays"):
        store.find(KEY)


def spoil(folder: Path, how: str) -> None:
    whole = json.loads((folder / "manifest.json").read_text())
    match how:
        case "schema":
            (folder / "manifest.json").write_text(json.dumps(whole | {"schema": 2}))
        case "list":
            (folder / "manifest.json").write_text("[1]")
        case "cut":
            (folder / "manifest.json").write_text(json.dumps(whole)[:-9])
        case "binary":
            (folder / "manifest.json").write_bytes(b"\xff\xfe\x00")
        case "no manifest":
            (folder / "manifest.json").unlink()
        case "no arrays":
            (folder / "arrays.npz").unlink()
        case "cut arrays":
            (folder / "arrays.npz").write_bytes((folder / "arrays.npz").read_bytes()[:-30])
        case "no archive":
            (folder / "arrays.npz").write_bytes(b"text")
        case "empty arrays":
            (folder / "arrays.npz").write_bytes(b"")
        case "objects":
            np.savez(folder / "arrays.npz", allow_pickle=True, value=np.array([{}], object))


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("schema", r"another version of jaxsink \(schema 2, this one reads 1\)"),
        ("list", r"another version of jaxsink \(schema None"),
        ("cut", "no readable manifest"),
        ("binary", "no readable manifest"),
        ("no manifest", "no readable manifest"),
        ("no arrays", "arrays"),
        ("cut arrays", "arrays"),
        ("no archive", "arrays"),
        ("empty arrays", "arrays"),
        ("objects", "arrays"),
    ],
)
def test_a_spoilt_run_is_one_sentence_with_a_way_out(store: EvidenceStore, how: str, what: str) -> None:
    folder = commit(store).folder
    spoil(folder, how)
    with pytest.raises(ValueError, match=what) as caught:
        store.find(KEY)
    words = str(caught.value)
    assert str(folder) in words
    assert "--runs" in words
    assert "\n" not in words


def test_two_hold_no_store_at_once(store: EvidenceStore) -> None:
    # Locks belong to an open file, so two openings in one process are as good as two processes.
    with store.locked():
        with pytest.raises(ValueError, match=r"another jaxsink process is working in .*--runs"), store.locked():
            pass
        with EvidenceStore(store.root.with_name("elsewhere")).locked():
            pass
    with store.locked():
        pass


def test_another_environment_has_a_folder_of_its_own(store: EvidenceStore, elsewhere: Elsewhere) -> None:
    with elsewhere():
        theirs = commit(store, value=2.0)
    assert store.find(KEY) is None
    assert [*store.find_all(KEY)] == [theirs.folder.name]
    ours = commit(store, value=1.0)
    assert ours.folder != theirs.folder
    assert ours.manifest["environment"] != theirs.manifest["environment"]
    both = [ours.folder.name, theirs.folder.name]
    assert [*store.find_all(KEY)] == both
    assert [float(run.arrays["value"]) for run in store.find_all(KEY).values()] == [1.0, 2.0]
    # Whatever the order of the digests, this environment comes first.
    with elsewhere():
        assert [*store.find_all(KEY)] == both[::-1]


@pytest.fixture
def four(store: EvidenceStore, elsewhere: Elsewhere) -> dict[str, Path]:
    """A finished run, one under way, one of another version and one of another environment."""
    keys = {
        name: evidence_key("number", 1, {"name": name}, 0) for name in ("whole", "partial", "version", "environment")
    }
    folders = {"whole": commit(store, keys["whole"]).folder, "version": commit(store, keys["version"]).folder}
    spoil(folders["version"], "schema")
    folders["partial"] = store.partial(keys["partial"])
    (folders["partial"] / "state").write_bytes(b"12345")
    with elsewhere():
        folders["environment"] = commit(store, keys["environment"]).folder
    return folders


def test_entries_are_all_that_is_stored(store: EvidenceStore, four: dict[str, Path]) -> None:
    entries = {folder: (found, size) for folder, found, size in store.entries()}
    assert set(entries) == set(four.values())
    assert {name for name, folder in four.items() if entries[folder][0] is not None} == {"whole", "environment"}
    assert entries[four["partial"]][1] == 5
    assert entries[four["whole"]][1] == sum(f.stat().st_size for f in four["whole"].iterdir())
    assert EvidenceStore(store.root / "none").entries() == []


def words(act: Callable[[Console], None]) -> str:
    console = Console(file=io.StringIO(), width=1000)
    act(console)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize(
    ("everything", "gone"),
    [(False, {"partial", "version", "environment"}), (True, {"whole", "partial", "version", "environment"})],
)
def test_prune_lists_first_and_removes_on_yes(
    store: EvidenceStore, four: dict[str, Path], everything: bool, gone: set[str]
) -> None:
    before = files(store.root)
    said = words(lambda console: command.prune(store.root, everything, False, console))
    assert files(store.root) == before
    assert {name for name, folder in four.items() if f"{folder} " in said} == gone
    assert f"{len(gone)} of 4 runs" in said
    assert "--yes" in said
    command.prune(store.root, everything, True, Console(file=io.StringIO()))
    assert {name for name, folder in four.items() if not folder.exists()} == gone
    # No empty folders of keys stay behind.
    assert sum(f.is_dir() for f in store.root.iterdir()) == len(four) - len(gone)


def test_prune_leaves_alone_what_no_run_can_be(store: EvidenceStore, four: dict[str, Path]) -> None:
    # As with `--runs .` in a home folder.
    own = [store.root / "thesis" / "chapters" / "one.txt", store.root / "thesis" / "notes.txt", store.root / "list.txt"]
    own.append(four["whole"].parent / "notes" / "about.txt")
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    assert len(store.entries()) == 4
    command.prune(store.root, True, True, Console(file=io.StringIO()))
    assert [path.exists() for path in own] == [True] * 4
    assert store.entries() == []


def test_prune_keeps_what_another_process_is_making(store: EvidenceStore, four: dict[str, Path]) -> None:
    before = files(store.root)
    with store.locked(), pytest.raises(ValueError, match="another jaxsink process"):
        command.prune(store.root, True, True, Console(file=io.StringIO()))
    assert files(store.root) == before


def test_list_shows_every_run(store: EvidenceStore, four: dict[str, Path]) -> None:
    said = words(lambda console: command.show(store.root, console))
    assert "4 runs" in said
    for folder in four.values():
        assert folder.parent.name in said
    assert "unfinished" in said
    assert "of another version" in said


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    evidence.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        evidence.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]
