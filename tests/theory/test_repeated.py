"""Closed forms for a repeated token against loops, bounds over random scores, and the evidence of NX-R1 to NX-R5."""

import math
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import attention as rows
from oracles import repeated as oracle

from jaxsink.attention import ReLU, SinkLogit
from theory import repeated
from theory.calculations.repeated import DistinctFirstKey, RepeatedToken, RisingDistance, RopeHeads

# float64: sums of some hundred terms of a few units.
F64 = {"rtol": 1e-12, "atol": 1e-12}
seeds = given(seed=st.integers(0, 2**32 - 1))
few = settings(max_examples=10)
SMALL = {"instances": 2, "layers": 2, "width": 8, "heads": 2, "length": 5}


def test_states_of_one_token_are_those_of_the_loops() -> None:
    rng = np.random.default_rng(0)
    shapes = {"embedding": (4,), "norm_attention": (3, 4), "norm_mlp": (3, 4)}
    shapes |= {"value": (3, 4, 4), "output": (3, 4, 4), "mlp_in": (3, 4, 6), "mlp_out": (3, 6, 4)}
    weights = {name: rng.normal(size=(2, *shape)) for name, shape in shapes.items()}
    found = repeated.one_token_states(weights)
    for m in range(2):
        np.testing.assert_allclose(found[m], oracle.one_token({name: x[m] for name, x in weights.items()}), **F64)


@few
@seeds
def test_rotary_scores_are_those_of_turned_vectors(seed: int) -> None:
    query, key = np.random.default_rng(seed).normal(size=(2, 6))
    found = repeated.rotary_scores(query, key, 8)
    for i, j in ((0, 0), (3, 1), (7, 0), (7, 5)):
        np.testing.assert_allclose(found[i - j], oracle.rotary_score(query, key, i, j), **F64)


@few
@seeds
def test_masses_are_those_of_the_row_maps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    f, sink = 2 * rng.normal(size=7), rng.normal()
    found = {
        rows.sink_logit: repeated.sink_logit_mass(f, np.array(sink)),
        rows.sigmoid(0.0): repeated.sigmoid_mass(f),
        rows.relu: repeated.relu_mass(f),
        rows.softpick(1e-3): repeated.softpick_mass(f, 1e-3),
    }
    for row, mass in found.items():
        expected = [row(f[: t + 1][::-1], t, sink).sum() for t in range(7)]
        np.testing.assert_allclose(mass, expected, **F64)


def test_weights_in_closed_form() -> None:
    at, slopes = np.array([1, 2, 5, 9]), np.array([0.5, 2.0**-8])
    even, alibi = repeated.even_weights(at, 9), repeated.alibi_weights(slopes, at, 9)
    for r, t in enumerate(at):
        padding = [0.0] * (9 - t)
        np.testing.assert_allclose(even[r], oracle.softmax_row([0.0] * t) + padding, **F64)
        for n, m in enumerate(slopes):
            expected = oracle.softmax_row([-m * (t - i) for i in range(1, t + 1)]) + padding
            np.testing.assert_allclose(alibi[n, r], expected, **F64)


@few
@seeds
def test_bounds_hold_for_any_scores_within_xi(seed: int) -> None:
    rng = np.random.default_rng(seed)
    xi = rng.uniform(0, 12)
    f = rng.uniform(-xi, xi, size=20)
    # Sorted, the farthest key has the largest score: the worst there is.
    for scores in (f, np.sort(f), np.linspace(-xi, xi, 20)):
        first = oracle.first_key_mean(list(scores))
        assert first <= repeated.distance_bound(np.asarray(xi), 20) * (1 + 1e-12)  # rounding
        assert repeated.distance_bound(np.asarray(xi), 20) <= 1
        weights = np.array(oracle.softmax_row(list(scores)))
        assert weights.max() <= repeated.rope_bound(np.asarray(xi), np.array(20)) * (1 + 1e-12)


