"""What one instrumented pass says of every layer and head of a real model, however many samples there are.

    state = init_scan()
    for tokens, inputs in batches:
        state = update_scan(state, readings(model, params, tokens, inputs))
    result = finalise_scan(state)

Samples count alike, whatever their length, and nothing of them is kept but sums. No array of T x S is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxsink.attention import Composite
from jaxsink.metrics import (
    SINK_EPSILON,
    HeadScores,
    head_scores,
    infinity_norm,
    kurtosis,
    layer_normalised,
    massive_activations,
    max_median_ratio,
    mean_received,
    queries_after,
    residual_norms,
    sink_position,
    value_norms,
    value_norms_by_head,
)
from jaxsink.models import CAPTURES, EDITS, WANTED, Decoder
from jaxsink.probing import Set, stages
from jaxsink.probing.by_block import DeepModel
from jaxsink.probing.capture import ModelInputs, Params

# A head with less of its layer's mean output norm is inactive (2504.03889v1).
INACTIVE_SHARE = 0.1


class LayerReadings(NamedTuple):
    """What a pass says of L layers and B samples; NaN where a sample has too few tokens to say it.

    The sink of a sample in a layer is the token that receives the most attention, all queries and heads added up.

    Attributes:
      sink_mass: [L, B, N], mean weight on the sink over the queries after it, or over all others without causal mask.
      mass_on_first: [L, B, N], the same for the first token, whether it is the sink or not.
      received_by_first: [L, B, N], mean weight that the first token receives, its own query included.
      first_is_sink: [L, B, N], 1 where that is more than `SINK_EPSILON`, else 0; the mean over samples is Sink_1^eps of
        2410.10781, for sequences that begin as these do, with a BOS token or without.
      value_ratio: [L, B], norm of the sink's values over the median of the other tokens; before W_O, all key heads
        concatenated.
      resid_norm_sink: [L, B], norm of the residual stream after the block at the sink.
      resid_norm_median: [L, B], the median norm of the other tokens.
      head_scores: the scores of inactive heads (2504.03889), each [L, B, N]; `entropy` in nats.
      received: [L, B, T], mean weight that each token receives from the queries that can see it, averaged over heads.
      sink_magnitudes: [L, B, D], magnitudes of the residual stream after the block at the sink.
      massive: [L, B], how many massive activations there are (2402.17762).
      max_median_ratio: [L, B], the largest over the median magnitude of the residual stream.
      kurtosis, infinity_norm: [L, B], of the residual stream (2306.12929).
    """

    sink_mass: Any
    mass_on_first: Any
    received_by_first: Any
    first_is_sink: Any
    value_ratio: Any
    resid_norm_sink: Any
    resid_norm_median: Any
    head_scores: HeadScores
    received: Any
    sink_magnitudes: Any
    massive: Any
    max_median_ratio: Any
    kurtosis: Any
    infinity_norm: Any


class Readings(NamedTuple):
    """One batch.

    Attributes:
      tokens: int [B], how many tokens of each sample are real.
      sink_position: int [L, B], the place of the sink among the real tokens, from 0; -1 without a token.
      layers: everything else.
    """

    tokens: jax.Array
    sink_position: jax.Array
    layers: LayerReadings


def readings(model: DeepModel, params: Params, tokens: jax.Array, inputs: ModelInputs | None = None) -> Readings:
    """Run a model once and read every layer; the blocks share one compilation.

    Real tokens are moved to the front first, so that padding, on whichever side, changes nothing: without `positions`
    they count from the first real token.

    Args:
      model: the model. params: its parameters.
      tokens: int [B, T].
      inputs: as for `jaxsink.probing.run`, such as {"valid": bool [B, T]}; not traced.

    Raises:
      ValueError: as `jaxsink.probing.stages`, or the attention of the model is a composite.
    """
    if isinstance(model.config.attention, Composite):
        raise ValueError(
            f"readings needs the weights of a row map, but the attention of the model is {model.config.attention!r}; "
            "capture its sites with jaxsink.probing.run instead."
        )
    tokens, taken = _to_front(tokens, dict(inputs or {}))
    valid = taken.get("valid", jnp.ones(tokens.shape, bool))
    of_block = {name: value for name, value in taken.items() if name in ("valid", "positions")}
    found = []
    for layer, resid, captured in stages(model, params, tokens, capture=_REDUCERS, inputs=taken):
        block, causal = model.block(layer), isinstance(model, Decoder)
        found.append(_layer(params[f"blocks_{layer}"], captured, resid, valid, of_block, block=block, causal=causal))
    position, layers = jax.tree.map(lambda *each: jnp.stack(each), *found)
    return Readings(jnp.sum(valid, axis=1, dtype=jnp.int32), position, layers)


def _to_front(tokens: jax.Array, inputs: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
    """The arguments with the real tokens of each row first; without `valid` where all are real."""
    tokens = jnp.asarray(tokens)
    if (valid := inputs.get("valid")) is None:
        return tokens, inputs
    if jnp.all(valid):
        return tokens, {name: value for name, value in inputs.items() if name != "valid"}
    order = jnp.argsort(~jnp.asarray(valid), axis=1, stable=True)

    def moved(value: Any) -> jax.Array:
        return jnp.take_along_axis(jnp.broadcast_to(jnp.asarray(value), tokens.shape), order, axis=1)

    return moved(tokens), {name: moved(value) for name, value in inputs.items()}


def _itself(x: jax.Array) -> jax.Array:
    return x


def _key_head_norms(v: jax.Array) -> jax.Array:
    return jnp.swapaxes(value_norms_by_head(v, v.shape[-2]), -2, -1)


# Functions of the module, since `stages` compiles anew for other ones. Norms [B, T, K] and [B, T, N] are kept of values
# and head outputs.
_REDUCERS = {
    "resid_pre": _itself,
    "attn_on_first": _itself,
    "attn_received": _itself,
    "attn_entropy": _itself,
    "v": _key_head_norms,
    "z": _key_head_norms,
}


@partial(jax.jit, static_argnames=("block", "causal"))
def _layer(
    params: Params,
    captured: Mapping[str, jax.Array],
    resid: jax.Array,
    valid: jax.Array,
    inputs: ModelInputs,
    *,
    block: Any,
    causal: bool,
) -> tuple[jax.Array, LayerReadings]:
    """The position of the sink [B] and the readings of one layer, without the axis L."""
    on_first, received = captured["attn_on_first"], captured["attn_received"]
    real = jnp.any(valid, axis=1)
    sink = sink_position(jnp.sum(received, axis=1, keepdims=True), valid)[:, 0]
    place = jnp.arange(valid.shape[1])[None, :]
    others = valid & (place != sink[:, None])
    on_sink = jax.lax.cond(
        jnp.any(sink > 0),
        lambda: _on_key(block, params, captured["resid_pre"], inputs, sink).astype(on_first.dtype),
        lambda: on_first,
    )
    mean = mean_received(received, valid, causal=causal)
    scores = head_scores(on_first, captured["attn_entropy"], captured["v"][..., None], captured["z"][..., None], valid)
    value_sink, value_others = _against_others(value_norms(captured["v"][..., None]), sink, others)
    resid_sink, resid_others = _against_others(residual_norms(resid), sink, others)
    magnitudes = jnp.take_along_axis(jnp.abs(resid).astype(resid_sink.dtype), sink[:, None, None], axis=1)[:, 0]
    by_first = jnp.where(real[:, None], mean[..., 0], jnp.nan)
    return sink, LayerReadings(
        sink_mass=_mean_over(on_sink, others & (place > sink[:, None]) if causal else others),
        mass_on_first=_mean_over(on_first, queries_after(valid, causal=causal)),
        received_by_first=by_first,
        first_is_sink=jnp.where(real[:, None], (by_first > SINK_EPSILON).astype(by_first.dtype), jnp.nan),
        value_ratio=value_sink / value_others,
        resid_norm_sink=resid_sink,
        resid_norm_median=resid_others,
        head_scores=scores,
        received=jnp.where(valid, jnp.mean(mean, axis=1), jnp.nan),
        sink_magnitudes=jnp.where(real[:, None], magnitudes, jnp.nan),
        massive=jnp.where(real, jnp.sum(massive_activations(resid, valid), axis=(1, 2), dtype=jnp.float32), jnp.nan),
        max_median_ratio=max_median_ratio(resid, valid),
        kurtosis=kurtosis(resid, valid),
        infinity_norm=infinity_norm(resid, valid),
    )


def _on_key(block: Any, params: Params, x: jax.Array, inputs: ModelInputs, key: jax.Array) -> jax.Array:
    """[B, N, T] weight of each query on one key [B] of each sample.

    The output of attention is the weights on a key where its values are 1 and all others 0; so masks, scales and
    backends are those of the model. What comes after attention is not computed.
    """
    one = (jnp.arange(x.shape[1])[None, :] == key[:, None])[:, :, None, None]
    variables = {"params": params, EDITS: {"v": Set(one.astype(x.dtype))}, WANTED: {"z": np.zeros(0)}}
    _, state = block.apply(variables, x, mutable=[CAPTURES], **inputs)
    return jnp.swapaxes(state[CAPTURES]["z"][..., 0], 1, 2)


def _against_others(norms: jax.Array, key: jax.Array, others: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[B] the norm of [B, T] at the key [B], and the median over the others, bool [B, T]; NaN where there are none."""
    median = jnp.nanmedian(jnp.where(others, norms, jnp.nan), axis=1)
    at_key = jnp.take_along_axis(norms, key[:, None], axis=1)[:, 0]
    return jnp.where(jnp.any(others, axis=1), at_key, jnp.nan), median


