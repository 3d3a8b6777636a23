"""How much attention each key receives, per head: sink rates, where the sink stands, secondary sinks."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsink.metrics._arguments import (
    boolean,
    check_key,
    check_shapes,
    floating,
    masked_mean,
    spread,
    taken,
    token,
)

# Attention received above which a head has a sink (2410.10781, section 3.2, where T = 64).
SINK_EPSILON = 0.3
# |cosine| with the first token's residual stream above which a token is a sink (2512.22213, released code).
SINK_ALIGNMENT = 0.9


def seen_by(valid: ArrayLike, *, causal: bool) -> jax.Array:
    """Number of valid queries that can see each key.

    Args:
        valid: bool [B, T], true for a token and false for padding.
        causal: whether a query sees the keys up to its own position, or else all.

    Returns:
        int32 [B, T], own query included; 0 for padding.

    Raises:
        ValueError: wrong rank or dtype.

    Source: the denominator of the importance score of 2410.10781, section 3.2, where it is T - k + 1.
    """
    valid = boolean("valid", valid)
    check_shapes(("valid", valid, "BT"))
    upto = jnp.cumsum(valid, axis=1)
    later = upto[:, -1:] - upto + 1 if causal else jnp.broadcast_to(jnp.sum(valid, axis=1, keepdims=True), valid.shape)
    return jnp.where(valid, later, 0).astype(jnp.int32)


def queries_after(valid: ArrayLike, *, causal: bool, key: int = 0) -> jax.Array:
    """The queries whose weight on a key is their own choice: those after it, or all others without a causal mask.

    Args:
        valid: bool [B, T], true for a token and false for padding.
        causal: whether a query sees the keys up to its own position, or else all.
        key: number of the key among the valid tokens, from 0, a Python int.

    Returns:
        bool [B, T]; all false in a sequence that has no such key.

    Raises:
        ValueError: wrong rank or dtype, or a key outside 0..T-1.

    Source: this project's sink mass is `attention_to_key` over these queries.
    """
    valid = boolean("valid", valid)
    check_shapes(("valid", valid, "BT"))
    position, found = token(valid, check_key(key, valid.shape[1]))
    place = jnp.arange(valid.shape[1])[None, :]
    others = place > position[:, None] if causal else place != position[:, None]
    return valid & others & found[:, None]


def attention_received(weights: ArrayLike, valid: ArrayLike, *, causal: bool) -> jax.Array:
    """Mean weight that each key receives from the valid queries that can see it, its own query included.

    With a causal mask key k of T has T - k such queries. So the last keys are averages over a few queries; choose
    among keys by `seen_by`. A query that sees no key counts, with weights of 0. Under a window all later queries count,
    too. For variants with negative weights or rows that do not add up to one pass `attention_shares`.

    Args:
        weights: [B, ..., N, T, T] attention weights (dimensionless), e.g. [B, L, N, T, T]. Rows of padding are never
            read.
        valid: bool [B, T], true for a token and false for padding.
        causal: whether a query sees the keys up to its own position, or else all.

    Returns:
        [B, ..., N, T] mean weight of each key; 0 for padding.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: Gu et al. 2024 (2410.10781), section 3.2, importance score alpha_k; in the paper and in its released code.
    """
    weights = floating("weights", weights)
    valid = boolean("valid", valid)
    check_shapes(("weights", weights, "B*NTT"), ("valid", valid, "BT"))
    total = jnp.sum(jnp.where(spread(valid, weights, -2), weights, 0.0), axis=-2)
    return mean_received(total, valid, causal=causal)


def mean_received(received: ArrayLike, valid: ArrayLike, *, causal: bool) -> jax.Array:
    """`attention_received` from the sums that attention streams, without a T x T array.

    Args:
        received: [B, ..., N, T] sum over the valid queries of the weights on each key: `received` of
            `jaxsink.attention.attend_with_aux`, which adds up all queries, so that padding must be hidden from its
            queries, too: `Segments` with padding in a segment of its own does that.
        valid: bool [B, T], true for a token and false for padding.
        causal: whether a query sees the keys up to its own position, or else all.

    Returns:
        [B, ..., N, T] mean weight of each key; 0 for padding.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: as `attention_received`.
    """
    received = floating("received", received)
    valid = boolean("valid", valid)
    check_shapes(("received", received, "B*NT"), ("valid", valid, "BT"))
    count = jnp.maximum(seen_by(valid, causal=causal), 1).astype(received.dtype)
    return jnp.where(spread(valid, received, -1), received / spread(count, received, -1), 0.0)


def attention_shares(weights: ArrayLike) -> jax.Array:
    """|weight| over the sum of |weights| of its row: weights that add up to one, for any variant.

    Args:
        weights: [..., S] attention weights (dimensionless), of any sign.

    Returns:
        [..., S] shares; a row of zeros stays zero.

    Raises:
        ValueError: wrong dtype, or no axis.

    Source: 2410.10781, proxy weights of table 6, which adds 1e-8 to the sum.
    """
    weights = floating("weights", weights)
    check_shapes(("weights", weights, "*S"))
    size = jnp.abs(weights)
    total = jnp.sum(size, axis=-1, keepdims=True)
    return size / jnp.where(total > 0.0, total, 1.0)


def sink_rate(received: ArrayLike, valid: ArrayLike, epsilon: float = SINK_EPSILON, key: int = 0) -> jax.Array:
    """Share of the sequences in which a head has a sink: Sink_k^eps, the key receives more than epsilon.

    Each sequence is judged before the average, and equality does not count. The average over heads and layers, times
    100, is the published percentage, for k = key + 1 in the paper's count from 1. Its sequences have T = 64 tokens, of
    which the first is what the tokenizer puts there: a BOS token for LLaMA, none for models that the authors trained.
    State which: the rate of Mistral-7B-v0.3 falls from .98 to .03 without it.

    Args:
        received: [B, ..., N, T] from `attention_received` or `mean_received`.
        valid: bool [B, T], true for a token and false for padding.
        epsilon: mean weight above which a key is a sink: .3 in 2410.10781, .8 in the sink rate of 2504.02732.
        key: number of the key among the valid tokens, from 0, a Python int.

    Returns:
        [..., N] share in 0..1; NaN when no sequence has such a key.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, or a key outside 0..T-1.

    Source: Gu et al. 2024 (2410.10781), section 3.2; Barbero et al. 2025 (2504.02732), the same with epsilon .8.
    """
    received = floating("received", received)
    valid = boolean("valid", valid)
    check_shapes(("received", received, "B*NT"), ("valid", valid, "BT"))
    position, found = token(valid, check_key(key, valid.shape[1]))
    above = taken(received, position) > epsilon
    return masked_mean(above.astype(received.dtype), spread(found, above), axis=0)


def sink_position(received: ArrayLike, where: ArrayLike) -> jax.Array:
    """Position of the key that receives the most, per sequence and head.

    Args:
        received: [B, ..., N, T] weight received by each key, as means or as sums. Of means, leave keys that few queries
            see out of `where`: the last key of a causal sequence is seen by its own query alone.
        where: bool [B, T], the keys to choose among, e.g. `seen_by(valid, causal=True) >= 8`.

    Returns:
        int32 [B, ..., N], counted from the start of the array; the first of equals, -1 when `where` is empty.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: 2410.10781, where the sink is the key with the largest importance score.
    """
    received = floating("received", received)
    where = boolean("where", where)
    check_shapes(("received", received, "B*NT"), ("where", where, "BT"))
    largest = jnp.argmax(jnp.where(spread(where, received, -1), received, -jnp.inf), axis=-1)
    return jnp.where(spread(jnp.any(where, axis=1), largest), largest, -1).astype(jnp.int32)


def secondary_sinks(received: ArrayLike, where: ArrayLike, epsilon: float = SINK_EPSILON) -> jax.Array:
    """Keys after the first that are sinks themselves, per sequence and head: they receive more than epsilon.

    Args:
        received: [B, ..., N, T] from `attention_received` or `mean_received`.
        where: bool [B, T], the keys to judge, the first of which is the primary sink and false in the result. Leave out
            keys that few queries see, as for `sink_position`.
        epsilon: mean weight above which a key is a sink.

    Returns:
        bool [B, ..., N, T].

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: the rule of 2410.10781, section 3.2, for k > 1. The rule of 2512.22213 is `aligned_with_first`.
    """
    received = floating("received", received)
    where = boolean("where", where)
    check_shapes(("received", received, "B*NT"), ("where", where, "BT"))
    return spread(_after_first(where), received, -1) & (received > epsilon)


def aligned_with_first(resid: ArrayLike, valid: ArrayLike, threshold: float = SINK_ALIGNMENT) -> jax.Array:
    """Later tokens whose residual stream is parallel to the first token's: candidates for secondary sinks.

    The source looks at the layers between the largest rise and the largest fall of the first token's norm, and calls a
    token a secondary sink if this holds in more than 4 of them, but fewer than L - 15 (made for models of about 30
    layers and more): sum the result over those layers.

    Args:
        resid: [B, ..., T, D] residual stream.
        valid: bool [B, T], true for a token and false for padding.
        threshold: absolute cosine above which two vectors count as parallel.

    Returns:
        bool [B, ..., T]; false for the first token, for padding and where either vector is zero.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.

    Source: 2512.22213, released code (detection by hidden states).
    """
    resid = floating("resid", resid)
    valid = boolean("valid", valid)
    check_shapes(("resid", resid, "B*TD"), ("valid", valid, "BT"))
    first = taken(resid, token(valid, 0)[0], axis=-2)[..., None, :]
    alike = jnp.abs(jnp.sum(resid * first, axis=-1))
    sizes = jnp.linalg.norm(resid, axis=-1) * jnp.linalg.norm(first, axis=-1)
    return spread(_after_first(valid), alike, -1) & (alike > threshold * sizes)


def _after_first(mask: jax.Array) -> jax.Array:
    """The mask [B, T] without the first true entry of each row."""
    return mask & (jnp.cumsum(mask, axis=1) > 1)
