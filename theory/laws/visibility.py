"""Laws about what a query may see: hidden keys, later keys, the order of the keys, and rows that see nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import jax
import numpy as np

from jaxsink.attention import AttentionDims, Causal, Streaming, Trait
from theory.laws.example import Example, parameter_shapes
from theory.laws.finding import F32, Finding, close, finite, zero
from theory.laws.law import Law


def _masked_is_deleted(e: Example) -> Iterator[Finding]:
    keys = e.k.shape[1]
    # An ordered map may tell the query's own key by its place, which must not move: only the last key can go then.
    keep = np.arange(keys) != (keys - 1 if e.variant.properties.streaming is Streaming.ORDERED else 1)
    hidden = replace(e, visible=e.visible & keep)
    out = hidden.out()
    if Trait.SAME_TOKENS not in e.traits:  # where a key goes, its query does
        deleted = replace(e, k=e.k[:, keep], v=e.v[:, keep], visible=e.visible[..., keep])
        yield close("output with a key hidden less that with it deleted", out, deleted.out(), **F32)
    yield zero("weight of a hidden key", np.where(hidden.visible, 0.0, hidden.run()["weights"]))
    gradients = hidden.gradients(np.ones_like(e.q))
    for name in ("k", "v"):
        yield zero(f"gradient of a hidden key by {name}", gradients[name][:, ~keep])
    huge = np.where(keep, 1.0, 1e4).astype(np.float32)[None, :, None, None]
    larger = replace(hidden, k=e.k * huge, v=e.v * huge)
    yield close("change of the output when a hidden key grows", larger.out(), out)


def _causal(e: Example) -> Iterator[Finding]:
    queries, keys = e.q.shape[1], e.k.shape[1]
    visible = np.asarray(Causal().materialise(queries, keys, e.offset))
    causal = replace(e, visible=np.broadcast_to(visible, e.visible.shape))
    for t in range(queries):
        cotangent = np.zeros_like(e.q)
        cotangent[:, t] = 1.0
        gradients = causal.gradients(cotangent)
        for name in ("k", "v"):
            yield zero(f"gradient of an output by {name} of a later key", gradients[name][:, e.offset + t + 1 :])
        yield zero("gradient of an output by another query", np.delete(gradients["q"], t, axis=1))
        if e.x is not None:
            yield zero("gradient of an output by x of a later token", gradients["x"][:, t + 1 :])


def _keys_permute(e: Example) -> Iterator[Finding]:
    order = e.rng.permutation(e.k.shape[1])
    shuffled = replace(e, k=e.k[:, order], v=e.v[:, order], visible=e.visible[..., order])
    before, after = e.run(), shuffled.run()
    yield close("output after the keys were permuted", after["out"], before["out"], **F32)
    yield close("weights after the keys were permuted", after["weights"], before["weights"][..., order], **F32)


def _empty_rows(e: Example) -> Iterator[Finding]:
    visible = e.visible.copy()
    visible[0, :, 1] = False
    empty = replace(e, visible=visible)
    found, properties = empty.run(), e.variant.properties
    owns_nothing = Trait.SLOT_VALUE not in e.traits
    yield finite("the output", found["out"])
    if owns_nothing:
        yield zero("output of a row that sees no key", found["out"][0, 1])
    yield zero("weights of a row that sees no key", found["weights"][0, :, 1])
    yield zero("row mass of a row that sees no key", found["row_mass"][0, :, 1])
    if properties.has_total:
        yield close("log-sum-exp of a row that sees no key", found["lse"][0, :, 1], -np.inf)
        yield close("null mass of a row that sees no key", found["null_mass"][0, :, 1], float(properties.null_column))
    cotangent = np.ones_like(e.q)
    gradients = empty.gradients(cotangent)
    yield finite("the gradients beside a row that sees no key", gradients)
    # A slot takes the whole row: its weight of one has a gradient by its logit that cancels to rounding.
    cancelled = {} if owns_nothing else {"atol": F32["atol"]}
    yield close("gradient by a query that sees no key", gradients["q"][0, 1], 0.0, **cancelled)
    gradients = replace(e, visible=np.zeros_like(visible)).gradients(cotangent)
    yield finite("the gradients where no row sees a key", gradients)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if owns_nothing or name in ("q", "k", "v"):
            yield close(f"gradient by {name} where no row sees a key", gradient, 0.0, **cancelled)


def _grouped_heads(e: Example) -> Iterator[Finding]:
    heads, key_heads, size = e.q.shape[2], e.k.shape[2], e.q.shape[3]
    group = heads // key_heads
    width = None if e.x is None else e.x.shape[2]
    alone = parameter_shapes(e.variant, AttentionDims(heads, heads, size, model_size=width))

    def repeated_axes(value: np.ndarray, expected: jax.ShapeDtypeStruct) -> np.ndarray:
        """A parameter of each key head is repeated with its head, one of each query head stays as it is."""
        for axis, (old, new) in enumerate(zip(value.shape, expected.shape, strict=True)):
            value = value if old == new else np.repeat(value, group, axis)
        return value

    params = jax.tree.map(repeated_axes, dict(e.params), alone)
    repeated = replace(e, k=np.repeat(e.k, group, 2), v=np.repeat(e.v, group, 2), params=params)
    yield close("output with grouped heads less that with repeated keys", e.out(), repeated.out(), **F32)


LAWS = (
    Law(
        "masked-is-deleted",
        "A hidden key is as good as deleted: its weight and gradients are exactly zero and its content moves nothing.",
        _masked_is_deleted,
        unless=frozenset({Trait.OWN_VALUE}),
    ),
    Law(
        "causal",
        "Under a causal mask an output has zero gradient by later keys, values and tokens, and by the other queries.",
        _causal,
        unless=frozenset({Trait.ALL_TOKENS}),
    ),
    Law(
        "keys-permute",
        "Permuting the keys, with their values and mask, permutes the weights and leaves the output as it is.",
        _keys_permute,
        lambda properties: properties.streaming is not Streaming.ORDERED,
        "weights that do not depend on the order of the keys",
        frozenset({Trait.SAME_TOKENS, Trait.OWN_VALUE}),
    ),
    Law(
        "empty-rows",
        "A row that sees no key has weights, gradients and, unless the variant adds a value of its own, an output of "
        "exactly zero, and spoils no other gradient.",
        _empty_rows,
    ),
    Law(
        "grouped-heads",
        "Query heads that share a key head do what they would do if each had a copy of it.",
        _grouped_heads,
        unless=frozenset({Trait.OWN_VALUE}),  # such a gate reads all key heads, each as often as it stands there
    ),
)
