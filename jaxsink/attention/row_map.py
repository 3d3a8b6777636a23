"""The contract between `attend` and a row map, the function from a row of scores to a row of weights."""

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.statistics import RowStatistic, Statistic, Term

Params = Mapping[str, Array]


class Streaming(enum.Enum):
    """What a pass over blocks of keys carries per row; it decides which fast backends a row map can have."""

    ONLINE = "S"  # running maximum, sum and accumulator
    ONLINE_WITH_NULL = "S0"  # the same, starting with the null column already in the sum
    ELEMENTWISE = "E"  # accumulator only: a weight needs its own score, its row's position and nothing else
    TWO_SUMS = "L1"  # numerator and denominator are different sums, both additive over blocks
    TWO_PASSES = "2P"  # the finished log-sum-exp is needed before the nonlinearity
    ORDERED = "R"  # a scan in key order: permuting the keys changes the weights
    SEARCH = "X"  # a search over the whole row, or state that crosses rows


class Mass(enum.Enum):
    """What the weights on the real keys of a row that sees at least one key add up to."""

    ONE = "one"
    AT_MOST_ONE = "at most one"
    FREE = "free"


@dataclass(frozen=True)
class Properties:
    """What a row map declares about itself; the laws that it is tested against follow from this.

    Attributes:
        streaming: class of its blockwise evaluation.
        mass: what a row's weights on real keys add up to.
        shift_invariant: adding a constant to all visible scores of a row leaves the weights as they are.
        non_negative: no weight is below zero.
        monotone: raising one score never lowers the weight of that key.
        has_total: weight_j = exp(score_j - total) where exp(total) sums exp over the visible scores and, if
            there is one, the null column. `lse` and `null_mass` exist exactly then.
        null_column: the total includes a column that owns no value; the row map then is a `NullColumnMap`.
    """

    streaming: Streaming
    mass: Mass
    shift_invariant: bool
    non_negative: bool
    monotone: bool
    has_total: bool
    null_column: bool

    @property
    def normalised(self) -> bool:
        """Whether the weights on real keys add up to one in every row that sees a key."""
        return self.mass is Mass.ONE

    @property
    def elementwise(self) -> bool:
        """Whether a key's weight is a function of its own score and its row's position alone."""
        return self.streaming is Streaming.ELEMENTWISE


@dataclass(frozen=True)
class AttentionDims:
    """Sizes that parameters depend on.

    Attributes:
        query_heads: N.
        key_heads: K, a divisor of N.
        head_size: H.
        value_size: Hv, the head size of values and output; H if None.
        model_size: D, the width of what the heads are projected from, where a variant reads that; else None.
    """

    query_heads: int
    key_heads: int
    head_size: int
    value_size: int | None = None
    model_size: int | None = None


@dataclass(frozen=True)
class RowContext:
    """What a row map may read besides the scores.

    Attributes:
        visible: bool [B|1, N|1, T, S], True where the query may attend to the key.
        query_positions: int32 [B|1, T], 0-based position of each query on the axis of the keys.
        dims: numbers of heads and the head size.
        counted: int32 [B|1, N|1, T, 1], keys that the whole row sees; None if `visible` shows the whole row.
        columns: int32 [S], positions of the keys; None if they are all the keys from 0 on.
    """

    visible: Array
    query_positions: Array
    dims: AttentionDims
    counted: Array | None = None
    columns: Array | None = None

    @property
    def seen(self) -> Array:
        """int32 [B|1, N|1, T, 1], the number of keys that each row sees, also where `visible` is one block of it."""
        return jnp.sum(self.visible, axis=-1, keepdims=True) if self.counted is None else self.counted

    @property
    def itself(self) -> Array:
        """bool [B|1, 1, T, S], True where the key stands at the position of the query."""
        columns = jnp.arange(self.visible.shape[-1], dtype=jnp.int32) if self.columns is None else self.columns
        return self.query_positions[:, None, :, None] == columns[None, None, None]


@runtime_checkable
class RowMap(Protocol):
    """What a variant must provide to go through `attend`; best a frozen dataclass with static fields.

    `attend` owns the mask on both sides: scores of hidden pairs arrive as 0 without a gradient, and weights
    returned for them are replaced by 0. A row map therefore has to look at `context.visible` only where a
    statistic of the row (a maximum, a sum, a count) must leave the hidden keys out, and must keep such a
    statistic, and its gradient, finite for a row that sees no key.
    """

    properties: ClassVar[Properties]

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return fresh float32 parameters, `{}` for none; `attend` compares names and shapes with these."""
        ...

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        """Return the weights [B, N, T, S] for finite `scores` [B, N, T, S], in the dtype of the scores."""
        ...


@runtime_checkable
class NullColumnMap(RowMap, Protocol):
    """A row map whose total includes one column that takes mass and owns no value."""

    def null_logit(self, context: RowContext, params: Params) -> Array:
        """Return the logit of the null column, broadcastable to [B, N, T]; -inf switches the column off."""
        ...


class StatisticMap(ABC):
    """A row map whose weights need statistics of their row, and then nothing but the key's own score.

    Such a map runs block by block on every backend that streams. Its `streaming` class is TWO_SUMS or TWO_PASSES.
    """

    properties: ClassVar[Properties]
    statistics: ClassVar[tuple[RowStatistic, ...]]

    @abstractmethod
    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return fresh float32 parameters."""

    @abstractmethod
    def terms(self, scores: Array, params: Params) -> tuple[Term, ...]:
        """Return what each statistic reduces, elementwise in `scores` [B, N, T, S]; hidden scores are 0."""

    @abstractmethod
    def weights_given(
        self, scores: Array, statistics: tuple[Statistic, ...], context: RowContext, params: Params
    ) -> Array:
        """Return the weights [B, N, T, S], given the statistics [B, N, T, 1] of the rows; elementwise in `scores`."""

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        reduced = tuple(
            statistic.full(term, context.visible)
            for statistic, term in zip(self.statistics, self.terms(scores, params), strict=True)
        )
        return self.weights_given(scores, reduced, context, params)


class OrderedMap(ABC):
    """A row map that goes through the keys of a row from the last to the first, of streaming class ORDERED.

    What later keys hand on to earlier ones is one number a row, a sum over the later keys.
    """

    properties: ClassVar[Properties]

    @abstractmethod
    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return fresh float32 parameters."""

    @abstractmethod
    def handed_on(self, scores: Array, context: RowContext, params: Params) -> Array:
        """Return what each key adds for the keys before it [B, N, T, S], 0 for a hidden one."""

    @abstractmethod
    def weights_after(self, scores: Array, after: Array, context: RowContext, params: Params) -> Array:
        """Return the weights [B, N, T, S], given what all later keys of each key add up to, [B, N, T, S]."""

    def weights(self, scores: Array, context: RowContext, params: Params) -> Array:
        after = later_sums(self.handed_on(scores, context, params))
        return self.weights_after(scores, after, context, params)


def later_sums(values: Array) -> Array:
    """Sum over the entries behind each one along the last axis, added up from the end: no differences of sums."""
    after = jax.lax.cumsum(values, axis=values.ndim - 1, reverse=True)[..., 1:]
    return jnp.concatenate([after, jnp.zeros_like(values[..., :1])], axis=-1)
