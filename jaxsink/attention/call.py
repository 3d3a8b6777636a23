"""One call of `attend` after its arguments have been checked, and what it can return besides the output."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from jaxsink.attention.masks import Mask, QueryOffset
from jaxsink.attention.row_map import AttentionDims, Params, RowMap

Tap = Callable[[str, Array], Array]


class Aux(NamedTuple):
    """What `attend_with_aux` returns besides the output; entries that were not asked for are None.

    Attributes:
        weights: [B, N, T, S], the weights that multiply the values.
        scores: [B, N, T, S], after scale, softcap and bias and before the mask.
        lse: [B, N, T], log-sum-exp of the scores of the visible real keys, -inf where there is none; the null
            column is not in it. weights = exp(scores - lse) * row_mass on visible keys.
        row_mass: [B, N, T], sum of the weights over the real keys.
        null_mass: [B, N, T], weight on the null column (0 for a map without one); row_mass + null_mass = 1 in
            every row that sees a key.
        total: [B, N, T], log-sum-exp over the visible real keys and every null column; -inf where there is neither.
            weights = exp(scores - total) on visible keys.
        received: [B, N, S], sum over the queries of the weights on each key.
        entropy: [B, N, T], in nats, of |weights| divided by their sum; 0 in a row of zeros.
        on_keys: [B, N, T, P], the weight on each key of `keys`.
        on_groups: [B, N, T, G], the weight on each group of `groups`.
    """

    weights: Array | None = None
    scores: Array | None = None
    lse: Array | None = None
    row_mass: Array | None = None
    null_mass: Array | None = None
    total: Array | None = None
    received: Array | None = None
    entropy: Array | None = None
    on_keys: Array | None = None
    on_groups: Array | None = None


@dataclass(frozen=True)
class Call:
    """Checked arguments of one call.

    Attributes:
        q: [B, T, N, H].
        k: [B, S, K, H].
        v: [B, S, K, Hv].
        variant: the row map.
        params: parameters of the row map.
        mask: structured, or bool with each axis of [B, N, T, S] in full or of size 1, or None.
        bias: arrays that add up, each with each axis of [B, N, T, S] in full or of size 1; () for none.
        null_logit: each axis of [B, N, T] in full or of size 1, or None.
        scale: factor of the scores.
        softcap: bound c in c * tanh(score / c), or None.
        tap: observer and editor of the named arrays, or None.
        want: names of the wanted fields of `Aux`.
        query_offset: position of the first query, or None for the default.
        on_keys: int [P], what `on_keys` reports, or None.
        on_groups: bool [B|1, G, S], what `on_groups` reports, or None.
    """

    q: Array
    k: Array
    v: Array
    variant: RowMap
    params: Params
    mask: Mask | Array | None
    bias: tuple[Array, ...]
    null_logit: Array | None
    scale: float | Array
    softcap: float | None
    tap: Tap | None
    want: frozenset[str]
    query_offset: QueryOffset
    on_keys: Array | None
    on_groups: Array | None

    @property
    def queries(self) -> int:
        """T."""
        return self.q.shape[1]

    @property
    def keys(self) -> int:
        """S."""
        return self.k.shape[1]

    @property
    def dims(self) -> AttentionDims:
        """Head counts and sizes."""
        return AttentionDims(self.q.shape[2], self.k.shape[2], self.q.shape[3], self.v.shape[3])

    @property
    def scores_shape(self) -> tuple[int, int, int, int]:
        """[B, N, T, S]."""
        return self.q.shape[0], self.q.shape[2], self.queries, self.keys

    @property
    def compute_dtype(self) -> np.dtype[Any]:
        """dtype of scores, weights and normalisers: float64 if any input has it, else float32."""
        wide = any(x.dtype == np.float64 for x in (self.q, self.k, self.v))
        return np.dtype(np.float64 if wide else np.float32)
