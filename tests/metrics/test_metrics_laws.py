"""Closed forms and invariances of the array metrics, and what they do at the edge."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsink import metrics


def _uniform_causal(batch: int, heads: int, length: int) -> np.ndarray:
    rows = np.tril(np.ones((length, length))) / np.arange(1, length + 1)[:, None]
    return np.broadcast_to(rows, (batch, heads, length, length)).copy()


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_uniform_attention_gives_the_uniform_baseline(flags: list[bool]) -> None:
    where = np.array(flags).reshape(2, 6)
    with jax.enable_x64(True):
        measured = metrics.attention_to_key(_uniform_causal(2, 3, 6), where)
        baseline = np.full(3, metrics.uniform_baseline(where))
    # Both average the same 1/(i+1); only the order of at most 12 additions differs.
    np.testing.assert_allclose(measured, baseline, rtol=1e-15, equal_nan=True)


@pytest.mark.parametrize(("length", "without_own_row"), [(256, 0.0201), (64, 0.0594), (32, 0.0987)])
def test_uniform_baseline_in_closed_form(length: int, without_own_row: float) -> None:
    harmonic = sum(1.0 / i for i in range(1, length + 1))
    every = np.ones((3, length), bool)
    later = every.copy()
    later[:, 0] = False
    with jax.enable_x64(True):
        # 768 additions in float64.
        np.testing.assert_allclose(metrics.uniform_baseline(every), harmonic / length, rtol=1e-13)
        np.testing.assert_allclose(metrics.uniform_baseline(later), (harmonic - 1) / (length - 1), rtol=1e-13)
    # The published values have four decimals.
    assert float(metrics.uniform_baseline(later)) == pytest.approx(without_own_row, abs=5e-5)


def test_one_hot_attention_gives_one() -> None:
    weights = np.zeros((2, 3, 5, 5), np.float32)
    weights[:, :, :, 0] = 1.0
    every = np.ones((2, 5), bool)
    np.testing.assert_array_equal(metrics.attention_to_key(weights, every), np.ones(3))
    np.testing.assert_array_equal(metrics.attention_to_key(weights, every, key=4), np.zeros(3))
    previous = np.zeros((2, 3, 5, 5), np.float32)
    previous[:, :, np.arange(1, 5), np.arange(4)] = 1.0
    np.testing.assert_array_equal(metrics.attention_to_previous(previous, every), np.ones(3))


def test_attention_to_key_takes_fewer_queries_than_keys() -> None:
    weights = np.zeros((1, 1, 2, 5), np.float32)
    weights[0, 0, :, 3] = [0.25, 0.75]
    assert metrics.attention_to_key(weights, np.ones((1, 2), bool), key=3)[0] == 0.5


@pytest.mark.parametrize("shift", [1.0, -300.0])
def test_logit_gap_ignores_a_constant_on_all_logits(shift: float) -> None:
    scores, where = _normal(2, 3, 6, 6), np.ones((2, 6), bool)
    tokens = np.arange(12, dtype=np.int32).reshape(2, 6) % 3
    # Adding 300 rounds each logit to 300 * 6e-8 = 1.8e-5; the gap itself must add nothing to that.
    tolerance: dict[str, Any] = {"rtol": 0.0, "atol": 4e-5}
    np.testing.assert_allclose(
        metrics.sink_logit_gap(scores + np.float32(shift), where),
        metrics.sink_logit_gap(scores, where),
        **tolerance,
    )
    np.testing.assert_allclose(
        metrics.sink_logit_gap_by_token(scores + np.float32(shift), tokens, 3),
        metrics.sink_logit_gap_by_token(scores, tokens, 3),
        **tolerance,
    )


def test_logit_gap_moves_with_the_sink_logit_alone() -> None:
    scores, where = _normal(2, 3, 6, 6), np.ones((2, 6), bool)
    raised = scores.copy()
    raised[:, :, :, 0] += 2.0
    # A shift of 2 on logits of size 1 costs one float32 rounding of about 2e-7 each.
    np.testing.assert_allclose(
        metrics.sink_logit_gap(raised, where) - metrics.sink_logit_gap(scores, where),
        np.full(3, 2.0),
        rtol=1e-6,
    )


def test_constant_sink_logits_are_fully_concentrated() -> None:
    scores, where = _normal(2, 3, 6, 6), np.ones((2, 6), bool)
    scores[:, :, :, 0] = 4.0
    result = metrics.logit_concentration(scores, where)
    np.testing.assert_array_equal(result.sink_std, np.zeros(3))
    np.testing.assert_array_equal(result.sink_mean, np.full(3, 4.0))
    assert np.all(np.asarray(result.other_std) > 0.5)


def test_concentration_survives_large_logits() -> None:
    scores, where = _normal(2, 1, 8, 8), np.ones((2, 8), bool)
    plain, shifted = (
        metrics.logit_concentration(scores, where),
        metrics.logit_concentration(scores + 1000, where),
    )
    # Logits near 1000 are rounded to 6e-5; a one-pass variance would be off by 1000^2 * 6e-8 = .06.
    np.testing.assert_allclose(shifted.sink_std, plain.sink_std, atol=2e-4)
    np.testing.assert_allclose(shifted.other_std, plain.other_std, atol=2e-4)


def test_triggers_are_the_types_that_leave_the_sink() -> None:
    tokens = np.array([[3, 0, 1, 2, 0, 1]], np.int32)
    to_sink = np.array([1.0, 0.95, 0.05, 0.9, 0.97, 0.1], np.float32)
    weights = np.zeros((1, 1, 6, 6), np.float32)
    weights[0, 0, :, 0] = to_sink
    weights[0, 0, np.arange(6), np.arange(6)] += 1.0 - to_sink
    # Token 1 is active, 0 and 2 are dormant, the start token 3 only occurs at position 0.
    np.testing.assert_array_equal(metrics.detect_triggers(weights, tokens, 4)[0], [False, True, False, False])
    by_token = np.asarray(metrics.attention_to_key_by_token(weights, tokens, 4)[0])
    # Means of two float32 numbers.
    np.testing.assert_allclose(by_token, [0.96, 0.075, 0.9, np.nan], rtol=1e-6)
    assert metrics.detect_triggers(weights, tokens, 4, cutoff=0.93)[0, 2]


# A power of two scales floats exactly; the other factors round once per number (6e-8).
@pytest.mark.parametrize(("factor", "rtol"), [(4.0, 0.0), (0.3, 1e-5), (100.0, 1e-5)])
def test_value_ratio_ignores_the_scale_of_the_values(factor: float, rtol: float) -> None:
    values, w_o, where = _normal(2, 7, 2, 3), _normal(4, 3, 6, seed=1), np.ones((2, 7), bool)
    plain = metrics.value_ratio(metrics.value_output_norms(values, w_o), where)
    scaled = metrics.value_ratio(metrics.value_output_norms(np.float32(factor) * values, w_o), where)
    np.testing.assert_allclose(scaled, plain, rtol=rtol)


def test_value_ratio_takes_the_median_per_sequence() -> None:
    norms = np.array([[1.0, 2.0, 4.0, 100.0], [3.0, 6.0, 2.0, 50.0]], np.float32)
    where = np.array([[False, True, True, True], [False, True, True, False]])
    # 1/4 and 3/((2+6)/2), all exact in float32.
    assert float(metrics.value_ratio(norms, where)) == 0.5
    assert float(metrics.value_ratio(norms, where, key=1)) == 1.0


def test_value_ratio_does_not_hide_a_broken_norm() -> None:
    norms = np.array([[1.0, 2.0, np.nan, 3.0]], np.float32)
    assert np.isnan(metrics.value_ratio(norms, np.array([[False, True, True, True]])))
    assert float(metrics.value_ratio(norms, np.array([[False, True, False, True]]))) == pytest.approx(0.4)


def test_grouped_value_norms_equal_repeated_heads() -> None:
    values, w_o = _normal(2, 5, 2, 3), _normal(6, 3, 7, seed=1)
    grouped = metrics.value_output_norms(values, w_o)
    repeated = metrics.value_output_norms(np.repeat(values, 3, axis=2), w_o)
    # Sums of 18 float32 products in another order.
    np.testing.assert_allclose(grouped, repeated, rtol=1e-5)


def test_peak_ratio_survives_a_large_peak() -> None:
    norms = np.full((1, 4), 0.1, np.float32)
    norms[0, 0] = 1e7
    # Taking the peak back out of the total would lose norms of .1 beside 1e7 altogether.
    assert float(metrics.peak_ratio(norms)) == pytest.approx(1e8, rel=1e-6)
    assert float(metrics.peak_ratio(3 * norms)) == pytest.approx(1e8, rel=1e-6)


def test_flat_norms_have_no_peak() -> None:
    norms = metrics.residual_norms(np.full((2, 5, 4), 0.5, np.float32))
    np.testing.assert_array_equal(norms, np.ones((2, 5)))
    assert float(metrics.peak_ratio(norms)) == 1.0
    assert float(metrics.norm_at(norms, np.eye(2, 5) > 0)) == 1.0


def _risk_example(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A law with zeros, and the matching exact log-probabilities, which are -inf there."""
    rng = np.random.default_rng(seed)
    law = rng.random((2, 4, 5)) * (rng.random((2, 4, 5)) < 0.6)
    law[:, :, 0] += 0.1
    law = (law / law.sum(axis=2, keepdims=True)).astype(np.float32)
    with np.errstate(divide="ignore"):
        return np.log(law), law


