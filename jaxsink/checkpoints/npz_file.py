"""Tensors in NumPy's .npz archives; nothing in them is unpickled or evaluated."""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxsink.checkpoints.source import CheckpointError, StoredTensor, StoredTensors

# Deflate cannot shrink further than this: a member that claims more lies about its size.
_MOST_PER_BYTE = 1032
# The headers that NumPy itself writes stay within this unless a type has fields.
_MOST_HEADER = 10_000
# A string is read when the archive is opened, so it may not be large.
_MOST_STRING = 1 << 20
_PIECE = 1 << 16
_MAGIC = b"\x93NUMPY"
_DESCR = re.compile(r"""["']descr["']\s*:\s*["']([<>|=][biufcU]\d{1,9})["']""")
_ORDER = re.compile(r"""["']fortran_order["']\s*:\s*(True|False)""")
_SHAPE = re.compile(r"""["']shape["']\s*:\s*\(((?:\s*\d{1,18}\s*,)*\s*(?:\d{1,18})?\s*)\)""")
# What zipfile and zlib raise for a damaged archive; RuntimeError is its word for an encrypted one.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
)


@dataclass(frozen=True)
class _Array:
    """What the header of a member says, and where its numbers begin."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    transposed: bool
    start: int

    @property
    def end(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def open_npz(path: str | os.PathLike[str]) -> StoredTensors:
    """Open an .npz archive, stored or deflated.

    Args:
        path: the archive.

    Returns:
        The source; an array of one string, such as a configuration in JSON, is metadata and no tensor.

    Raises:
        CheckpointError: the file is no whole archive, or a member holds something else than numbers, or lies about
            its size.

    Source: the format, numpy.lib.format.
    """
    place = Path(path)
    with ExitStack() as files:
        try:
            archive = files.enter_context(zipfile.ZipFile(place))
            size = place.stat().st_size
        except OSError as error:
            raise CheckpointError(f"{place} cannot be read ({error.strerror or error}): check the path.") from error
        except _DAMAGE as error:
            raise CheckpointError(f"{place} is no whole .npz archive ({_reason(error)}): download it again.") from error
        tensors: dict[str, StoredTensor] = {}
        metadata: dict[str, str] = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in tensors or name in metadata:
                raise CheckpointError(f"{place} holds the array {name!r} twice: save it anew.")
            array = _guarded(place, name, partial(_header, archive, member, size))
            read = partial(_guarded, place, name, partial(_numbers, archive, member, array))
            if array.dtype.kind != "U":
                tensors[name] = StoredTensor(array.shape, array.dtype.newbyteorder("="), read)
            else:
                metadata[name] = _guarded(place, name, partial(_string, archive, member, array))
        return StoredTensors(str(place), MappingProxyType(tensors), files.pop_all(), MappingProxyType(metadata))


def _guarded(place: Path, name: str, read: Any) -> Any:
    """Do it; what goes wrong names the file and the array."""
    try:
        return read()
    except _DAMAGE as error:
        raise CheckpointError(
            f"the array {name!r} of {place} cannot be read ({_reason(error)}): save or download the file again."
        ) from error


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> _Array:
    # numpy.load would evaluate the header as a Python literal and trust the sizes in it: both are looked at first.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is neither stored nor deflated")
    if member.compress_size > size or member.file_size > _MOST_PER_BYTE * (member.compress_size + 1):
        raise ValueError(f"it claims {member.file_size} bytes, more than the file can hold")
    with archive.open(member) as file:
        start = file.read(12)
        if start[:6] != _MAGIC or len(start) < 12 or start[6] not in (1, 2, 3):
            raise ValueError("it has no .npy header")
        width = 2 if start[6] == 1 else 4
        length = int.from_bytes(start[8 : 8 + width], "little")
        if length > _MOST_HEADER:
            raise ValueError(f"its .npy header claims {length} bytes")
        text = (start[8 + width :] + file.read(max(length - 4 + width, 0))).decode("utf-8")
    descr, order, shape = (pattern.search(text) for pattern in (_DESCR, _ORDER, _SHAPE))
    if descr is None or order is None or shape is None:
        raise ValueError("its .npy header describes no array of numbers")
    try:
        dtype = np.dtype(descr[1])
    except TypeError as error:
        raise ValueError(f"there is no type {descr[1]!r}") from error
    sizes = tuple(int(part) for part in shape[1].split(",") if part.strip())
    array = _Array(dtype, sizes, order[1] == "True", 8 + width + length)
    if array.end != member.file_size:
        raise ValueError(f"its header describes {array.end} bytes, but it has {member.file_size}")
    return array


def _bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo, array: _Array) -> np.ndarray:
    """uint8[bytes]: what follows the header; zipfile compares the checksum at the end."""
    content = np.empty(array.end - array.start, np.uint8)
    with archive.open(member) as file:
        file.read(array.start)
        filled = 0
        while piece := file.read(_PIECE):
            content[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
    if filled != content.size:
        raise ValueError("it ends early")
    return content


def _numbers(archive: zipfile.ZipFile, member: zipfile.ZipInfo, array: _Array) -> np.ndarray:
    flat = _bytes(archive, member, array).view(array.dtype)
    if not array.dtype.isnative:
        flat = flat.byteswap(inplace=True).view(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(flat.reshape(array.shape[::-1]).T) if array.transposed else flat.reshape(array.shape)


def _string(archive: zipfile.ZipFile, member: zipfile.ZipInfo, array: _Array) -> str:
    if array.shape != () or array.dtype.itemsize > _MOST_STRING:
        raise ValueError("it holds strings, of which only one alone is read, and no long one")
    order = "be" if array.dtype.byteorder == ">" else "le"
    return _bytes(archive, member, array).tobytes().decode(f"utf-32-{order}").rstrip("\0")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
