"""What a sink does: takes attention and gives nothing (waiver element, NOP), or gives the same to all (broadcast)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsink.metrics._arguments import (
    boolean,
    check_groups,
    check_key,
    check_shapes,
    floating,
    masked_mean,
    quotient,
    spread,
    taken,
    token,
)
from jaxsink.metrics.received import sink_position
from jaxsink.metrics.spectrum import stable_rank
from jaxsink.metrics.value_drain import value_norms_by_head

# Value norm of the sink, over that of others, below which its head does nothing (2606.08105).
NOP_VALUE_RATIO = 0.2


class WaiverElement(NamedTuple):
    """How far the token that receives the most gives the least, each [B, ...].

    Attributes:
        rank_correlation: Spearman correlation of attention received and value norm over the tokens.
        value_ratio: value norm of the token that receives the most, over the mean of the others.
        coincide: bool, whether that token has the smallest value norm.
    """

    rank_correlation: jax.Array
    value_ratio: jax.Array
    coincide: jax.Array


class SinkMechanism(NamedTuple):
    """Traces of the two uses of a sink, each [B, ..., N].

    Attributes:
        value_ratio: value norm of the sink over the mean of the other tokens: below `NOP_VALUE_RATIO` for NOP, about 1
            for broadcast.
        stable_rank: of the head's output: about 1 for broadcast.
    """

    value_ratio: jax.Array
    stable_rank: jax.Array


def rank_correlation(x: ArrayLike, y: ArrayLike, where: ArrayLike) -> jax.Array:
    """Spearman correlation over the last axis: Pearson correlation of the ranks, equals sharing their mean rank.

    Args:
        x: [B, ..., S] values.
        y: [B, ..., S] values.
        where: bool [B, S], the positions to compare; others are never read.

    Returns:
        [B, ...] in -1..1; 0 when x or y is constant, NaN when `where` is empty.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.
    """
    x, y = floating("x", x), floating("y", y)
    where = boolean("where", where)
    check_shapes(("x", x, "B*S"), ("y", y, "B*S"), ("where", where, "BS"))
    mask = jnp.broadcast_to(spread(where, x, -1), x.shape)
    # The mean rank is known: found as a mean it would round, and equal ranks would seem to differ from it.
    mean = (jnp.sum(mask, axis=-1, keepdims=True) + 1).astype(x.dtype) / 2.0
    dx, dy = _ranks(x, mask) - mean, _ranks(y, mask).astype(x.dtype) - mean
    sizes = jnp.sqrt(masked_mean(dx**2, mask, axis=-1) * masked_mean(dy**2, mask, axis=-1))
    return masked_mean(dx * dy, mask, axis=-1) / jnp.where(sizes > 0.0, sizes, 1.0)


def waiver_element(received: ArrayLike, norms: ArrayLike, where: ArrayLike) -> WaiverElement:
    """Attention received by each token against the norm of its value vector, per layer and head.

    Args:
        received: [B, ..., T] weight received by each key: `attention_received`, or its mean over the heads.
        norms: [B, ..., T] value norms: `value_norms_by_head`, or `value_norms`.
        where: bool [B, T], the tokens to compare, without padding. Leave out keys that few queries see, as for
            `sink_position`.

    Returns:
        WaiverElement. The ratio is 1 when all norms are 0 and NaN when there is no other token; the correlation is 0
        when either side is constant. Among equals the first token counts. Where `where` is empty: NaN, NaN and false.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: Yan et al. 2024 (2407.01601), waiver elements: high attention, reduced norm of the value.
    """
    received, norms = floating("received", received), floating("norms", norms)
    where = boolean("where", where)
    check_shapes(("received", received, "B*T"), ("norms", norms, "B*T"), ("where", where, "BT"))
    correlation = rank_correlation(received, norms, where)
    # The functions of one head take an axis for it.
    most = sink_position(received[..., None, :], where)[..., 0]
    least = sink_position(-norms[..., None, :], where)[..., 0]
    place = jnp.arange(norms.shape[-1], dtype=most.dtype).reshape((1,) * most.ndim + (-1,))
    at_most = place == most[..., None]
    others = spread(where, norms, -1) & ~at_most
    ratio = quotient(jnp.sum(jnp.where(at_most, norms, 0.0), axis=-1), masked_mean(norms, others, axis=-1))
    return WaiverElement(correlation, ratio, (most == least) & (most >= 0))


def sink_contribution(on_sink: ArrayLike, sink_norm: ArrayLike, outputs: ArrayLike, where: ArrayLike) -> jax.Array:
    """Size of what the sink adds to a head's outputs, |w| |v_sink|, over the size of the outputs, |sum_j w_j v_j|.

    Both are averaged over queries before the division. Far below the weight on the sink for a waiver element; above 1
    where other tokens cancel it.

    Args:
        on_sink: [B, ..., N, T] weight of each query on the sink.
        sink_norm: [B, ..., N] norm of the value of the sink: `value_norms_by_head(values, N)[..., sink]`.
        outputs: [B, ..., T, N, H] output of each head, before W_O.
        where: bool [B, T], the queries to average over, e.g. `queries_after`; others are never read.

    Returns:
        [B, ..., N], dimensionless; 0 for a head that writes nothing, inf for one whose sink is cancelled in full, NaN
        when `where` is empty.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: 2407.01601, where a waiver element takes attention without a contribution; as a ratio: this project.
    """
    on_sink, sink_norm = floating("on_sink", on_sink), floating("sink_norm", sink_norm)
    outputs = floating("outputs", outputs)
    where = boolean("where", where)
    check_shapes(
        ("on_sink", on_sink, "B*NT"),
        ("sink_norm", sink_norm, "B*N"),
        ("outputs", outputs, "B*TNH"),
        ("where", where, "BT"),
    )
    mask = spread(where, on_sink, -1)
    written = jnp.swapaxes(jnp.linalg.norm(outputs, axis=-1), -2, -1)
    added = masked_mean(jnp.abs(on_sink), mask, axis=-1) * sink_norm
    return jnp.where(added == 0.0, 0.0, quotient(added, masked_mean(written, mask, axis=-1)))


def sink_mechanism(values: ArrayLike, outputs: ArrayLike, valid: ArrayLike, key: int = 0) -> SinkMechanism:
    """Whether a head with a sink does nothing (NOP) or writes the sink's content everywhere (broadcast).

    It says nothing of whether the head has a sink: judge that by `sink_rate`. A head that writes next to nothing has a
    small `output_norm`, see `layer_normalised`, whatever the rank of that little.

    Args:
        values: [B, ..., T, K, H] value vectors.
        outputs: [B, ..., T, N, D] output of each head, before or after W_O; N is a multiple of K.
        valid: bool [B, T], true for a token and false for padding, which is never read.
        key: number of the sink among the valid tokens, from 0, a Python int.

    Returns:
        SinkMechanism. The ratio is 1 when all norms are 0, and NaN in a sequence without that key or another token; the
        rank is 0 for a head that writes nothing.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, N no multiple of K, or a key outside 0..T-1.

    Source: 2606.08105, value norm and rank diagnostics; its ratio to one other token is to their mean here.
    """
    values, outputs = floating("values", values), floating("outputs", outputs)
    valid = boolean("valid", valid)
    check_shapes(("values", values, "B*TKH"), ("outputs", outputs, "B*TND"), ("valid", valid, "BT"))
    norms = value_norms_by_head(values, check_groups("outputs", outputs.shape[-2], values.shape[-2]))
    position, found = token(valid, check_key(key, valid.shape[1]))
    others = valid & (jnp.arange(valid.shape[1])[None, :] != position[:, None])
    ratio = quotient(taken(norms, position), masked_mean(norms, spread(others, norms, -1), axis=-1))
    by_head = jnp.moveaxis(outputs, -2, -3)
    return SinkMechanism(jnp.where(spread(found, ratio), ratio, jnp.nan), stable_rank(by_head, valid))


def _ranks(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Ranks from 1 along the last axis among the values under the mask; equal values share their mean rank."""
    length = values.shape[-1]
    ascending = jnp.sort(jnp.where(mask, values, jnp.inf), axis=-1).reshape(-1, length)
    flat = values.reshape(-1, length)
    # Sorting twice and not comparing all pairs: S x S arrays per head are what these metrics do without.
    below = jax.vmap(lambda row, at: jnp.searchsorted(row, at, side="left"))(ascending, flat)
    upto = jax.vmap(lambda row, at: jnp.searchsorted(row, at, side="right"))(ascending, flat)
    return ((below + upto + 1).astype(values.dtype) / 2.0).reshape(values.shape)
