"""Variants built around or from row maps, and what they work on: `Inputs` in, output and `Aux` out.

A `Composite` goes through `attend` like a row map. `Wrapped` puts wrappers around one row map; an operator combines
several evaluations.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax
from jax import Array

from jaxsink.attention.call import Aux
from jaxsink.attention.masks import Mask, QueryOffset
from jaxsink.attention.row_map import AttentionDims, Params, Properties, RowMap

# Parameters of a composite: a dict of dicts of arrays.
Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Inputs:
    """The checked arguments of `attend` that describe what is attended, as a composite may change them.

    Attributes:
        q: [B, T, N, H].
        k: [B, S, K, H].
        v: [B, S, K, Hv].
        x: [B, T, D], what queries, keys and values were projected from, or None if the caller gave none.
        mask: structured, or bool with each axis of [B, N, T, S] in full or of size 1, or None.
        bias: each axis of [B, N, T, S] in full or of size 1, or None.
        null_logit: logit of one more column without a value, each axis of [B, N, T] in full or of size 1, or None.
        scale: factor of the scores.
        softcap: bound c in c * tanh(score / c), or None.
        query_offset: position of the first query, or None for the default.
        on_keys: int [P], the keys that `on_keys` reports, or None.
        on_groups: bool [B|1, G, S], the groups of keys that `on_groups` reports, or None.
    """

    q: Array
    k: Array
    v: Array
    x: Array | None
    mask: Mask | Array | None
    bias: Array | None
    null_logit: Array | None
    scale: float | Array
    softcap: float | None
    query_offset: QueryOffset
    on_keys: Array | None
    on_groups: Array | None

    @property
    def dims(self) -> AttentionDims:
        """Head counts and sizes."""
        return AttentionDims(
            self.q.shape[2],
            self.k.shape[2],
            self.q.shape[3],
            value_size=self.v.shape[3],
            model_size=None if self.x is None else self.x.shape[2],
        )


class Evaluate(Protocol):
    """Attention of one row map over checked inputs, on the backend that the caller of `attend` chose."""

    def __call__(self, inputs: Inputs, row_map: RowMap, params: Params, want: frozenset[str]) -> tuple[Array, Aux]: ...


class Composite(ABC):
    """A variant that is more than one row map; subclasses are frozen dataclasses with static fields."""

    @property
    @abstractmethod
    def properties(self) -> Properties:
        """What holds of the weights."""

    @property
    def needs_x(self) -> bool:
        """Whether `attend` must be given x."""
        return False

    @abstractmethod
    def init(self, key: Array, dims: AttentionDims) -> Tree:
        """Return fresh float32 parameters: a dict of dicts of arrays."""

    @abstractmethod
    def run(self, inputs: Inputs, params: Tree, evaluate: Evaluate, want: frozenset[str]) -> tuple[Array, Aux]:
        """Return the output [B, T, N, Hv] and the wanted entries of `Aux`."""


class Wrapper(ABC):
    """What `Wrapped` puts around a row map: a change of its inputs, or of its output, or both."""

    name: ClassVar[str]  # its entry in the parameters
    reads_x: ClassVar[bool] = False
    reads_aux: ClassVar[frozenset[str]] = frozenset()  # entries of `Aux` that `after` needs

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return fresh float32 parameters, `{}` for none."""
        return {}

    def changed(self, properties: Properties) -> Properties:
        """Return the properties of the weights within, given those of what is wrapped."""
        return properties

    def before(self, inputs: Inputs, params: Params) -> Inputs:
        """Return what goes in instead."""
        return inputs

    def after(self, out: Array, inputs: Inputs, aux: Aux, params: Params) -> Array:
        """Return what comes out instead of `out` [B, T, N, Hv]; `inputs` are those that `before` returned."""
        return out


@dataclass(frozen=True)
class Wrapped(Composite):
    """A row map within wrappers, the innermost first.

    Its parameters are `{"row_map": {...}, wrapper.name: {...}, ...}`, with an entry for each part that has any.

    Attributes:
        row_map: the row map.
        wrappers: of different names, at least one.

    Raises:
        ValueError: if there is no wrapper, or two have one name.
    """

    row_map: RowMap
    wrappers: tuple[Wrapper, ...]

    def __post_init__(self) -> None:
        names = [wrapper.name for wrapper in self.wrappers]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"wrappers must be one or more, of different names, but are {names}; name each once")

    @property
    def properties(self) -> Properties:
        properties = self.row_map.properties
        for wrapper in self.wrappers:
            properties = wrapper.changed(properties)
        return properties

    @property
    def needs_x(self) -> bool:
        return any(wrapper.reads_x for wrapper in self.wrappers)

    def init(self, key: Array, dims: AttentionDims) -> Tree:
        parts = {"row_map": self.row_map.init, **{wrapper.name: wrapper.init for wrapper in self.wrappers}}
        keys = jax.random.split(key, len(parts))
        made = {name: init(k, dims) for k, (name, init) in zip(keys, parts.items(), strict=True)}
        return {name: entries for name, entries in made.items() if entries}

    def run(self, inputs: Inputs, params: Tree, evaluate: Evaluate, want: frozenset[str]) -> tuple[Array, Aux]:
        entered: list[Inputs] = []
        for wrapper in reversed(self.wrappers):
            inputs = wrapper.before(inputs, params.get(wrapper.name, {}))
            entered.append(inputs)
        wanted = want.union(*(wrapper.reads_aux for wrapper in self.wrappers))
        out, aux = evaluate(inputs, self.row_map, params.get("row_map", {}), wanted)
        for wrapper, seen in zip(self.wrappers, reversed(entered), strict=True):
            out = wrapper.after(out, seen, aux, params.get(wrapper.name, {}))
        return out, aux._replace(**{name: None for name in wanted - want})
