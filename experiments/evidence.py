"""The evidence store: one folder a run, named by what it is, written whole or not at all.

    runs/<key>/<environment>/manifest.json, arrays.npz, params.safetensors
    runs/<key>/<environment>.partial/   a run under way, from which a killed one continues

The key is a digest of specification, seed, producer and producer version.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.environment import environment, environment_digest
from jaxsink import training
from jaxsink.files import whole

SCHEMA = 1
PARTIAL = ".partial"
# A run that a new one is about to replace.
OLD = ".old"
# Only folders with such names are the store's: what else lies in a folder of runs is somebody's own.
KEY_NAME = re.compile("[0-9a-f]{16}")
RUN_NAME = re.compile(rf"[0-9a-f]{{8}}({PARTIAL}|{OLD})?".replace(".", r"\."))


@dataclass(frozen=True)
class StoredRun:
    """Evidence of one seed, as `theory.claim.Run` wants it."""

    folder: Path
    manifest: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def seed(self) -> int:
        return int(self.manifest["seed"])

    @property
    def key(self) -> str:
        return str(self.manifest["key"])


def write_json(path: Path, data: Any) -> None:
    """Write JSON through a temporary name, so that the file is whole or absent."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
      ValueError: it is unreadable, or was written by another version.
    """
    path = folder / "manifest.json"
    advice = "choose another folder with --runs, or remove it with `jaxsink evidence prune`"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no readable manifest ({error}); {advice}.") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise ValueError(
            f"{folder} was written by another version of jaxsink (schema {found}, this one reads {SCHEMA}); {advice}."
        )
    return manifest


def evidence_key(producer: str, version: int, spec: Mapping[str, Any], seed: int) -> str:
    """The name of a run: equal names mean equal evidence in equal environments."""
    return training.digest({"producer": producer, "version": version, "spec": dict(spec), "seed": seed})


class EvidenceStore:
    """Stored runs below one folder.

    Args:
      root: the folder; it is made when the first run is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, key: str) -> Path:
        """Where the run `key` of this environment stands, or will stand."""
        return self.root / key / environment_digest()

    def partial(self, key: str) -> Path:
        """The folder of the run `key` while it is under way; made if it is not there."""
        folder = self.folder(key).with_suffix(PARTIAL)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def discard_partial(self, key: str) -> None:
        """Forget a run that is under way, so that it starts afresh."""
        shutil.rmtree(self.partial(key))

    def find(self, key: str) -> StoredRun | None:
        """The finished run `key` of this environment, if there is one."""
        folder = self.folder(key)
        return self.load(folder) if folder.exists() else None

    def find_all(self, key: str) -> dict[str, StoredRun]:
        """Every finished run `key`, by environment digest; this environment first."""
        here = environment_digest()
        folders = [f for f in self._folders(self.root / key, RUN_NAME) if not f.suffix]
        return {f.name: self.load(f) for f in sorted(folders, key=lambda f: (f.name != here, f.name))}

    def load(self, folder: Path) -> StoredRun:
        manifest, path = read_manifest(folder), folder / "arrays.npz"
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as data:
                return StoredRun(folder, manifest, {name: data[name] for name in data.files})
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"{path} holds no readable arrays ({error}); remove that folder or choose another one with --runs."
            ) from error

    def commit(self, key: str, arrays: Mapping[str, np.ndarray], params: Any, manifest: Mapping[str, Any]) -> StoredRun:
        """Write a finished run: everything into the partial folder, then one rename.

        A folder that is already there is evidence made with --force: it moves aside until the new one stands.
        """
        partial, final = self.partial(key), self.folder(key)
        for leftover in partial.iterdir():
            leftover.unlink()
        with open(partial / "arrays.npz", "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **dict(arrays))
        training.save(partial / "params.safetensors", params)
        write_json(
            partial / "manifest.json",
            {"schema": SCHEMA, "key": key, "environment": environment(), **manifest},
        )
        old = final.with_suffix(OLD)
        # One may be left of a process that was killed just here.
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            os.replace(final, old)
        os.replace(partial, final)
        shutil.rmtree(old, ignore_errors=True)
        return self.load(final)

    def entries(self) -> list[tuple[Path, dict[str, Any] | None, int]]:
        """(folder, manifest, bytes) of all that is stored; the manifest is None for partial or foreign runs."""
        found = []
        for key in self._folders(self.root, KEY_NAME):
            for folder in self._folders(key, RUN_NAME):
                manifest = None
                if not folder.suffix:
                    with suppress(ValueError):
                        manifest = read_manifest(folder)
                size = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
                found.append((folder, manifest, size))
        return found

    @staticmethod
    def _folders(parent: Path, names: re.Pattern[str]) -> list[Path]:
        inside = parent.iterdir() if parent.is_dir() else ()
        return sorted(f for f in inside if names.fullmatch(f.name) and f.is_dir())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store, so that two processes never make the same run at once.

        Raises:
          ValueError: another process holds it, or it cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / ".lock").touch()
        except OSError as error:
            raise ValueError(
                f"--runs {self.root} cannot be written ({error.strerror}); name another folder."
            ) from error
        with open(self.root / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f"another jaxsink process is working in {self.root}; wait or name another folder with --runs."
                ) from error
            yield
