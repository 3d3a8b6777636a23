"""Checkpoints of any pytree of arrays as safetensors: nothing is pickled, nothing is half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from jaxsink.files import whole

Tree = TypeVar("Tree")


def _named_leaves(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def save(path: Path, tree: Any) -> None:
    """Write a pytree of arrays to `path`, through a temporary name, so that the file is whole or absent."""
    # safetensors writes the memory as it lies, so the arrays must be contiguous; `ascontiguousarray` would give
    # scalars an axis.
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in _named_leaves(jax.device_get(tree)).items()}
    with whole(path) as temporary:
        # Written from here, so that a full disk is an OSError and no error of the format.
        temporary.write_bytes(safetensors.save(arrays))


def restore(path: Path, like: Tree) -> Tree:
    """Read a pytree written by `save` into the structure of `like`.

    Raises:
      ValueError: the file is not a checkpoint, or holds other arrays than `like` has.
    """
    try:
        arrays = safetensors.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole checkpoint ({error}); delete it to start afresh.") from error
    wanted = _named_leaves(like)
    different = sorted(set(arrays) ^ set(wanted)) or sorted(
        name for name, leaf in wanted.items() if (leaf.shape, leaf.dtype) != (arrays[name].shape, arrays[name].dtype)
    )
    if different:
        raise ValueError(
            f"{path} does not fit the run that wants to continue from it (first difference: {different[0]}); "
            "delete it to start afresh."
        )
    structure = jax.tree_util.tree_structure(like)
    return jax.tree_util.tree_unflatten(structure, [jnp.asarray(arrays[name]) for name in wanted])
