"""Run a model with activations coming out and edits going in. Both are pytrees, so jit, vmap and grad see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax

from jaxsink.models import CAPTURES, EDITS, Transformer
from jaxsink.probing.edits import Edit
from jaxsink.probing.sites import require_sites, site_path, sites

Params = Mapping[str, Any]


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
        given.check(table[name])
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
