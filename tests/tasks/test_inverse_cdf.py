"""Sampling from rows: the law drawn is the one given, and the impossible is never drawn, at the edges too."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import tasks as oracle

from jaxsink.tasks import inverse_cdf

# Multiples of 1/64 are exact in every step, so edges of the intervals can be compared exactly.
exact_rows = st.lists(st.integers(0, 64), min_size=6, max_size=6).map(
    lambda cuts: np.diff([0, *sorted(cuts), 64]) / 64.0
)
random_rows = st.tuples(st.sampled_from([2, 5, 65]), st.integers(0, 2**32 - 1)).map(
    lambda drawn: np.random.default_rng(drawn[1]).dirichlet(np.full(drawn[0], 0.05))
)


WORDS = 256  # bits tried at once: one shape, so that one compilation serves all examples


def _draw(row: np.ndarray, bits: np.ndarray) -> np.ndarray:
    table = jnp.asarray(inverse_cdf.thresholds(row[None]))
    tried = jnp.asarray(np.resize(bits, WORDS))
    assert bits.size <= WORDS
    return np.asarray(inverse_cdf.draw(table, jnp.zeros(WORDS, jnp.int32), tried))[: bits.size]


@settings(max_examples=80)
@given(row=exact_rows)
def test_draws_follow_the_inverse_cdf_up_to_both_sides_of_each_edge(row):
    edges = np.cumsum(row) * 2.0**32
    around = np.concatenate([edges, edges - 1, edges - 2, edges + 1, [0, 2**32 - 1]])
    bits = np.unique(around[(around >= 0) & (around < 2**32)]).astype(np.uint32)
    expected = [oracle.inverse_cdf(row, float(b) / 2**32) for b in bits]
    np.testing.assert_array_equal(_draw(row, bits), expected)


@settings(max_examples=80)
@given(row=random_rows)
def test_impossible_outcomes_are_never_drawn(row):
    row = np.where(row < 1e-6, 0.0, row)  # with this concentration most outcomes; a cell far below 2^-31 is lost anyway
    table = inverse_cdf.thresholds(row[None])[0].astype(np.int64)
    edges = np.concatenate([2 * table, 2 * table - 1, [0, 1, 2**32 - 2, 2**32 - 1]])
    bits = edges[(edges >= 0) & (edges < 2**32)].astype(np.uint32)
    assert (row[_draw(row, bits)] > 0).all()


@settings(max_examples=80)
@given(row=random_rows)
def test_each_outcome_owns_its_share_of_the_draws(row):
    table = inverse_cdf.thresholds(row[None])[0].astype(np.float64)
    shares = np.diff(table[: row.size], prepend=0.0) / 2**31
    # Both edges of an interval are rounded to the nearest of 2^31 steps.
    np.testing.assert_allclose(shares, row, rtol=0, atol=2.0**-31 + 1e-15)


@given(probability=st.floats(0.0, 1.0))
@settings(max_examples=80)
def test_happens_is_sure_at_the_ends_and_fair_between(probability):
    bits = np.array([0, 2**31, 2**32 - 1], np.uint32)
    happened = np.asarray(inverse_cdf.happens(probability, jnp.asarray(bits)))
    uniform = bits / 2.0**32
    # 2^-32 is half a step of the threshold: closer than that, either answer is right.
    clear = (np.abs(uniform - probability) > 2.0**-31) | (probability in (0.0, 1.0))
    np.testing.assert_array_equal(happened[clear], (uniform < probability)[clear])
