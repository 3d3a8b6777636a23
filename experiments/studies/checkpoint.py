"""Producer of evidence: attention received, value and residual norm at each position of passages of text."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies.key_geometry import key_geometry
from experiments.studies.product import PER_SECOND, Advance, Product
from experiments.texts import DOMAINS, ordinary_tokens
from jaxsink import control
from jaxsink.checkpoints import Loaded, Tokenizer, identify, load
from jaxsink.metrics import (
    mean_received,
    queries_after,
    residual_norms,
    sink_contribution,
    value_norms,
    value_norms_by_head,
)
from jaxsink.models import Decoder
from jaxsink.probing import Edits, stages
from jaxsink.tasks.text import random_tokens, repeated_tokens
from theory.bootstrap import BY_SAMPLE
from theory.checkpoint import COMPARED, MaskControl, Passages, PositionControl

NAME = "checkpoint"
VERSION = 6
# One pass alone leaves a third of two cores idle: two at once take .76 of the time.
SIDE_BY_SIDE = True
# A token of the packaged tokenizers stands for fewer characters than this on average, so that passages are long enough.
_CHARACTERS = 8
# Arrays with an axis of passages over which means are taken. Weights of heads are not: they are compared by permuting
# passages, which copies of one would mislead.
_BY_PASSAGE = ("received", "value_norm", "resid_norm", "compared_weight", "compared_share")
_MADE_UP = {"random": random_tokens, "repeated": repeated_tokens}
_SEES: Mapping[str, control.Sees] = MappingProxyType(
    {
        "itself": control.itself,
        "itself and the one before": control.itself_and_previous,
        "the one before": control.previous,
        "the last five": control.last(5),
        "all but the first": control.all_but(0),
        "the first": control.only(0),
    }
)


def label(spec: Passages) -> str:
    """A study in words."""
    special = "" if spec.special else ", no special tokens"
    special += ", behind the token that begins a text" if spec.bos else ""
    special += f", from position {spec.first_position}" if spec.first_position else ""
    special += "" if spec.control is None else f", {_words(spec.control)}"
    passages = "one passage" if spec.count == 1 else f"{spec.count} passages"
    return f"{spec.model} on {passages} of {spec.domain}, {spec.length} tokens each{special}"


def _words(given: MaskControl | PositionControl) -> str:
    where = f"position{'s' * (len(given.rows) > 1)} {', '.join(map(str, given.rows))}"
    if isinstance(given, PositionControl):
        name = {
            "first": "position 0's vector",
            "interior": f"position {given.interior}'s vector",
            "interior with the first one's norm": f"position {given.interior}'s vector at the norm of position 0's",
            "mean": "the mean position vector",
        }[given.vector]
        return f"{name} for {where}"
    last = "on" if given.last_layer is None else f"to {given.last_layer}"
    blocks = "" if (given.first_layer, given.last_layer) == (0, None) else f" from block {given.first_layer} {last}"
    return f"{where} hidden from the others{blocks}" if given.column else f"{where} seeing {given.sees}{blocks}"


def _about(given: MaskControl | PositionControl | None) -> dict[str, Any]:
    """What the manifest says of a control: which tokens it is about, and in words what it does."""
    return {"rows": [], "control": ""} if given is None else {"rows": list(given.rows), "control": _words(given)}


def cost(spec: Passages) -> float:
    """Work of one seed in multiplications, for the time left: three per parameter and token, and loading."""
    return 3e-8 * PER_SECOND * identify(spec.model).size * spec.count * spec.length / 1024 + 4 * PER_SECOND


_loading = threading.Lock()
_load = lru_cache(maxsize=3)(load)


def loaded(model: str) -> Loaded:
    """A checkpoint by name or path. The last three are kept: a decoder, an encoder and one without a sink."""
    with _loading:
        return _load(model)


def drawn(spec: Passages, checkpoint: Loaded, seed: int) -> np.ndarray:
    """The passages of a seed as tokens, int32 [B, T].

    Raises:
      ValueError: the checkpoint has no tokenizer, or none with the token that is asked for, or texts are too short.
    """
    tokenizer = checkpoint.tokenizer
    if tokenizer is None:
        raise ValueError(f"the checkpoint {spec.model!r} has no tokenizer, so it cannot read text.")
    before, after = _special(tokenizer) if spec.special else ((), ())
    if spec.bos:
        if tokenizer.bos_id is None:
            raise ValueError(f"the checkpoint {spec.model!r} has no token that begins a text; leave out bos.")
        before = (tokenizer.bos_id, *before)
    inner = spec.length - len(before) - len(after)
    if spec.domain in _MADE_UP:
        made_up = _MADE_UP[spec.domain](
            ordinary_tokens(tokenizer, checkpoint.model.config.vocab_size), inner, spec.count, seed
        )
        bodies: Sequence[np.ndarray] = list(made_up)
    else:
        passages = DOMAINS[spec.domain](_CHARACTERS * spec.length, spec.count, seed)
        bodies = [tokenizer.encode(passage, special=False)[:inner] for passage in passages]
    if short := [len(body) for body in bodies if len(body) < inner]:
        raise ValueError(
            f"a passage of {spec.domain} has {short[0]} tokens, but length={spec.length} was asked for; lower it."
        )
    return np.stack([np.concatenate([before, body, after]).astype(np.int32) for body in bodies])


def _special(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the model is made to see around a text: [CLS] and [SEP], or nothing where it has neither."""
    if tokenizer.cls_id is None or tokenizer.sep_id is None:
        return (), ()
    return (tokenizer.cls_id,), (tokenizer.sep_id,)


