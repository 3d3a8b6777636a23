"""One model under many edits of the same kind, in one compilation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_leaves_with_path

from jaxsink.models import Model
from jaxsink.probing.capture import Capture, ModelInputs, Params, Reducer, reducers, run
from jaxsink.probing.edits import Edits

Read = Callable[[jax.Array, dict[str, Any]], Any]


def sweep(
    model: Model,
    params: Params,
    tokens: jax.Array,
    edits: Edits,
    read: Read,
    *,
    capture: Capture = (),
    inputs: ModelInputs | None = None,
    batch: int | None = None,
) -> Any:
    """What `read` says of the model under each of E edits, compiled once (`every_head`, `every_block` make such edits).

    A further sweep with the same model, shapes and functions is not compiled again; a lambda written anew is another
    function.

    Args:
      model: the model. params: its parameters. tokens: int [B, T], the same for every edit.
      edits: as for `run`, but every array in them has a leading axis E; a scalar is shared by all E.
      read: a function (logits [B, T, V], captured) -> pytree of what `run` returns.
      capture, inputs: as for `run`; the inputs are the same for every edit.
      batch: how many edits run side by side, which takes that many times the memory; None means one after another.

    Returns:
      The results of `read`, with a leading axis E.

    Raises:
      ValueError: as `run`, or if the leading axes differ.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"batch must be at least 1, but {batch} was given; use None to run one edit after another.")
    every, _ = stacked(edits)
    # Static arguments must be hashable, which a mapping is not.
    taken = tuple(reducers(capture).items())
    return _sweep(params, tokens, every, dict(inputs or {}), model=model, read=read, capture=taken, batch=batch)


def stacked(edits: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """(edits of which every array has the leading axis E, E); scalars are shared by all E.

    Raises:
      ValueError: the leading axes differ, or no array has any.
    """
    shapes = [(keystr(path), jnp.shape(leaf)) for path, leaf in tree_leaves_with_path(dict(edits))]
    with_axis = [(path, shape) for path, shape in shapes if shape]
    if not with_axis:
        raise ValueError("edits must have a leading axis E, but no array in them has any axis; stack the edits first.")
    count = with_axis[0][1][0]
    if bad := [(path, shape) for path, shape in with_axis if shape[0] != count]:
        raise ValueError(
            f"edits{bad[0][0]} has shape {bad[0][1]}, but the leading axis of edits{with_axis[0][0]} is {count}; "
            "stack the same number of edits everywhere."
        )
    return jax.tree.map(lambda x: x if jnp.shape(x) else jnp.broadcast_to(jnp.asarray(x), count), dict(edits)), count


@partial(jax.jit, static_argnames=("model", "read", "capture", "batch"))
def _sweep(
    params: Params,
    tokens: jax.Array,
    edits: Edits,
    inputs: ModelInputs,
    *,
    model: Model,
    read: Read,
    capture: tuple[tuple[str, Reducer], ...],
    batch: int | None,
) -> Any:
    def one(edit: Edits) -> Any:
        return read(*run(model, params, tokens, capture=dict(capture), edits=edit, inputs=inputs))

    return jax.lax.map(one, edits, batch_size=batch)
