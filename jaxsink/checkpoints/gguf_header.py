"""The header of a GGUF file, read without trusting it: every count is held against the bytes that are left.

`gguf.GGUFReader` believes what a file says: a declared length of 2^60 is a loop or an allocation of that size, and a
key that is cut short a wrong value or an exception of any kind. It also keeps several NumPy objects for each element
of each array, seconds and hundreds of megabytes for a tokenizer. So the header is read here; the package gives the
types, their sizes and the dequantisation.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType

from jaxsink.checkpoints.source import CheckpointError

_VERSIONS = (2, 3)
_MOST_AXES = 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    kind: np.dtype(name)
    for kind, name in enumerate(("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "<u1", "", "", "<u8", "<i8", "<f8"))
    if name
}
# The fewest bytes of an entry: two lengths, a type and a value; a length, axes, a type and an offset.
_LEAST_FIELD, _LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8


@dataclass(frozen=True)
class StoredBlock:
    """Where a tensor lies and how.

    Attributes:
        shape: outermost axis first (the file has it the other way round).
        kind: its type.
        start: of its bytes in the file.
    """

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        per_block, block_bytes = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // per_block * block_bytes


class _Reader:
    """The bytes of an open file from its start, never more than there are."""

    def __init__(self, file: BufferedReader, path: Path) -> None:
        self.file = file
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self.left = self.size

    def wrong(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is no whole GGUF file ({what}): download it again.")

    def take(self, count: int, what: str) -> bytes:
        if count > self.left:
            raise self.wrong(f"{what} needs {count} bytes where {self.left} are left")
        content = self.file.read(count)
        if len(content) < count:
            raise self.wrong(f"it ends within {what}")
        self.left -= count
        return content

    def integer(self, width: int, what: str) -> int:
        return int.from_bytes(self.take(width, what), "little")

    def count(self, least: int, what: str) -> int:
        """A number of things of at least so many bytes each."""
        count = self.integer(8, what)
        if count * least > self.left:
            raise self.wrong(f"{what} is {count}, more than fit into the {self.left} bytes left")
        return count

    def string(self, what: str) -> str:
        content = self.take(self.count(1, f"the length of {what}"), what)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.wrong(f"{what} is not UTF-8") from error

    def value(self, kind: int, what: str) -> Any:
        if kind == _STRING:
            return self.string(what)
        if kind in _SCALARS:
            return self.numbers(kind, 1, what).item()
        if kind != _ARRAY:
            raise self.wrong(f"{what} has the unknown type {kind}")
        of = self.integer(4, what)
        if of == _STRING:
            return tuple(self.string(what) for _ in range(self.count(8, f"the length of {what}")))
        if of not in _SCALARS:
            raise self.wrong(f"{what} is an array of the type {of}, which is not read")
        return self.numbers(of, self.count(_SCALARS[of].itemsize, f"the length of {what}"), what)

    def numbers(self, kind: int, count: int, what: str) -> np.ndarray:
        """The numbers, read-only."""
        dtype = _SCALARS[kind]
        numbers = np.frombuffer(self.take(count * dtype.itemsize, what), dtype)
        if kind != _BOOL:
            return numbers
        if numbers.size and numbers.max() > 1:
            raise self.wrong(f"{what} is neither true nor false")
        return numbers.view(np.bool_)


def read_header(file: BufferedReader, path: Path) -> tuple[Mapping[str, Any], Mapping[str, StoredBlock]]:
    """Read the metadata and the table of tensors.

    Args:
        file: the file, open at its start.
        path: its name, for messages.

    Returns:
        Metadata (numbers, strings, tuples of strings, read-only arrays of numbers) and the tensors, by name.

    Raises:
        CheckpointError: the file is not one whole, little-endian GGUF file of version 2 or 3.

    Source: the format, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
    """
    reader = _Reader(file, path)
    if reader.left < 4 or reader.take(4, "the magic") != b"GGUF":
        raise CheckpointError(f"{path} is no GGUF file: it does not begin with the bytes GGUF; check the path.")
    version = reader.integer(4, "the version")
    if version not in _VERSIONS:
        raise CheckpointError(
            f"{path} is a GGUF file of version {version}, or big-endian, but only little-endian files of the versions "
            f"{_VERSIONS} are read: convert it anew."
        )
    tensor_count = reader.count(_LEAST_TENSOR, "the number of tensors")
    field_count = reader.count(_LEAST_FIELD, "the number of metadata")
    metadata: dict[str, Any] = {}
    for index in range(field_count):
        key = reader.string(f"the name of metadata {index}")
        if key in metadata:
            raise reader.wrong(f"the metadata {key!r} come twice")
        metadata[key] = reader.value(reader.integer(4, key), key)
    alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise reader.wrong(f"general.alignment is {alignment!r}, no power of two")
    return MappingProxyType(metadata), MappingProxyType(_tensors(reader, tensor_count, alignment))


def _tensors(reader: _Reader, count: int, alignment: int) -> dict[str, StoredBlock]:
    """The table of tensors, whose bytes must follow each other to the end of the file as the format demands."""
    entries: dict[str, tuple[StoredBlock, int]] = {}
    for index in range(count):
        name = reader.string(f"the name of tensor {index}")
        if name in entries:
            raise reader.wrong(f"the tensor {name!r} comes twice")
        axes = reader.integer(4, name)
        if axes > _MOST_AXES:
            raise reader.wrong(f"the tensor {name!r} has {axes} axes where {_MOST_AXES} are possible")
        shape = tuple(reader.integer(8, name) for _ in range(axes))[::-1]
        number = reader.integer(4, name)
        try:
            kind = GGMLQuantizationType(number)
        except ValueError as error:
            raise reader.wrong(f"the tensor {name!r} has the unknown type {number}") from error
        per_block = GGML_QUANT_SIZES[kind][0]
        if per_block > 1 and (not shape or shape[-1] % per_block):
            raise reader.wrong(f"the tensor {name!r} of shape {shape} does not divide into the blocks of {kind.name}")
        entries[name] = (StoredBlock(shape, kind, 0), reader.integer(8, name))
    start = _aligned(reader.size - reader.left, alignment)
    placed: dict[str, StoredBlock] = {}
    end = start
    for name, (block, offset) in entries.items():
        if start + offset != _aligned(end, alignment):
            raise reader.wrong(f"the tensor {name!r} is said to lie at {offset} where {end - start} bytes precede it")
        placed[name] = StoredBlock(block.shape, block.kind, start + offset)
        end = start + offset + block.nbytes
        if end > reader.size:
            raise reader.wrong(f"the tensor {name!r} of shape {block.shape} would end beyond the file")
    if not end <= reader.size <= _aligned(end, alignment):
        raise reader.wrong(f"it has {reader.size} bytes where its header describes {end}")
    return placed


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