def test_the_law_itself_has_no_excess_risk() -> None:
    log_law, law = _risk_example()
    # numpy's and XLA's logarithms may differ in the last place, 1e-7 of a logarithm of size 1.
    assert float(metrics.excess_risk(log_law, law, np.ones((2, 4), bool))) == pytest.approx(0.0, abs=1e-6)
    own_log = jnp.log(jnp.asarray(law))
    assert float(metrics.excess_risk(own_log, law, np.ones((2, 4), bool))) == 0.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), closeness=st.floats(0.0, 1.0))
def test_excess_risk_is_not_negative(seed: int, closeness: float) -> None:
    rng = np.random.default_rng(seed)
    _, law = _risk_example(seed)
    other = rng.dirichlet(np.ones(5), size=(2, 4)).astype(np.float32)
    mixed = np.float32(closeness) * law + np.float32(1 - closeness) * other
    with np.errstate(divide="ignore"):
        log_probs = np.log(mixed)
    # A law is normalised up to 5 roundings of 6e-8, which shift the divergence by as much.
    assert float(metrics.excess_risk(log_probs, law, np.ones((2, 4), bool))) >= -1e-6


def test_certain_law_gives_the_cross_entropy() -> None:
    law = np.zeros((1, 2, 4), np.float32)
    law[0, :, 2] = 1.0
    uniform = np.full((1, 2, 4), -np.log(4.0), np.float32)
    # One float32 logarithm.
    assert float(metrics.excess_risk(uniform, law, np.ones((1, 2), bool))) == pytest.approx(np.log(4), rel=1e-6)


