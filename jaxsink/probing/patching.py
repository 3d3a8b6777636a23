"""Activations of one input put into the run on another: activation patching and path patching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsink.models import Model
from jaxsink.probing.builders import merge
from jaxsink.probing.capture import Capture, ModelInputs, Params, run
from jaxsink.probing.edits import Edit, Set
from jaxsink.probing.sites import require_sites, sites

# From name of site to where in it: a boolean that broadcasts to the site, see `at`; True is everywhere.
Places = Mapping[str, ArrayLike]


def transplants(source: Mapping[str, jax.Array], places: Places) -> dict[str, Edit]:
    """Edits that put captured activations into another run.

    Args:
      source: activations by name of site, from `run` with that capture. places: which of them, and where.

    Raises:
      ValueError: a place has no activation.
    """
    require_sites(source, places)
    return {name: Set(source[name], where) for name, where in places.items()}


def patch(
    model: Model,
    params: Params,
    tokens: jax.Array,
    source: jax.Array,
    places: Places,
    *,
    capture: Capture = (),
    inputs: ModelInputs | None = None,
) -> tuple[jax.Array, dict[str, Any]]:
    """Run a model on `tokens` with the activations that it has on `source` in some places (activation patching).

    Source: Vig et al. 2020 (2004.12265); Meng et al. 2022 (2202.05262), section 2.

    Args:
      model: the model. params: its parameters.
      tokens, source: int [B, T], of one shape.
      places: the sites, and where in them: all of a site where it is True.
      capture: as for `run`. inputs: as for `run`, in both runs.

    Returns:
      (logits [B, T, V] or what the model returns instead, the captured activations).

    Raises:
      ValueError: as `run`, or the shapes differ.
    """
    _require_alike(tokens, source)
    _, found = run(model, params, source, capture=list(places), inputs=inputs)
    return run(model, params, tokens, capture=capture, edits=transplants(found, places), inputs=inputs)


def patch_path(
    model: Model,
    params: Params,
    tokens: jax.Array,
    source: jax.Array,
    sender: Places,
    receivers: Sequence[str],
    *,
    capture: Capture = (),
    inputs: ModelInputs | None = None,
) -> tuple[jax.Array, dict[str, Any]]:
    """Like `patch`, but only what goes from the sender straight to the receivers changes, and what follows from them.

    Straight is through the residual stream: all heads and MLPs between are held at what they are on `tokens`.

    Source: Wang et al. 2022 (2211.00593), section 3.1; Goldowsky-Dill et al. 2023 (2304.05969).

    Args:
      model: the model. params: its parameters.
      tokens, source: int [B, T], of one shape.
      sender: sites, and where in them, that take their activations on `source`.
      receivers: names of sites that feel it, such as "blocks.3.q", "final_norm", or "logits".
      capture: as for `run`. inputs: as for `run`, in all runs.

    Returns:
      (logits [B, T, V] or what the model returns instead, the captured activations).

    Raises:
      ValueError: as `run`, or the shapes differ, or a receiver stands in a block before the sender.
    """
    _require_alike(tokens, source)
    known = sites(model, *tokens.shape)
    require_sites(known, [*sender, *receivers])
    first = min(_layer(model, name) for name in sender)
    if bad := [name for name in receivers if _layer(model, name) < first]:
        raise ValueError(
            f"receiver {bad[0]!r} stands before every sender, so nothing could reach it; choose a later site."
        )
    held = [name for name in known if name.rsplit(".", 1)[-1] in ("z", "mlp_out") and name not in receivers]
    _, base = run(model, params, tokens, capture=held, inputs=inputs)
    _, other = run(model, params, source, capture=list(sender), inputs=inputs)
    straight = merge(transplants(base, dict.fromkeys(held, True)), transplants(other, sender))
    _, reached = run(model, params, tokens, capture=list(receivers), edits=straight, inputs=inputs)
    edits = transplants(reached, dict.fromkeys(receivers, True))
    return run(model, params, tokens, capture=capture, edits=edits, inputs=inputs)


def _layer(model: Model, name: str) -> int:
    """The block of a site; embeddings stand in block -1, and what is read out after the last."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return int(parts[1])
    return -1 if name.endswith("embed") else model.config.n_layers


def _require_alike(tokens: jax.Array, source: jax.Array) -> None:
    if jnp.shape(tokens) != jnp.shape(source):
        raise ValueError(
            f"source must have the shape of tokens {jnp.shape(tokens)}, but has {jnp.shape(source)}; pad or cut it."
        )
