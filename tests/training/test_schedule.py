"""Log points: where they must stand, and how far apart at most."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxsink.training import log_points

CHUNKS = st.integers(1, 50)


@given(
    chunks=st.integers(1, 3000),
    chunk=CHUNKS,
    dense=st.integers(1, 100),
    growth=st.floats(1.01, 2.0),
)
def test_where_log_points_stand(chunks, chunk, dense, growth):
    points = log_points(chunks * chunk, chunk, dense, growth)
    assert all(type(point) is int for point in points)
    assert (points[0], points[-1]) == (0, chunks * chunk)
    assert all(point % chunk == 0 for point in points)
    numbers = [point // chunk for point in points]
    assert numbers == sorted(set(numbers))
    first = min(dense, chunks)
    assert numbers[: first + 1] == list(range(first + 1))
    for a, b in itertools.pairwise(numbers[first:]):
        # Neighbours are a factor apart, or one chunk where that is more; rounding to whole chunks moves each by 1/2.
        assert b <= max((a + 0.5) * growth + 0.5, a + 2)


def test_the_points_of_a_run_of_the_paper():
    points = log_points(10_000, 10)
    assert points[:61] == tuple(range(0, 610, 10))
    # Growth 1.06 and at most half a chunk of rounding on either side, of 60 chunks or more.
    assert max(b / a for a, b in itertools.pairwise(points[60:])) < 1.06 + 1.03 / 60
    # 60 of the dense part and ln(1000/60) / ln(1.06) = 48 after it.
    assert 105 < len(points) < 115


@given(steps=st.integers(-100, 1000), chunk=CHUNKS)
def test_steps_that_are_no_multiple_of_the_chunk(steps, chunk):
    if steps > 0 and steps % chunk == 0:
        log_points(steps, chunk)
        return
    with pytest.raises(ValueError, match=f"multiple of the chunk of {chunk} steps, but {steps} was given") as caught:
        log_points(steps, chunk)
    advice = re.search(r"use (\d+)\.$", str(caught.value))
    assert advice is not None
    assert log_points(int(advice[1]), chunk)[-1] == int(advice[1])