def _mean_over(values: jax.Array, where: jax.Array) -> jax.Array:
    """[B, N] means of [B, N, T] over bool [B, T]; NaN where it is empty."""
    total = jnp.sum(jnp.where(where[:, None], values, 0.0), axis=-1)
    return total / jnp.sum(where, axis=1, keepdims=True).astype(total.dtype)


@dataclass(frozen=True)
class ScanState:
    """Sums over the samples so far; the size of the result.

    Attributes:
      samples: how many. tokens: how many they have, padding apart.
      positions: from (layer, position) to the number of samples whose sink stands there.
      totals, counts: float64, sums over the samples that have a number, and how many have: `LayerReadings` without the
        axis B. None before the first batch.
    """

    samples: int
    tokens: int
    positions: Mapping[tuple[int, int], int]
    totals: LayerReadings | None
    counts: LayerReadings | None


@dataclass(frozen=True)
class Scan:
    """Means over samples; NaN where no sample has the number.

    Attributes:
      samples: how many. tokens: how many they have, padding apart.
      sink_position: int [L], where the sink stands in most samples, counted from the first token; -1 without a sample.
      sink_position_share: [L], in which share of the samples it stands there.
      means: `LayerReadings` without the axis B, float64. Tokens of different samples meet where their positions do.
    """

    samples: int
    tokens: int
    sink_position: NDArray[np.int64]
    sink_position_share: NDArray[np.float64]
    means: LayerReadings

    @property
    def output_share(self) -> NDArray[np.float64]:
        """[L, N], norm of a head's output over the mean of its layer; an inactive head is below `INACTIVE_SHARE`."""
        return np.asarray(layer_normalised(self.means.head_scores.output_norm), np.float64)


