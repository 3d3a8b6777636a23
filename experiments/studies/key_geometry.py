"""By head: how the logits on a key are spread, and how its key vector stands to other keys and to the queries."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxsink.metrics import logit_concentration


def key_geometry(
    scores: jax.Array, queries: jax.Array, keys: jax.Array, where: jax.Array, compared: Sequence[int]
) -> dict[str, jax.Array]:
    """What stands behind the logits on some keys. Jittable, with `compared` static.

    Args:
      scores: [B, N, T, T], logits before the mask, scaled by 1 / sqrt(H).
      queries: [B, T, N, H] and keys: [B, T, K, H], before rotation, which changes no norm.
      where: bool [C, T], the queries that see each compared key. compared: C positions of keys.

    Returns:
      "logit_std" [N, C + 1], standard deviation over passages and queries of the logit on each compared key, and over
      all pairs of a query and an earlier key but the first (see `logit_concentration`); "query_cosine" [N, C], mean
      cosine of the rotated queries with the rotated key; "query_aligned" [N, C], share of queries for which it is
      positive; "key_cosine" [N, C], mean cosine of the key with all others, before rotation, a key head's repeated for
      its queries.

    Source: 2410.10781 and 2410.13835, section 4.
    """
    key_norms = jnp.repeat(jnp.linalg.norm(keys, axis=-1), queries.shape[2] // keys.shape[2], axis=2)
    norms = jnp.linalg.norm(queries, axis=-1) / queries.shape[-1] ** 0.5
    spread = logit_concentration(scores, jnp.ones(queries.shape[:2], bool))
    unit = keys / jnp.linalg.norm(keys, axis=-1, keepdims=True)
    total = unit.sum(1, keepdims=True)
    found: dict[str, list[jax.Array]] = {"logit_std": [], "query_cosine": [], "query_aligned": [], "key_cosine": []}
    for c, key in enumerate(compared):
        counted = where[c].astype(scores.dtype)
        counted = counted / (counted.sum() * queries.shape[0])

        def mean(x: jax.Array, counted: jax.Array = counted) -> jax.Array:
            """[N] from [B, N, T], over the passages and the queries that see the key."""
            return jnp.einsum("bnt,t->n", x, counted, precision=jax.lax.Precision.HIGHEST)

        logits = scores[..., key]
        cosine = logits / (jnp.swapaxes(norms, 1, 2) * key_norms[:, key, :, None])
        found["logit_std"].append(jnp.sqrt(mean((logits - mean(logits)[None, :, None]) ** 2)))
        found["query_cosine"].append(mean(cosine))
        found["query_aligned"].append(mean((cosine > 0).astype(cosine.dtype)))
        with_all = jnp.einsum("bkh,bkh->bk", unit[:, key], total[:, 0], precision=jax.lax.Precision.HIGHEST)
        others = ((with_all - 1) / (keys.shape[1] - 1)).mean(0)
        found["key_cosine"].append(jnp.repeat(others, queries.shape[2] // keys.shape[2]))
    found["logit_std"].append(spread.other_std)
    return {name: jnp.stack(each, axis=-1) for name, each in found.items()}
