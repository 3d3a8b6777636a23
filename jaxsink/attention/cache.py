"""The cache of decoding, an array of slots for keys and values, and the policies that say which keys stay in it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.masks import _check_count


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of the tokens so far, in C slots that keep the position of their key in the text.

    Sequences need not be equally long: caches that are stacked along the batch axis can be decoded together.

    Attributes:
        keys: [B, C, K, H].
        values: [B, C, K, Hv].
        positions: int32 [B, C], 0-based, -1 for an empty slot.
        received: [B, C], weight that the key was given by all queries and heads since it came; only
            `KeepHeavyHitters` keeps count.
        length: int32 [B], number of tokens so far, and so the position of the next one.
    """

    keys: Array
    values: Array
    positions: Array
    received: Array
    length: Array

    @classmethod
    def empty(
        cls,
        batch: int,
        capacity: int,
        key_heads: int,
        head_size: int,
        value_size: int | None = None,
        dtype: Any = jnp.float32,
    ) -> Self:
        """Return a cache that holds nothing.

        Args:
            batch: B.
            capacity: C, see `Policy.capacity`.
            key_heads: K.
            head_size: H.
            value_size: Hv; H if None.
            dtype: of keys and values.

        Raises:
            ValueError: if a size is not a whole number of at least 1.
        """
        value_size = head_size if value_size is None else value_size
        sizes = {"batch": batch, "capacity": capacity, "key_heads": key_heads}
        for name, size in (sizes | {"head_size": head_size, "value_size": value_size}).items():
            _check_count(name, size, least=1)
        return cls(
            keys=jnp.zeros((batch, capacity, key_heads, head_size), dtype),
            values=jnp.zeros((batch, capacity, key_heads, value_size), dtype),
            positions=jnp.full((batch, capacity), -1, jnp.int32),
            received=jnp.zeros((batch, capacity), jnp.float64 if dtype == jnp.float64 else jnp.float32),
            length=jnp.zeros((batch,), jnp.int32),
        )

    @property
    def capacity(self) -> int:
        """C."""
        return self.positions.shape[-1]


class Policy(ABC):
    """Which keys stay in the cache; subclasses are frozen dataclasses.

    Attributes:
        in_order: whether a key in a later slot always comes later in the text, empty slots aside.
        counts_received: whether the policy reads `Cache.received`.
    """

    in_order: ClassVar[bool] = False
    counts_received: ClassVar[bool] = False

    @abstractmethod
    def capacity(self, max_length: int, chunk: int = 1) -> int:
        """Return the number of slots that a cache needs.

        Args:
            max_length: number of tokens of the longest text; only `KeepAll` needs as many slots.
            chunk: largest number of tokens in one call of `decode`.
        """

    @abstractmethod
    def slots(self, cache: Cache, positions: Array) -> Array:
        """Return the slots [B, n] of new keys at `positions` [B, n]; a slot past the last one drops the key."""

    def visible(self, queries: Array, keys: Array) -> Array:
        """Return bool [B, n, C], what queries at positions [B, n] may see of slots with the positions [B, C]."""
        return (keys[:, None, :] >= 0) & (keys[:, None, :] <= queries[:, :, None])

    def evicted(self, cache: Cache) -> Cache:
        """Return the cache without the keys that are given up after a call."""
        return cache


@dataclass(frozen=True)
class KeepAll(Policy):
    """All keys stay: attention under `Causal()`, in a cache as long as the text."""

    in_order: ClassVar[bool] = True

    def capacity(self, max_length: int, chunk: int = 1) -> int:
        return max_length

    def slots(self, cache: Cache, positions: Array) -> Array:
        return positions


@dataclass(frozen=True)
class KeepWindow(Policy):
    """The last keys and the first ones stay: attention under `Causal() & WindowWithSinks(size, sinks)`.

    Source: Xiao et al. 2023 (arXiv 2309.17453), StreamingLLM; with `rope` of `decode` also its re-indexed positions.

    Attributes:
        size: number of last keys that a query sees, its own included, at least 1.
        sinks: number of first keys that stay, at least 0.

    Raises:
        ValueError: if `size` or `sinks` is too small or not a whole number.
    """

    size: int
    sinks: int = 0

    def __post_init__(self) -> None:
        _check_count("size", self.size, least=1)
        _check_count("sinks", self.sinks, least=0)

    def capacity(self, max_length: int, chunk: int = 1) -> int:
        # The first query of a call still sees what the last one no longer does.
        return self.sinks + self.size - 1 + chunk

    def slots(self, cache: Cache, positions: Array) -> Array:
        behind = positions - self.sinks
        return jnp.where(behind < 0, positions, self.sinks + behind % (cache.capacity - self.sinks))

    def visible(self, queries: Array, keys: Array) -> Array:
        near = queries[:, :, None] - keys[:, None, :] < self.size
        return super().visible(queries, keys) & (near | (keys[:, None, :] < self.sinks))


@dataclass(frozen=True)
class KeepHeavyHitters(Policy):
    """The last `recent` keys stay, and of the others the `budget` that have received the most attention.

    A query sees what was left after the call before, and its own call up to itself. Received weight is summed over all
    queries since the key came and over all heads, so that the heads of a sequence keep the same keys; of equals the
    older stays. What is given up depends on how the text is cut into calls.

    Source: Zhang et al. 2023 (arXiv 2306.14048), algorithm 1, H2O. There each head keeps keys of its own: for that,
        `jax.vmap` `decode` over the heads, each with a cache of one key head.

    Attributes:
        budget: number of keys that stay for the weight they received, at least 0.
        recent: number of last keys that stay, at least 0.

    Raises:
        ValueError: if `budget` or `recent` is negative or not a whole number.
    """

    budget: int
    recent: int

    counts_received: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_count("budget", self.budget, least=0)
        _check_count("recent", self.recent, least=0)

    def capacity(self, max_length: int, chunk: int = 1) -> int:
        return self.budget + self.recent + chunk

    def slots(self, cache: Cache, positions: Array) -> Array:
        return jnp.argsort(cache.positions >= 0, axis=-1)[:, : positions.shape[1]]

    def evicted(self, cache: Cache) -> Cache:
        old = (cache.positions >= 0) & (cache.positions < cache.length[:, None] - self.recent)
        order = jnp.lexsort((cache.positions, jnp.where(old, -cache.received, jnp.inf)))
        rows = jnp.arange(old.shape[0])[:, None]
        heavy = jnp.zeros_like(old).at[rows, order[:, : self.budget]].set(True)
        return replace(cache, positions=jnp.where(old & ~heavy, -1, cache.positions))
