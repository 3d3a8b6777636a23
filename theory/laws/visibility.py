"""Laws about what a query may see: hidden keys, later keys, the order of the keys, and rows that see nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from jaxsink.attention import AttentionDims, Causal, Streaming
from theory.laws.example import Example, parameter_shapes
from theory.laws.finding import F32, Finding, close, finite, zero
from theory.laws.law import Law


def _masked_is_deleted(e: Example) -> Iterator[Finding]:
    keep = np.arange(e.k.shape[1]) != 1
    hidden = replace(e, visible=e.visible & keep)
    deleted = replace(e, k=e.k[:, keep], v=e.v[:, keep], visible=e.visible[..., keep])
    out = hidden.out()
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
    yield finite("the output", found["out"])
    yield zero("output of a row that sees no key", found["out"][0, 1])
    yield zero("weights of a row that sees no key", found["weights"][0, :, 1])
    yield zero("row mass of a row that sees no key", found["row_mass"][0, :, 1])
    if properties.has_total:
        yield close("log-sum-exp of a row that sees no key", found["lse"][0, :, 1], -np.inf)
        yield close("null mass of a row that sees no key", found["null_mass"][0, :, 1], float(properties.null_column))
    cotangent = np.ones_like(e.q)
    gradients = empty.gradients(cotangent)
    yield finite("the gradients beside a row that sees no key", gradients)
    yield zero("gradient by a query that sees no key", gradients["q"][0, 1])
    gradients = replace(e, visible=np.zeros_like(visible)).gradients(cotangent)
    yield finite("the gradients where no row sees a key", gradients)
    for name in ("q", "k", "v"):
        yield zero(f"gradient by {name} where no row sees a key", gradients[name])
    for name, gradient in gradients["params"].items():
        yield zero(f"gradient by {name} where no row sees a key", gradient)


def _grouped_heads(e: Example) -> Iterator[Finding]:
    heads, key_heads, size = e.q.shape[2], e.k.shape[2], e.q.shape[3]
    group = heads // key_heads
    # A parameter of each key head is repeated with its head, one of each query head stays as it is.
    alone = parameter_shapes(e.variant, AttentionDims(heads, heads, size))
    params = dict(e.params)
    for name, shape in alone.items():
        for axis, (old, new) in enumerate(zip(params[name].shape, shape, strict=True)):
            params[name] = params[name] if old == new else np.repeat(params[name], group, axis)
    repeated = replace(e, k=np.repeat(e.k, group, 2), v=np.repeat(e.v, group, 2), params=params)
    yield close("output with grouped heads less that with repeated keys", e.out(), repeated.out(), **F32)


LAWS = (
    Law(
        "masked-is-deleted",
        "A hidden key is as good as deleted: its weight and gradients are exactly zero and its content moves nothing.",
        _masked_is_deleted,
    ),
    Law(
        "causal",
        "Under a causal mask an output has zero gradient by later keys and values, and by the other queries.",
        _causal,
    ),
    Law(
        "keys-permute",
        "Permuting the keys, with their values and mask, permutes the weights and leaves the output as it is.",
        _keys_permute,
        lambda properties: properties.streaming is not Streaming.ORDERED,
        "weights that do not depend on the order of the keys",
    ),
    Law(
        "empty-rows",
        "A row that sees no key has weights, output and gradients of exactly zero, and spoils no other gradient.",
        _empty_rows,
    ),
    Law(
        "grouped-heads",
        "Query heads that share a key head do what they would do if each had a copy of it.",
        _grouped_heads,
    ),
)
