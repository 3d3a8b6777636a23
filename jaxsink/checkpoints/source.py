"""Where tensors come from: one protocol for all file formats, and the one error that all of them raise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np


class CheckpointError(ValueError):
    """A checkpoint that cannot be read as it stands; one sentence with the file, the tensor and the remedy."""


@runtime_checkable
class TensorSource(Protocol):
    """Named tensors in a file or in several; only what is asked for comes into memory.

    A source is a context manager that closes itself; what was read outlives it. One thread reads at a time.
    """

    @property
    def where(self) -> str:
        """The file or folder, for messages."""
        ...

    def names(self) -> tuple[str, ...]:
        """The names of all tensors, sorted."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, outermost axis first, from the header alone.

        Raises:
            CheckpointError: there is no tensor of this name.
        """
        ...

    def dtype(self, name: str) -> np.dtype[Any]:
        """What `read` returns: a quantised tensor comes as float32, BF16 as ml_dtypes.bfloat16.

        Raises:
            CheckpointError: there is no tensor of this name.
        """
        ...

    def read(self, name: str) -> np.ndarray:
        """The tensor itself, in row-major order.

        Raises:
            CheckpointError: there is no tensor of this name, or its bytes cannot be read.
        """
        ...

    def close(self) -> None:
        """Let go of the files; reading is a mistake afterwards."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read yet.

    Attributes:
        shape: outermost axis first.
        dtype: of what `read` returns.
        read: brings it into memory.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], np.ndarray]


@dataclass(frozen=True, eq=False)
class StoredTensors:
    """The `TensorSource` that all readers return: a table of tensors and the files that they lie in.

    Attributes:
        where: the file or folder, for messages.
        tensors: by name.
        files: what `close` closes.
        metadata: what else the header says.
    """

    where: str
    tensors: Mapping[str, StoredTensor]
    files: ExitStack
    metadata: Mapping[str, Any]

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.tensors))

    def shape(self, name: str) -> tuple[int, ...]:
        return self._find(name).shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._find(name).dtype

    def read(self, name: str) -> np.ndarray:
        return self._find(name).read()

    def close(self) -> None:
        self.files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find(self, name: str) -> StoredTensor:
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(
                f"{self.where} has no tensor {name!r} among its {len(self.tensors)}: see names()."
            ) from None