def _whole(x: jax.Array) -> jax.Array:
    return x


def _to_compared(pattern: jax.Array) -> jax.Array:
    """[B, N, T, C], the weights on the keys that are compared."""
    return pattern[..., jnp.array(COMPARED)]


def _mean_head(received: jax.Array) -> jax.Array:
    return received.mean(axis=1, keepdims=True)


def after_first(by_query: jax.Array) -> jax.Array:
    """[..., T] to [...]: the mean over the queries after the first, of which the attention is forced."""
    return by_query[..., 1:].mean(-1)


# Functions of modules, since `stages` compiles anew for other ones.
_BY_POSITION = {"attn_received": _mean_head, "v": _whole, "resid_post": residual_norms}
# What takes a third of a pass, and few claims ask for.
_BY_HEAD = {
    "attn_entropy": after_first,
    "attn_scores": _whole,
    "q": _whole,
    "k": _whole,
    "z": _whole,
    "pattern": _to_compared,
}


@jax.jit
def _contributions(on_key: jax.Array, values: jax.Array, outputs: jax.Array, where: jax.Array) -> dict[str, jax.Array]:
    """For each key compared the weight on it, by head [B, N, C] and on average [B, C], and its share of outputs [B, C].

    Args:
      on_key: [B, N, T, C]. values: [B, T, K, H]. outputs: [B, T, N, H]. where: bool [C, T], the queries that count.
    """
    norms = value_norms_by_head(values, outputs.shape[-2])
    found = []
    for i, key in enumerate(COMPARED):
        queries = jnp.broadcast_to(where[i][None, :], outputs.shape[:2])
        weights = on_key[..., i]
        share = sink_contribution(weights, norms[..., key], outputs, queries)
        counted = where[i].astype(weights.dtype)
        found.append((weights @ counted / counted.sum(), share.mean(-1)))
    by_head = jnp.stack([weight for weight, _ in found], axis=-1)
    return {
        "weight_by_head": by_head,
        "compared_weight": by_head.mean(1),
        "compared_share": jnp.stack([share for _, share in found], axis=-1),
    }


_geometry = jax.jit(key_geometry, static_argnames="compared")


def _edits(spec: Passages, loaded: Loaded) -> Edits:
    """What the control does to the activations."""
    model, params, given = loaded.model, loaded.params, spec.control
    if isinstance(given, MaskControl):
        last = model.config.n_layers - 1 if given.last_layer is None else given.last_layer
        layers = range(given.first_layer, last + 1)
        if given.column:
            return control.hide_columns(model, layers, given.rows, spec.length)
        if given.sees == "all":
            return control.open_rows(model, layers, given.rows, spec.length)
        return control.restrict_rows(model, layers, given.rows, _SEES[given.sees], spec.length)
    if isinstance(given, PositionControl) and not isinstance(model, Decoder):
        table = params["W_pos"]
        vector = {
            "first": lambda: table[0],
            "interior": lambda: table[given.interior],
            "interior with the first one's norm": lambda: control.norm_matched(table[given.interior], table[0]),
            "mean": lambda: table.mean(0),
        }[given.vector]()
        return control.transplant_position(model, vector, given.rows, spec.length)
    return {}


