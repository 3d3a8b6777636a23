"""One table of all array metrics, driven through one contract: oracle, dtype, jit, vmap, batch order."""

import re
from collections.abc import Callable
from functools import partial
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

VOCAB = 4
# Metrics of pretrained models take any axes between the batch and the heads; here there is one, of the layers.
LAYERS = 2


class Dims(NamedTuple):
    batch: int
    length: int
    heads: int
    key_heads: int


# Few shapes, so that each metric compiles few times. Length 2 has no query with other keys.
SHAPES = (Dims(1, 2, 1, 1), Dims(2, 5, 2, 1), Dims(3, 6, 4, 2))
LARGEST = SHAPES[-1]


def _weights(rng: np.random.Generator, dims: Dims, where: np.ndarray) -> np.ndarray:
    """Causal weights with rows summing to 1; rows outside `where` are NaN, because nobody may read them."""
    raw = np.tril(np.exp(rng.normal(size=(dims.batch, dims.heads, dims.length, dims.length))))
    weights = raw / raw.sum(axis=3, keepdims=True)
    return np.where(where[:, None, :, None], weights, np.nan)


def _signed(rng: np.random.Generator, dims: Dims, where: np.ndarray) -> np.ndarray:
    """Causal weights of either sign; the first query's are zero, rows outside `where` are NaN."""
    weights = _weights(rng, dims, where) * rng.normal(size=(dims.batch, dims.heads, dims.length, dims.length))
    weights[:, :, 0] *= 0.0
    return weights


def _scores(rng: np.random.Generator, dims: Dims, where: np.ndarray) -> np.ndarray:
    """Logits around 3; NaN on and above the diagonal (but for key 0) and outside `where`."""
    scores = rng.normal(3.0, 2.0, size=(dims.batch, dims.heads, dims.length, dims.length))
    read = np.tril(np.ones((dims.length, dims.length), bool), k=-1)
    return np.where(read & where[:, None, :, None], scores, np.nan)


def _tokens(rng: np.random.Generator, dims: Dims) -> np.ndarray:
    """Ids that stray out of the vocabulary on both sides."""
    return rng.integers(-2, VOCAB + 2, size=(dims.batch, dims.length)).astype(np.int32)


def _everywhere(where: np.ndarray) -> np.ndarray:
    return np.ones_like(where)


def _risk_inputs(rng: np.random.Generator, dims: Dims, where: np.ndarray) -> tuple[np.ndarray, ...]:
    """Laws with about half of the tokens impossible, some of them known to be so by the prediction."""
    shape = (dims.batch, dims.length, VOCAB)
    law = np.exp(rng.normal(size=shape)) * (rng.random(shape) < 0.5)
    law[:, :, 0] += 0.1
    law /= law.sum(axis=2, keepdims=True)
    log_probs = rng.normal(size=shape)
    log_probs -= np.log(np.exp(log_probs).sum(axis=2, keepdims=True))
    log_probs = np.where((law == 0) & (rng.random(shape) < 0.5), -np.inf, log_probs)
    garbage = ~where[:, :, None]
    return np.where(garbage, np.nan, log_probs), np.where(garbage, np.nan, law), where


def _norms(rng: np.random.Generator, dims: Dims) -> np.ndarray:
    return rng.uniform(0.2, 3.0, size=(dims.batch, dims.length))


def _read_norms(rng: np.random.Generator, dims: Dims, where: np.ndarray) -> np.ndarray:
    return np.where(where, _norms(rng, dims), np.nan)


def _ratio_norms(rng: np.random.Generator, dims: Dims, where: np.ndarray) -> np.ndarray:
    """Norms at the key and under the mask; NaN elsewhere."""
    return np.where(where | (np.arange(dims.length) == 0), _norms(rng, dims), np.nan)


def _maps(rng: np.random.Generator, dims: Dims, where: np.ndarray) -> np.ndarray:
    """`_weights` of each layer: [B, L, N, T, T]."""
    return np.stack([_weights(rng, dims, where) for _ in range(LAYERS)], axis=1)


