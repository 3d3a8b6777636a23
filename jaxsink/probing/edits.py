"""The kinds of edits: pytrees that a site is passed through. What an edit does not touch stays bit for bit.

Every kind has `where`, a boolean that broadcasts to the site's shape; `at` makes one from indices.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass
from jax.typing import ArrayLike

from jaxsink.probing.sites import Site


class Edit:
    """What the kinds have in common."""

    where: ArrayLike
    # Fields that have one number for a vector along the last axis, instead of one for every entry.
    per_vector: ClassVar[tuple[str, ...]] = ()

    def changed(self, x: jax.Array) -> jax.Array:
        """The site's value where the edit holds."""
        raise NotImplementedError

    def __call__(self, x: jax.Array) -> jax.Array:
        where = jnp.broadcast_to(jnp.asarray(self.where), x.shape)
        return jnp.where(where, jnp.broadcast_to(self.changed(x), x.shape).astype(x.dtype), x)

    def check(self, site: Site) -> None:
        """Raise ValueError if a field does not broadcast to the site, or `where` is not boolean.

        Numbers are looked at too, unless they are traced.
        """
        if jnp.asarray(self.where).dtype != jnp.bool_:
            raise ValueError(
                f"where must be boolean (True = edit), but has dtype {jnp.asarray(self.where).dtype}; compare it first."
            )
        for field in fields(self):  # type: ignore[arg-type]
            shape = jnp.shape(getattr(self, field.name))
            target = (*site.shape[:-1], 1) if field.name in self.per_vector else site.shape
            try:
                fits = jnp.broadcast_shapes(shape, target) == target
            except ValueError:
                fits = False
            if not fits:
                raise ValueError(
                    f"the edit of {site.name!r} has {field.name} of shape {shape}, but it must broadcast to {target}; "
                    "give it such a shape."
                )


@register_dataclass
@dataclass(frozen=True)
class Set(Edit):
    """The site becomes `value`. Gradients flow to the value."""

    value: ArrayLike
    where: ArrayLike = True

    def changed(self, x: jax.Array) -> jax.Array:
        return jnp.asarray(self.value).astype(x.dtype)


@register_dataclass
@dataclass(frozen=True)
class Add(Edit):
    """`value` is added."""

    value: ArrayLike
    where: ArrayLike = True

    def changed(self, x: jax.Array) -> jax.Array:
        return x + jnp.broadcast_to(jnp.asarray(self.value).astype(x.dtype), x.shape)


@register_dataclass
@dataclass(frozen=True)
class Scale(Edit):
    """The site is multiplied by `factor`."""

    factor: ArrayLike
    where: ArrayLike = True

    def changed(self, x: jax.Array) -> jax.Array:
        return x * jnp.broadcast_to(jnp.asarray(self.factor).astype(x.dtype), x.shape)


@register_dataclass
@dataclass(frozen=True)
class Freeze(Edit):
    """The site keeps its value and passes no gradient back."""

    where: ArrayLike = True

    def changed(self, x: jax.Array) -> jax.Array:
        return jax.lax.stop_gradient(x)


@register_dataclass
@dataclass(frozen=True)
class Clamp(Edit):
    """Vectors along the last axis are scaled so that their norm lies from `low` to `high`; a zero vector stays zero."""

    low: ArrayLike
    high: ArrayLike
    where: ArrayLike = True
    per_vector: ClassVar[tuple[str, ...]] = ("low", "high")

    def check(self, site: Site) -> None:
        super().check(site)
        low, high = self.low, self.high
        if known(low, high) and np.any(np.asarray(low) > np.asarray(high)):
            raise ValueError(
                f"the edit of {site.name!r} has low = {low} above high = {high}; give the smaller one first."
            )

    def changed(self, x: jax.Array) -> jax.Array:
        square = jnp.square(x).sum(-1, keepdims=True)
        # The root has no finite gradient at zero, so it never sees one.
        norm = jnp.sqrt(jnp.where(square > 0, square, 1))
        low, high = (jnp.broadcast_to(jnp.asarray(y).astype(x.dtype), norm.shape) for y in (self.low, self.high))
        wanted = jnp.clip(norm, low, high)
        return jnp.where(square > 0, x * (wanted / norm), x)


