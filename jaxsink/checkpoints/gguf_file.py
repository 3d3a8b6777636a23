"""Tensors in GGUF files, dequantised as they are read."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from functools import partial
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from jaxsink.checkpoints.gguf_header import StoredBlock, read_header
from jaxsink.checkpoints.source import CheckpointError, StoredTensor, StoredTensors

_PLAIN: dict[Kind, np.dtype[Any]] = {
    Kind.F32: np.dtype(np.float32),
    Kind.F16: np.dtype(np.float16),
    Kind.BF16: np.dtype(ml_dtypes.bfloat16),
}
_QUANTISED = (Kind.Q8_0, Kind.Q4_0, Kind.Q4_1)
# Rows are dequantised in bands of about so many bytes: the package needs several times what it is given.
_BAND = 1 << 16


def open_gguf(path: str | os.PathLike[str]) -> StoredTensors:
    """Open a GGUF file.

    Args:
        path: the file.

    Returns:
        The source; `metadata` are the key-value pairs of the file: numbers, strings, tuples of strings, and
        read-only arrays of numbers. F32, F16 and BF16 tensors come as they are, Q8_0, Q4_0 and Q4_1 as float32.

    Raises:
        CheckpointError: the file is damaged or of another format, or a tensor has another type.

    Source: the format, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
    """
    place = Path(path)
    with ExitStack() as files:
        try:
            file = files.enter_context(place.open("rb"))
            metadata, blocks = read_header(file, place)
        except OSError as error:
            raise CheckpointError(f"{place} cannot be read ({error.strerror}): check the path.") from error
        tensors: dict[str, StoredTensor] = {}
        for name, block in blocks.items():
            if block.kind not in (*_PLAIN, *_QUANTISED):
                known = ", ".join(kind.name for kind in (*_PLAIN, *_QUANTISED))
                raise CheckpointError(
                    f"{place} stores the tensor {name!r} as {block.kind.name}, which is not read here (only {known}): "
                    "take the file in one of these."
                )
            dtype = _PLAIN.get(block.kind, np.dtype(np.float32))
            tensors[name] = StoredTensor(block.shape, dtype, partial(_read, file, place, name, block))
        return StoredTensors(str(place), MappingProxyType(tensors), files.pop_all(), metadata)


def _read(file: BufferedReader, path: Path, name: str, block: StoredBlock) -> np.ndarray:
    try:
        file.seek(block.start)
        if block.kind in _PLAIN:
            out = np.empty(block.shape, _PLAIN[block.kind])
            _fill(file, out.reshape(-1).view(np.uint8))
            return out
        return _dequantised(file, block)
    # ValueError: the file is closed.
    except (OSError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"the tensor {name!r} of {path} cannot be read ({error}): open the file again."
        ) from error


def _dequantised(file: BufferedReader, block: StoredBlock) -> np.ndarray:
    """float32 of the block's shape; a row is the innermost axis, whole blocks of the type."""
    width = block.shape[-1]
    out = np.empty((math.prod(block.shape[:-1]), width), np.float32)
    per_block, block_bytes = GGML_QUANT_SIZES[block.kind]
    row_bytes = width // per_block * block_bytes
    rows = max(_BAND // max(row_bytes, 1), 1)
    for first in range(0, out.shape[0] if width else 0, rows):
        band = out[first : first + rows]
        raw = np.empty((band.shape[0], row_bytes), np.uint8)
        _fill(file, raw.reshape(-1))
        # A scale that is not finite is the file's own value, and no accident of the arithmetic.
        with np.errstate(all="ignore"):
            band[:] = dequantize(raw, block.kind)
    return out.reshape(block.shape)


def _fill(file: BufferedReader, target: np.ndarray) -> None:
    """Read as many bytes as the uint8 target has."""
    view = memoryview(target.data)
    while view:
        count = file.readinto(view)
        if not count:
            raise EOFError("the file has become shorter")
        view = view[count:]
