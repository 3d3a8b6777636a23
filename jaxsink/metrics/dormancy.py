"""Scores by which an attention head counts as inactive."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsink.metrics._arguments import (
    boolean,
    check_groups,
    check_shapes,
    floating,
    masked_mean,
    quotient,
    spread,
    taken,
    token,
)
from jaxsink.metrics.received import attention_shares
from jaxsink.metrics.value_drain import value_norms_by_head


class HeadScores(NamedTuple):
    """The six scores of 2504.03889, each [B, ..., N]; its abbreviations in brackets.

    Attributes:
        first_weight: mean weight on the first token [AWFT]; inactive above a threshold.
        entropy: mean entropy of the query distributions, in nats [AEQD]; inactive below a threshold, as by all
            that follow.
        first_value_norm: norm of the first token's value [FTVVN].
        value_norm: mean norm of the values [AVVN].
        last_output_norm: norm of the head's output at the last token [LTHON].
        output_norm: mean norm of the head's output [AHON].
    """

    first_weight: jax.Array
    entropy: jax.Array
    first_value_norm: jax.Array
    value_norm: jax.Array
    last_output_norm: jax.Array
    output_norm: jax.Array


def attention_entropy(weights: ArrayLike) -> jax.Array:
    """Entropy of each row's shares of attention, see `attention_shares`.

    Args:
        weights: [..., S] attention weights (dimensionless), of any sign.

    Returns:
        [...] in nats; 0 for a row of zeros.

    Raises:
        ValueError: wrong dtype, or no axis.

    Source: Clark et al. 2019 (1906.04341), section 3.3; for softmax the entropy of the weights themselves.
    """
    shares = attention_shares(weights)
    return -jnp.sum(jnp.where(shares > 0.0, shares * jnp.log(jnp.where(shares > 0.0, shares, 1.0)), 0.0), axis=-1)


def head_scores(
    on_first: ArrayLike, entropy: ArrayLike, values: ArrayLike, outputs: ArrayLike, valid: ArrayLike
) -> HeadScores:
    """The six scores of an inactive head, per sequence. Averages are over valid tokens.

    With fewer key heads than query heads, query head h has the values of key head h // (N / K). Two things differ from
    the released code where there is padding: there the entropy of padding counts as 0 and its weights on the first
    token count in full.

    Args:
        on_first: [B, ..., N, T] weight of each query on the first token: `weights[..., 0]`, or `on_keys` and
            `on_groups` of `jaxsink.attention.attend_with_aux`.
        entropy: [B, ..., N, T] in nats: `attention_entropy(weights)`, or `entropy` of `attend_with_aux`.
        values: [B, ..., T, K, H] value vectors.
        outputs: [B, ..., T, N, D] output of each head: before W_O in the source (D = H); after W_O in its
            FullHeadOutput scores.
        valid: bool [B, T], true for a token and false for padding, which is never read.

    Returns:
        HeadScores; NaN in a sequence without a valid token.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, or N no multiple of K.

    Source: Sandoval-Segura et al. 2025 (2504.03889v3), score functions, as in its released code; v1 calls
    `layer_normalised(output_norm)` HONOR.
    """
    on_first, entropy = floating("on_first", on_first), floating("entropy", entropy)
    values, outputs = floating("values", values), floating("outputs", outputs)
    valid = boolean("valid", valid)
    check_shapes(
        ("on_first", on_first, "B*NT"),
        ("entropy", entropy, "B*NT"),
        ("values", values, "B*TKH"),
        ("outputs", outputs, "B*TND"),
        ("valid", valid, "BT"),
    )
    value_norms = value_norms_by_head(values, check_groups("outputs", outputs.shape[-2], values.shape[-2]))
    output_norms = jnp.swapaxes(jnp.linalg.norm(outputs, axis=-1), -2, -1)

    def average(of_tokens: jax.Array) -> jax.Array:
        return masked_mean(of_tokens, spread(valid, of_tokens, -1), axis=-1)

    def at(of_tokens: jax.Array, number: jax.Array) -> jax.Array:
        there = taken(of_tokens, number)
        return jnp.where(spread(jnp.any(valid, axis=1), there), there, jnp.nan)

    last = valid.shape[1] - 1 - jnp.argmax(valid[:, ::-1], axis=1)
    return HeadScores(
        first_weight=average(on_first),
        entropy=average(entropy),
        first_value_norm=at(value_norms, token(valid, 0)[0]),
        value_norm=average(value_norms),
        last_output_norm=at(output_norms, last),
        output_norm=average(output_norms),
    )


def layer_normalised(scores: ArrayLike, reference: ArrayLike | None = None) -> jax.Array:
    """A score over its mean over the heads of the same layer: the (LN) variants of the scores.

    Args:
        scores: [..., N] one score.
        reference: [..., N] the score to average instead. The source gives `last_output_norm` the mean of `output_norm`.

    Returns:
        [..., N], dimensionless; 1 for a score of 0 in a layer of zeros.

    Raises:
        ValueError: no axis, sizes that differ, or a wrong dtype.

    Source: 2504.03889v3, released code. In v1 an inactive head has an output_norm below .1 of its
    layer's mean. Its (HN) variant is last_output_norm over output_norm of the same head.
    """
    scores = floating("scores", scores)
    average = scores if reference is None else floating("reference", reference)
    check_shapes(("scores", scores, "*N"), ("reference", average, "*N"))
    return quotient(scores, jnp.broadcast_to(jnp.mean(average, axis=-1, keepdims=True), scores.shape))
