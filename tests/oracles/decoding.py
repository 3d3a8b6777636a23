"""Decoding in loops over the tokens of a text: what each one sees, how it numbers the keys, what stays."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from oracles import attention, positions

Keep = Callable[[list[int], np.ndarray, int], list[int]]
"""Positions that stay, given those that are held, the weight that every key has received, and the length so far."""


def all_of_them(held: list[int], received: np.ndarray, length: int) -> list[int]:
    return held


def window(size: int, sinks: int) -> Keep:
    """Of a call that ends at `length`, the next query is at `length` itself."""
    return lambda held, received, length: [j for j in held if j > length - size or j < sinks]


def heavy_hitters(budget: int, recent: int) -> Keep:
    def keep(held: list[int], received: np.ndarray, length: int) -> list[int]:
        last = [j for j in held if j >= length - recent]
        others = sorted((j for j in held if j < length - recent), key=lambda j: (-received[j], j))
        return sorted(others[:budget] + last)

    return keep


def decode(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    row: attention.Row | attention.PlacedRow,
    params: Mapping[str, np.ndarray],
    calls: Sequence[int],
    keep: Keep,
    base: float | None = None,
) -> np.ndarray:
    """Output [B, T, N, Hv] of a text that is cut into calls; with a base, keys are rotated by their numbers."""
    batch, length, heads, _ = q.shape
    group = heads // k.shape[2]
    out = np.zeros((batch, length, heads, v.shape[3]))
    for b in range(batch):
        kept: list[int] = []
        received = np.zeros(length)
        start = 0
        for new in calls:
            for t in range(start, start + new):
                seen = [*kept, *range(start, t + 1)]
                query, keys = q[b : b + 1, t : t + 1], k[b : b + 1].copy()
                if base is not None:
                    query = positions.rope(query, np.array([[seen.index(t)]]), base, "half")
                    keys[:, seen] = positions.rope(keys[:, seen], np.arange(len(seen))[None], base, "half")
                shown = np.zeros((1, heads, 1, length), bool)
                shown[..., seen] = True
                weights = attention.attend(query, keys, keys, row, params, shown, offset=t).weights[0, :, 0]
                received += weights.sum(axis=0)
                for n in range(heads):
                    out[b, t, n] = weights[n] @ v[b, :, n // group]
            start += new
            kept = keep([*kept, *range(start - new, start)], received, start)
    return out