def test_missing_a_possible_token_costs_infinity() -> None:
    law = np.full((1, 1, 2), 0.5, np.float32)
    log_probs = np.array([[[0.0, -np.inf]]], np.float32)
    assert float(metrics.excess_risk(log_probs, law, np.ones((1, 1), bool))) == np.inf


def test_a_broken_law_is_not_hidden() -> None:
    law = np.array([[[1.0, np.nan]]], np.float32)
    assert np.isnan(metrics.excess_risk(np.zeros((1, 1, 2), np.float32), law, np.ones((1, 1), bool)))


def test_gradient_of_excess_risk_is_finite_where_the_law_is_zero() -> None:
    log_law, law = _risk_example()
    where = np.ones((2, 4), bool)
    where[0, 1] = False
    assert np.isinf(log_law).any()
    gradient = np.asarray(jax.grad(metrics.excess_risk)(log_law, law, where))
    expected = -law * where[:, :, None] / where.sum()
    # One division per entry.
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    by_law = np.asarray(jax.grad(metrics.excess_risk, argnums=1)(log_law, law, where))
    assert np.isfinite(by_law).all()


def test_gradient_of_the_logit_gap_is_finite_under_a_causal_mask() -> None:
    scores = np.where(np.tril(np.ones((5, 5), bool)), _normal(2, 3, 5, 5), -np.inf)
    gradient = jax.grad(lambda s: jnp.sum(metrics.sink_logit_gap(s, np.ones((2, 5), bool))))(scores)
    assert np.isfinite(np.asarray(gradient)).all()
    assert np.abs(np.asarray(gradient)).max() > 0


def test_valid_input_makes_no_nan_on_the_way() -> None:
    scores = np.where(np.tril(np.ones((5, 5), bool)), _normal(1, 1, 5, 5), -np.inf)
    where = np.ones((1, 5), bool)
    with jax.debug_nans(True):
        assert np.isfinite(metrics.sink_logit_gap(scores, where)).all()
        assert np.isfinite(metrics.value_ratio(np.ones((1, 5), np.float32), where))


def test_no_such_query_is_nan() -> None:
    weights, none = _uniform_causal(2, 3, 4).astype(np.float32), np.zeros((2, 4), bool)
    first = none.copy()
    first[:, 0] = True
    early = first.copy()
    early[:, 1] = True
    norms = np.ones((2, 4), np.float32)
    log_probs = np.zeros((2, 4, 1), np.float32)
    empty = [
        metrics.excess_risk(log_probs, np.exp(log_probs), none),
        metrics.attention_to_key(weights, none),
        metrics.attention_to_previous(weights, first),
        metrics.uniform_baseline(none),
        metrics.sink_logit_gap(weights, early),
        *metrics.logit_concentration(weights, early),
        metrics.value_ratio(norms, first & (np.arange(2) == 0)[:, None]),
        metrics.norm_at(norms, none),
        metrics.peak_ratio(norms[:, :1]),
        metrics.attention_to_key(weights[:0], none[:0]),
    ]
    for value in empty:
        assert np.isnan(value).all()