@register_dataclass
@dataclass(frozen=True)
class ForceAttention(Edit):
    """For the site "pattern": the weight on one key becomes `weight`, and the other keys share what is left of the row.

    They keep their proportions and the row its mass. A row in which no other key has weight stays as it is. Nothing
    masks the key again: let `where` leave out the rows before it, or they see the future.

    Attributes:
      key: index of the key, one or [..., T, 1]. weight: one or [..., T, 1]. where: which rows, [..., T, 1], or all.
    """

    key: ArrayLike
    weight: ArrayLike
    where: ArrayLike = True
    per_vector: ClassVar[tuple[str, ...]] = ("weight",)

    def check(self, site: Site) -> None:
        super().check(site)
        if site.name.rsplit(".", 1)[-1] != "pattern":
            raise ValueError(f"ForceAttention edits attention weights, but {site.name!r} has none; edit a 'pattern'.")
        keys = site.shape[-1]
        # A key that does not exist would go unnoticed: nothing is forced, but the other keys shrink.
        if known(self.key) and not np.all((np.asarray(self.key) >= 0) & (np.asarray(self.key) < keys)):
            raise ValueError(
                f"{site.name!r} has {keys} keys, but key {self.key} was given; choose from 0 to {keys - 1}."
            )

    def changed(self, x: jax.Array) -> jax.Array:
        keys = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
        chosen = keys == jnp.broadcast_to(jnp.asarray(self.key).astype(jnp.int32), x.shape)
        weight = jnp.broadcast_to(jnp.asarray(self.weight).astype(x.dtype), (*x.shape[:-1], 1))
        others = jnp.where(chosen, 0, x).sum(-1, keepdims=True)
        left = x.sum(-1, keepdims=True) - weight
        forced = jnp.where(chosen, weight, x * (left / jnp.where(others != 0, others, 1)))
        return jnp.where(others != 0, forced, x)


@register_dataclass
@dataclass(frozen=True)
class Chain(Edit):
    """Several edits of one site, applied in order: each sees what those before it made of the site."""

    edits: tuple[Edit, ...]

    def __call__(self, x: jax.Array) -> jax.Array:
        for edit in self.edits:
            x = edit(x)
        return x

    def check(self, site: Site) -> None:
        for edit in self.edits:
            edit.check(site)


Edits = Mapping[str, Edit | Sequence[Edit]]


def chained(name: str, given: Edit | Sequence[Edit]) -> Edit:
    """One edit of what stands for a site in `Edits`: an edit, or several in order. Raises ValueError for all else."""
    edits = given if isinstance(given, list | tuple) else (given,)
    if bad := [edit for edit in edits if not isinstance(edit, Edit)]:
        raise ValueError(
            f"the edit of {name!r} must be an Edit or several, but {type(bad[0]).__name__} was given; "
            "wrap it, as in Set(value)."
        )
    return edits[0] if len(edits) == 1 else Chain(tuple(edits))


def known(*values: ArrayLike | Sequence[int]) -> bool:
    """Whether all values are there, and none is traced."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


Index = int | slice | Sequence[int]


def at(site: Site, **index: Index) -> jax.Array:
    """`where` for a site from indices along its axes: `at(site, T=0, N=[1, 2])` is position 0 of heads 1 and 2.

    Args:
      site: from `sites`. index: for some of the letters of `site.axes` an index, several, or a slice.

    Returns:
      bool, of shape one along the other axes.

    Raises:
      ValueError: the site has no such axis, or an index lies outside of it.
    """
    where = jnp.ones((1,) * len(site.shape), bool)
    for letter, chosen in index.items():
        if letter not in site.axes:
            raise ValueError(f"{site.name!r} has the axes {', '.join(site.axes)}, but not {letter!r}; choose of those.")
        axis = site.axes.index(letter)
        size = site.shape[axis]
        picked = (
            range(size)[chosen] if isinstance(chosen, slice) else [operator.index(i) for i in np.atleast_1d(chosen)]
        )
        if bad := [i for i in picked if not -size <= i < size]:
            raise ValueError(
                f"axis {letter} of {site.name!r} has {size} entries, so index {bad[0]} does not exist; "
                f"choose from 0 to {size - 1}."
            )
        along = jnp.zeros(size, bool).at[jnp.asarray([*picked], jnp.int32)].set(True)
        where = where & along.reshape([-1 if i == axis else 1 for i in range(len(site.shape))])
    return where
