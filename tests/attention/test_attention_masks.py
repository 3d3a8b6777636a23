"""Structured masks against predicates on (sequence, query position, key position)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.attention import masked_pairs

from jaxsink.attention import (
    Causal,
    IsolateRows,
    Lengths,
    Mask,
    Segments,
    Window,
    WindowWithSinks,
    attend,
    query_positions,
)

LENGTHS = np.array([2, 6])
IDS = np.array([[0, 0, 1, 1, 2, 2], [5, 5, 5, 5, 5, 7]])
T = S = 6

MASKS: tuple[tuple[Mask, Callable[[int, int, int], bool]], ...] = (
    (Causal(), lambda b, i, j: j <= i),
    (Window(1), lambda b, i, j: j == i),
    (Window(3), lambda b, i, j: j in range(i - 2, i + 3)),
    (WindowWithSinks(2, 1), lambda b, i, j: j == 0 or j in (i - 1, i, i + 1)),
    (WindowWithSinks(2, 0), lambda b, i, j: j in (i - 1, i, i + 1)),
    (Lengths(LENGTHS), lambda b, i, j: j < (2, 6)[b]),
    (Segments(IDS, IDS), lambda b, i, j: IDS[b, i] == IDS[b, j]),
    (IsolateRows((2, 4)), lambda b, i, j: j == i if i in (2, 4) else True),
    (IsolateRows(jnp.array([5])), lambda b, i, j: j == i if i == 5 else True),
    (Causal() & Window(2), lambda b, i, j: j in (i - 1, i)),
    (Causal() & WindowWithSinks(2, 2), lambda b, i, j: j <= i and (j < 2 or j >= i - 1)),
    (
        Causal() & Lengths(LENGTHS) & Segments(IDS, IDS),
        lambda b, i, j: j <= i and j < (2, 6)[b] and IDS[b, i] == IDS[b, j],
    ),
    (Causal() & (IsolateRows((3,)) & Window(4)), lambda b, i, j: j == i if i == 3 else i - 3 <= j <= i),
)


@pytest.mark.parametrize(("mask", "rule"), MASKS)
def test_mask_is_its_predicate(mask: Mask, rule: Callable[[int, int, int], bool]) -> None:
    visible = mask.materialise(T, S)
    assert visible.dtype == jnp.bool_
    expected = masked_pairs(rule, 2, T, S)[:, None]
    assert visible.shape[0] in (1, 2)
    assert visible.shape[1:] == expected.shape[1:]
    np.testing.assert_array_equal(np.broadcast_to(visible, expected.shape), expected)


@pytest.mark.parametrize("mask", [mask for mask, _ in MASKS])
def test_mask_crosses_jit_as_an_argument(mask: Mask) -> None:
    jitted = jax.jit(lambda mask: mask.materialise(T, S))
    np.testing.assert_array_equal(jitted(mask), mask.materialise(T, S))


@pytest.mark.parametrize("mask", [Causal(), Causal() & Window(3), WindowWithSinks(2, 1), Causal() & IsolateRows((5,))])
def test_decoding_sees_the_last_rows(mask: Mask) -> None:
    np.testing.assert_array_equal(mask.materialise(2, S), mask.materialise(S, S)[:, :, -2:])


def test_more_queries_than_keys_start_at_zero() -> None:
    np.testing.assert_array_equal(query_positions(5, 3), [[0, 1, 2, 3, 4]])


def test_an_offset_per_sequence_moves_each_sequence() -> None:
    visible = Causal().materialise(2, S, query_offset=jnp.array([0, 3]))
    np.testing.assert_array_equal(visible[:, 0], masked_pairs(lambda b, t, j: j <= t + (0, 3)[b], 2, 2, S))


def test_structured_and_dense_masks_give_the_same_bits() -> None:
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, T, 2, 4))
    for mask in (Causal(), Causal() & Lengths(LENGTHS)):
        dense = mask.materialise(T, S)
        np.testing.assert_array_equal(attend(q, k, v, mask=mask), attend(q, k, v, mask=dense))


def test_a_mask_with_traced_rows_can_be_mapped() -> None:
    rows = jnp.array([[1], [4]])
    mapped = jax.vmap(lambda r: (Causal() & IsolateRows(r)).materialise(T, S))(rows)
    for i in (0, 1):
        np.testing.assert_array_equal(mapped[i], (Causal() & IsolateRows(rows[i])).materialise(T, S))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Window(0), "size must be a whole number of at least 1, but is 0"),
        (lambda: Window(2.5), "size must be a whole number"),
        (lambda: WindowWithSinks(4, -1), "sinks must be a whole number of at least 0"),
        (lambda: Causal() & np.ones((1, 1, T, S), bool), "both be structured"),
        (lambda: Lengths(np.ones((2, 1), int)).materialise(T, S), r"lengths must be an integer array \[B\]"),
        (lambda: Lengths(np.ones(2)).materialise(T, S), "lengths must be an integer array"),
        (
            lambda: Segments(IDS, IDS[:, :4]).materialise(T, S),
            r"\(T=6, S=6\), but has q_ids \(2, 6\) and k_ids \(2, 4\)",
        ),
        (lambda: Segments(IDS[0], IDS).materialise(T, S), "q_ids must be an integer array"),
        (lambda: IsolateRows(np.ones((2, 2), int)).materialise(T, S), r"rows must be an integer array \[R\]"),
        (lambda: Causal().materialise(T, S, query_offset=-1), "query_offset must not be negative"),
        (lambda: Causal().materialise(T, S, query_offset=jnp.ones(2)), "query_offset must be an integer"),
    ],
)
def test_mistakes_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
