"""The table of a model's sites, taken from `jax.eval_shape`: nothing is computed and nothing can drift."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsink.models import CAPTURES, Model, init


class Meaning(NamedTuple):
    """What a site holds, and its axes: B batch, T queries or positions, S keys, N query heads, K key heads, H head
    size, D model size, F hidden width, V vocabulary.
    """

    axes: str
    words: str


# Names follow TransformerLens where they mean the same thing.
MEANINGS: Mapping[str, Meaning] = {
    "embed": Meaning("BTD", "token embedding, before anything is added"),
    "type_embed": Meaning("BTD", "embedding of the token type, before it is added"),
    "pos_embed": Meaning("BTD", "position embedding, before it is added"),
    "resid_pre": Meaning("BTD", "residual stream before the block"),
    "q": Meaning("BTNH", "queries, before rotation and scale"),
    "k": Meaning("BSKH", "keys, before rotation"),
    "v": Meaning("BSKH", "values, before W_O"),
    "rot_q": Meaning("BTNH", "queries after rotation, before the scale"),
    "rot_k": Meaning("BSKH", "keys after rotation"),
    "attn_scores": Meaning("BNTS", "logits after scale, soft-cap and bias, before the mask"),
    "pattern": Meaning("BNTS", "attention weights, after mask and normalisation"),
    "attn_on_first": Meaning("BNT", "attention weight on key 0, without an array of T x S"),
    "attn_received": Meaning("BNS", "attention weight on each key, summed over queries, without an array of T x S"),
    "attn_entropy": Meaning("BNT", "entropy of the attention weights in nats, without an array of T x S"),
    "z": Meaning("BTNH", "weighted values per head, before W_O"),
    "attn_out": Meaning("BTD", "what attention adds to the residual stream, after W_O"),
    "resid_mid": Meaning("BTD", "residual stream after attention (in an encoder after its LayerNorm), before the MLP"),
    "mlp_pre": Meaning("BTF", "hidden layer of the MLP (its gate, if it has one), before the non-linearity"),
    "mlp_pre_linear": Meaning("BTF", "what the gate of the MLP multiplies"),
    "mlp_post": Meaning("BTF", "hidden layer of the MLP, after non-linearity and gate"),
    "mlp_out": Meaning("BTD", "what the MLP adds to the residual stream"),
    "resid_post": Meaning("BTD", "residual stream after the block (in an encoder after its LayerNorm)"),
    "final_norm": Meaning("BTD", "what the read-out reads, after the last norm"),
    "pooled": Meaning("BD", "what the pooler makes of the first token"),
    "logits": Meaning("BTV", "logits over the vocabulary"),
}

# Nothing is computed from these, so an edit would do nothing.
READINGS = frozenset({"attn_on_first", "attn_received", "attn_entropy", "pooled"})


class Site(NamedTuple):
    """One named activation: its name, shape, dtype, axes (see `Meaning`) and what it is the value of."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    axes: str
    meaning: str


def site_path(name: str) -> tuple[str, ...]:
    """The path of a site in Flax's collections: "blocks.0.q" is ("blocks_0", "q")."""
    head, *rest = name.split(".")
    return (f"blocks_{rest[0]}", *rest[1:]) if head == "blocks" and rest else (name,)


def _site_name(path: tuple[Any, ...]) -> str:
    return ".".join(str(part.key) for part in path).replace("blocks_", "blocks.")


def sites(model: Model, batch: int = 1, length: int | None = None) -> dict[str, Site]:
    """Every site of a model with its shape, for tokens of shape [batch, length], in order of name.

    Keys and values have the axis K where the model has fewer key heads than query heads, and else N.

    Args:
      model: the model; nothing is computed.
      batch: B of the shapes listed. length: T of the shapes listed; None means the model's `max_length`.

    Returns:
      A dict from site name ("blocks.0.attn_out") to `Site`.
    """
    return dict(_traced(model, batch, length or model.max_length, jnp.result_type(float)))


@lru_cache
def _traced(model: Model, batch: int, length: int, floats: jnp.dtype) -> Mapping[str, Site]:
    """The sites where a float is of the type `floats`. Tracing thirty blocks takes seconds, so it is done once."""
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    params = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    _, state = jax.eval_shape(lambda p, t: model.apply({"params": p}, t, mutable=[CAPTURES]), params, tokens)
    leaves, _ = jax.tree_util.tree_flatten_with_path(state[CAPTURES])
    table = {_site_name(path): leaf for path, leaf in leaves}
    key_heads = "N" if model.config.dims.key_heads == model.config.dims.query_heads else "K"

    def site(name: str, leaf: jax.ShapeDtypeStruct) -> Site:
        axes, words = MEANINGS[name.rsplit(".", 1)[-1]]
        return Site(name, leaf.shape, str(leaf.dtype), axes.replace("K", key_heads), words)

    return {name: site(name, leaf) for name, leaf in sorted(table.items())}


def require_editable(names: Iterable[str]) -> None:
    """Raise for the first site from which nothing is computed: an edit of it would be ignored in silence."""
    for name in names:
        if name.rsplit(".", 1)[-1] in READINGS:
            raise ValueError(f"site {name!r} only reads what was computed, so it takes no edit; edit another site.")


def require_sites(known: Iterable[str], asked: Iterable[str]) -> None:
    """Raise for the first name that is no site, naming the nearest one: Flax would ignore it in silence."""
    known = list(known)
    for name in asked:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ValueError(f"site {name!r} does not exist in this model; the nearest is {nearest[0]!r}.")
