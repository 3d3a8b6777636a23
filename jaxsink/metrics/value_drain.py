"""How small the value of the sink is: the value-state drain."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsink.metrics._arguments import boolean, check_key, check_shapes, floating


def value_output_norms(values: ArrayLike, w_o: ArrayLike) -> jax.Array:
    """Norm of what each position writes when every head attends to it alone: |sum_h v_h W_O^h|.

    With fewer key heads than query heads, query head h reads key head h // (N / K) (grouped-query attention).

    Args:
        values: [B, S, K, H] value vectors, in units of the residual stream before W_O.
        w_o: [N, H, D] output projection by query head; N is a multiple of K.

    Returns:
        [B, S] Euclidean norms in the dtype of `values`.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, or N no multiple of K.

    Source: 2410.13835, Val_<s>; here after W_O, where the norms of different heads add up.
    """
    values = floating("values", values)
    w_o = floating("w_o", w_o).astype(values.dtype)
    check_shapes(("values", values, "BSKH"), ("w_o", w_o, "NHD"))
    key_heads, query_heads = values.shape[2], w_o.shape[0]
    if query_heads % key_heads:
        raise ValueError(
            f"w_o must have a multiple of the {key_heads} heads of values, got {query_heads}; "
            "pass the whole output projection as [N, H, D]."
        )
    # Query heads of a group share their value, so their projections may be summed before the product.
    by_key_head = jnp.sum(w_o.reshape(key_heads, query_heads // key_heads, *w_o.shape[1:]), axis=1)
    # Highest precision: the default on a GPU would round the operands to tensor-float.
    written = jnp.einsum("bskh,khd->bsd", values, by_key_head, precision=jax.lax.Precision.HIGHEST)
    return jnp.sqrt(jnp.sum(written**2, axis=-1))


def value_ratio(norms: ArrayLike, where: ArrayLike, key: int = 0) -> jax.Array:
    """Norm at a key over the median norm of ordinary positions, averaged over the batch; below 1 is a drain.

    Args:
        norms: [B, S] value norms, e.g. from `value_output_norms`.
        where: bool [B, S], the ordinary positions of each sequence; `key` takes part in the median only if
            true here.
        key: position of the sink, a Python int.

    Returns:
        Scalar, dimensionless; the median of an even number of norms is the mean of the middle two. NaN when
        any sequence has no position in `where`.

    Raises:
        ValueError: wrong rank, sizes that differ, a wrong dtype, or a key outside 0..S-1.

    Source: 2410.13835, value-state drain; over the median, which a second drained token hardly moves.
    """
    norms = floating("norms", norms)
    where = boolean("where", where)
    check_shapes(("norms", norms, "BS"), ("where", where, "BS"))
    key = check_key(key, norms.shape[1])
    return jnp.mean(norms[:, key] / _masked_median(norms, where))


def _masked_median(values: jax.Array, mask: jax.Array) -> jax.Array:
    """[B] median of each row under the mask; NaN for an empty row or one with a NaN under the mask."""
    ascending = jnp.sort(jnp.where(mask, values, jnp.inf), axis=1)
    count = jnp.sum(mask, axis=1)
    middle = jnp.stack([jnp.maximum(count - 1, 0) // 2, jnp.minimum(count // 2, values.shape[1] - 1)], axis=1)
    median = jnp.mean(jnp.take_along_axis(ascending, middle, axis=1), axis=1)
    defined = (count > 0) & ~jnp.any(mask & jnp.isnan(values), axis=1)
    return jnp.where(defined, median, jnp.nan)