def _profile(rng: np.random.Generator, dims: Dims, where: np.ndarray, *axes: int) -> np.ndarray:
    """Numbers in 0..1 for each token, [B, L, *axes, T]: eighths, so that there are equals; NaN outside `where`."""
    eighths = np.round(8 * rng.random((dims.batch, LAYERS, *axes, dims.length))) / 8
    return np.where(where.reshape(dims.batch, *[1] * (1 + len(axes)), dims.length), eighths, np.nan)


def _vectors(rng: np.random.Generator, dims: Dims, where: np.ndarray, *axes: int) -> np.ndarray:
    """Heavy-tailed vectors for each token, [B, L, T, *axes]; NaN outside `where`, every fourth entry 0."""
    shape = (dims.batch, LAYERS, dims.length, *axes)
    values = rng.normal(size=shape) * np.exp(2 * rng.normal(size=shape)) * (rng.random(shape) < 0.75)
    return np.where(where.reshape(dims.batch, 1, dims.length, *[1] * len(axes)), values, np.nan)


def _heads(rng: np.random.Generator, dims: Dims, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values [B, L, T, K, H] and outputs [B, L, T, N, H]."""
    return _vectors(rng, dims, where, dims.key_heads, 3), _vectors(rng, dims, where, dims.heads, 3)


def _per_layer(of_layer: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """The oracle for the first argument [B, L, ...], layer by layer; the layers are the first axis of the result."""
    return lambda first, *rest: np.array([of_layer(first[:, layer], *rest) for layer in range(LAYERS)])


class Case(NamedTuple):
    """A metric, its oracle, and arguments for it from (rng, dims, where)."""

    metric: Callable[..., Any]
    oracle: Callable[..., Any]
    arguments: Callable[[np.random.Generator, Dims, np.ndarray], tuple[np.ndarray, ...]]
    by_sequence: bool = False
    without_batch: tuple[int, ...] = ()
    shapes: tuple[Dims, ...] = SHAPES


def _model_case(
    name: str, arguments: Callable[..., tuple[np.ndarray, ...]], by_sequence: bool = True, **static: Any
) -> Case:
    """A metric of pretrained models, with the oracle of its name and the same static arguments for both."""
    both = (partial(getattr(module, name), **static) for module in (metrics, model_oracle))
    return Case(*both, arguments, by_sequence=by_sequence, shapes=SHAPES[1:])


CASES = {
    "excess_risk": Case(metrics.excess_risk, oracle.excess_risk, _risk_inputs),
    "attention_to_key": Case(metrics.attention_to_key, oracle.attention_to_key, lambda r, d, w: (_weights(r, d, w), w)),
    "attention_to_key_1": Case(
        partial(metrics.attention_to_key, key=1),
        partial(oracle.attention_to_key, key=1),
        lambda r, d, w: (_weights(r, d, w), w),
    ),
    "attention_to_previous": Case(
        metrics.attention_to_previous, oracle.attention_to_previous, lambda r, d, w: (_weights(r, d, w), w)
    ),
    "sink_share": Case(metrics.sink_share, oracle.sink_share, lambda r, d, w: (_signed(r, d, w), w)),
    "row_mass": Case(metrics.row_mass, oracle.row_mass, lambda r, d, w: (_signed(r, d, w), w)),
    "sink_strength": Case(
        metrics.sink_strength,
        oracle.sink_strength,
        lambda r, d, w: (_signed(r, d, _everywhere(w)), w, r.random(w.shape) < 0.5),
    ),
    "uniform_baseline": Case(metrics.uniform_baseline, oracle.uniform_baseline, lambda r, d, w: (w,)),
    "attention_to_key_by_token": Case(
        partial(metrics.attention_to_key_by_token, vocab_size=VOCAB, key=1),
        partial(oracle.attention_to_key_by_token, vocab_size=VOCAB, key=1),
        lambda r, d, w: (_weights(r, d, _everywhere(w)), _tokens(r, d)),
    ),
    "detect_triggers": Case(
        partial(metrics.detect_triggers, vocab_size=VOCAB, cutoff=0.3),
        partial(oracle.detect_triggers, vocab_size=VOCAB, cutoff=0.3),
        lambda r, d, w: (_weights(r, d, _everywhere(w)), _tokens(r, d)),
    ),
    "sink_logit_gap": Case(metrics.sink_logit_gap, oracle.sink_logit_gap, lambda r, d, w: (_scores(r, d, w), w)),
    "sink_logit_gap_by_token": Case(
        partial(metrics.sink_logit_gap_by_token, vocab_size=VOCAB),
        partial(oracle.sink_logit_gap_by_token, vocab_size=VOCAB),
        lambda r, d, w: (_scores(r, d, _everywhere(w)), _tokens(r, d)),
    ),
    "logit_concentration": Case(
        metrics.logit_concentration, oracle.logit_concentration, lambda r, d, w: (_scores(r, d, w), w)
    ),
    "value_output_norms": Case(
        metrics.value_output_norms,
        oracle.value_output_norms,
        lambda r, d, w: (
            r.normal(size=(d.batch, d.length, d.key_heads, 3)),
            r.normal(size=(d.heads, 3, 5)),
        ),
        by_sequence=True,
        without_batch=(1,),
    ),
    "value_ratio": Case(metrics.value_ratio, oracle.value_ratio, lambda r, d, w: (_ratio_norms(r, d, w), w)),
    "residual_norms": Case(
        metrics.residual_norms,
        oracle.residual_norms,
        lambda r, d, w: (r.normal(size=(d.batch, d.length, 5)),),
        by_sequence=True,
    ),
    "peak_ratio": Case(metrics.peak_ratio, oracle.peak_ratio, lambda r, d, w: (_norms(r, d),)),
    "peak_ratio_1": Case(
        partial(metrics.peak_ratio, key=1), partial(oracle.peak_ratio, key=1), lambda r, d, w: (_norms(r, d),)
    ),
    "peak_ratio_2": Case(
        lambda norms, valid: metrics.peak_ratio(norms, valid=valid),
        _per_layer(lambda norms, valid: oracle.peak_ratio(norms, valid=valid)),
        lambda r, d, w: (_profile(r, d, w | (np.arange(d.length) == 0)) + 0.5, w),
    ),
    "norm_at": Case(metrics.norm_at, oracle.norm_at, lambda r, d, w: (_read_norms(r, d, w), w)),
    "norm_at_1": Case(metrics.norm_at, _per_layer(oracle.norm_at), lambda r, d, w: (_profile(r, d, w), w)),
    "value_ratio_1": Case(
        metrics.value_ratio,
        _per_layer(oracle.value_ratio),
        lambda r, d, w: (_profile(r, d, w | (np.arange(d.length) == 0)) + 0.5, w),
    ),
    "seen_by": _model_case("seen_by", lambda r, d, w: (w,), causal=True),
    "seen_by_1": _model_case("seen_by", lambda r, d, w: (w,), causal=False),
    "queries_after": _model_case("queries_after", lambda r, d, w: (w,), causal=True, key=1),
    "queries_after_1": _model_case("queries_after", lambda r, d, w: (w,), causal=False),
    "attention_received": _model_case("attention_received", lambda r, d, w: (_maps(r, d, w), w), causal=True),
    "attention_received_1": _model_case("attention_received", lambda r, d, w: (_maps(r, d, w), w), causal=False),
    "mean_received": _model_case("mean_received", lambda r, d, w: (_profile(r, d, w, d.heads), w), causal=True),
    "attention_shares": _model_case("attention_shares", lambda r, d, w: (_signed(r, d, _everywhere(w)),)),
    # Thresholds among the eighths that the profile takes: equality does not count.
    "sink_rate": _model_case("sink_rate", lambda r, d, w: (_profile(r, d, w, d.heads), w), False, epsilon=0.375),
    "sink_rate_1": _model_case("sink_rate", lambda r, d, w: (_profile(r, d, w, d.heads), w), False, key=1),
    "sink_position": _model_case("sink_position", lambda r, d, w: (_profile(r, d, w, d.heads), w)),
    "secondary_sinks": _model_case("secondary_sinks", lambda r, d, w: (_profile(r, d, w, d.heads), w), epsilon=0.375),
    "aligned_with_first": _model_case("aligned_with_first", lambda r, d, w: (_vectors(r, d, w, 2), w)),
    "massive_activations": _model_case(
        "massive_activations", lambda r, d, w: (_vectors(r, d, w, 5), w), magnitude=2.0, ratio=5.0
    ),
    "max_median_ratio": _model_case("max_median_ratio", lambda r, d, w: (_vectors(r, d, w, 5), w)),
    "largest_activations": _model_case("largest_activations", lambda r, d, w: (_vectors(r, d, w, 5) + 1e-3, w), k=7),
    "top_dimensions": _model_case("top_dimensions", lambda r, d, w: (r.normal(size=(d.batch, d.length, 5)),), k=2),
    "kurtosis": _model_case("kurtosis", lambda r, d, w: (_vectors(r, d, w, 5), w)),
    "infinity_norm": _model_case("infinity_norm", lambda r, d, w: (_vectors(r, d, w, 5), w)),
    "matrix_entropy": _model_case("matrix_entropy", lambda r, d, w: (_vectors(r, d, w, 4), w)),
    "anisotropy": _model_case("anisotropy", lambda r, d, w: (_vectors(r, d, w, 4), w)),
    "stable_rank": _model_case("stable_rank", lambda r, d, w: (_vectors(r, d, w, 4), w)),
    "attention_entropy": _model_case("attention_entropy", lambda r, d, w: (_signed(r, d, _everywhere(w)),)),
    "value_norms": _model_case("value_norms", lambda r, d, w: (_heads(r, d, _everywhere(w))[0],)),
    "value_norms_by_head": _model_case(
        "value_norms_by_head", lambda r, d, w: (_heads(r, d._replace(key_heads=2), _everywhere(w))[0],), query_heads=4
    ),
    "head_scores": _model_case(
        "head_scores",
        lambda r, d, w: (_profile(r, d, w, d.heads), _profile(r, d, w, d.heads), *_heads(r, d, w), w),
    ),
    "layer_normalised": _model_case("layer_normalised", lambda r, d, w: (r.random((d.batch, LAYERS, d.heads)),)),
    "layer_normalised_1": _model_case(
        "layer_normalised", lambda r, d, w: tuple(r.random((2, d.batch, LAYERS, d.heads)))
    ),
    "rank_correlation": _model_case("rank_correlation", lambda r, d, w: (_profile(r, d, w), _profile(r, d, w), w)),
    "waiver_element": _model_case("waiver_element", lambda r, d, w: (_profile(r, d, w, 2), _profile(r, d, w, 2), w)),
    "sink_contribution": _model_case(
        "sink_contribution",
        lambda r, d, w: (
            _profile(r, d, w, d.heads),
            r.random((d.batch, LAYERS, d.heads)),
            _vectors(r, d, w, d.heads, 3),
            w,
        ),
    ),
    "sink_mechanism": _model_case("sink_mechanism", lambda r, d, w: (*_heads(r, d, w), w)),
    "sink_mechanism_1": _model_case("sink_mechanism", lambda r, d, w: (*_heads(r, d, w), w), key=1),
}
JITTED = {name: jax.jit(case.metric) for name, case in CASES.items()}
each_case = pytest.mark.parametrize("name", CASES)

# Sums of at most a few hundred terms of size 1..10: a few hundred roundings of 1.1e-16, taken generously.
FLOAT64: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-13}
# The same count of roundings of 6e-8.
FLOAT32: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-5}


def _as_float32(arguments: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return tuple(a.astype(np.float32) if a.dtype == np.float64 else a for a in arguments)


def _leaves(result: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result)]


def _assert_close(result: Any, expected: Any, tolerance: dict[str, Any]) -> None:
    """NaN must meet NaN: an empty mean may not turn into a number, nor a number into NaN."""
    if isinstance(expected, tuple):
        for one, other in zip(result, expected, strict=True):
            _assert_close(one, other, tolerance)
    else:
        np.testing.assert_allclose(np.asarray(result), np.asarray(expected), equal_nan=True, **tolerance)


def _full_example(name: str, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    where = rng.random((LARGEST.batch, LARGEST.length)) < 0.7
    where[:, -1] = True
    return CASES[name].arguments(rng, LARGEST, where)


@each_case
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_agrees_with_the_loops(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    dims = data.draw(st.sampled_from(case.shapes), label="dims")
    where = data.draw(hnp.arrays(bool, (dims.batch, dims.length)), label="where")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    arguments = case.arguments(rng, dims, where)
    with jax.enable_x64(True):
        _assert_close(JITTED[name](*arguments), case.oracle(*arguments), FLOAT64)
    narrow = _as_float32(arguments)
    _assert_close(JITTED[name](*narrow), case.oracle(*narrow), FLOAT32)


@pytest.mark.parametrize("name", [name for name in CASES if name != "uniform_baseline"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_keeps_the_float_type(name: str, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        arguments = [jnp.asarray(a, dtype) if a.dtype == np.float64 else jnp.asarray(a) for a in _full_example(name)]
        result = jax.eval_shape(CASES[name].metric, *arguments)
    # Half precision is widened: means over thousands of terms would be lost in it.
    kinds = {"f": {"bfloat16": "float32"}.get(dtype, dtype), "i": "int32", "b": "bool"}
    expected = CASES[name].oracle(*_full_example(name))
    parts = expected if isinstance(expected, tuple) else (expected,)
    for leaf, part in zip(jax.tree.leaves(result), parts, strict=True):
        assert leaf.dtype == kinds[np.asarray(part).dtype.kind]


@each_case
def test_jit_gives_the_eager_numbers(name: str) -> None:
    arguments = _as_float32(_full_example(name))
    for jitted, eager in zip(_leaves(JITTED[name](*arguments)), _leaves(CASES[name].metric(*arguments)), strict=True):
        # Fusion reorders sums; otherwise the same operations.
        np.testing.assert_allclose(jitted, eager, rtol=1e-6, atol=1e-6, equal_nan=True)


@each_case
def test_vmap_maps_over_runs(name: str) -> None:
    runs = [_as_float32(_full_example(name, seed)) for seed in range(2)]
    stacked = [np.stack(column) for column in zip(*runs, strict=True)]
    together = _leaves(jax.jit(jax.vmap(CASES[name].metric))(*stacked))
    for index, arguments in enumerate(runs):
        for leaf, alone in zip(together, _leaves(JITTED[name](*arguments)), strict=True):
            # Batched reductions may sum in another order.
            np.testing.assert_allclose(leaf[index], alone, rtol=1e-6, atol=1e-6, equal_nan=True)


@each_case
def test_order_of_the_batch_is_irrelevant(name: str) -> None:
    order = np.array([2, 0, 1])
    arguments = _full_example(name)
    permuted = [a if i in CASES[name].without_batch else a[order] for i, a in enumerate(arguments)]
    with jax.enable_x64(True):
        before, after = _leaves(JITTED[name](*arguments)), _leaves(JITTED[name](*permuted))
    for one, other in zip(before, after, strict=True):
        expected = one[order] if CASES[name].by_sequence else one
        np.testing.assert_allclose(other, expected, equal_nan=True, **FLOAT64)


def test_every_public_array_metric_is_in_the_table() -> None:
    of_curves = {"correlation", "first_passage", "line_fit", "r_squared", "transition", "value_at"}
    of_streams = {name for name in vars(metrics) if re.match("init_|update_|finalise_", name)}
    public = {
        name for name, value in vars(metrics).items() if callable(value) and name.islower() and not name.startswith("_")
    }
    assert public - of_curves - of_streams == {re.sub(r"_\d$", "", name) for name in CASES}
