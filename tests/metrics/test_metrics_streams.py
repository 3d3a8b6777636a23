"""However samples are split into batches and padded, a stream ends at the mean over all of them."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import metrics as oracle
from oracles import metrics_models as model_oracle

from jaxsink import metrics

SAMPLES, LAYERS, HEADS, LENGTH = 6, 2, 3, 5
# What a stream is told to hold here. Its last axis is T for the profile alone.
SHAPES = {"sink_mass": (LAYERS, HEADS), "received": (LAYERS, HEADS, LENGTH)}
UPDATES = {
    "sink_mass": metrics.update_sink_mass,
    "received": metrics.update_received,
    "value_ratio": metrics.update_value_ratio,
    "norm_at": metrics.update_norm_at,
    "norm_of_others": metrics.update_norm_of_others,
}
JITTED = {name: jax.jit(update) for name, update in UPDATES.items()}
each_stream = pytest.mark.parametrize("name", UPDATES)
# At most 30 terms of size 1, added in two orders.
FLOAT32: dict[str, Any] = {"rtol": 2e-6, "atol": 1e-6}


class Samples(NamedTuple):
    """values [B, L, ..., T] per token and which tokens there are [B, T]; the values of the others are NaN."""

    values: np.ndarray
    valid: np.ndarray


def _samples(name: str, valid: np.ndarray, seed: int) -> Samples:
    per_head = (HEADS,) if name in SHAPES else ()
    values = np.random.default_rng(seed).uniform(0.1, 1.0, size=(len(valid), LAYERS, *per_head, valid.shape[1]))
    mask = valid.reshape(len(valid), *[1] * (values.ndim - 2), -1)
    return Samples(np.where(mask, values, np.nan).astype(np.float32), valid)


def _padded(samples: Samples, left: int, right: int) -> Samples:
    def pad(array: np.ndarray, fill: Any) -> np.ndarray:
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(left, right)], constant_values=fill)

    return Samples(pad(samples.values, np.nan), pad(samples.valid, False))


def _streamed(name: str, batches: Sequence[Samples]) -> np.ndarray:
    shape = SHAPES.get(name, (LAYERS,))
    if name == "received":
        shape = (*shape[:-1], batches[0].valid.shape[1])
    state = metrics.init_mean(shape)
    for batch in batches:
        state = JITTED[name](state, *batch)
    return np.asarray(metrics.finalise_mean(state))


def _ratio_to_others(row: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """Value at the first token and median of the other tokens of one sample, by the oracle of the toy model."""
    first, *others = np.flatnonzero(valid)
    at, rest = float(row[first]), np.isin(np.arange(len(row)), others)
    return at, at / oracle.value_ratio(row[None], rest[None], key=int(first))


def _expected(name: str, samples: Samples) -> np.ndarray:
    values, valid = samples.values.astype(np.float64), samples.valid
    if name == "sink_mass":
        by_layer = np.swapaxes(values, 0, 1)[..., None]
        return np.array([oracle.attention_to_key(weights, valid) for weights in by_layer])
    if name == "received":
        kept = [[row[..., mask][..., i] for row, mask in zip(values, valid, strict=True) if mask.sum() > i]
                for i in range(LENGTH)]  # fmt: skip
        return np.stack([np.mean(each, axis=0) if each else np.full(values.shape[1:-1], np.nan) for each in kept], -1)
    pick: dict[str, Callable[[float, float], float]] = {
        "value_ratio": lambda at, median: at / median,
        "norm_at": lambda at, median: at,
        "norm_of_others": lambda at, median: median,
    }
    judged = [b for b in range(len(valid)) if valid[b].sum() > 1]
    return np.array(
        [
            np.mean([pick[name](*_ratio_to_others(values[b, layer], valid[b])) for b in judged]) if judged else np.nan
            for layer in range(LAYERS)
        ]
    )


@each_stream
@settings(max_examples=25, deadline=None)
@given(
    valid=hnp.arrays(bool, (SAMPLES, LENGTH)),
    seed=st.integers(0, 2**32 - 1),
    cut=st.sampled_from([(), (3,), (3, 3), (1, 2, 3)]),
)
def test_any_split_gives_the_mean_over_all_samples(
    name: str, valid: np.ndarray, seed: int, cut: tuple[int, ...]
) -> None:
    samples = _samples(name, valid, seed)
    bounds = [0, *cut, SAMPLES]
    batches = [Samples(*(a[i:j] for a in samples)) for i, j in pairwise(bounds)]
    np.testing.assert_allclose(_streamed(name, batches), _expected(name, samples), equal_nan=True, **FLOAT32)


@each_stream
@pytest.mark.parametrize(("left", "right"), [(2, 0), (0, 2), (1, 1)])
def test_padding_changes_nothing(name: str, left: int, right: int) -> None:
    samples = _samples(name, np.random.default_rng(1).random((SAMPLES, LENGTH)) < 0.7, seed=2)
    nobody = Samples(np.full_like(samples.values, np.nan), np.zeros_like(samples.valid))
    padded = _streamed(name, [_padded(samples, left, right), _padded(nobody, left, right)])
    if name == "received":
        assert np.isnan(padded[..., LENGTH:]).all()
        padded = padded[..., :LENGTH]
    np.testing.assert_allclose(padded, _streamed(name, [samples]), equal_nan=True, **FLOAT32)


def test_sink_mass_is_that_of_the_whole_maps() -> None:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(LENGTH), size=(SAMPLES, HEADS, LENGTH)).astype(np.float32)
    valid = np.arange(LENGTH) < rng.integers(2, LENGTH + 1, size=(SAMPLES, 1))
    for causal in (True, False):
        where = metrics.queries_after(valid, causal=causal)
        state = metrics.init_mean((HEADS,))
        for half in (slice(0, 2), slice(2, None)):
            state = metrics.update_sink_mass(state, weights[half][..., 0], where[half])
        whole = metrics.attention_to_key(weights, where)
        np.testing.assert_allclose(metrics.finalise_mean(state), whole, **FLOAT32)


def test_published_sink_rate_streams_as_a_mean_of_verdicts() -> None:
    rng = np.random.default_rng(3)
    received = rng.random((SAMPLES, HEADS, LENGTH)).astype(np.float32)
    valid = np.ones((SAMPLES, LENGTH), bool)
    state = metrics.init_mean((HEADS,))
    for half in (slice(0, 4), slice(4, None)):
        verdicts = (received[half][..., :1] > metrics.SINK_EPSILON).astype(np.float32)
        state = metrics.update_sink_mass(state, verdicts, valid[half][:, :1])
    rate = metrics.sink_rate(received, valid)
    np.testing.assert_allclose(metrics.finalise_mean(state), rate, **FLOAT32)
    np.testing.assert_allclose(rate, model_oracle.sink_rate(received, valid), **FLOAT32)


def test_long_streams_do_not_lose_what_they_add() -> None:
    batches, where = 40_000, np.ones((1, 1), bool)
    terms = np.random.default_rng(0).uniform(0.0, 1.0, size=(batches, 1, 1, 1)).astype(np.float32)

    def add(state: metrics.RunningMean, term: jax.Array) -> tuple[metrics.RunningMean, None]:
        return metrics.update_sink_mass(state, term, where), None

    state, _ = jax.lax.scan(add, metrics.init_mean((1,)), terms)
    exact = terms.astype(np.float64).mean()
    # The compensated mean is as good as one rounding of float32, two with the division.
    assert float(metrics.finalise_mean(state)[0]) == pytest.approx(exact, rel=1.2e-7)
    # The plain sum, which the state holds as well, is not: the correction is needed, and XLA leaves it in.
    assert abs(float(state.total[0]) / batches / exact - 1) > 1e-6


def test_state_can_be_wide_and_mean_infinite() -> None:
    with jax.enable_x64(True):
        state = metrics.init_mean((), jnp.float64)
        norms, valid = np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 1.0]], np.float32), np.ones((2, 3), bool)
        state = metrics.update_value_ratio(state, norms, valid)
        assert state.total.dtype == jnp.float64
        assert np.isinf(metrics.finalise_mean(state))
    # Norms of zero are equal.
    state = metrics.update_value_ratio(metrics.init_mean(()), np.zeros((1, 3), np.float32), valid[:1])
    assert float(metrics.finalise_mean(state)) == 1.0
    assert np.isnan(metrics.finalise_mean(metrics.init_mean((2,)))).all()
