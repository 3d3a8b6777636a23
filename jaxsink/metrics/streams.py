"""Averages over more samples than fit in memory: start a state, add batch after batch, read the mean.

    state = init_mean((heads,))
    for batch in batches:
        state = update_sink_mass(state, on_sink, queries_after(valid, causal=True))
    mean = finalise_mean(state)

A state has the size of the result. However the samples are split into batches, and however they are padded, the result
is the same up to the order of the additions. All functions can be jitted; the state can be carried by `jax.lax.scan`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxsink.metrics._arguments import (
    boolean,
    check_key,
    check_shapes,
    floating,
    masked_median,
    quotient,
    spread,
    taken,
    token,
)


class RunningMean(NamedTuple):
    """Sums of what has been added so far, all of one shape.

    Attributes:
        total: the sum.
        lost: what rounding has taken from the sum.
        number: int32, how many terms, below 2^31.
    """

    total: jax.Array
    lost: jax.Array
    number: jax.Array


def init_mean(shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> RunningMean:
    """A mean of nothing.

    Args:
        shape: the shape of the result.
        dtype: float32 or float64.

    Returns:
        RunningMean of zeros.
    """
    return RunningMean(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros(shape, jnp.int32))


def finalise_mean(state: RunningMean) -> jax.Array:
    """The mean of all that was added; NaN where nothing was."""
    return (state.total + state.lost) / state.number.astype(state.total.dtype)


def update_sink_mass(state: RunningMean, on_sink: ArrayLike, where: ArrayLike) -> RunningMean:
    """Adds the weights of a batch of queries on the sink; each query counts the same.

    The mean is `attention_to_key` of all samples together.

    Args:
        state: of shape [..., N].
        on_sink: [B, ..., N, T] weight of each query on the sink: `weights[..., 0]`, or `on_keys` and `on_groups` of
            `jaxsink.attention.attend_with_aux`.
        where: bool [B, T], the queries to average over, e.g. `queries_after`; others are never read.

    Returns:
        The state with the batch.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, or a state of another shape.

    Source: Attn_<s> of 2410.13835.
    """
    on_sink = floating("on_sink", on_sink)
    where = boolean("where", where)
    check_shapes(("on_sink", on_sink, "B*NT"), ("where", where, "BT"))
    counted = jnp.broadcast_to(spread(where, on_sink, -1), on_sink.shape)
    return _add(state, "on_sink", on_sink, counted, axis=(0, -1))


def update_received(state: RunningMean, received: ArrayLike, valid: ArrayLike) -> RunningMean:
    """Adds the profile of attention received of a batch of samples; each sample counts the same.

    Keys are counted from the first valid token, so that padding before it moves nothing; a key counts in the samples
    that have it. Sink rates need a mean of their own: each sample is judged before the average.

    Args:
        state: of shape [..., N, T].
        received: [B, ..., N, T] from `attention_received` or `mean_received`. Padding is never read.
        valid: bool [B, T], true for a token and false for padding.

    Returns:
        The state with the batch.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, or a state of another shape.

    Source: the importance score of 2410.10781, section 3.2.
    """
    received = floating("received", received)
    valid = boolean("valid", valid)
    check_shapes(("received", received, "B*NT"), ("valid", valid, "BT"))
    order = jnp.argsort(~valid, axis=1, stable=True)
    aligned = jnp.take_along_axis(received, spread(order, received, -1), axis=-1)
    there = jnp.take_along_axis(valid, order, axis=1)
    return _add(state, "received", aligned, jnp.broadcast_to(spread(there, aligned, -1), aligned.shape), axis=0)


def update_value_ratio(state: RunningMean, norms: ArrayLike, valid: ArrayLike, key: int = 0) -> RunningMean:
    """Adds, for a batch of samples, the value norm at a key over the median of the sample's other tokens.

    A sample without that key or without other tokens does not count; one whose norms are all 0 counts as 1.

    Args:
        state: of shape [...].
        norms: [B, ..., T] value norms, e.g. from `value_norms`. Padding is never read.
        valid: bool [B, T], true for a token and false for padding.
        key: number of the sink among the valid tokens, from 0, a Python int.

    Returns:
        The state with the batch.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, a key outside 0..T-1, or a state of another shape.

    Source: 2410.13835, value-state drain; as `value_ratio`.
    """
    at_key, of_others, counted = _against_others(norms, valid, key)
    return _add(state, "norms", quotient(at_key, of_others), counted, axis=0)


def update_norm_at(state: RunningMean, norms: ArrayLike, valid: ArrayLike, key: int = 0) -> RunningMean:
    """Adds the norm at a key for a batch of samples, those with other tokens as well.

    Args:
        state: of shape [...].
        norms: [B, ..., T] norms, e.g. from `residual_norms`. Padding is never read.
        valid: bool [B, T], true for a token and false for padding.
        key: number of the sink among the valid tokens, from 0, a Python int.

    Returns:
        The state with the batch.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, a key outside 0..T-1, or a state of another shape.

    Source: Res_<s> of 2410.13835.
    """
    at_key, _, counted = _against_others(norms, valid, key)
    return _add(state, "norms", at_key, counted, axis=0)


def update_norm_of_others(state: RunningMean, norms: ArrayLike, valid: ArrayLike, key: int = 0) -> RunningMean:
    """Adds the median norm of all tokens but one for a batch of samples, the same samples as `update_norm_at`.

    Args:
        state: of shape [...].
        norms: [B, ..., T] norms, e.g. from `residual_norms`. Padding is never read.
        valid: bool [B, T], true for a token and false for padding.
        key: number of the sink among the valid tokens, from 0, a Python int.

    Returns:
        The state with the batch.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, a key outside 0..T-1, or a state of another shape.

    Source: the comparison of Res_<s> of 2410.13835; the median, which a second peak hardly moves.
    """
    _, of_others, counted = _against_others(norms, valid, key)
    return _add(state, "norms", of_others, counted, axis=0)


def _against_others(norms: ArrayLike, valid: ArrayLike, key: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[B, ...] norm at the key, median norm of the sample's other tokens, and whether it has both."""
    norms = floating("norms", norms)
    valid = boolean("valid", valid)
    check_shapes(("norms", norms, "B*T"), ("valid", valid, "BT"))
    position, found = token(valid, check_key(key, valid.shape[1]))
    others = valid & (jnp.arange(valid.shape[1])[None, :] != position[:, None])
    median = masked_median(norms, jnp.broadcast_to(spread(others, norms, -1), norms.shape))
    counted = spread(found & jnp.any(others, axis=1), median)
    return taken(norms, position), median, jnp.broadcast_to(counted, median.shape)


def _add(
    state: RunningMean, name: str, terms: jax.Array, counted: jax.Array, axis: int | tuple[int, ...]
) -> RunningMean:
    """The state with the counted terms, summed over an axis, added."""
    added = jnp.sum(jnp.where(counted, terms, 0.0), axis=axis).astype(state.total.dtype)
    if added.shape != state.total.shape:
        raise ValueError(
            f"{name} must fit a mean of shape {state.total.shape}, got one of shape {added.shape}; "
            "start the mean with that shape."
        )
    # A sum in float32 would stop growing after some 10^7 terms: what each addition rounds off is kept and added up.
    total = state.total + added
    kept = total - state.total
    lost = (state.total - (total - kept)) + (added - kept)
    return RunningMean(
        total,
        state.lost + jnp.where(jnp.isfinite(total), lost, 0.0),
        state.number + jnp.sum(counted, axis=axis, dtype=jnp.int32),
    )