def test_first_key_bound_is_attained() -> None:
    for xi in (0.0, 0.7, 3.0):
        found = repeated.first_key_bound(np.asarray(xi), 30)
        np.testing.assert_allclose(found, oracle.worst_first_key_mean(xi, 30), **F64)
    np.testing.assert_allclose(repeated.first_key_bound(np.asarray(0.0), 64), sum(1 / t for t in range(1, 65)) / 64)


def test_thresholds() -> None:
    """The printed values; each bound is at the threshold there and rises through it."""
    assert round(repeated.sink_free_xi(64, 0.3), 2) == 1.09
    assert round(repeated.distance_sink_free_xi(64, 0.3), 2) == 8.67
    for bound, xi in (
        (repeated.first_key_bound, repeated.sink_free_xi(64, 0.3)),
        (repeated.distance_bound, repeated.distance_sink_free_xi(64, 0.3)),
    ):
        below, at, above = bound(np.array([0.99 * xi, xi, 1.01 * xi]), 64)
        assert below < 0.3 < above
        np.testing.assert_allclose(at, 0.3, **F64)


def test_second_row_of_rope_is_at_best_as_predicted() -> None:
    """Over a fine grid of phases of the fastest pair, and never more with several pairs."""
    best = 0.0
    for phase in np.linspace(0, 2 * math.pi, 721):
        f = [2.0 * math.cos(n + phase) for n in (0, 1)]
        best = max(best, *oracle.softmax_row(f))
    # The grid is pi / 720 off at most: 2 sin(1/2) (pi / 720)^2 = 2e-5 in the exponent.
    np.testing.assert_allclose(repeated.second_row_weight(np.asarray(2.0)), best, atol=2e-5)


def test_numbers_do_not_overflow() -> None:
    with np.errstate(over="raise"):
        assert repeated.distance_bound(np.asarray(1e3), 64) < 1
        assert repeated.rope_bound(np.asarray(1e3), np.array(64)) == 1


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        (
            RepeatedToken(positions="rope", window=2, sinks=1, **SMALL),
            {"states": (2, 2, 5, 8), "weights": (2, 2, 2, 3, 5), "first": (2, 2, 2), "largest": (2, 2, 2, 5)},
        ),
        (RepeatedToken(attention=SinkLogit(), **SMALL), {"sink_logit": (2, 2, 2), "mass": (2, 2, 5)}),
        (RopeHeads(1.0, instances=32), {"xi": (32,), "first": (32,), "largest": (32, 64)}),
        (DistinctFirstKey(instances=32), {"xi": (32,), "first": (32,), "largest": (32, 64)}),
        (RisingDistance(instances=32), {"xi": (32,), "first": (32,), "largest": (32, 64)}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_evidence_is_named_and_follows_from_the_seed(spec: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    with jax.enable_x64(True):
        one, again, other = (spec.arrays(seed) for seed in (3, 3, 4))
    assert {name: one[name].shape for name in shapes} == shapes
    for name, values in one.items():
        assert isinstance(values, np.ndarray), name
        assert values.dtype in (np.float64, np.int64), name
        np.testing.assert_array_equal(values, again[name])
    assert np.any(one["first"] != other["first"])
    assert spec.label


def test_a_repeated_token_in_a_window() -> None:
    """The mask is the one asked for, and the states do not mind; ReLU's do."""
    with jax.enable_x64(True):
        softmax = RepeatedToken(positions="rope", window=1, sinks=1, **SMALL).arrays(0)
        relu = RepeatedToken(attention=ReLU(), positions="rope", **SMALL).arrays(0)
    np.testing.assert_array_equal(softmax["rows"], [1, 2, 3])
    assert np.all((softmax["weights"] > 0) == np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0]], bool))
    assert np.ptp(softmax["states"], axis=2).max() < 1e-12  # rounding
    assert np.ptp(relu["states"], axis=2).max() > 1e-3
