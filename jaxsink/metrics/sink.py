"""How much attention a key collects, and by how much its logit stands out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsink.metrics._arguments import (
    boolean,
    check_key,
    check_shapes,
    check_vocab_size,
    floating,
    integer,
    masked_mean,
)
from jaxsink.metrics.received import attention_shares

# Mean attention to the start token below which a token type is a trigger (2410.13835, released code).
TRIGGER_CUTOFF = 0.89


def attention_to_key(weights: ArrayLike, where: ArrayLike, key: int = 0) -> jax.Array:
    """Mean attention weight that the chosen queries put on one key; with key 0, Attn_<s>.

    Every query of `where` counts, also query `key` itself, whose causal weight on itself is forced when key
    is 0: leave it out of `where` to measure choice only, and give `uniform_baseline` the same `where`.

    Args:
        weights: [B, N, T, S] attention weights (dimensionless), after the normalisation.
        where: bool [B, T], the queries to average over: non-trigger positions for Attn_<s>.
        key: position of the key, a Python int.

    Returns:
        [N] mean weight per head; NaN when `where` is empty.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, or a key outside 0..S-1.

    Source: 2410.13835, Attn_<s> of its training dynamics.
    """
    weights = floating("weights", weights)
    where = boolean("where", where)
    check_shapes(("weights", weights, "BNTS"), ("where", where, "BT"))
    key = check_key(key, weights.shape[3])
    return masked_mean(weights[:, :, :, key], where[:, None, :], axis=(0, 2))


def sink_share(weights: ArrayLike, where: ArrayLike, key: int = 0) -> jax.Array:
    """Mean share of one key in the attention of the chosen queries, |weight| over the sum of |weights| of its row.

    The proxy under which variants whose rows do not add up to one, or have weights below zero, are compared. A row of
    zeros counts as 0.

    Args:
        weights: [B, N, T, S] attention weights (dimensionless), of any sign.
        where: bool [B, T], the queries to average over.
        key: position of the key, a Python int.

    Returns:
        [N] mean share per head; NaN when `where` is empty.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, or a key outside 0..S-1.

    Source: Gu et al. 2024 (2410.10781), proxy weights of table 6, which adds 1e-8 to the sum.
    """
    return attention_to_key(attention_shares(weights), where, key)


def sink_strength(weights: ArrayLike, dormant: ArrayLike, active: ArrayLike, key: int = 0) -> jax.Array:
    """Mean |weight| that dormant queries put on one key, over the mean size of the rows of active queries.

    It is 1 where dormant rows put on the key what active rows put out in all. A head that is switched off at dormant
    queries, with next to no weight on anything, has none, whatever share of that little is the key's; and a constant
    factor of all weights, which the output matrix could take in, changes nothing.

    Args:
        weights: [B, N, T, S] attention weights (dimensionless), of any sign.
        dormant: bool [B, T], queries at which the head has nothing to say.
        active: bool [B, T], queries at which it has.
        key: position of the key, a Python int.

    Returns:
        Scalar over all heads, NaN when `dormant` or `active` is empty or active rows are zero.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, or a key outside 0..S-1.

    Source: this project; for softmax it is `attention_to_key`.
    """
    size = jnp.abs(floating("weights", weights))
    mass = row_mass(size, active).mean()
    return attention_to_key(size, dormant, key).mean() / jnp.where(mass > 0.0, mass, jnp.nan)


def row_mass(weights: ArrayLike, where: ArrayLike) -> jax.Array:
    """Mean sum of the weights that the chosen queries put on real keys: 1 for softmax.

    Args:
        weights: [B, N, T, S] attention weights (dimensionless).
        where: bool [B, T], the queries to average over.

    Returns:
        [N] mean mass per head; NaN when `where` is empty.

    Raises:
        ValueError: wrong rank, sizes that differ, or a wrong dtype.
    """
    weights = floating("weights", weights)
    where = boolean("where", where)
    check_shapes(("weights", weights, "BNTS"), ("where", where, "BT"))
    return masked_mean(jnp.sum(weights, axis=-1), where[:, None, :], axis=(0, 2))


def attention_to_previous(weights: ArrayLike, where: ArrayLike) -> jax.Array:
    """Mean attention weight that the chosen queries put on the key just before them.

    The first query has no previous key and is left out, whatever `where` says.

    Args:
        weights: [B, N, T, T] attention weights (dimensionless) of self-attention.
        where: bool [B, T], the queries to average over: trigger positions for the copying head.

    Returns:
        [N] mean weight per head; NaN when `where` holds no query after the first.

    Raises:
        ValueError: wrong rank, sizes that differ (T and S included), or a wrong dtype.

    Source: 2410.13835, where the active head of a trigger attends to the token before it.
    """
    weights = floating("weights", weights)
    where = boolean("where", where)
    check_shapes(("weights", weights, "BNTT"), ("where", where, "BT"))
    previous = jnp.diagonal(weights, offset=-1, axis1=2, axis2=3)
    return masked_mean(previous, where[:, None, 1:], axis=(0, 2))


def uniform_baseline(where: ArrayLike) -> jax.Array:
    """Mean weight on the first key when all queries attend evenly to all they see: the no-sink baseline.

    Causal query i (from 0) sees i+1 keys. Over all T queries the mean is H_T / T, without the first query
    (H_T - 1) / (T - 1), where H_T = 1 + 1/2 + ... + 1/T.

    Args:
        where: bool [B, T], the queries that `attention_to_key` averaged over.

    Returns:
        Scalar weight in JAX's default float dtype; NaN when `where` is empty.

    Raises:
        ValueError: wrong rank or dtype.

    Source: the comparison value for Attn_<s> of 2410.13835; elementary.
    """
    where = boolean("where", where)
    check_shapes(("where", where, "BT"))
    visible = jnp.arange(1, where.shape[1] + 1).astype(jnp.result_type(float))
    return masked_mean(jnp.broadcast_to((1.0 / visible)[None, :], where.shape), where)


def attention_to_key_by_token(weights: ArrayLike, tokens: ArrayLike, vocab_size: int, key: int = 0) -> jax.Array:
    """Mean attention weight on one key, per type of the query token.

    Queries up to and including `key` are left out: under causal attention their weight on it is forced.

    Args:
        weights: [B, N, T, S] attention weights (dimensionless).
        tokens: int [B, T] ids of the query tokens; a query whose id lies outside 0..vocab_size-1 is left out.
        vocab_size: number V of token ids, a Python int.
        key: position of the key, a Python int.

    Returns:
        [N, V] mean weight per head and token type; NaN for a type that never occurs after `key`.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, a key outside 0..S-1, or vocab_size below 1.

    Source: 2410.13835, released code (attention to <s> by token, the statistic behind trigger detection).
    """
    weights = floating("weights", weights)
    tokens = integer("tokens", tokens)
    check_shapes(("weights", weights, "BNTS"), ("tokens", tokens, "BT"))
    key = check_key(key, weights.shape[3])
    vocab_size = check_vocab_size(vocab_size)
    return _mean_by_token(weights[:, :, :, key], tokens, vocab_size, first_query=key + 1)


def detect_triggers(
    weights: ArrayLike, tokens: ArrayLike, vocab_size: int, cutoff: float = TRIGGER_CUTOFF
) -> jax.Array:
    """Token types on which a head is active: their mean attention to key 0 is below the cutoff.

    Args:
        weights: [B, N, T, S] attention weights (dimensionless).
        tokens: int [B, T] ids of the query tokens.
        vocab_size: number V of token ids, a Python int.
        cutoff: mean weight on key 0 below which a type counts as a trigger.

    Returns:
        bool [N, V]. False for a type that never occurs as a query after position 0:
        `attention_to_key_by_token` is NaN there and tells such a type from a dormant one.

    Raises:
        ValueError: as `attention_to_key_by_token`.

    Source: 2410.13835, released code, with its cutoff of 0.89.
    """
    return attention_to_key_by_token(weights, tokens, vocab_size) < cutoff


def sink_logit_gap(scores: ArrayLike, where: ArrayLike) -> jax.Array:
    """Dlogit: the logit on key 0 minus the mean logit over keys 1..i-1, averaged over queries i.

    The query's own key is excluded, so queries 0 and 1 have nothing to compare with and are left out. Entries
    on and above the diagonal are never read, whether masked or not. A constant added to all logits of a query
    cancels. A key among 1..i-1 hidden by -inf makes the gap infinite: pass logits from before a window mask.

    Args:
        scores: [B, N, T, T] attention logits, scaled, before the normalisation.
        where: bool [B, T], the queries to average over.

    Returns:
        [N] gap per head, in logits; NaN when `where` holds no query i >= 2.

    Raises:
        ValueError: wrong rank, sizes that differ (T and S included), or a wrong dtype.

    Source: 2410.13835, the sink-logit difference of its training dynamics.
    """
    scores = floating("scores", scores)
    where = boolean("where", where)
    check_shapes(("scores", scores, "BNTT"), ("where", where, "BT"))
    return masked_mean(_query_gaps(scores), _has_other_keys(where)[:, None, :], axis=(0, 2))


def sink_logit_gap_by_token(scores: ArrayLike, tokens: ArrayLike, vocab_size: int) -> jax.Array:
    """Dlogit (see `sink_logit_gap`) per type of the query token.

    Args:
        scores: [B, N, T, T] attention logits, scaled, before the normalisation.
        tokens: int [B, T] ids of the query tokens; a query whose id lies outside 0..vocab_size-1 is left out.
        vocab_size: number V of token ids, a Python int.

    Returns:
        [N, V] gap per head and token type, in logits; NaN for a type that never occurs as a query i >= 2.

    Raises:
        ValueError: wrong rank, sizes that differ (T and S included), a wrong dtype, or vocab_size below 1.

    Source: 2410.13835, released code (the difference averaged per token type).
    """
    scores = floating("scores", scores)
    tokens = integer("tokens", tokens)
    check_shapes(("scores", scores, "BNTT"), ("tokens", tokens, "BT"))
    vocab_size = check_vocab_size(vocab_size)
    return _mean_by_token(_query_gaps(scores), tokens, vocab_size, first_query=2)


class LogitConcentration(NamedTuple):
    """Spread of the logits on key 0 and on the other keys, per head, in logits."""

    sink_std: jax.Array
    other_std: jax.Array
    sink_mean: jax.Array


def logit_concentration(scores: ArrayLike, where: ArrayLike) -> LogitConcentration:
    """Spread of the logits on key 0, against that of the logits on keys 1..i-1 of the same queries.

    Standard deviations divide by the number of logits. Queries 0 and 1 are left out, as in `sink_logit_gap`.

    Args:
        scores: [B, N, T, T] attention logits, scaled, before the normalisation.
        where: bool [B, T], the queries to take: non-trigger positions.

    Returns:
        LogitConcentration of [N] arrays: standard deviation over queries of the logit on key 0, standard
        deviation over (query, key) pairs of the other logits, mean over queries of the logit on key 0. NaN
        when `where` holds no query i >= 2.

    Raises:
        ValueError: wrong rank, sizes that differ (T and S included), or a wrong dtype.

    Source: 2410.13835, sink-logits concentration.
    """
    scores = floating("scores", scores)
    where = boolean("where", where)
    check_shapes(("scores", scores, "BNTT"), ("where", where, "BT"))
    queries = _has_other_keys(where)[:, None, :]
    sink = scores[:, :, :, 0]
    sink_mean = masked_mean(sink, queries, axis=(0, 2))
    pairs = queries[:, :, :, None] & _other_keys(scores.shape[2])[None, None, :, :]
    other_mean = masked_mean(scores, pairs, axis=(0, 2, 3))
    # Two passes: E[x^2] - E[x]^2 cancels in float32 when the logits are large and their spread is small.
    sink_variance = masked_mean((sink - sink_mean[None, :, None]) ** 2, queries, axis=(0, 2))
    other_variance = masked_mean((scores - other_mean[None, :, None, None]) ** 2, pairs, axis=(0, 2, 3))
    return LogitConcentration(jnp.sqrt(sink_variance), jnp.sqrt(other_variance), sink_mean)


def _other_keys(length: int) -> jax.Array:
    """[T, T] true at (i, j) for 1 <= j < i."""
    position = jnp.arange(length)
    return (position[None, :] >= 1) & (position[None, :] < position[:, None])


def _has_other_keys(where: jax.Array) -> jax.Array:
    """The part of a [B, T] mask whose queries see a key other than 0 and themselves."""
    return where & (jnp.arange(where.shape[1]) >= 2)[None, :]


def _query_gaps(scores: jax.Array) -> jax.Array:
    """[B, N, T] mean over keys 1..i-1 of logit on key 0 - logit on the key; 0 for queries 0 and 1."""
    # Differences come first, so that a large common shift of a row cancels before it can swamp the mean.
    others = _other_keys(scores.shape[2])
    total = jnp.sum(jnp.where(others[None, None, :, :], scores[:, :, :, :1] - scores, 0.0), axis=3)
    # At least 1, so that the queries without other keys raise no alarm under jax_debug_nans.
    count = jnp.maximum(jnp.sum(others, axis=1), 1).astype(scores.dtype)
    return total / count[None, None, :]


def _mean_by_token(values: jax.Array, tokens: jax.Array, vocab_size: int, first_query: int) -> jax.Array:
    """[N, V] mean of [B, N, T] values over the queries from `first_query` on, by token id."""
    counted = (jnp.arange(tokens.shape[1]) >= first_query)[None, :]
    # The sums drop ids that are out of range, as they do with this one for the queries left out.
    bins = jnp.where(counted, tokens, vocab_size).reshape(-1)
    by_query = jnp.moveaxis(values, 1, 2).reshape(-1, values.shape[1])
    totals = jax.ops.segment_sum(by_query, bins, num_segments=vocab_size)
    counts = jax.ops.segment_sum(jnp.ones_like(bins), bins, num_segments=vocab_size)
    return totals.T / counts[None, :].astype(values.dtype)
