"""A deep model one block at a time: blocks that are alike share one compilation, and what was read can be let go."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxsink.models import CAPTURES, EDITS, WANTED, Decoder, Encoder
from jaxsink.probing.capture import Capture, ModelInputs, Params, Reducer, checked_inputs, reducers
from jaxsink.probing.edits import Edit, Edits, Set, chained
from jaxsink.probing.sites import Site, require_editable, require_sites, sites
from jaxsink.probing.sweeps import stacked

DeepModel = Decoder | Encoder
# What the edited model says: from its logits, or what it returns instead, to a pytree.
Read = Callable[[jax.Array], Any]
# Edits of one block by name of its sites ("z"), or such edits for each layer.
BlockEdits = Edits | Callable[[int], Edits]


class Stage(NamedTuple):
    """What stands after a block.

    Attributes:
      layer: 0-based. resid: [B, T, D], the residual stream after it.
      captured: by name of site within the block ("v"): the activation, or what its reducer made of it.
    """

    layer: int
    resid: jax.Array
    captured: dict[str, Any]


def stages(
    model: DeepModel,
    params: Params,
    tokens: jax.Array,
    *,
    capture: Capture = (),
    edits: Edits | None = None,
    inputs: ModelInputs | None = None,
) -> Iterator[Stage]:
    """Run a model block by block, and hand over what is captured in each before the next begins.

    The numbers are those of `run`, up to the rounding of another compilation, and there is one for all blocks that
    are alike and edited alike.

    Args:
      model: the model. params: its parameters. tokens: int [B, T].
      capture: names of sites within a block ("v", "resid_post"), or from such a name to a reducer, the same function
        in every call: another one is compiled anew.
      edits: as for `run`, by full name ("embed", "blocks.3.z"). inputs: as for `run`.

    Yields:
      A `Stage` for every block; `read_out` makes logits of the last one's `resid`.

    Raises:
      ValueError: as `run`.
    """
    taken = checked_inputs(model, inputs)
    chosen = tuple(reducers(capture).items())
    table = _sites_of_block(model, tokens)
    require_sites(table, [name for name, _ in chosen])
    of_block, around = _by_block(model, tokens, edits or {})
    own = _passed_on(model, taken)
    x = _embedded(model, params, tokens, around, taken)
    for layer in range(model.config.n_layers):
        given = of_block.get(layer, {})
        x, captured = _block(params[f"blocks_{layer}"], given, x, own, block=model.block(layer), capture=chosen)
        yield Stage(layer, x, captured)


def read_out(model: DeepModel, params: Params, resid: jax.Array) -> jax.Array:
    """Logits, or what the model returns instead, of the residual stream [B, T, D] after the last block.

    Args:
      model: the model. params: its parameters. resid: from the last of `stages`.
    """
    return cast(jax.Array, _around(_outer(params), {}, resid, {}, model=model, method="read_out"))


def sweep_blocks(
    model: DeepModel,
    params: Params,
    tokens: jax.Array,
    edits: BlockEdits,
    read: Read,
    *,
    layers: Sequence[int] | None = None,
    inputs: ModelInputs | None = None,
) -> Iterator[tuple[int, Any]]:
    """What `read` says of the model with each of E edits made in one block, for every block in turn.

    What comes before the edited block is computed once for all, so that all heads of a model cost half of as many
    forward passes; the number of compilations does not depend on that of layers or edits.

    Args:
      model: the model. params: its parameters. tokens: int [B, T].
      edits: of one block, from name of site ("z") to edit, every array with a leading axis E; or a function that gives
        such edits for a layer (activations of another run, perhaps). `heads_of_block` makes those that zero a head.
      read: a function of what the model returns [B, T, V], the same in every call: another one is compiled anew.
      layers: the blocks to edit; None means all of them. inputs: as for `run`.

    Yields:
      (layer, the results of `read` with a leading axis E), from the first layer to the last.

    Raises:
      ValueError: as `run`, or the leading axes of the edits differ, or there is no such layer.
    """
    taken = checked_inputs(model, inputs)
    count = model.config.n_layers
    chosen = sorted(set(range(count) if layers is None else layers))
    if bad := [layer for layer in chosen if not 0 <= layer < count]:
        raise ValueError(f"layers must be from 0 to {count - 1}, but {bad[0]} was given; choose of those.")
    table, own = _sites_of_block(model, tokens), _passed_on(model, taken)
    x = _embedded(model, params, tokens, {}, taken)
    for layer in range(chosen[-1] + 1 if chosen else 0):
        block, block_params = model.block(layer), params[f"blocks_{layer}"]
        if layer in chosen:
            given = {name: chained(name, edit) for name, edit in (edits(layer) if callable(edits) else edits).items()}
            every, e = stacked(given)
            require_sites(table, every)
            require_editable(every)
            for name, edit in every.items():
                jax.tree.map(lambda leaf: leaf[0], edit).check(table[name])
            y = _each_edit(block_params, every, x, own, block=block)
            repeated = {name: _repeated(value, tokens.shape[0], e) for name, value in own.items()}
            for above in range(layer + 1, count):
                y, _ = _block(params[f"blocks_{above}"], {}, y, repeated, block=model.block(above), capture=())
            yield layer, _read(_outer(params), y.reshape(e, -1, *y.shape[1:]), model=model, read=read)
        x, _ = _block(block_params, {}, x, own, block=block, capture=())


def heads_of_block(model: DeepModel) -> dict[str, Edit]:
    """Edits for `sweep_blocks` that zero each of the N heads of a block: it adds nothing to the residual stream."""
    heads = model.config.n_heads
    return {"z": Set(jnp.zeros(heads), jnp.eye(heads, dtype=bool)[:, None, None, :, None])}


@partial(jax.jit, static_argnames=("block", "capture"))
def _block(
    params: Params,
    edits: Mapping[str, Edit],
    x: jax.Array,
    inputs: ModelInputs,
    *,
    block: Any,
    capture: tuple[tuple[str, Reducer], ...],
) -> tuple[jax.Array, dict[str, Any]]:
    variables: dict[str, Any] = {"params": params} | ({EDITS: edits} if edits else {})
    if not capture:
        return block.apply(variables, x, **inputs), {}
    variables[WANTED] = {name: np.zeros(0) for name, _ in capture}
    x, state = block.apply(variables, x, mutable=[CAPTURES], **inputs)
    return x, {name: reducer(state[CAPTURES][name]) for name, reducer in capture}


@partial(jax.jit, static_argnames=("block",))
def _each_edit(
    params: Params, edits: Mapping[str, Edit], x: jax.Array, inputs: ModelInputs, *, block: Any
) -> jax.Array:
    # What lies before the edited site does not depend on the edit, and `vmap` computes it once.
    y = jax.vmap(lambda edit: block.apply({"params": params, EDITS: edit}, x, **inputs))(edits)
    return y.reshape(-1, *y.shape[2:])


@partial(jax.jit, static_argnames=("model", "method"))
def _around(
    params: Params, edits: Mapping[str, Edit], x: jax.Array, inputs: ModelInputs, *, model: DeepModel, method: str
) -> Any:
    variables: dict[str, Any] = {"params": params} | ({EDITS: edits} if edits else {})
    return model.apply(variables, x, method=method, **dict[str, Any](inputs))


@partial(jax.jit, static_argnames=("model", "read"))
def _read(params: Params, resid: jax.Array, *, model: DeepModel, read: Read) -> Any:
    # One edit after another: the logits of all at once would take E times the memory.
    return jax.lax.map(lambda x: read(cast(jax.Array, model.apply({"params": params}, x, method="read_out"))), resid)


def _outer(params: Params) -> Params:
    return {name: value for name, value in params.items() if not name.startswith("blocks_")}


def _embedded(
    model: DeepModel, params: Params, tokens: jax.Array, edits: Mapping[str, Edit], inputs: ModelInputs
) -> jax.Array:
    known = inspect.signature(model.embedding).parameters
    own = {name: value for name, value in inputs.items() if name in known}
    return cast(jax.Array, _around(_outer(params), edits, tokens, own, model=model, method="embedding"))


def _passed_on(model: DeepModel, inputs: ModelInputs) -> dict[str, Any]:
    """The inputs that a block takes, too."""
    known = inspect.signature(model.block(0).__call__).parameters
    return {name: value for name, value in inputs.items() if name in known}


def _repeated(value: Any, batch: int, times: int) -> Any:
    """An input of the blocks for `times` as many sequences; positions [T] are those of all."""
    return jnp.tile(value, (times, 1)) if jnp.ndim(value) == 2 and jnp.shape(value)[0] == batch else value


def _sites_of_one(model: DeepModel, batch: int, length: int) -> Mapping[str, Site]:
    """The sites of the model cut down to one block, which are the same in all."""
    kind: Any = type(model)
    return sites(kind(replace(model.config, n_layers=1)), batch, length)


def _sites_of_block(model: DeepModel, tokens: jax.Array) -> dict[str, Site]:
    """The sites of any one block by name within it."""
    found = _sites_of_one(model, *tokens.shape).items()
    return {name.removeprefix("blocks.0."): site for name, site in found if name.startswith("blocks.")}


def _by_block(model: DeepModel, tokens: jax.Array, edits: Edits) -> tuple[dict[int, dict[str, Edit]], dict[str, Edit]]:
    """(edits of each block by name of its sites, edits before the blocks), after a look at all of them."""
    known = _sites_of_one(model, *tokens.shape)
    before = [name for name in known if name.endswith("embed")]
    inside = _sites_of_block(model, tokens)
    require_sites([*before, *(f"blocks.{i}.{name}" for i in range(model.config.n_layers) for name in inside)], edits)
    require_editable(edits)
    of_block: dict[int, dict[str, Edit]] = {}
    around: dict[str, Edit] = {}
    for name, given in edits.items():
        edit = chained(name, given)
        if name in before:
            edit.check(known[name])
            around[name] = edit
        else:
            _, layer, leaf = name.split(".")
            edit.check(known[f"blocks.0.{leaf}"]._replace(name=name))
            of_block.setdefault(int(layer), {})[leaf] = edit
    return of_block, around
