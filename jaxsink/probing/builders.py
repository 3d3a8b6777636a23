"""Edits by what they are for: ready for the `edits` of `run`, and stacked for `sweep`."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsink.models import Model
from jaxsink.probing.edits import Chain, Edit, Edits, Set, at, chained
from jaxsink.probing.sites import Site, sites


def zero_head(model: Model, layer: int, head: int) -> dict[str, Edit]:
    """A head whose weighted values become zero, so that it adds nothing to the residual stream.

    Args:
      model: the model. layer: 0-based block. head: 0-based head of it.

    Raises:
      ValueError: the model has no such block, the block no attention, or the attention no such head.
    """
    require_block(model, layer)
    site = sites(model).get(f"blocks.{layer}.z")
    if site is None:
        raise ValueError(f"block {layer} has no attention, so no head could be zeroed; choose another block.")
    heads = model.config.n_heads
    if not 0 <= head < heads:
        raise ValueError(f"block {layer} has {heads} heads, but head {head} was given; choose from 0 to {heads - 1}.")
    return {site.name: Set(0.0, at(site, N=head))}


def remove_block(model: Model, layer: int) -> dict[str, Edit]:
    """A block that adds nothing, neither by its attention nor by its MLP: the identity.

    An encoder still normalises after both.

    Args:
      model: the model. layer: 0-based block.

    Raises:
      ValueError: the model has no such block.
    """
    require_block(model, layer)
    return {name: Set(0.0) for name in _outputs(sites(model), layer)}


def replace_row(site: Site, position: int, value: ArrayLike) -> dict[str, Edit]:
    """One position of a site, of queries where it has queries and keys, gets another vector.

    Args:
      site: from `sites(model, length=T)`, T being that of the tokens. position: 0-based; registers come first.
      value: the vector, [..., last axis]: for the whole site, or as in the site with the axis of positions left out.

    Raises:
      ValueError: the site has no such position.
    """
    letter = "T" if "T" in site.axes else "S"
    if not 0 <= position < (length := site.shape[site.axes.index(letter)]):
        raise ValueError(
            f"{site.name!r} has {length} positions, but position {position} was given; choose from 0 to {length - 1}."
        )
    value = jnp.asarray(value)
    inner = len(site.axes) - site.axes.index(letter) - 1  # the axes after that of positions
    if value.ndim > inner:
        value = jnp.expand_dims(value, value.ndim - inner)
    return {site.name: Set(value, at(site, **{letter: position}))}


def merge(*edits: Edits) -> dict[str, Edit]:
    """Several sets of edits as one: those of the same site apply in the order given."""
    found: dict[str, list[Edit]] = {}
    for given in edits:
        for name, value in given.items():
            edit = chained(name, value)
            found.setdefault(name, []).extend(edit.edits if isinstance(edit, Chain) else [edit])
    return {name: chained(name, several) for name, several in found.items()}


def every_head(model: Model) -> tuple[list[tuple[int, int]], dict[str, Edit]]:
    """`zero_head` for every head of every block, for `sweep`.

    Returns:
      (the E pairs of block and head, edits with a leading axis E). Blocks without attention have no heads.
    """
    known, config = sites(model), model.config
    layers = [layer for layer in range(config.n_layers) if f"blocks.{layer}.z" in known]
    labels = [(layer, head) for layer in layers for head in range(config.n_heads)]
    edits: dict[str, Edit] = {}
    for layer in layers:
        # Every edit has every site, so that one compilation fits all; elsewhere it holds nowhere.
        where = jnp.array([[label == (layer, head) for head in range(config.n_heads)] for label in labels])
        edits[f"blocks.{layer}.z"] = Set(jnp.zeros(len(labels)), where[:, None, None, :, None])
    return labels, edits


def every_block(model: Model) -> tuple[list[int], dict[str, Edit]]:
    """`remove_block` for every block, for `sweep`.

    Returns:
      (the E blocks, edits with a leading axis E).
    """
    known, layers = sites(model), range(model.config.n_layers)
    return [*layers], {
        name: Set(jnp.zeros(len(layers)), jnp.arange(len(layers)) == layer)
        for layer in layers
        for name in _outputs(known, layer)
    }


def require_block(model: Model, layer: int) -> None:
    """Raise ValueError unless the model has this block, counted from 0."""
    layers = model.config.n_layers
    if not 0 <= layer < layers:
        raise ValueError(f"the model has {layers} blocks, but block {layer} was given; choose from 0 to {layers - 1}.")


def _outputs(known: Mapping[str, Site], layer: int) -> list[str]:
    return [name for part in ("attn_out", "mlp_out") if (name := f"blocks.{layer}.{part}") in known]
