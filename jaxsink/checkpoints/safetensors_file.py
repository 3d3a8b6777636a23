"""Tensors in safetensors files: one file, or a folder of shards with an index."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxsink.checkpoints.json_file import read_json_object
from jaxsink.checkpoints.source import CheckpointError, StoredTensor, StoredTensors

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


def open_safetensors(path: str | os.PathLike[str]) -> StoredTensors:
    """Open a safetensors file, or a folder that holds model.safetensors or shards with their index.

    Args:
        path: the file or the folder.

    Returns:
        The source; its metadata is that of the (first) file.

    Raises:
        CheckpointError: the file is a pickle, damaged or of another format; a shard is missing, or the shards do
            not hold what the index says; a tensor has a type that NumPy cannot hold.

    Source: the format, https://huggingface.co/docs/safetensors.
    """
    place = Path(path)
    index = _index(place) if place.is_dir() else None
    paths = [_single(place)] if index is None else [place / shard for shard in sorted(set(index.values()))]
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, Any] = {}
    with ExitStack() as files:
        for shard in paths:
            file = files.enter_context(_opened(shard))
            for key, words in (file.metadata() or {}).items():
                metadata.setdefault(key, words)
            for name in sorted(file.keys()):
                if index is not None and index.get(name) != shard.name:
                    raise CheckpointError(
                        f"{shard} holds the tensor {name!r}, which {_INDEX} does not place there: "
                        "download index and shards again, of one revision."
                    )
                tensors[name] = _stored(file, name, shard)
        missing = sorted(set(index or ()) - set(tensors))
        if missing:
            raise CheckpointError(
                f"{place / _INDEX} names the tensor {missing[0]!r} ({len(missing)} in all), but no shard holds it: "
                "download index and shards again, of one revision."
            )
        return StoredTensors(str(place), MappingProxyType(tensors), files.pop_all(), MappingProxyType(metadata))


def _single(place: Path) -> Path:
    """The one file to open: the path itself, or what a folder without an index holds."""
    if not place.is_dir():
        return place
    if (place / _SINGLE).exists():
        return place / _SINGLE
    pickles = sorted(entry for entry in place.iterdir() if entry.suffix in _PICKLES)
    if pickles:
        raise _pickle(pickles[0])
    raise CheckpointError(f"{place} holds neither {_SINGLE} nor {_INDEX}: name the file itself, or another folder.")


def _index(folder: Path) -> dict[str, str] | None:
    """The shard of each tensor, or None for a folder with a single file (which goes first where both exist)."""
    path = folder / _INDEX
    if (folder / _SINGLE).exists() or not path.exists():
        return None
    shards = read_json_object(path).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise CheckpointError(f"{path} must have a table weight_map from tensors to files: download it again.")
    for shard in sorted(set(shards.values())):
        # The index is as foreign as the weights are: it may not point anywhere else.
        if not shard or shard in {".", ".."} or any(mark in shard for mark in "/\\:\0"):
            raise CheckpointError(f"{path} names the shard {shard!r}, which is no plain file name: download it again.")
        if not (folder / shard).is_file():
            raise CheckpointError(f"{folder} lacks the shard {shard!r} that {_INDEX} names: download it.")
    return shards


def _pickle(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is a pickle, which can run any code when it is read, but a safetensors file was expected: convert it "
        "where it may be trusted, with torch.load(..., weights_only=True) and safetensors.torch.save_file."
    )


def _opened(path: Path) -> Any:
    """The library's handle, which has checked the header against the file."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    # A header of 640 bytes makes a safetensors file begin like a pickle; the brace tells them apart.
    pickled = head[:1] == b"\x80" and head[1:2] in {b"\2", b"\3", b"\4", b"\5"} and head[8:] != b"{"
    if pickled or (head[:4] == b"PK\3\4" and path.suffix != ".npz"):
        raise _pickle(path)
    if head[:4] in {b"PK\3\4", b"GGUF"}:
        reader = "open_gguf" if head[:4] == b"GGUF" else "open_npz"
        raise CheckpointError(f"{path} is no safetensors file: open it with {reader}.")
    try:
        # "pread": a file that shrinks while it is mapped kills the process, and mapped pages count as its memory.
        return safe_open(path, framework="numpy", backend="pread")
    except (SafetensorError, OSError) as error:
        if path.suffix in _PICKLES:
            raise _pickle(path) from error
        raise CheckpointError(f"{path} is no whole safetensors file ({_reason(error)}): download it again.") from error


def _stored(file: Any, name: str, path: Path) -> StoredTensor:
    view = file.get_slice(name)
    kind = view.get_dtype()
    if kind not in _DTYPES:
        raise CheckpointError(
            f"{path} stores the tensor {name!r} as {kind}, which is not read here (only {', '.join(_DTYPES)}): "
            "convert it to one of them."
        )

    def read() -> np.ndarray:
        try:
            return file.get_tensor(name)
        # ValueError: an empty tensor of a shape that NumPy cannot have.
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"the tensor {name!r} of {path} cannot be read ({_reason(error)}): open the file again."
            ) from error

    return StoredTensor(tuple(view.get_shape()), _DTYPES[kind], read)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
