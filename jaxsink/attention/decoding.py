"""Decoding: attention of new tokens over a cache of keys and values that has a fixed size.

Slots remember the position of their key in the text, so that nothing depends on where in the cache a key lies.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsink.attention import checks
from jaxsink.attention.cache import Cache, KeepAll, Policy
from jaxsink.attention.call import Aux
from jaxsink.attention.composite import Composite, Inputs, Tree, Wrapped
from jaxsink.attention.driver import Variant, attend_with_aux
from jaxsink.attention.row_map import Params, RowMap, Streaming
from jaxsink.attention.variants import Softmax

Rope = Callable[[Array, Array], Array]

# Entries of `Aux` without an axis of keys, which slots would stand for.
_PER_QUERY = frozenset({"lse", "row_mass", "null_mass", "total", "entropy"})


def decode(
    cache: Cache,
    q: Array,
    k: Array,
    v: Array,
    variant: Variant = Softmax(),
    *,
    policy: Policy = KeepAll(),
    params: Tree | None = None,
    x: Array | None = None,
    null_logit: Array | None = None,
    scale: float | Array | None = None,
    softcap: float | None = None,
    rope: Rope | None = None,
    backend: str = "auto",
) -> tuple[Array, Cache]:
    """Causal attention of n new tokens over the cache and themselves: append, attend, evict.

    A pure function of arrays, for jit, scan, vmap and grad. The outputs of all calls together are those of `attend`
    over the whole text, under `Causal()` for `KeepAll` and under `Causal() & WindowWithSinks(size, sinks)` for
    `KeepWindow`, however the text is cut into calls. The mask is a dense boolean [B, 1, n, C]. Masks and biases of
    the caller are not offered, as they would have to know which key lies in which slot.

    >>> import jax
    >>> from jaxsink.attention import Cache, KeepWindow, decode
    >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 1, 4, 8))  # a token of each of two sequences
    >>> policy = KeepWindow(size=16, sinks=4)
    >>> cache = Cache.empty(batch=2, capacity=policy.capacity(max_length=100), key_heads=4, head_size=8)
    >>> out, cache = decode(cache, q, k, v, policy=policy)
    >>> out.shape, cache.length.tolist()
    ((2, 1, 4, 8), [1, 1])

    Args:
        cache: the tokens so far.
        q: queries [B, n, N, H]; n is at least 1, and more where a prompt is read in chunks.
        k: keys [B, n, K, H] in the dtype of the cache.
        v: values [B, n, K, Hv] in the dtype of the cache.
        variant: a row map, or `Wrapped` if all its wrappers declare `per_token`. The cache holds keys and values as
            the wrappers hand them to the row map, rounded to its dtype.
        policy: which keys stay; the same in every call.
        params: parameters of the variant.
        x: [B, n, D], what q was projected from, for a variant that reads it.
        null_logit: logit of a column that takes weight and owns no value, [B|1, N|1, n|1], see `attend`.
        scale: factor of q.k, 1/sqrt(H) if None.
        softcap: c in c * tanh(score / c), no cap if None.
        rope: called as rope(x [b, t, heads, H], positions [b, t]), such as `jaxsink.attention.rope`. Keys are then
            cached as they come; for each query the keys that it sees are numbered 0, 1, ... in order of the text,
            and each is rotated by its number, and so is the query. As long as nothing was evicted these are the
            positions in the text. Wrappers work on what is not rotated yet. Takes n times the memory of the cache:
            read prompts in short chunks. Without `rope`, rotate q and k by their positions,
            `cache.length[:, None] + arange(n)`, beforehand.
            Source: Xiao et al. 2023 (arXiv 2309.17453), section 3.2.
        backend: a backend by name, or "auto".

    Returns:
        Output [B, n, N, Hv] in the dtype of `v`, and the next cache. Inside jit and scan, where the length of the
        text is not known, a text that outgrows its cache under `KeepAll` has the output NaN from position C on.

    Raises:
        ValueError: if an argument does not fit, the cache is too small, or the variant cannot be decoded.
    """
    checks.check_variant(variant)
    _check_decodable(variant, policy)
    q = checks.floating_array("q", q, "[B, n, N, H]")
    k = checks.floating_array("k", k, "[B, n, K, H]")
    v = checks.floating_array("v", v, "[B, n, K, Hv]")
    checks.check_shapes(q, k, v)
    _check_dtypes(cache, k, v)
    _check_room(cache, q.shape[1], policy)
    given = Inputs(
        q=q,
        k=k,
        v=v,
        x=checks.checked_x(variant, x, q),
        mask=None,
        bias=(),
        null_logit=checks.checked_null_logit(variant, null_logit, q),
        scale=1.0 / math.sqrt(q.shape[3]) if scale is None else scale,
        softcap=softcap,
        query_offset=cache.length,
        on_keys=None,
        on_groups=None,
    )
    checked = checks.checked_params(variant, params, given.dims)
    caches = [cache]

    def evaluate(inputs: Inputs, row_map: RowMap, params: Params, want: frozenset[str]) -> tuple[Array, Aux]:
        _check_changed(cache, inputs)
        out, aux, after = _step(cache, inputs, row_map, params, want, policy, rope, backend)
        caches.append(after)
        return out, aux

    if isinstance(variant, Composite):
        out, _ = variant.run(given, checked, evaluate, frozenset())
    else:
        out, _ = evaluate(given, variant, checked, frozenset())
    return out, caches[-1]


def _step(
    cache: Cache,
    inputs: Inputs,
    row_map: RowMap,
    params: Params,
    want: frozenset[str],
    policy: Policy,
    rope: Rope | None,
    backend: str,
) -> tuple[Array, Aux, Cache]:
    """Append, attend and evict."""
    batch, new, heads, _ = inputs.q.shape
    positions = cache.length[:, None] + jnp.arange(new, dtype=jnp.int32)[None, :]
    slots = policy.slots(cache, positions)
    cache = _appended(cache, inputs, positions, slots)
    visible = policy.visible(positions, cache.positions)
    asked = dataclasses.replace(inputs, k=cache.keys, v=cache.values.astype(inputs.v.dtype), mask=visible[:, None])
    if rope is not None:
        asked = _renumbered(asked, rope, positions, cache.positions, visible)
    out, aux = attend_with_aux(
        asked.q,
        asked.k,
        asked.v,
        row_map,
        params=params,
        mask=asked.mask,
        null_logit=asked.null_logit,
        scale=asked.scale,
        softcap=asked.softcap,
        query_offset=asked.query_offset,
        backend=backend,
        want=want | {"received"} if policy.counts_received else want,
    )
    if aux.received is not None:
        received = aux.received.reshape(batch, -1, cache.capacity).sum(axis=1).astype(cache.received.dtype)
        cache = dataclasses.replace(cache, received=cache.received + received)
    # Rows of a call with `rope` come one by one, as [B n, N, 1].
    per_query = {name: getattr(aux, name) for name in want}
    if rope is not None:
        per_query = {name: entry.reshape(batch, new, heads).swapaxes(1, 2) for name, entry in per_query.items()}
    out = out.reshape(batch, new, heads, -1)
    out = jnp.where((slots < cache.capacity)[:, :, None, None], out, jnp.nan)
    return out, Aux(**per_query), policy.evicted(cache)


def _appended(cache: Cache, inputs: Inputs, positions: Array, slots: Array) -> Cache:
    at = (jnp.arange(slots.shape[0])[:, None], slots)
    return Cache(
        keys=cache.keys.at[at].set(inputs.k.astype(cache.keys.dtype), mode="drop"),
        values=cache.values.at[at].set(inputs.v.astype(cache.values.dtype), mode="drop"),
        positions=cache.positions.at[at].set(positions, mode="drop"),
        received=cache.received.at[at].set(0.0, mode="drop"),
        length=cache.length + slots.shape[1],
    )


def _renumbered(asked: Inputs, rope: Rope, positions: Array, held: Array, visible: Array) -> Inputs:
    """Give each query a row of the batch to itself, as keys are numbered by what it sees.

    Args:
        asked: what goes to `attend`, with queries [B, n, N, H], keys [B, C, K, H] and values [B, C, K, Hv].
        rope: the rotation.
        positions: of the queries, [B, n].
        held: positions of the keys, [B, C].
        visible: bool [B, n, C].
    """
    batch, new, capacity = visible.shape
    order = jnp.argsort(held, axis=-1)
    counted = jnp.cumsum(jnp.take_along_axis(visible, order[:, None, :], axis=-1), axis=-1, dtype=jnp.int32)
    numbers = jnp.take_along_axis(counted, jnp.argsort(order, axis=-1)[:, None, :], axis=-1) - 1
    null_logit = asked.null_logit
    if null_logit is not None:
        null_logit = jnp.broadcast_to(null_logit, (batch, null_logit.shape[1], new)).swapaxes(1, 2)
        null_logit = null_logit.reshape(batch * new, -1, 1)
    return dataclasses.replace(
        asked,
        # A query is the last of what it sees.
        q=rope(asked.q.reshape(batch * new, 1, *asked.q.shape[2:]), counted[:, :, -1].reshape(-1, 1) - 1),
        k=rope(jnp.repeat(asked.k, new, axis=0), numbers.reshape(batch * new, capacity)),
        v=jnp.repeat(asked.v, new, axis=0),
        mask=visible.reshape(batch * new, 1, 1, capacity),
        null_logit=null_logit,
        query_offset=positions.reshape(-1),
    )


def _check_decodable(variant: Variant, policy: Policy) -> None:
    name = type(variant).__name__
    if isinstance(variant, Composite):
        wrappers = variant.wrappers if isinstance(variant, Wrapped) else ()
        bound = [w.name for w in wrappers if not w.per_token or w.reads_aux - _PER_QUERY]
        if bound or not wrappers:
            raise ValueError(
                f"variant must be a row map or Wrapped in wrappers that treat each token by itself, but is {name}"
                f"{' with ' + ', '.join(bound) if bound else ''}; attend over the whole text instead"
            )
    if variant.properties.streaming is Streaming.ORDERED and not policy.in_order:
        raise ValueError(
            f"policy must keep keys in order for {name}, whose weights depend on it, but is {policy}; use KeepAll()"
        )


def _check_room(cache: Cache, new: int, policy: Policy) -> None:
    """Check that the cache has the slots that the policy needs, as far as the length of the text is known."""
    known = not isinstance(cache.length, jax.core.Tracer)
    longest = int(np.max(np.asarray(cache.length))) + new if known else new
    needed = policy.capacity(longest, new)
    if cache.capacity < needed:
        raise ValueError(
            f"cache must have {needed} slots for {new} new tokens of {longest} under {policy}, but has "
            f"{cache.capacity}; make it with capacity=policy.capacity(max_length, chunk), or pass fewer tokens at once"
        )


def _check_dtypes(cache: Cache, k: Array, v: Array) -> None:
    if k.dtype != cache.keys.dtype or v.dtype != cache.values.dtype:
        raise ValueError(
            f"k and v must have the dtype of the cache, {cache.keys.dtype}, but have {k.dtype} and {v.dtype}; cast "
            "them, or make the cache with their dtype"
        )


def _check_changed(cache: Cache, changed: Inputs) -> None:
    """Check what is about to be cached and attended, which wrappers may have changed."""
    for name, new, slots in (("k", changed.k, cache.keys), ("v", changed.v, cache.values)):
        expected = (slots.shape[0], changed.q.shape[1], *slots.shape[2:])
        if new.shape != expected:
            raise ValueError(
                f"{name} must have shape {expected} to go into this cache, but has {new.shape}, after the wrappers "
                "of the variant if it has any; make the cache with the sizes of what goes in"
            )
    if changed.mask is not None or changed.bias:
        raise ValueError(
            "wrappers that declare per_token must not set mask or bias, but one does; attend over the whole text "
            "instead"
        )
