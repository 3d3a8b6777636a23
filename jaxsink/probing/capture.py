"""Run a model with activations coming out and edits going in. Both are pytrees, so jit, vmap and grad see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxsink.models import CAPTURES, EDITS, Edit, Transformer
from jaxsink.probing.sites import require_sites, site_path, sites

Params = Mapping[str, Any]


def edit(value: jax.Array | float, where: jax.Array | bool = True) -> Edit:
    """An edit that sets a site to `value` where `where` holds, and leaves the rest bit-exact.

    Args:
      value: number or array, broadcastable to the site's shape.
      where: bool or boolean array, broadcastable to the site's shape.

    Raises:
      ValueError: `where` is not boolean.
    """
    mask = jnp.asarray(where)
    if mask.dtype != jnp.bool_:
        raise ValueError(f"where must be boolean (True = set), but has dtype {mask.dtype}; compare it first.")
    return Edit(mask, jnp.asarray(value))


def _nested(edits: Mapping[str, Edit]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in edits.items():
        *modules, leaf = site_path(name)
        node = nested
        for module in modules:
            node = node.setdefault(module, {})
        node[leaf] = value
    return nested


def run(
    model: Transformer,
    params: Params,
    tokens: jax.Array,
    *,
    capture: Sequence[str] = (),
    edits: Mapping[str, Edit] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logits and the captured activations of a model, with edits applied on the way.

    Under jit what is captured but not used is never computed. Capturing a site never changes the logits.

    Args:
      model: the model. params: its parameters.
      tokens: int [B, T].
      capture: names of sites (see `sites`).
      edits: from site name to `Edit`.

    Returns:
      (logits [B, T, V], {site name: activation}).

    Raises:
      ValueError: a name is no site of this model (the nearest is named), or an edit does not fit its site.
    """
    edits = edits or {}
    table = sites(model, *tokens.shape)
    require_sites(table, [*capture, *edits])
    for name, given in edits.items():
        for part, array in given._asdict().items():
            _require_broadcastable(name, part, array.shape, table[name].shape)
    variables = {"params": params} | ({EDITS: _nested(edits)} if edits else {})
    if not capture:
        return cast(jax.Array, model.apply(variables, tokens)), {}
    logits, state = model.apply(variables, tokens, mutable=[CAPTURES])
    captured: dict[str, jax.Array] = {}
    for name in capture:
        node = state[CAPTURES]
        for part in site_path(name):
            node = node[part]
        captured[name] = node
    return logits, captured


def _require_broadcastable(name: str, part: str, shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    try:
        fits = jnp.broadcast_shapes(shape, target) == target
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"the edit of {name!r} has {part} of shape {shape}, but the site is {target}; "
            "give it a shape that broadcasts to the site's."
        )
