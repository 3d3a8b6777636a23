"""Row statistics that a row map may need before a key's weight follows from its own score.

Each one reduces a term per key, [B, N, T, S], over the visible keys of a row to arrays [B, N, T, 1]: all at once with
`full`, or block by block with `empty`, `update` and `finish`. A row that sees no key gets zeros, never -inf or NaN.
`share` states a block's part in the derivative: its vector-Jacobian product with respect to the term, given the
cotangent of the finished statistic, is that of the statistic.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.row_statistics import masked_log_sum_exp

Term = Any  # an array [B, N, T, S], or for `ScaledSum` a pair of them
Statistic = Any  # an array [B, N, T, 1], or for `ScaledSum` a pair of them


class RowStatistic(ABC):
    """A reduction over the visible keys of a row."""

    @abstractmethod
    def full(self, term: Term, visible: Array) -> Statistic:
        """Return the statistic of whole rows, with its derivative."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return the carry of rows [B, N, T, 1] of which nothing has been read."""

    @abstractmethod
    def update(self, carry: Any, term: Term, visible: Array) -> Any:
        """Return the carry after one more block of keys."""

    @abstractmethod
    def finish(self, carry: Any) -> Statistic:
        """Return the statistic once every block has been read."""

    @abstractmethod
    def share(self, term: Term, visible: Array, carry: Any) -> Statistic:
        """Return an expression in the term of one block with the derivative of the statistic, given the last carry."""


def _shifted(exponent: Array, maximum: Array) -> Array:
    return exponent - jnp.where(jnp.isfinite(maximum), maximum, 0.0)


def _scaled(term: tuple[Array, Array], visible: Array, maximum: Array) -> Array:
    mantissa, exponent = term
    # The inner `where` keeps hidden exponents out of exp: an overflow there makes the zero gradient NaN.
    return jnp.where(visible, mantissa * jnp.exp(jnp.where(visible, _shifted(exponent, maximum), 0.0)), 0.0)


def _sum(values: Array) -> Array:
    return jnp.sum(values, axis=-1, keepdims=True)


def _top(exponent: Array, visible: Array) -> Array:
    return jnp.max(exponent, axis=-1, keepdims=True, initial=-jnp.inf, where=visible)


@dataclass(frozen=True)
class LogSumExp(RowStatistic):
    """log sum_j exp(term_j)."""

    def full(self, term: Array, visible: Array) -> Array:
        lse = masked_log_sum_exp(term, visible)[..., None]
        return jnp.where(jnp.isfinite(lse), lse, 0.0)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> tuple[Array, Array]:
        return jnp.full(shape, -jnp.inf, dtype), jnp.zeros(shape, dtype)

    def update(self, carry: tuple[Array, Array], term: Array, visible: Array) -> tuple[Array, Array]:
        maximum, total = carry
        higher = jnp.maximum(maximum, _top(term, visible))
        kept = total * jnp.where(jnp.isfinite(maximum), jnp.exp(_shifted(maximum, higher)), 0.0)
        return higher, kept + _sum(_scaled((jnp.ones_like(term), term), visible, higher))

    def finish(self, carry: tuple[Array, Array]) -> Array:
        maximum, total = carry
        seen = total > 0.0
        return jnp.where(seen, jnp.log(jnp.where(seen, total, 1.0)) + jnp.where(seen, maximum, 0.0), 0.0)

    def share(self, term: Array, visible: Array, carry: tuple[Array, Array]) -> Array:
        gap = jnp.where(visible, jax.lax.stop_gradient(term) - self.finish(carry), 0.0)
        return _sum(jnp.where(visible, jnp.exp(gap) * term, 0.0))


@dataclass(frozen=True)
class Total(RowStatistic):
    """sum_j term_j, for terms of either sign that do not grow exponentially."""

    def full(self, term: Array, visible: Array) -> Array:
        return _sum(jnp.where(visible, term, 0.0))

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return jnp.zeros(shape, dtype)

    def update(self, carry: Array, term: Array, visible: Array) -> Array:
        return carry + self.full(term, visible)

    def finish(self, carry: Array) -> Array:
        return carry

    def share(self, term: Array, visible: Array, carry: Array) -> Array:
        return self.full(term, visible)


@dataclass(frozen=True)
class ScaledSum(RowStatistic):
    """The pair (m, sum_j mantissa_j exp(exponent_j - m)) with m the largest visible exponent.

    The term is the pair (mantissa, exponent). For sums whose terms may vanish, where a logarithm has no derivative.
    """

    def full(self, term: tuple[Array, Array], visible: Array) -> tuple[Array, Array]:
        top = _top(term[1], visible)
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        return top, _sum(_scaled(term, visible, top))

    def empty(self, shape: tuple[int, ...], dtype: Any) -> tuple[Array, Array, Array]:
        return jnp.full(shape, -jnp.inf, dtype), jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    def update(
        self, carry: tuple[Array, Array, Array], term: tuple[Array, Array], visible: Array
    ) -> tuple[Array, Array, Array]:
        maximum, total, ties = carry
        here = _top(term[1], visible)
        higher = jnp.maximum(maximum, here)
        kept = jnp.where(jnp.isfinite(maximum), jnp.exp(_shifted(maximum, higher)), 0.0)
        at_top = _sum(jnp.where(visible & (term[1] == higher), 1.0, 0.0).astype(ties.dtype))
        return (
            higher,
            total * kept + _sum(_scaled(term, visible, higher)),
            jnp.where(maximum == higher, ties, 0.0) + at_top,
        )

    def finish(self, carry: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        maximum, total, _ = carry
        return jnp.where(jnp.isfinite(maximum), maximum, 0.0), total

    def share(
        self, term: tuple[Array, Array], visible: Array, carry: tuple[Array, Array, Array]
    ) -> tuple[Array, Array]:
        maximum, total, ties = carry
        at_top = jnp.where(visible & (term[1] == maximum), 1.0 / jnp.maximum(ties, 1.0), 0.0)
        # Ties share the derivative of the maximum, as they do in jnp.max.
        top = _sum(at_top * term[1])
        return top, _sum(_scaled(term, visible, maximum)) - total * top