def _inputs(spec: Passages, loaded: Loaded) -> dict[str, Any]:
    """Positions of the tokens, where they are not 0, 1, ..."""
    positions = np.arange(spec.length) + spec.first_position
    given = spec.control
    if isinstance(given, PositionControl) and isinstance(loaded.model, Decoder):
        if given.vector not in ("first", "interior"):
            raise ValueError(
                f"{spec.model!r} rotates positions and has no vector {given.vector!r}; choose first or interior."
            )
        positions[list(given.rows)] = 0 if given.vector == "first" else given.interior
    return {} if (positions == np.arange(spec.length)).all() else {"positions": jnp.asarray(positions)}


class Trainer:
    """Runs the passages of any seeds through one checkpoint, which is loaded once.

    Args:
      spec: the passages. group: how many seeds come at once; they are run one after the other.
    """

    def __init__(self, spec: Passages, group: int) -> None:
        self.spec, self.loaded = spec, loaded(spec.model)
        self.edits, self.inputs = _edits(spec, self.loaded), _inputs(spec, self.loaded)

    def run(self, seeds: Sequence[int], partial: Path, advance: Advance) -> list[Product]:
        """Measure the seeds. One takes seconds, so nothing is kept of a killed one."""
        products = []
        for seed in seeds:
            start = time.monotonic()
            arrays, tokens = self._profiles(seed)
            advance(1 / len(seeds))
            tokenizer = self.loaded.tokenizer
            words = [] if tokenizer is None else list(tokenizer.tokens(tokens[0]))
            about = {"tokens": words, "causal": isinstance(self.loaded.model, Decoder), **_about(self.spec.control)}
            about[BY_SAMPLE] = [name for name in _BY_PASSAGE if name in arrays]
            manifest = {"label": label(self.spec), **about, "seconds": time.monotonic() - start}
            products.append(Product(arrays, {}, manifest))
        return products

    def _profiles(self, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Profiles [B, L, T] of a seed, comparisons [B, L, C], by head [B, L, N] and [L, N, C]; its tokens [B, T]."""
        model, params = self.loaded.model, self.loaded.params
        tokens, causal = drawn(self.spec, self.loaded, seed), isinstance(model, Decoder)
        every = jnp.ones(tokens.shape, bool)
        after = jnp.stack([queries_after(every, causal=causal, key=key)[0] for key in COMPARED])
        layers: list[dict[str, jax.Array]] = []
        geometry: list[dict[str, jax.Array]] = []
        capture = _BY_POSITION | (_BY_HEAD if self.spec.by_head else {})
        for stage in stages(model, params, jnp.asarray(tokens), capture=capture, edits=self.edits, inputs=self.inputs):
            found = stage.captured
            received = mean_received(found["attn_received"], every, causal=causal)[:, 0]
            layers.append(
                {"received": received, "value_norm": value_norms(found["v"]), "resid_norm": found["resid_post"]}
            )
            if self.spec.by_head:
                shares = _contributions(found["pattern"], found["v"], found["z"], after)
                layers[-1] |= {"entropy_by_head": found["attn_entropy"], **shares}
                geometry.append(_geometry(found["attn_scores"], found["q"], found["k"], after, compared=COMPARED))
        arrays = jax.tree.map(lambda *each: np.stack([np.asarray(x, np.float32) for x in each], axis=1), *layers)
        if geometry:
            arrays |= jax.tree.map(lambda *each: np.stack([np.asarray(x, np.float32) for x in each]), *geometry)
        if not causal:
            arrays["position_norm"] = np.asarray(jnp.linalg.norm(params["W_pos"], axis=-1), np.float32)
        return arrays, tokens
