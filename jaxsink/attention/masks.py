"""Structured masks: what a query may see, stated without a T x S array and combined with `&`.

Positions count along the axis of the keys. Query t stands at position `query_offset + t`; the default offset
is `max(S - T, 0)`, so that in decoding (T < S) the last query stands on the last key.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

QueryOffset = int | Array | None


def query_positions(queries: int, keys: int, query_offset: QueryOffset = None) -> Array:
    """Positions of the queries on the axis of the keys.

    Args:
        queries: T.
        keys: S.
        query_offset: position of the first query, one number or one per sequence [B]; None for `max(S - T,
            0)`.

    Returns:
        int32 [1, T], or [B, T] for an offset per sequence.

    Raises:
        ValueError: if the offset is a negative number or not a number or vector of whole numbers.
    """
    if query_offset is None:
        query_offset = max(keys - queries, 0)
    if isinstance(query_offset, int) and query_offset < 0:
        raise ValueError(f"query_offset must not be negative, but is {query_offset}; count from key 0")
    offset = jnp.asarray(query_offset)
    if offset.ndim > 1 or not jnp.issubdtype(offset.dtype, jnp.integer):
        raise ValueError(
            f"query_offset must be an integer or an integer array [B], but has shape {offset.shape} and "
            f"dtype {offset.dtype}; give the position of the first query"
        )
    return offset.reshape(-1, 1).astype(jnp.int32) + jnp.arange(queries, dtype=jnp.int32)[None, :]


@dataclass(frozen=True)
class Tile:
    """Some queries and some keys of one call, for which a mask is asked; the whole call is a tile, too.

    Attributes:
        rows: int32 [t], indices of the queries, below `queries`.
        positions: int32 [B|1, t], positions of these queries on the axis of the keys.
        columns: int32 [s], indices and positions of the keys, below `keys`.
        queries: T of the whole call.
        keys: S of the whole call.
    """

    rows: Array
    positions: Array
    columns: Array
    queries: int
    keys: int

    @classmethod
    def whole(cls, queries: int, keys: int, query_offset: QueryOffset = None) -> "Tile":
        """Return all T queries and S keys."""
        return cls(
            rows=jnp.arange(queries, dtype=jnp.int32),
            positions=query_positions(queries, keys, query_offset),
            columns=jnp.arange(keys, dtype=jnp.int32),
            queries=queries,
            keys=keys,
        )

    def distances(self) -> Array:
        """int32 [B|1, t, s], position of the query minus that of the key."""
        return self.positions[:, :, None] - self.columns[None, None]


class Mask(ABC):
    """What each query may see; subclasses say it by position, `&` keeps what all parts allow."""

    @abstractmethod
    def visible(self, tile: Tile) -> Array:
        """Return bool, [B|1, t, s] or broadcastable to it, True where a query of the tile may attend to a key of it.

        Raises:
            ValueError: if an array in the mask does not fit T and S.
        """

    def materialise(self, queries: int, keys: int, query_offset: QueryOffset = None) -> Array:
        """Write the mask out.

        Args:
            queries: T.
            keys: S.
            query_offset: position of the first query, one number or one per sequence [B]; None for `max(S -
                T, 0)`.

        Returns:
            bool [B|1, 1, T, S], True where the query may attend to the key.

        Raises:
            ValueError: if an array in the mask does not fit T and S.
        """
        visible = self.visible(Tile.whole(queries, keys, query_offset))
        return jnp.broadcast_to(visible, (visible.shape[0], queries, keys))[:, None]

    def __and__(self, other: "Mask") -> "Mask":
        if not isinstance(other, Mask):
            raise ValueError(
                f"masks joined with & must both be structured, but one is {type(other).__name__}; "
                "materialise the mask first to combine it with a boolean array"
            )
        return AllOf(_parts(self) + _parts(other))


def _parts(mask: Mask) -> tuple[Mask, ...]:
    return mask.parts if isinstance(mask, AllOf) else (mask,)


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, but is {value!r}")


def _integer_array(name: str, value: object, ndim: int, expected: str) -> Array:
    array = jnp.asarray(value)
    if array.ndim != ndim or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            f"{name} must be an integer array {expected}, but has shape {array.shape} and dtype "
            f"{array.dtype}; reshape or convert it"
        )
    return array.astype(jnp.int32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AllOf(Mask):
    """All of several masks at once; what `&` returns."""

    parts: tuple[Mask, ...]

    def visible(self, tile: Tile) -> Array:
        visible = jnp.ones((1, tile.rows.size, tile.columns.size), bool)
        for part in self.parts:
            visible = visible & part.visible(tile)
        return visible


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Causal(Mask):
    """Keys up to the query's own position: j <= i."""

    def visible(self, tile: Tile) -> Array:
        return tile.distances() >= 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Window(Mask):
    """Keys at a distance below `size`: |i - j| < size.

    `Causal() & Window(size)` is the sliding window of decoders: the last `size` keys, the query's own
    included.

    Attributes:
        size: at least 1.

    Raises:
        ValueError: if `size` is not a whole number of at least 1.
    """

    size: int = field(metadata={"static": True})

    def __post_init__(self) -> None:
        _check_count("size", self.size, least=1)

    def visible(self, tile: Tile) -> Array:
        return jnp.abs(tile.distances()) < self.size


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WindowWithSinks(Mask):
    """A window and the first keys: |i - j| < size or j < sinks.

    Source: Xiao et al. 2023 (arXiv 2309.17453), StreamingLLM, without its re-indexing of positions in the
        cache.

    Attributes:
        size: window, at least 1.
        sinks: number of first keys that stay visible, at least 0.

    Raises:
        ValueError: if `size` or `sinks` is too small or not a whole number.
    """

    size: int = field(metadata={"static": True})
    sinks: int = field(metadata={"static": True})

    def __post_init__(self) -> None:
        _check_count("size", self.size, least=1)
        _check_count("sinks", self.sinks, least=0)

    def visible(self, tile: Tile) -> Array:
        return (jnp.abs(tile.distances()) < self.size) | (tile.columns[None, None] < self.sinks)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lengths(Mask):
    """Keys before the end of their sequence: j < lengths[b]. Queries past the end are not hidden.

    Attributes:
        lengths: integers [B].
    """

    lengths: Array | np.ndarray

    def visible(self, tile: Tile) -> Array:
        lengths = _integer_array("lengths", self.lengths, 1, "[B]")
        return tile.columns[None, None] < lengths[:, None, None]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Segments(Mask):
    """Keys of the query's own segment, for several documents packed into one sequence.

    Attributes:
        q_ids: integers [B|1, T].
        k_ids: integers [B|1, S].
    """

    q_ids: Array | np.ndarray
    k_ids: Array | np.ndarray

    def visible(self, tile: Tile) -> Array:
        q_ids = _integer_array("q_ids", self.q_ids, 2, "[B|1, T]")
        k_ids = _integer_array("k_ids", self.k_ids, 2, "[B|1, S]")
        if q_ids.shape[1] != tile.queries or k_ids.shape[1] != tile.keys:
            raise ValueError(
                f"Segments must have one id per query and per key (T={tile.queries}, S={tile.keys}), but "
                f"has q_ids {q_ids.shape} and k_ids {k_ids.shape}; pass ids of the same sequences"
            )
        return q_ids[:, tile.rows, None] == k_ids[:, None, tile.columns]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IsolateRows(Mask):
    """Queries at the given positions see only themselves; all other queries are left as they are.

    Source: the mask control of arXiv 2407.01601, where a row that sees only itself becomes a waiver element.

    Attributes:
        rows: positions [R], whole numbers.
    """

    rows: Sequence[int] | Array | np.ndarray

    def visible(self, tile: Tile) -> Array:
        rows = _integer_array("rows", self.rows, 1, "[R]")
        isolated = jnp.any(tile.positions[:, :, None] == rows[None, None], axis=-1)
        return (tile.distances() == 0) | ~isolated[:, :, None]
