"""Two-way tables between the tensors of a checkpoint and the parameters of a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsink.checkpoints.source import CheckpointError, TensorSource
from jaxsink.models import Model, init

Path = tuple[str, ...]
# What becomes of a parameter that was read: put on its devices, cast.
Place = Callable[[Path, np.ndarray], Any]
_MOST_LISTED = 8


@dataclass(frozen=True)
class Row:
    """One tensor, or one of every block.

    Attributes:
      path: where it lies in params, "blocks_{i}/W_Q".
      name: what it is called in the file, "model.layers.{i}.self_attn.q_proj.weight".
      transposed: the file has [out, in] where params have [in, out].
      interleaved: the number of heads whose H rows the file has in the order 0, H/2, 1, H/2 + 1, ..., so that adjacent
        rows are rotated together; None where the rows stand as the rotation of halves wants them.
    """

    path: str
    name: str
    transposed: bool = False
    interleaved: int | None = None

    def loaded(self, tensor: np.ndarray) -> np.ndarray:
        """The parameter from the tensor."""
        if self.interleaved is not None:
            half = tensor.shape[0] // self.interleaved // 2
            pairs = tensor.reshape(self.interleaved, half, 2, *tensor.shape[1:])
            tensor = pairs.swapaxes(1, 2).reshape(tensor.shape)
        return tensor.T if self.transposed else tensor

    def saved(self, parameter: np.ndarray) -> np.ndarray:
        """The tensor from the parameter."""
        tensor = parameter.T if self.transposed else parameter
        if self.interleaved is not None:
            half = tensor.shape[0] // self.interleaved // 2
            halves = tensor.reshape(self.interleaved, 2, half, *tensor.shape[1:])
            tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
        return np.ascontiguousarray(tensor)


@dataclass(frozen=True)
class Layout:
    """How one kind of file names the tensors of a family.

    Attributes:
      rows: for every parameter that a model of the family may have.
      canonical: from a name in the file to that in `rows`, where files differ.
      copies: tensors that some files hold besides the one they are tied to, each with the path of that one.
      unused: patterns of tensors that the model does not compute with.
    """

    rows: tuple[Row, ...]
    canonical: Callable[[str], str] = str
    copies: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()


def expected_shapes(model: Model) -> dict[Path, tuple[int, ...]]:
    """The path and shape of every parameter of a model; nothing is computed."""
    shapes = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    leaves, _ = jax.tree_util.tree_flatten_with_path(shapes)
    return {tuple(str(part.key) for part in path): leaf.shape for path, leaf in leaves}


def rows_of(layout: Layout, paths: Iterable[Path]) -> dict[Path, Row]:
    """The row of every path, with the numbers of its block filled in.

    Raises:
      CheckpointError: a parameter has no row.
    """
    by_path = {row.path: row for row in layout.rows}
    found: dict[Path, Row] = {}
    for path in paths:
        layer = next((part.removeprefix("blocks_") for part in path if part.startswith("blocks_")), "")
        general = "/".join("blocks_{i}" if part.startswith("blocks_") else part for part in path)
        if general not in by_path:
            raise CheckpointError(
                f"checkpoints of this family have no tensor for params {'/'.join(path)}, which the attention variant "
                "brings in: import with Softmax() and add the parameters of the variant to the result."
            )
        row = by_path[general]
        found[path] = Row("/".join(path), row.name.replace("{i}", layer), row.transposed, row.interleaved)
    return found


def import_tensors(source: TensorSource, layout: Layout, model: Model, place: Place) -> dict[str, Any]:
    """The parameters of a model from a source, one tensor in memory at a time.

    Raises:
      CheckpointError: tensors are missing, left over, of another shape, or not what they are tied to.
    """
    shapes = expected_shapes(model)
    rows = rows_of(layout, shapes)
    names = _by_canonical_name(source, layout)
    _check_names(source, layout, rows, names)
    for path, row in rows.items():
        expected = shapes[path][::-1] if row.transposed else shapes[path]
        if (found := tuple(source.shape(names[row.name]))) != expected:
            raise CheckpointError(
                f"{source.where} holds {names[row.name]!r} with shape {list(found)}, but its configuration says "
                f"{list(expected)}: give the configuration that belongs to it."
            )
    _check_copies(source, layout, rows, names)
    params: dict[str, Any] = {}
    for path, row in rows.items():
        *outer, leaf = path
        node = params
        for part in outer:
            node = node.setdefault(part, {})
        node[leaf] = place(path, row.loaded(source.read(names[row.name])))
    return params


def tensors_of(params: Mapping[str, Any], layout: Layout, model: Model) -> dict[str, np.ndarray]:
    """The tensors of a file from the parameters of a model, the inverse of `import_tensors`.

    Raises:
      CheckpointError: the parameters are not those of the model.
    """
    shapes = expected_shapes(model)
    leaves, _ = jax.tree_util.tree_flatten_with_path(dict(params))
    given = {tuple(str(part.key) for part in path): leaf for path, leaf in leaves}
    if {path: jnp.shape(leaf) for path, leaf in given.items()} != shapes:
        wrong = sorted("/".join(path) for path in set(shapes) ^ set(given)) or sorted(
            "/".join(path) for path, shape in shapes.items() if jnp.shape(given[path]) != shape
        )
        raise CheckpointError(
            f"params must be those of the configuration, but differ at {_listed(wrong)}: give the two that belong "
            "together."
        )
    return {row.name: row.saved(np.asarray(given[path])) for path, row in rows_of(layout, shapes).items()}


def on_default_device(path: Path, parameter: np.ndarray) -> jax.Array:
    """The parameter as it is, on JAX's default device."""
    return jnp.asarray(parameter)


def _by_canonical_name(source: TensorSource, layout: Layout) -> dict[str, str]:
    """From canonical names to those in the file."""
    names: dict[str, str] = {}
    for name in source.names():
        other = names.setdefault(layout.canonical(name), name)
        if other != name:
            raise CheckpointError(
                f"{source.where} holds both {other!r} and {name!r}, which name one tensor: leave one of them out."
            )
    return names


def _check_names(source: TensorSource, layout: Layout, rows: Mapping[Path, Row], names: Mapping[str, str]) -> None:
    asked = {row.name for row in rows.values()}
    known = asked | {copy for copy, path in layout.copies if tuple(path.split("/")) in rows}
    missing = sorted(asked - set(names))
    extra = sorted(
        name
        for canonical, name in names.items()
        if canonical not in known and not any(re.fullmatch(pattern, canonical) for pattern in layout.unused)
    )
    if missing or extra:
        said = [
            f"lacks {_listed(missing)}" if missing else "",
            f"has {_listed(extra)}, which the model has no place for" if extra else "",
        ]
        raise CheckpointError(
            f"{source.where} {' and '.join(filter(None, said))}: give the configuration that belongs to it."
        )


def _check_copies(source: TensorSource, layout: Layout, rows: Mapping[Path, Row], names: Mapping[str, str]) -> None:
    asked = {row.name for row in rows.values()}
    for copy, path in layout.copies:
        original = rows.get(tuple(path.split("/")))
        if copy in asked or copy not in names or original is None:
            continue
        if not np.array_equal(source.read(names[copy]), source.read(names[original.name])):
            raise CheckpointError(
                f"{source.where} holds {names[copy]!r} with other values than {names[original.name]!r}, to which its "
                "configuration ties it: set tie_word_embeddings to false, or leave the tensor out."
            )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_LISTED])
    return shown if len(names) <= _MOST_LISTED else f"{shown}, ... ({len(names)} in all)"
