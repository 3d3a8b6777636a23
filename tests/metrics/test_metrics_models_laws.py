"""Closed forms, invariances and edges of the metrics of pretrained models."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import metrics_models as oracle

from jaxsink import metrics
from jaxsink.attention import Causal, Segments, attend_with_aux

# Sums of some dozens of float32 terms of size 1.
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _causal_maps(*shape: int, seed: int = 0) -> np.ndarray:
    raw = np.tril(np.exp(_normal(*shape, seed=seed)))
    return (raw / raw.sum(axis=-1, keepdims=True)).astype(np.float32)


def _all(batch: int, length: int) -> np.ndarray:
    return np.ones((batch, length), bool)


def test_uniform_attention_has_no_sink() -> None:
    length = 64
    weights = (
        np.tril(np.ones((1, 2, 3, length, length), np.float32)) / np.arange(1, length + 1, dtype=np.float32)[:, None]
    )
    received = metrics.attention_received(weights, _all(1, length), causal=True)
    # Key k is one of i + 1 for each query i >= k: (H_T - H_k) / (T - k) with harmonic numbers H.
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, length + 1))])
    expected = (harmonic[-1] - harmonic[:-1]) / (length - np.arange(length))
    np.testing.assert_allclose(received, np.broadcast_to(expected, (1, 2, 3, length)), **CLOSE)
    assert float(received[0, 0, 0, 0]) == pytest.approx(0.0741, abs=5e-5)  # the published value has four decimals
    assert not np.any(metrics.sink_rate(received, _all(1, length)))
    even = np.full((1, 1, 4, 4), 0.25, np.float32)
    np.testing.assert_array_equal(metrics.attention_received(even, _all(1, 4), causal=False), even[:, :, 0])


@pytest.mark.parametrize("causal", [True, False])
def test_all_that_is_given_is_received(causal: bool) -> None:
    valid = np.array([[True] * 6, [True] * 4 + [False] * 2])
    weights = _causal_maps(2, 3, 6, 6)
    received = metrics.attention_received(weights, valid, causal=causal)
    seen = np.asarray(metrics.seen_by(valid, causal=causal), np.float32)[:, None]
    # Every valid query gives 1 in all, to tokens it sees.
    np.testing.assert_allclose(
        np.sum(np.asarray(received) * seen, -1), np.broadcast_to([[6.0], [4.0]], (2, 3)), **CLOSE
    )


def test_each_sequence_is_judged_before_the_average() -> None:
    received = np.array([0.8, 0.0], np.float32).reshape(2, 1, 1)
    # The averaged map, .4, has a sink.
    assert float(metrics.sink_rate(received, _all(2, 1))[0]) == 0.5
    assert float(metrics.sink_rate(received, _all(2, 1), epsilon=0.8)[0]) == 0.0
    assert float(metrics.sink_rate(received, _all(2, 1), epsilon=0.79)[0]) == 0.5
    assert np.isnan(metrics.sink_rate(received, ~_all(2, 1))).all()


@pytest.mark.parametrize("left", [0, 2])
def test_streamed_sums_give_the_numbers_of_the_whole_map(left: int) -> None:
    batch, length, heads, size = 2, 9, 4, 8
    q, k, v = (
        _normal(batch, length, heads, size),
        _normal(batch, length, 2, size, seed=1),
        _normal(batch, length, 2, size),
    )
    valid = np.stack([np.arange(length) >= left, np.arange(length) < length - 3])
    segments = jnp.asarray(valid.astype(np.int32))
    first = np.argmax(valid, axis=1)[:, None, None] == np.arange(length)[None, None, :]
    mask = Causal() & Segments(segments, segments)
    call = {"mask": mask, "groups": first}
    _, streamed = attend_with_aux(q, k, v, **call, backend="chunked", want=("received", "entropy", "on_groups"))
    _, whole = attend_with_aux(q, k, v, **call, backend="reference", want=("weights", "on_groups"))
    weights = np.asarray(whole.weights)
    np.testing.assert_allclose(
        metrics.mean_received(streamed.received, valid, causal=True),
        metrics.attention_received(weights, valid, causal=True),
        **CLOSE,
    )
    np.testing.assert_allclose(streamed.entropy, metrics.attention_entropy(weights), **CLOSE)
    outputs = np.einsum("bnts,bsnh->btnh", weights, np.repeat(v, 2, axis=2))
    scores = [
        metrics.head_scores(on_first, entropy, v, outputs, valid)
        for on_first, entropy in (
            (streamed.on_groups[..., 0], streamed.entropy),
            (np.where(first[:, :, None], weights, 0).sum(-1), metrics.attention_entropy(weights)),
        )
    ]
    for one, other in zip(*scores, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)
    # The mean weight on the first token is what it receives.
    received = metrics.attention_received(weights, valid, causal=True)
    at_first = np.take_along_axis(np.asarray(received), np.argmax(valid, axis=1)[:, None, None], axis=-1)[..., 0]
    np.testing.assert_allclose(scores[0].first_weight, at_first, **CLOSE)


def _on_tokens(valid: np.ndarray, seed: int = 0) -> dict[str, Callable[[], Any]]:
    """Metrics without an axis of tokens, on the same tokens wherever padding stands; padding is NaN."""
    rng, tokens = np.random.default_rng(seed), int(valid[0].sum())

    def spread(*shape: int, axis: int, fill: float = np.nan) -> np.ndarray:
        array = rng.normal(size=shape).astype(np.float32)
        out = np.full([valid.shape[1] if i == axis % len(shape) else n for i, n in enumerate(shape)], fill, np.float32)
        moved = np.moveaxis(out, axis, 1)
        moved[:, valid[0]] = np.moveaxis(array, axis, 1)
        return out

    maps = _causal_maps(2, 2, 4, tokens, tokens)
    weights = np.full((*maps.shape[:-2], valid.shape[1], valid.shape[1]), np.nan, np.float32)
    # Rows of padding hold anything, columns of padding the 0 that a mask puts there.
    weights[..., valid[0], :] = 0.0
    weights[..., np.ix_(valid[0], valid[0])[0], np.ix_(valid[0], valid[0])[1]] = maps
    received = metrics.attention_received(weights, valid, causal=True)
    values, outputs = spread(2, 2, tokens, 2, 3, axis=-3), spread(2, 2, tokens, 4, 3, axis=-3)
    resid = spread(2, 2, tokens, 5, axis=-2)
    norms = np.asarray(metrics.value_norms_by_head(values, 4))
    first = int(np.argmax(valid[0]))
    later = metrics.queries_after(valid, causal=True)
    return {
        "sink_rate": lambda: metrics.sink_rate(received, valid, key=1, epsilon=0.2),
        "head_scores": lambda: metrics.head_scores(
            weights[..., first], metrics.attention_entropy(weights), values, outputs, valid
        ),
        "kurtosis": lambda: metrics.kurtosis(resid, valid),
        "infinity_norm": lambda: metrics.infinity_norm(resid, valid),
        "max_median_ratio": lambda: metrics.max_median_ratio(resid, valid),
        "largest_activations": lambda: metrics.largest_activations(resid, valid).value,
        "massive_activations": lambda: metrics.massive_activations(resid, valid, 1.0, 1.0).sum(axis=(-2, -1)),
        "matrix_entropy": lambda: metrics.matrix_entropy(resid, valid),
        "stable_rank": lambda: metrics.stable_rank(resid, valid),
        "waiver_element": lambda: metrics.waiver_element(received, norms, valid),
        "sink_mechanism": lambda: metrics.sink_mechanism(values, outputs, valid, key=1),
        "sink_contribution": lambda: metrics.sink_contribution(weights[..., first], norms[..., first], outputs, later),
        "secondary_sinks": lambda: metrics.secondary_sinks(received, valid, 0.2).sum(axis=-1),
        "aligned_with_first": lambda: metrics.aligned_with_first(resid, valid, 0.3).sum(axis=-1),
        "peak_ratio": lambda: metrics.peak_ratio(metrics.residual_norms(resid), first, valid),
        "value_ratio": lambda: metrics.value_ratio(metrics.value_norms(values), later, first),
    }


@pytest.mark.parametrize("name", _on_tokens(_all(2, 3)))
def test_padding_changes_nothing(name: str) -> None:
    tokens = 6
    plain = _on_tokens(_all(2, tokens))[name]()
    for left, right in ((2, 0), (0, 2), (1, 1)):
        valid = np.pad(_all(2, tokens), [(0, 0), (left, right)])
        for one, other in zip(jax.tree.leaves(_on_tokens(valid)[name]()), jax.tree.leaves(plain), strict=True):
            assert np.isfinite(other).all()
            np.testing.assert_allclose(one, other, **CLOSE)


def test_the_last_key_is_its_own_sink_unless_left_out() -> None:
    weights = np.zeros((1, 1, 8, 8), np.float32)
    weights[..., 0] = 0.6
    weights[..., np.arange(8), np.arange(8)] += 0.4
    weights[..., 7, :] = np.eye(8)[7]
    received = metrics.attention_received(weights, _all(1, 8), causal=True)
    seen = np.asarray(metrics.seen_by(_all(1, 8), causal=True), np.float32)
    assert metrics.sink_position(received, _all(1, 8)) == 7
    assert metrics.sink_position(received, seen >= 2) == 0
    assert metrics.sink_position(np.asarray(received) * seen, _all(1, 8)) == 0
    assert metrics.sink_position(received, ~_all(1, 8)) == -1


def test_secondary_sinks_come_after_the_first() -> None:
    received = np.array([0.9, 0.1, 0.3, 0.4, 0.31], np.float32).reshape(1, 1, 5)
    where = np.array([[True, True, True, True, False]])
    np.testing.assert_array_equal(metrics.secondary_sinks(received, where)[0, 0], [False, False, False, True, False])
    resid = np.array([[2.0, 0.0], [-4.0, 0.1], [1.0, 1.0], [0.0, 0.0]], np.float32)[None]
    np.testing.assert_array_equal(metrics.aligned_with_first(resid, _all(1, 4))[0], [False, True, False, False])


def test_massive_activations_are_above_both_bounds() -> None:
    resid = np.full((1, 3, 5), 0.1, np.float32)
    resid[0, 0, 3], resid[0, 1, 2], resid[0, 2, 4] = -3024.0, 100.0, 101.0
    expected = np.zeros((1, 3, 5), bool)
    expected[0, 0, 3] = expected[0, 2, 4] = True
    np.testing.assert_array_equal(metrics.massive_activations(resid, _all(1, 3)), expected)
    # Twice the median, and 101 is below 1000 times it.
    expected[0, 2, 4] = False
    np.testing.assert_array_equal(metrics.massive_activations(np.where(resid == 0.1, 0.2, resid), _all(1, 3)), expected)
    largest = metrics.largest_activations(resid, _all(1, 3), k=2)
    np.testing.assert_array_equal(largest.value[0], np.float32([-3024.0, 101.0]))
    np.testing.assert_array_equal(largest.position[0], [0, 2])
    np.testing.assert_array_equal(largest.dimension[0], [3, 4])
    top = metrics.top_dimensions(resid, k=1)
    assert int(top.dimension[0, 0, 0]) == 3
    assert float(top.share[0, 0, 0]) == pytest.approx(1.0, abs=1e-6)


# A power of two scales floats exactly.
@pytest.mark.parametrize("factor", [4.0, 2.0**-6])
def test_shape_of_the_residual_stream_ignores_its_scale(factor: float) -> None:
    resid, valid = _normal(2, 7, 5), _all(2, 7)
    scaled = np.float32(factor) * resid
    for metric in (metrics.max_median_ratio, metrics.anisotropy, metrics.stable_rank):
        np.testing.assert_allclose(metric(scaled, valid), metric(resid, valid), rtol=1e-6)
    np.testing.assert_array_equal(metrics.top_dimensions(scaled, 2).share, metrics.top_dimensions(resid, 2).share)
    # Not the published kurtosis: it adds 1e-6 to the fourth power of the deviation.
    tiny = metrics.kurtosis(np.float32(1e-3) * resid, valid)
    assert np.all(np.asarray(tiny) < 0.01)


def test_gaussian_entries_have_kurtosis_three() -> None:
    # Its standard error is sqrt(24 / n) = .009 for n = 64 * 4096.
    x, valid = _normal(1, 64, 4096), _all(1, 64)
    assert float(metrics.kurtosis(x, valid)[0]) == pytest.approx(3.0, abs=0.03)
    # A shift of 8 rounds each entry to 5e-7.
    np.testing.assert_allclose(metrics.kurtosis(x + np.float32(8), valid), metrics.kurtosis(x, valid), rtol=1e-4)


def test_float32_survives_massive_activations() -> None:
    resid, valid = _normal(2, 96, 64), _all(2, 96)
    resid[:, 0, [3, 40]] = [[9000.0, -4000.0], [7000.0, 3000.0]]
    # Sums of 6144 float32 terms that one of them dominates.
    np.testing.assert_allclose(metrics.kurtosis(resid, valid), oracle.kurtosis(resid, valid), rtol=1e-5)
    np.testing.assert_allclose(metrics.max_median_ratio(resid, valid), oracle.max_median_ratio(resid, valid), rtol=1e-6)
    np.testing.assert_array_equal(metrics.massive_activations(resid, valid), oracle.massive_activations(resid, valid))
    resid[:, 0] *= 10
    entropy = oracle.matrix_entropy(resid, valid)
    # Singular values of 8 beside 1e5, whose rounding is .006, average to a few 1e-6 of an entropy of 1e-5.
    np.testing.assert_allclose(metrics.matrix_entropy(resid, valid), entropy, rtol=5e-5)
    # Control: the logarithm of a share that is 1 up to rounding.
    energy = np.linalg.svd(resid, compute_uv=False) ** 2
    shares = energy / energy.sum(axis=-1, keepdims=True)
    assert np.all(np.abs(-np.sum(shares * np.log(shares), axis=-1) / entropy - 1) > 1e-3)


def test_spectrum_in_closed_form() -> None:
    orthogonal = np.linalg.qr(_normal(6, 6))[0].astype(np.float32)
    rows = np.concatenate([3 * orthogonal[:4], np.ones((2, 6), np.float32)])[None]
    valid = np.array([[True] * 4 + [False] * 2])
    # Four singular values of 3.
    np.testing.assert_allclose(metrics.matrix_entropy(rows, valid), [np.log(4)], **CLOSE)
    np.testing.assert_allclose(metrics.anisotropy(rows, valid), [0.25], **CLOSE)
    np.testing.assert_allclose(metrics.stable_rank(rows, valid), [4.0], **CLOSE)
    one = np.outer(_normal(5), _normal(6, seed=1))[None]
    np.testing.assert_allclose(metrics.matrix_entropy(one, _all(1, 5)), [0.0], atol=1e-6)
    np.testing.assert_allclose(metrics.stable_rank(one, _all(1, 5)), [1.0], **CLOSE)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), peak=st.floats(0.1, 100.0))
def test_a_massive_token_bounds_the_largest_singular_value(seed: int, peak: float) -> None:
    resid = _normal(1, 6, 5, seed=seed)
    resid[:, 0] *= np.float32(peak)
    norms, first = np.sum(resid[0].astype(np.float64) ** 2, -1), resid[0, 0].astype(np.float64)
    others = float(norms[1:].sum())
    cosines = (resid[0, 1:] @ first) ** 2 / (norms[1:] * norms[0])
    alpha = float(norms[1:] @ cosines) / others
    # sigma_1^2 >= M + alpha R (2510.06477), divided by the sum M + R; a few float32 roundings.
    bound = (norms[0] + alpha * others) / (norms[0] + others)
    assert float(metrics.anisotropy(resid, _all(1, 6))[0]) >= bound - 1e-6


def test_nop_and_broadcast_leave_their_traces() -> None:
    values, valid = _normal(1, 16, 3, 4), _all(1, 16)
    values[:, 0, 0] *= 0.01
    weights = np.zeros((1, 3, 16, 16), np.float32)
    weights[:, :2, :, 0] = 1.0
    weights[:, 2] = _causal_maps(1, 16, 16)
    weights[:, 2] = np.where(np.eye(16), 0.9, 0.1 * weights[:, 2])
    outputs = np.einsum("bnts,bsnh->btnh", weights, values)
    traces = metrics.sink_mechanism(values, outputs, valid)
    assert float(traces.value_ratio[0, 0]) < metrics.NOP_VALUE_RATIO < float(traces.value_ratio[0, 1])
    np.testing.assert_allclose(traces.stable_rank[0, :2], [1.0, 1.0], **CLOSE)
    # A head that attends to itself has a rank of several.
    assert float(traces.stable_rank[0, 2]) > 1.5
    scores = metrics.head_scores(weights[..., 0], metrics.attention_entropy(weights), values, outputs, valid)
    assert int(np.argmin(metrics.layer_normalised(scores.output_norm))) == 0
    # All of the output is the sink's, or next to none.
    added = metrics.sink_contribution(weights[..., 0], scores.first_value_norm, outputs, valid)
    np.testing.assert_allclose(added[0, :2], [1.0, 1.0], **CLOSE)
    assert float(added[0, 2]) < 0.5


def test_heads_are_compared_within_their_layer() -> None:
    scores = np.abs(_normal(3, 5)) + np.float32(0.1)
    np.testing.assert_allclose(np.mean(metrics.layer_normalised(scores), axis=-1), np.ones(3), **CLOSE)
    # The published score of the last output is divided by the mean of all outputs.
    np.testing.assert_allclose(
        metrics.layer_normalised(scores, 2 * scores), metrics.layer_normalised(scores) / 2, **CLOSE
    )


def test_rank_correlation_reads_the_order_alone() -> None:
    x, where = _normal(2, 3, 9), _all(2, 9)
    y = _normal(2, 3, 9, seed=1)
    np.testing.assert_array_equal(
        metrics.rank_correlation(np.exp(x), y**3, where), metrics.rank_correlation(x, y, where)
    )
    np.testing.assert_allclose(metrics.rank_correlation(x, -np.exp(x), where), -np.ones((2, 3)), **CLOSE)
    # Equal ranks of 10001 tokens: their mean must come out as one of them.
    many = _normal(1, 10_001)
    assert float(metrics.rank_correlation(np.ones_like(many), np.ones_like(many), _all(1, 10_001))[0]) == 0.0


def test_value_norms_of_the_heads_add_up() -> None:
    values = _normal(2, 5, 2, 3)
    by_head = np.asarray(metrics.value_norms_by_head(values, 2))
    np.testing.assert_allclose(np.sqrt(np.sum(by_head**2, axis=1)), metrics.value_norms(values), **CLOSE)
    np.testing.assert_array_equal(metrics.value_norms_by_head(values, 6), np.repeat(by_head, 3, axis=1))


def test_nothing_to_measure_is_a_number_or_a_stated_nan() -> None:
    valid, zeros = _all(1, 3), np.zeros((1, 3, 4), np.float32)
    heads, weights = np.zeros((1, 3, 2, 4), np.float32), np.zeros((1, 2, 3, 3), np.float32)
    with jax.debug_nans(True):
        received = metrics.attention_received(weights, valid, causal=True)
        entropy = metrics.attention_entropy(weights)
        scores = metrics.head_scores(weights[..., 0], entropy, heads, heads, valid)
        element = metrics.waiver_element(received, received, valid)
        mechanism = metrics.sink_mechanism(heads, heads, valid)
        none = [received, entropy, metrics.attention_shares(weights), *scores, metrics.sink_rate(received, valid)]
        none += [
            metrics.kurtosis(zeros, valid),
            metrics.matrix_entropy(zeros, valid),
            metrics.stable_rank(zeros, valid),
        ]
        none += [metrics.anisotropy(zeros, valid), metrics.top_dimensions(zeros).share, element.rank_correlation]
        none += [metrics.sink_contribution(weights[..., 0], received[..., 0], heads, valid), mechanism.stable_rank]
        none += [metrics.massive_activations(zeros, valid), metrics.aligned_with_first(zeros, valid)]
        equal = [metrics.max_median_ratio(zeros, valid), metrics.layer_normalised(received[..., 0])]
        equal += [element.value_ratio, mechanism.value_ratio]
    for result in none:
        np.testing.assert_array_equal(result, np.zeros_like(result))
    for result in equal:
        np.testing.assert_array_equal(result, np.ones_like(result))
    for stated in (
        *metrics.head_scores(weights[..., 0], entropy, heads, heads, ~valid),
        *metrics.waiver_element(received, received, ~valid)[:2],
        metrics.sink_mechanism(heads, heads, ~valid).value_ratio,
        # A second token is missing, although padding has numbers.
        metrics.sink_mechanism(heads + 1, heads, np.array([[False, False, True]]), key=1).value_ratio,
        metrics.max_median_ratio(zeros, ~valid),
        metrics.kurtosis(zeros, ~valid),
        metrics.infinity_norm(zeros, ~valid),
        metrics.sink_contribution(weights[..., 0], received[..., 0], heads, ~valid),
    ):
        assert np.isnan(stated).all()
