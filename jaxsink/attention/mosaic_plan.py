"""Sizes of one call of the kernels for Hopper GPUs, and the blocks of keys and queries that its mask leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

# Blocks in shared memory at a time in a sweep for anything but gradients.
STAGES = 2
# Rows of one warpgroup, which is what its matrix instruction has, and of a thread block.
GROUP = 64
MULTIPLIERS = 2
ROWS = MULTIPLIERS * GROUP


@dataclass(frozen=True)
class Plan:
    """Sizes and settings of one call.

    Attributes:
        batch, query_heads, key_heads, width: B, N, K and the padded head size.
        queries, keys: T and S before padding.
        scale: factor of the scores.
        causal: whether a query sees the keys up to its own position alone.
        window: how many keys up to its own position a query sees, 0 for all of them.
        offset: position of the first query.
        dtype: of q, k and v.
        interpreted: whether to run in the interpreter of Pallas, on a CPU.
    """

    batch: int
    query_heads: int
    key_heads: int
    width: int
    queries: int
    keys: int
    scale: float
    causal: bool
    window: int
    offset: int
    dtype: str
    interpreted: bool

    @property
    def query_rows(self) -> int:
        """T, padded."""
        return padded(self.queries)

    @property
    def key_rows(self) -> int:
        """S, padded."""
        return padded(self.keys)

    @property
    def group(self) -> int:
        """Query heads of a key head."""
        return self.query_heads // self.key_heads

    # Blocks are what the shared memory of a multiprocessor (227 KiB) holds beside the rows that they meet. A matrix
    # unit takes 64 rows or more of them.
    @property
    def columns(self) -> int:
        """Keys of one step of a sweep over keys."""
        return 128 if self.width <= 128 else 64

    @property
    def gradient_lines(self) -> int:
        """Queries of one step of a sweep over queries for the gradients of k and v."""
        return 64

    @property
    def gradient_stages(self) -> int:
        """Blocks in shared memory at a time in a sweep for gradients."""
        return 2 if self.width <= 128 else 1

    @property
    def received_lines(self) -> int:
        """Queries of one step of a sweep over queries for what keys receive."""
        return 128


def padded(length: int) -> int:
    """The next multiple of `ROWS`."""
    return -(-length // ROWS) * ROWS


def key_blocks(plan: Plan, size: int, first: Any, exact: bool) -> tuple[Any, Any, Any, Any]:
    """Blocks of keys for `ROWS` queries from `first` on.

    Args:
        size: keys of a block. first: int32. exact: whether padded keys, whose values are 0, must be hidden.

    Returns:
        Where they begin, where those begin and end that every query sees whole, and where they end.
    """
    end = plan.key_rows // size
    real = plan.keys // size if exact else end
    if not plan.causal:
        return 0, 0, real, end
    here = first + plan.offset
    last = jnp.minimum(quotient(here + (ROWS + size - 1), size), end)
    whole = jnp.minimum(jnp.minimum(quotient(here + 1, size), real), last)
    if not plan.window:
        return 0, 0, whole, last
    begin = jnp.minimum(quotient(jnp.maximum(here - (plan.window - 1), 0), size), last)
    left = quotient(jnp.maximum(here + (ROWS - plan.window), 0) + (size - 1), size)
    left = jnp.clip(left, begin, last)
    return begin, left, jnp.maximum(whole, left), last


def query_blocks(plan: Plan, size: int, first: Any) -> tuple[Any, Any, Any, Any]:
    """Blocks of queries for `ROWS` keys from `first` on, as in `key_blocks`; one with padded queries is not whole."""
    end = plan.query_rows // size
    if not plan.causal:
        return 0, 0, plan.queries // size, end
    here = first - plan.offset
    begin = quotient(jnp.maximum(here, 0), size)
    left = jnp.minimum(quotient(jnp.maximum(here + (ROWS - 1), 0) + (size - 1), size), end)
    whole, last = jnp.full_like(begin, plan.queries // size), jnp.full_like(begin, end)
    if plan.window:
        last = jnp.clip(quotient(jnp.maximum(here + (ROWS + plan.window - 2), 0), size) + 1, begin, end)
        left = jnp.minimum(left, last)
        whole = jnp.minimum(whole, quotient(jnp.maximum(here + plan.window, 0), size))
    return begin, left, jnp.clip(whole, left, last), last


def quotient(x: Any, divisor: int) -> Any:
    """x // divisor of an int32 that is not negative."""
    return lax.div(x, np.int32(divisor))
