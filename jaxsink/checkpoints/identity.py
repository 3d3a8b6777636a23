"""What tells the weights of one checkpoint from those of all others."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from jaxsink.checkpoints.catalogue import find_asset

# What a checkpoint consists of beside its weights: what is computed with them, and what a text is to it.
_BESIDE = (".json", ".txt")
_WEIGHTS = (".safetensors", ".gguf", ".npz")


class Identity(NamedTuple):
    """A checkpoint's weights: SHA-256 in hexadecimal, and size in bytes, as an archive for those of the catalogue."""

    digest: str
    size: int


def identify(name_or_path: str | os.PathLike[str]) -> Identity:
    """What a checkpoint is, without loading it; the files of one are read once, and again when one has changed.

    Args:
      name_or_path: a name of the catalogue, or a folder or file as `load` takes them.

    Raises:
      CheckpointError: there is no file or folder of this name, and no row in the catalogue.
    """
    path = Path(name_or_path)
    if not path.exists():
        asset = find_asset(os.fspath(name_or_path))
        return Identity(asset.digest, asset.size)
    kept = (*_BESIDE, *_WEIGHTS) if path.is_dir() else _BESIDE
    folder = path if path.is_dir() else path.parent
    files = [file for file in sorted(folder.iterdir()) if file.suffix in kept and file.is_file()]
    stats = [(file, file.stat()) for file in ([] if path.is_dir() else [path]) + files]
    return _read(tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats))


@lru_cache(maxsize=32)
def _read(files: tuple[tuple[str, int, int], ...]) -> Identity:
    whole = hashlib.sha256()
    for name, size, _ in files:
        with open(name, "rb") as file:
            whole.update(f"{Path(name).name} {size} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return Identity(whole.hexdigest(), sum(size for _, size, _ in files))
