"""Attention variants in the attention modules of Flax: an `attention_fn` as a function, a Linen or an NNX module.

`Softmax()` gives what Flax computes itself, but for a row that may see no key: Flax returns the mean of all values
there, and these 0. Scores and normalisers are float32 at least, whatever dtype Flax is told to compute in.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.linen.dtypes import promote_dtype
from jax import Array

from jaxsink.attention import AttentionDims, Causal, Composite, Mask, Softmax, Streaming, Variant, attend_with_aux
from jaxsink.attention.checks import check_variant
from jaxsink.attention.composite import Trait, Tree

_HIGHEST = (None, jax.lax.Precision.HIGHEST, "highest", "float32")


def attention_fn(
    variant: Variant, params: Tree | None = None, *, mask: Mask | None = None, query_offset: int | None = None
) -> Callable[..., Array]:
    """Make the `attention_fn` of a `flax.linen.MultiHeadDotProductAttention` or a `flax.nnx.MultiHeadAttention`.

    It takes what Flax passes: query [batch..., T, N, H], key [batch..., S, K, H], value [batch..., S, K, Hv], bias and
    mask that broadcast to [batch..., N, T, S]; numbers in a mask stand for True where they are not 0. `sow_weights`
    sows the weights where Flax does. What it could not honour it refuses: dropout, a precision below the highest,
    einsums of the caller.

    >>> import jax
    >>> from flax import linen as nn
    >>> from jaxsink.attention import Causal, Softpick
    >>> from jaxsink.models import attention_fn
    >>> layer = nn.MultiHeadDotProductAttention(num_heads=4, attention_fn=attention_fn(Softpick(), mask=Causal()))
    >>> x = jax.numpy.ones((2, 5, 8))
    >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
    (2, 5, 8)

    Args:
        variant: a row map, or a composite that does not read x, which Flax does not pass on.
        params: parameters of the variant. They stay outside of the model: `LinenAttention` and `NNXAttention` make
            them parameters of it.
        mask: structured, which Flax has no way to pass; joined with the mask that it passes. If it holds arrays, as
            `Lengths` does, their B is the product of the batch axes.
        query_offset: position of the first query on the axis of the keys, which Flax does not pass either. Where T is
            not S it must be given (0 in cross-attention) if the mask or the variant reads positions, as ReLU does.
            With `decode=True` in Flax positions move from call to call: use `jaxsink.attention.decode` there.

    Returns:
        A function with the arguments of `flax.linen.dot_product_attention` that returns [batch..., T, N, Hv].

    Raises:
        ValueError: if the variant reads x or `mask` is not structured; in a call, if an argument cannot be honoured.
    """
    _check(variant, mask)
    return functools.partial(_attention, variant, params, mask, query_offset)


def _attention(
    variant: Variant,
    params: Tree | None,
    structured: Mask | None,
    query_offset: int | None,
    # From here on what Flax passes; Linen leaves out what is not named here.
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: Any = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    dtype: Any = None,
    precision: Any = None,
    module: nn.Module | nnx.Module | None = None,
    qk_attn_weights_einsum: Any = None,
    attn_weights_value_einsum: Any = None,
    is_causal: bool = False,
    input_positions: Array | None = None,
) -> Array:
    if dropout_rate > 0.0 and not deterministic:
        raise ValueError(
            f"dropout_rate must be 0 while training, because attention weights have no dropout here, but is "
            f"{dropout_rate}; drop out the output of the module instead"
        )
    if any(entry not in _HIGHEST for entry in (precision if isinstance(precision, tuple) else (precision,))):
        raise ValueError(
            f"precision must be None or the highest, which scores and outputs are computed in, but is {precision!r}; "
            "leave it out"
        )
    if qk_attn_weights_einsum is not None or attn_weights_value_einsum is not None or input_positions is not None:
        raise ValueError(
            "qk_attn_weights_einsum_cls, attn_weights_value_einsum_cls and input_positions must be None, because a "
            "variant computes its own scores, but one is given; leave it out"
        )
    query, key, value = promote_dtype(query, key, value, dtype=dtype)
    *batch, queries, heads, _ = query.shape
    keys = key.shape[-3]
    _check_positions(variant, structured, query_offset, queries, keys)
    dense = None if mask is None else _four_axes(mask, batch).astype(bool)
    if is_causal and queries == keys and not query_offset:
        structured = Causal() if structured is None else structured & Causal()
    elif is_causal:
        # As Flax has it: query 0 stands on key 0.
        causal = Causal().materialise(queries, keys, 0)
        dense = causal if dense is None else dense & causal
    visible: Mask | Array | None = dense
    if structured is not None:
        visible = structured if dense is None else structured.materialise(queries, keys, query_offset) & dense
    q, k, v = (array.reshape(math.prod(batch), *array.shape[-3:]) for array in (query, key, value))
    out, aux = attend_with_aux(
        q,
        k,
        v,
        variant,
        params=params,
        mask=visible,
        bias=None if bias is None else _four_axes(bias, batch),
        query_offset=query_offset,
        want=() if module is None else ("weights",),
    )
    if aux.weights is not None:
        weights = aux.weights.reshape(*batch, heads, queries, keys).astype(query.dtype)
        if isinstance(module, nnx.Module):
            module.sow(nnx.Intermediate, "attention_weights", weights)
        elif module is not None:
            module.sow("intermediates", "attention_weights", weights)
    return out.reshape(*batch, queries, heads, -1)


def _four_axes(array: Array, batch: list[int]) -> Array:
    """Return what broadcasts to [batch..., N, T, S] with one axis of batch."""
    array = jnp.asarray(array)
    array = array.reshape((1,) * (len(batch) + 3 - array.ndim) + array.shape)
    last = array.shape[len(batch) :]
    if all(size == 1 for size in array.shape[: len(batch)]):
        return array.reshape(1, *last)
    return jnp.broadcast_to(array, (*batch, *last)).reshape(math.prod(batch), *last)


def _check(variant: Variant, mask: Mask | None) -> None:
    check_variant(variant)
    if isinstance(variant, Composite) and variant.needs_x:
        raise ValueError(
            f"variant must not read x, which Flax does not pass to an attention_fn, but {variant!r} does; call attend "
            "in a module of your own"
        )
    if mask is not None and not isinstance(mask, Mask):
        raise ValueError(
            f"mask must be structured, such as Causal(), but is a {type(mask).__name__}; pass arrays to the Flax module"
        )


def _check_positions(
    variant: Variant, structured: Mask | None, query_offset: int | None, queries: int, keys: int
) -> None:
    reads = variant.properties.streaming in (Streaming.ELEMENTWISE, Streaming.ORDERED) or (
        isinstance(variant, Composite) and Trait.OWN_VALUE in variant.traits
    )
    if queries != keys and query_offset is None and (reads or structured is not None):
        raise ValueError(
            f"query_offset must be given for {type(variant).__name__}{'' if reads else ' with a structured mask'} "
            f"where there are not as many queries as keys ({queries} and {keys}); it is 0 in cross-attention"
        )


def _named(method: Callable[..., Array]) -> Callable[..., Array]:
    """Name the arguments of an `attention_fn` in the signature of a method: Linen passes those that it finds there."""
    own = inspect.signature(method).parameters["self"]
    passed = inspect.signature(attention_fn(Softmax())).parameters.values()
    method.__signature__ = inspect.Signature([own, *passed])  # type: ignore[attr-defined]
    return method


class LinenAttention(nn.Module):
    """An `attention_fn` for `flax.linen.MultiHeadDotProductAttention` with the variant's parameters in the model.

    They are initialised with the model and lie in `params["attention_fn"]["variant"]` of the attention module. If this
    one is made inside a compact method, Flax makes them the method's: `params["LinenAttention_0"]["variant"]`.

    Attributes:
        variant: as in `attention_fn`.
        mask: structured, as in `attention_fn`.
        query_offset: as in `attention_fn`.

    Raises:
        ValueError: as `attention_fn`.
    """

    variant: Variant
    mask: Mask | None = None
    query_offset: int | None = None

    @nn.compact
    @_named
    def __call__(self, query: Array, key: Array, value: Array, *args: Any, **options: Any) -> Array:
        params = None
        dims = AttentionDims(query.shape[-2], key.shape[-2], query.shape[-1], value.shape[-1])
        if jax.eval_shape(lambda: self.variant.init(jax.random.key(0), dims)):
            params = self.param("variant", self.variant.init, dims)
        attention = attention_fn(self.variant, params, mask=self.mask, query_offset=self.query_offset)
        return attention(query, key, value, *args, **options)


class NNXAttention(nnx.Module):
    """An `attention_fn` for `flax.nnx.MultiHeadAttention` with the variant's parameters in the model, as `nnx.Param`.

    Args:
        variant: as in `attention_fn`.
        dims: numbers of heads and head size of the attention module.
        mask: structured, as in `attention_fn`.
        query_offset: as in `attention_fn`.
        rngs: its stream `params` initialises the parameters.

    Raises:
        ValueError: as `attention_fn`.
    """

    def __init__(
        self,
        variant: Variant,
        dims: AttentionDims,
        *,
        mask: Mask | None = None,
        query_offset: int | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        _check(variant, mask)
        self.variant = variant
        self.params = nnx.data(jax.tree.map(nnx.Param, variant.init(rngs.params(), dims)))
        self.mask = nnx.data(mask)
        self.query_offset = query_offset

    def __call__(self, *args: Any, **options: Any) -> Array:
        params = jax.tree.map(lambda p: p[...], self.params, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))
        return attention_fn(self.variant, params, mask=self.mask, query_offset=self.query_offset)(*args, **options)