def init_scan() -> ScanState:
    """A scan of nothing."""
    return ScanState(0, 0, {}, None, None)


def update_scan(state: ScanState, batch: Readings) -> ScanState:
    """The state with a batch, of any size and length."""
    totals = jax.tree.map(lambda x: np.nansum(np.asarray(x, np.float64), axis=1), batch.layers)
    counts = jax.tree.map(lambda x: np.sum(~np.isnan(np.asarray(x)), axis=1, dtype=np.float64), batch.layers)
    positions = Counter(state.positions)
    tokens = np.asarray(batch.tokens)
    for layer, row in enumerate(np.asarray(batch.sink_position)):
        positions.update((layer, int(position)) for position in row[tokens > 0])
    return ScanState(
        state.samples + int(np.sum(tokens > 0)),
        state.tokens + int(tokens.sum()),
        positions,
        totals if state.totals is None else jax.tree.map(_added, state.totals, totals),
        counts if state.counts is None else jax.tree.map(_added, state.counts, counts),
    )


def _added(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of two arrays, of which one may have more tokens than the other."""
    if a.shape == b.shape:
        return a + b
    longest = max(a.shape[-1], b.shape[-1])
    a, b = (np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, longest - x.shape[-1])]) for x in (a, b))
    return a + b


def finalise_scan(state: ScanState) -> Scan:
    """The means of what was added.

    Raises:
      ValueError: nothing was.
    """
    if state.totals is None or state.counts is None or not state.samples:
        raise ValueError("state must hold at least one sample with a token, but it is empty; call update_scan first.")
    with np.errstate(invalid="ignore"):
        means = jax.tree.map(np.divide, state.totals, state.counts)
    layers = range(len(means.value_ratio))
    # Of equally frequent positions the first.
    most = [max((n, -place) for (layer, place), n in state.positions.items() if layer == i) for i in layers]
    return Scan(
        state.samples,
        state.tokens,
        np.array([-place for _, place in most], np.int64),
        np.array([n / state.samples for n, _ in most]),
        means,
    )


def attention_maps(
    model: DeepModel, params: Params, tokens: jax.Array, inputs: ModelInputs | None = None
) -> Iterator[NDArray[np.float16]]:
    """The attention weights of one layer after another, each float16 [B, N, T, T]: one such array is on the device.

    Args:
      model: the model. params: its parameters. tokens: int [B, T]. inputs: as for `jaxsink.probing.run`.

    Raises:
      ValueError: as `jaxsink.probing.stages`.
    """
    for stage in stages(model, params, tokens, capture={"pattern": _halved}, inputs=inputs):
        yield np.asarray(stage.captured["pattern"])


def _halved(weights: jax.Array) -> jax.Array:
    return weights.astype(jnp.float16)
