"""How small the value of the sink is: the value-state drain."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsink.metrics._arguments import boolean, check_groups, check_key, check_shapes, floating, masked_median, spread


def value_norms(values: ArrayLike) -> jax.Array:
    """Norm of the value vector of each position, all key heads concatenated, before W_O.

    Args:
        values: [B, ..., S, K, H] value vectors.

    Returns:
        [B, ..., S] Euclidean norms in the units of `values`.

    Raises:
        ValueError: wrong rank or dtype.

    Source: 2410.13835, Val_<s>, for a layer with several heads.
    """
    values = floating("values", values)
    check_shapes(("values", values, "B*SKH"))
    return jnp.linalg.norm(values.reshape(*values.shape[:-2], -1), axis=-1)


def value_norms_by_head(values: ArrayLike, query_heads: int) -> jax.Array:
    """Norm of the value vector that each query head reads, before W_O.

    With fewer key heads than query heads, query head h reads key head h // (N / K) (grouped-query attention).

    Args:
        values: [B, ..., S, K, H] value vectors.
        query_heads: number N of query heads, a Python int; K for one norm per key head.

    Returns:
        [B, ..., N, S] Euclidean norms in the units of `values`.

    Raises:
        ValueError: wrong rank or dtype, or N no positive multiple of K.

    Source: 2410.13835, Val_<s>, and 2407.01601, the norms of the value vectors.
    """
    values = floating("values", values)
    check_shapes(("values", values, "B*SKH"))
    groups = check_groups("query_heads", query_heads, values.shape[-2]) // values.shape[-2]
    norms = jnp.swapaxes(jnp.linalg.norm(values, axis=-1), -2, -1)
    return jnp.repeat(norms, groups, axis=-2)


def value_output_norms(values: ArrayLike, w_o: ArrayLike) -> jax.Array:
    """Norm of what each position writes when every head attends to it alone: |sum_h v_h W_O^h|.

    With fewer key heads than query heads, query head h reads key head h // (N / K) (grouped-query attention).

    Args:
        values: [B, ..., S, K, H] value vectors, in units of the residual stream before W_O.
        w_o: [N, H, D] output projection by query head, one for all of `...`; N is a multiple of K.

    Returns:
        [B, ..., S] Euclidean norms in the dtype of `values`.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, or N no multiple of K.

    Source: 2410.13835, Val_<s>; here after W_O, where the norms of different heads add up.
    """
    values = floating("values", values)
    w_o = floating("w_o", w_o).astype(values.dtype)
    check_shapes(("values", values, "B*SKH"), ("w_o", w_o, "NHD"))
    key_heads = values.shape[-2]
    groups = check_groups("w_o", w_o.shape[0], key_heads) // key_heads
    # Query heads of a group share their value, so their projections may be summed before the product.
    by_key_head = jnp.sum(w_o.reshape(key_heads, groups, *w_o.shape[1:]), axis=1)
    # Highest precision: the default on a GPU would round the operands to tensor-float.
    written = jnp.einsum("...skh,khd->...sd", values, by_key_head, precision=jax.lax.Precision.HIGHEST)
    return jnp.sqrt(jnp.sum(written**2, axis=-1))


def value_ratio(norms: ArrayLike, where: ArrayLike, key: int = 0) -> jax.Array:
    """Norm at a key over the median norm of ordinary positions, averaged over the batch; below 1 is a drain.

    Args:
        norms: [B, ..., S] value norms, e.g. from `value_norms` or `value_output_norms`.
        where: bool [B, S], the ordinary positions of each sequence, without padding; `key` takes part in the median
            only if true here.
        key: position of the sink, a Python int.

    Returns:
        [...], a scalar for norms [B, S], dimensionless; the median of an even number of norms is the mean of the
        middle two. NaN when any sequence has no position in `where`.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, or a key outside 0..S-1.

    Source: 2410.13835, value-state drain; over the median, which a second drained token hardly moves.
    """
    norms = floating("norms", norms)
    where = boolean("where", where)
    check_shapes(("norms", norms, "B*S"), ("where", where, "BS"))
    key = check_key(key, norms.shape[-1])
    ordinary = jnp.broadcast_to(spread(where, norms, -1), norms.shape)
    return jnp.mean(norms[..., key] / masked_median(norms, ordinary), axis=0)
