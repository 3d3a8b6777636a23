"""Run a model with activations coming out and edits going in. Both are pytrees, so jit, vmap and grad see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxsink.models import CAPTURES, EDITS, Transformer
from jaxsink.probing.edits import Add, Edit, Edits, chained
from jaxsink.probing.sites import Site, require_sites, site_path, sites

Params = Mapping[str, Any]
# What to capture: names of sites, or a function of the activation for each, whose result is captured in its place.
Reducer = Callable[[jax.Array], Any]
Capture = Sequence[str] | Mapping[str, Reducer]


def _whole(x: jax.Array) -> jax.Array:
    return x


def reducers(capture: Capture) -> dict[str, Reducer]:
    """The reducer of each captured site; that of a bare name returns the activation itself."""
    if isinstance(capture, str):
        raise ValueError(f"capture must be names of sites, but is the single text {capture!r}; put it into a list.")
    return dict(capture) if isinstance(capture, Mapping) else dict.fromkeys(capture, _whole)


def _nested(edits: Mapping[str, Edit]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in edits.items():
        *modules, leaf = site_path(name)
        node = nested
        for module in modules:
            node = node.setdefault(module, {})
        node[leaf] = value
    return nested


def _table(model: Transformer, tokens: jax.Array) -> dict[str, Site]:
    if tokens.ndim != 2:
        raise ValueError(f"tokens must be [B, T], but have shape {tokens.shape}; give them those two axes.")
    return sites(model, *tokens.shape)


def run(
    model: Transformer,
    params: Params,
    tokens: jax.Array,
    *,
    capture: Capture = (),
    edits: Edits | None = None,
) -> tuple[jax.Array, dict[str, Any]]:
    """Logits and the captured activations of a model, with edits applied on the way.

    Under jit what is captured but not used is never computed, and an activation that a reducer takes never leaves it.
    Capturing a site never changes the logits.

    Args:
      model: the model. params: its parameters.
      tokens: int [B, T].
      capture: names of sites (see `sites`), or from site name to reducer, a function of the activation.
      edits: from site name to `Edit`, or to several that apply in order. A captured site holds its edited value.

    Returns:
      (logits [B, T, V], {site name: activation, or what its reducer made of it}).

    Raises:
      ValueError: a name is no site of this model (the nearest is named), or an edit does not fit its site.
    """
    reduced = reducers(capture)
    chains = {name: chained(name, given) for name, given in (edits or {}).items()}
    if reduced or chains:
        table = _table(model, tokens)
        require_sites(table, [*reduced, *chains])
        for name, edit in chains.items():
            edit.check(table[name])
    variables = {"params": params} | ({EDITS: _nested(chains)} if chains else {})
    if not reduced:
        return cast(jax.Array, model.apply(variables, tokens)), {}
    logits, state = model.apply(variables, tokens, mutable=[CAPTURES])
    captured: dict[str, Any] = {}
    for name, reducer in reduced.items():
        node = state[CAPTURES]
        for part in site_path(name):
            node = node[part]
        captured[name] = reducer(node)
    return logits, captured


def gradients(
    scalar: Callable[[jax.Array, dict[str, Any]], jax.Array],
    model: Transformer,
    params: Params,
    tokens: jax.Array,
    names: Sequence[str],
    *,
    capture: Capture = (),
    edits: Edits | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The gradient of a scalar with respect to activations: what a small change of the site itself does to it.

    Zeros are added to each site, after its edits, and differentiated; everything computed from the site, captured
    values included (and its own, if captured), feels them.

    Args:
      scalar: a function (logits [B, T, V], captured) -> [] of what `run` returns.
      model: the model. params: its parameters. tokens: int [B, T].
      names: the sites.
      capture, edits: as for `run`.

    Returns:
      (the scalar, {site name: gradient of the site's shape}).

    Raises:
      ValueError: as `run`, or if `scalar` returns no scalar.
    """
    table = _table(model, tokens)
    require_sites(table, names)
    edits = edits or {}

    def value(zeros: dict[str, jax.Array]) -> jax.Array:
        added = {name: (chained(name, edits.get(name, ())), Add(zero)) for name, zero in zeros.items()}
        out = scalar(*run(model, params, tokens, capture=capture, edits={**edits, **added}))
        if jnp.shape(out) != ():
            raise ValueError(f"scalar must return a scalar, but returned shape {jnp.shape(out)}; take its sum or mean.")
        return out

    zeros = {name: jnp.zeros(table[name].shape, table[name].dtype) for name in names}
    return cast(tuple[jax.Array, dict[str, jax.Array]], jax.value_and_grad(value)(zeros))
