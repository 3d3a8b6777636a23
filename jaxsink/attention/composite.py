"""Variants built around or from row maps, and what they work on: `Inputs` in, output and `Aux` out.

A `Composite` goes through `attend` like a row map. `Wrapped` puts wrappers around one row map; an operator combines
several evaluations.
"""

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import jax
import numpy as np
from jax import Array

from jaxsink.attention.call import Aux
from jaxsink.attention.masks import Mask, QueryOffset
from jaxsink.attention.row_map import AttentionDims, Params, Properties, RowMap

# Parameters of a composite: a dict of dicts of arrays.
Tree = Mapping[str, Any]


class Trait(enum.Enum):
    """What the output of a composite depends on beyond the visible keys and values and the query's own x.

    A composite declares its traits beside the properties of its weights; the value of each says it in words.
    """

    SAME_TOKENS = "reads the keys as the tokens of x, in their places"  # then T = S
    OWN_VALUE = "reads the value of the query's own token"  # seen or not
    ALL_TOKENS = "reads every token of the sequence"  # later ones too
    SLOT_VALUE = "adds a value that belongs to no key"  # a row that sees no key gives it
    SEVERAL_SCORES = "combines several score matrices"  # no `scores`, no totals, and nothing that one tap could edit


@dataclass(frozen=True)
class Inputs:
    """The checked arguments of `attend` that describe what is attended, as a composite may change them.

    Attributes:
        q: [B, T, N, H].
        k: [B, S, K, H].
        v: [B, S, K, Hv].
        x: [B, T, D], what queries, keys and values were projected from, or None if the caller gave none.
        mask: structured, or bool with each axis of [B, N, T, S] in full or of size 1, or None.
        bias: arrays that add up, each with each axis of [B, N, T, S] in full or of size 1; () for none.
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
    bias: tuple[Array, ...]
    null_logit: Array | None
    scale: float | Array
    softcap: float | None
    query_offset: QueryOffset
    on_keys: Array | None
    on_groups: Array | None

    @property
    def compute_dtype(self) -> np.dtype[Any]:
        """dtype of everything between input and output: float64 if q, k or v has it, else float32."""
        wide = any(array.dtype == np.float64 for array in (self.q, self.k, self.v))
        return np.dtype(np.float64 if wide else np.float32)

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

    def given_x(self) -> Array:
        """x [B, T, D], which `attend` has checked for whoever declares to read it."""
        assert self.x is not None
        return self.x

    def tokens(self, who: str) -> Array:
        """x as what the keys, too, were projected from, [B, S, D].

        Raises:
            ValueError: if there are not as many queries as keys.
        """
        queries, keys = self.q.shape[1], self.k.shape[1]
        if queries != keys:
            raise ValueError(
                f"{who} reads x at the keys, so queries and keys must be the same tokens, but T={queries} and "
                f"S={keys}; pass queries and x of all tokens"
            )
        return self.given_x()


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

    @property
    def traits(self) -> frozenset[Trait]:
        """What else the output depends on."""
        return frozenset()

    @abstractmethod
    def init(self, key: Array, dims: AttentionDims) -> Tree:
        """Return fresh float32 parameters: a dict of dicts of arrays."""

    @abstractmethod
    def run(self, inputs: Inputs, params: Tree, evaluate: Evaluate, want: frozenset[str]) -> tuple[Array, Aux]:
        """Return the output [B, T, N, Hv] and the wanted entries of `Aux`."""


class Wrapper(ABC):
    """What `Wrapped` puts around a row map: a change of its inputs, or of its output, or both.

    Subclasses are frozen dataclasses with static fields. They compute in `inputs.compute_dtype` and leave what they
    change in it: `Wrapped` rounds once, at the end.
    """

    name: ClassVar[str]  # its entry in the parameters
    reads_x: ClassVar[bool] = False
    reads_aux: ClassVar[frozenset[str]] = frozenset()  # entries of `Aux` that `after` needs
    per_token: ClassVar[bool] = False  # whether `before` and `after` treat each token by itself, as decoding needs
    traits: ClassVar[frozenset[Trait]] = frozenset()

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return fresh float32 parameters, `{}` for none."""
        return {}

    def changed(self, properties: Properties) -> Properties:
        """Return the properties of the weights within, given those of what is wrapped.

        Raises:
            ValueError: if what is wrapped lacks a property that the wrapper needs.
        """
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

    Inputs pass the wrappers from the outermost to the innermost, the output passes them back. `Aux` is that of the row
    map on the inputs that reach it: its weights are those before any output gate. Between the wrappers everything is in
    float32, or in float64 if q, k or v is; only the output is rounded, to the dtype of the values. Its parameters are
    `{"row_map": {...}, wrapper.name: {...}, ...}`, with an entry for each part that has any.

    Attributes:
        row_map: the row map.
        wrappers: of different names, at least one.

    Raises:
        ValueError: if there is no wrapper, two have one name, one does not fit what it is put around, or `row_map` is
            not a row map.
    """

    row_map: RowMap
    wrappers: tuple[Wrapper, ...]

    def __post_init__(self) -> None:
        if isinstance(self.row_map, type) or not isinstance(self.row_map, RowMap):
            raise ValueError(f"row_map must be an instance of a row map such as Softmax(), but is {self.row_map!r}")
        if not isinstance(self.wrappers, tuple) or not all(isinstance(part, Wrapper) for part in self.wrappers):
            raise ValueError(f"wrappers must be a tuple of wrapper instances, but is {self.wrappers!r}; write (part,)")
        names = [wrapper.name for wrapper in self.wrappers]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"wrappers must be one or more, of different names, but are {names}; name each once")
        _ = self.properties  # each wrapper looks at what it is put around

    @property
    def properties(self) -> Properties:
        properties = self.row_map.properties
        for wrapper in self.wrappers:
            properties = wrapper.changed(properties)
        return properties

    @property
    def needs_x(self) -> bool:
        return any(wrapper.reads_x for wrapper in self.wrappers)

    @property
    def traits(self) -> frozenset[Trait]:
        return frozenset().union(*(wrapper.traits for wrapper in self.wrappers))

    def init(self, key: Array, dims: AttentionDims) -> Tree:
        parts = {"row_map": self.row_map.init, **{wrapper.name: wrapper.init for wrapper in self.wrappers}}
        keys = jax.random.split(key, len(parts))
        made = {name: init(k, dims) for k, (name, init) in zip(keys, parts.items(), strict=True)}
        return {name: entries for name, entries in made.items() if entries}

    def run(self, inputs: Inputs, params: Tree, evaluate: Evaluate, want: frozenset[str]) -> tuple[Array, Aux]:
        dtype = inputs.v.dtype
        if any(type(wrapper).after is not Wrapper.after for wrapper in self.wrappers):
            # Backends round their output to the dtype of the values.
            inputs = replace(inputs, v=inputs.v.astype(inputs.compute_dtype))
        entered: list[Inputs] = []
        for wrapper in reversed(self.wrappers):
            inputs = wrapper.before(inputs, params.get(wrapper.name, {}))
            entered.append(inputs)
        wanted = want.union(*(wrapper.reads_aux for wrapper in self.wrappers))
        out, aux = evaluate(inputs, self.row_map, params.get("row_map", {}), wanted)
        for wrapper, seen in zip(self.wrappers, reversed(entered), strict=True):
            out = wrapper.after(out, seen, aux, params.get(wrapper.name, {}))
        return out.astype(dtype), aux._replace(**{name: None for name in wanted - want})
