"""Run a model with activations coming out and edits going in. Both are pytrees, so jit, vmap and grad see them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxsink.models import CAPTURES, EDITS, WANTED, Model
from jaxsink.probing.edits import Add, Edits, chained
from jaxsink.probing.sites import Site, require_editable, require_sites, site_path, sites

Params = Mapping[str, Any]
# What to capture: names of sites, or a function of the activation for each, whose result is captured in its place.
Reducer = Callable[[jax.Array], Any]
Capture = Sequence[str] | Mapping[str, Reducer]
# What the model's call takes besides tokens, by name.
ModelInputs = Mapping[str, jax.Array]


def _whole(x: jax.Array) -> jax.Array:
    return x


def reducers(capture: Capture) -> dict[str, Reducer]:
    """The reducer of each captured site; that of a bare name returns the activation itself."""
    if isinstance(capture, str):
        raise ValueError(f"capture must be names of sites, but is the single text {capture!r}; put it into a list.")
    return dict(capture) if isinstance(capture, Mapping) else dict.fromkeys(capture, _whole)


def _nested(by_site: Mapping[str, Any]) -> dict[str, Any]:
    """A collection of Flax from values by name of site."""
    nested: dict[str, Any] = {}
    for name, value in by_site.items():
        *modules, leaf = site_path(name)
        node = nested
        for module in modules:
            node = node.setdefault(module, {})
        node[leaf] = value
    return nested


def checked_inputs(model: Model, inputs: ModelInputs | None) -> dict[str, Any]:
    """The inputs of a model's call besides tokens, after a look at their names."""
    _, *known = list(inspect.signature(model.__call__).parameters)
    for name in inputs or {}:
        if name not in known:
            takes = f"only {', '.join(known)}" if known else "none"
            raise ValueError(
                f"inputs has the entry {name!r}, but {type(model).__name__} takes {takes} besides tokens; leave it out."
            )
    return dict(inputs or {})


def _table(model: Model, tokens: jax.Array) -> dict[str, Site]:
    if tokens.ndim != 2:
        raise ValueError(f"tokens must be [B, T], but have shape {tokens.shape}; give them those two axes.")
    return sites(model, *tokens.shape)


def run(
    model: Model,
    params: Params,
    tokens: jax.Array,
    *,
    capture: Capture = (),
    edits: Edits | None = None,
    inputs: ModelInputs | None = None,
) -> tuple[jax.Array, dict[str, Any]]:
    """Logits and the captured activations of a model, with edits applied on the way.

    Under jit what is captured but not used is never computed, and an activation that a reducer takes never leaves it.
    Capturing a site never changes the logits, but for rounding where it is one of T x S ("pattern", "attn_scores") and
    the sequence so long that attention avoids such arrays.

    Args:
      model: the model. params: its parameters.
      tokens: int [B, T].
      capture: names of sites (see `sites`), or from site name to reducer, a function of the activation.
      edits: from site name to `Edit`, or to several that apply in order. A captured site holds its edited value.
      inputs: what else the model's call takes, by name, such as {"valid": bool [B, T]} for a padded batch.

    Returns:
      (logits [B, T, V] or what the model returns instead, {site name: activation, or what its reducer made of it}).

    Raises:
      ValueError: a name is no site of this model (the nearest is named), an edit does not fit its site, or the model
        takes no such input.
    """
    reduced = reducers(capture)
    chains = {name: chained(name, given) for name, given in (edits or {}).items()}
    taken = checked_inputs(model, inputs)
    if reduced or chains:
        table = _table(model, tokens)
        require_sites(table, [*reduced, *chains])
        require_editable(chains)
        for name, edit in chains.items():
            edit.check(table[name])
    variables: dict[str, Any] = {"params": params} | ({EDITS: _nested(chains)} if chains else {})
    if not reduced:
        return cast(jax.Array, model.apply(variables, tokens, **taken)), {}
    variables[WANTED] = _nested(dict.fromkeys(reduced, np.zeros(0)))
    logits, state = model.apply(variables, tokens, mutable=[CAPTURES], **taken)
    captured: dict[str, Any] = {}
    for name, reducer in reduced.items():
        node = state[CAPTURES]
        for part in site_path(name):
            node = node[part]
        captured[name] = reducer(node)
    return logits, captured


def gradients(
    scalar: Callable[[jax.Array, dict[str, Any]], jax.Array],
    model: Model,
    params: Params,
    tokens: jax.Array,
    names: Sequence[str],
    *,
    capture: Capture = (),
    edits: Edits | None = None,
    inputs: ModelInputs | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The gradient of a scalar with respect to activations: what a small change of the site itself does to it.

    Zeros are added to each site, after its edits, and differentiated; everything computed from the site, captured
    values included (and its own, if captured), feels them.

    Args:
      scalar: a function (logits [B, T, V], captured) -> [] of what `run` returns.
      model: the model. params: its parameters. tokens: int [B, T].
      names: the sites.
      capture, edits, inputs: as for `run`.

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
        out = scalar(*run(model, params, tokens, capture=capture, edits={**edits, **added}, inputs=inputs))
        if jnp.shape(out) != ():
            raise ValueError(f"scalar must return a scalar, but returned shape {jnp.shape(out)}; take its sum or mean.")
        return out

    zeros = {name: jnp.zeros(table[name].shape, table[name].dtype) for name in names}
    return cast(tuple[jax.Array, dict[str, jax.Array]], jax.value_and_grad(value)(zeros))
