"""Sink, value drain and residual peak over any list of checkpoints of a decoder, on the same passages.

    arrays = follow(((step, model, params) for ...), {"prose": tokens, "code": tokens})

Checkpoints are taken one at a time, so that they can be loaded as they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxsink.attention import Composite
from jaxsink.metrics import (
    peak_ratio,
    residual_norms,
    sink_logit_gap,
    uniform_baseline,
    value_norms,
    value_ratio,
)
from jaxsink.models import Decoder
from jaxsink.probing import read_out, stages
from jaxsink.probing.capture import Params

# Shortest passage: one with several positions to compare the first with.
SHORTEST = 8


def follow(
    checkpoints: Iterable[tuple[int, Decoder, Params]], passages: Mapping[str, ArrayLike]
) -> dict[str, np.ndarray]:
    """What the first position is to every block and head of each checkpoint.

    Args:
      checkpoints: (training step, model, its parameters), in the order of the steps.
      passages: int [B, T] by domain of text, as many and as long in each; T is at least `SHORTEST`. Whether they begin
        with a start token is for the caller to say.

    Returns:
      Arrays over P checkpoints: "step" int [P]; "sink_mass" [P, D, B, L, N], the mean weight on the first position of
      the queries after it; "loss" [P, D], of the next token, in nats; and [P, L], means over passages and heads:
      "attn_start", "dlogit" (the logit on the first position minus the mean over the others before the query),
      "value_ratio" (the value norm there over the median of the others, before W_O), "resid_norm_start" and
      "resid_norm_other" (after the block), "peak_ratio".
      "baseline" is what even attention would give as "attn_start".

    Raises:
      ValueError: there is no checkpoint, steps do not rise, a model is no decoder with one matrix of scores, or the
        passages are too short or differ in shape.

    Source: 2410.13835, section 4, where it is done for OLMo.
    """
    shapes = {jnp.shape(tokens) for tokens in passages.values()}
    if len(shapes) != 1 or len(shape := next(iter(shapes))) != 2:
        raise ValueError(f"passages must be int [B, T], alike in every domain, but have shapes {sorted(shapes)}.")
    if shape[1] < SHORTEST:
        raise ValueError(f"passages must have {SHORTEST} tokens or more, but have {shape[1]}; give longer ones.")
    tokens = jnp.stack([jnp.asarray(of) for of in passages.values()])
    rows: list[dict[str, np.ndarray]] = []
    steps: list[int] = []
    for step, model, params in checkpoints:
        if steps and step <= steps[-1]:
            raise ValueError(f"checkpoints must come in the order of their steps, but {step} follows {steps[-1]}.")
        steps.append(step)
        rows.append(jax.device_get(at_checkpoint(model, params, tokens)))
    if not rows:
        raise ValueError("checkpoints must hold at least one (step, model, params), but there is none.")
    return stacked(steps, rows)


def stacked(steps: Iterable[int], rows: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays of `follow` from what `at_checkpoint` says of each step."""
    each = list(rows)
    found = {name: np.stack([np.asarray(row[name]) for row in each]) for name in each[0]}
    # Passages are the same at all checkpoints, and so is what even attention gives on them.
    return found | {"step": np.array(list(steps)), "baseline": found["baseline"][-1]}


@partial(jax.jit, static_argnums=0)
def at_checkpoint(model: Decoder, params: Params, tokens: jax.Array) -> dict[str, jax.Array]:
    """What `follow` says of one checkpoint, without the axis P.

    Args:
      model: a decoder. params: its parameters. tokens: int [D, B, T], passages by domain.

    Raises:
      ValueError: the model is no decoder with one matrix of scores.
    """
    if not isinstance(model, Decoder) or isinstance(model.config.attention, Composite):
        raise ValueError(
            f"a trajectory is that of a decoder whose attention has one matrix of scores, but {model!r} was given."
        )
    domains, count, length = tokens.shape
    flat = tokens.reshape(-1, length)
    later = jnp.broadcast_to(jnp.arange(length) > 0, flat.shape)
    layers = []
    for stage in stages(model, params, flat, capture=_REDUCERS):
        found, norms = stage.captured, residual_norms(stage.resid)
        layers.append(
            {
                "sink_mass": found["attn_on_first"],
                "attn_start": found["attn_on_first"].mean(),
                "dlogit": found["attn_scores"].mean(),
                "value_ratio": value_ratio(found["v"], later),
                "resid_norm_start": norms[:, 0].mean(),
                "resid_norm_other": norms[:, 1:].mean(),
                "peak_ratio": peak_ratio(norms),
            }
        )
    by_layer: dict[str, jax.Array] = jax.tree.map(lambda *each: jnp.stack(each), *layers)
    masses = jnp.moveaxis(by_layer["sink_mass"], 0, 1)
    logits = read_out(model, params, stage.resid)[:, :-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, flat[:, 1:])
    return by_layer | {
        "sink_mass": masses.reshape(domains, count, *masses.shape[1:]),
        "loss": losses.reshape(domains, -1).mean(-1),
        "baseline": uniform_baseline(later),
    }


def _after_first(on_first: jax.Array) -> jax.Array:
    """[B, N] from [B, N, T]."""
    return on_first[..., 1:].mean(-1)


def _gap(scores: jax.Array) -> jax.Array:
    """[N] from [B, N, T, T]."""
    batch, _, queries, _ = scores.shape
    return sink_logit_gap(scores, jnp.broadcast_to(jnp.arange(queries) > 0, (batch, queries)))


# Functions of the module, since `stages` compiles anew for other ones.
_REDUCERS = {"attn_on_first": _after_first, "attn_scores": _gap, "v": value_norms}
