"""Interventions during training: from a step on, an activation keeps its value or its norm, attention is even, or all
values have one norm.

What is held at a start token is a function of the parameters alone, as nothing stands before it under a causal mask.
So it is had from the start tokens by themselves, and what stood there at the step in question is kept as a constant:
no gradient reaches the parameters through it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass
from jax.typing import ArrayLike

from jaxsink.models import Transformer
from jaxsink.probing import Clamp, Edit, ForceAttention, Set, Site, at, merge, run, sites
from jaxsink.probing.sites import require_sites
from jaxsink.tasks import BigramBackcopy
from jaxsink.training.loop import TrainState

# By index of the intervention what it keeps, and with the suffix below the step from which it does.
Held = dict[str, jax.Array]
_BEGINS = ".from_step"


def _not_negative(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 0:
            raise ValueError(f"{name} must be at least 0, but {number} was given; count from 0.")


@dataclass(frozen=True)
class _Hold:
    """A site at one of the start tokens keeps something from a step on. The step is the number of updates made."""

    site: str
    position: int = 0
    from_step: int = 0

    def __post_init__(self) -> None:
        _not_negative(position=self.position, from_step=self.from_step)

    @property
    def words(self) -> str:
        return f"{self.site} at position {self.position} held from step {self.from_step}"

    def kept(self, vector: jax.Array) -> jax.Array:
        """What is held of the site's vectors at the position, [1, 1, ...]."""
        return vector

    def edit(self, held: jax.Array, where: jax.Array) -> Edit:
        """The edit that holds the site where `where` says so."""
        return Set(held, where)


@dataclass(frozen=True)
class HoldValue(_Hold):
    """From `from_step` on the site at a position keeps the value that it had there then.

    Attributes:
      site: name in `probing.sites`, with one vector a position ("blocks.0.v"). position: of the tokens, a start token.
    """


@dataclass(frozen=True)
class HoldNorm(_Hold):
    """From `from_step` on the site at a position keeps its norm, and its direction stays free.

    The norm is that of the last axis, so a site with heads keeps one a head. The fields are those of `HoldValue`.
    """

    @property
    def words(self) -> str:
        return f"norm of {super().words}"

    def kept(self, vector: jax.Array) -> jax.Array:
        return jnp.linalg.norm(vector, axis=-1, keepdims=True)

    def edit(self, held: jax.Array, where: jax.Array) -> Edit:
        return Clamp(held, held, where)


@dataclass(frozen=True)
class UniformAttention:
    """From `from_step` on the weight on a key is that of even attention: one over the number of visible keys.

    The other keys share the rest of the row in the proportions that they have. For attention whose rows sum to one.

    Attributes:
      layer: 0-based block; all its heads. key: position of the key among the tokens; registers are visible keys, too.
    """

    layer: int = 0
    key: int = 0
    from_step: int = 0

    def __post_init__(self) -> None:
        _not_negative(layer=self.layer, key=self.key, from_step=self.from_step)

    @property
    def words(self) -> str:
        return f"attention of block {self.layer} to position {self.key} even from step {self.from_step}"


@dataclass(frozen=True)
class EqualValues:
    """From `from_step` on the values of a block have one norm at all positions, and their directions stay free.

    Gradients flow through the division by the norm, so that a value learns its direction alone.

    Attributes:
      layer: 0-based block; each of its heads. norm: what the norm is.
      of: whose norm: "v" is the head's value, which W_O can still shrink; "W_O v" is what it adds to the residual
        stream.

    Source: the first is the normalisation of values that 2407.01601 asks about; the second is this project's.
    """

    layer: int = 0
    norm: float = 1.0
    of: Literal["v", "W_O v"] = "v"
    from_step: int = 0

    def __post_init__(self) -> None:
        _not_negative(layer=self.layer, from_step=self.from_step)
        if not 0.0 < self.norm < math.inf:
            raise ValueError(f"norm must be positive and finite, but {self.norm} was given; use 1.0.")
        if self.of not in ("v", "W_O v"):
            raise ValueError(f"of must be 'v' or 'W_O v', but {self.of!r} was given; choose one.")

    @property
    def words(self) -> str:
        since = f" from step {self.from_step}" if self.from_step else ""
        return f"block {self.layer} |{self.of}| = {self.norm:g}{since}"


Intervention = HoldValue | HoldNorm | UniformAttention | EqualValues


def require_fitting(given: tuple[Intervention, ...], starts: int, steps: int) -> None:
    """Raise ValueError for an intervention that a run of so many start tokens and steps cannot have."""
    for one in given:
        if not isinstance(one, Intervention):
            raise ValueError(
                f"interventions must be HoldValue, HoldNorm, UniformAttention or EqualValues, but {one!r} was given; "
                "make it one."
            )
        if one.from_step >= steps:
            raise ValueError(
                f"an intervention starts at step {one.from_step}, but the run ends at {steps}; start it earlier."
            )
        if isinstance(one, _Hold) and one.position >= starts:
            raise ValueError(
                f"{type(one).__name__} needs a start token, but position {one.position} was given and {starts} start "
                "tokens there are: what stands later depends on the sequence; choose a start token."
            )


@register_dataclass
@dataclass(frozen=True)
class _ClampImage(Edit):
    """Values [..., N, H] are scaled so that what W_O makes of each head's has a norm; one that it maps to 0 stays.

    `w_o` is [N, H, D].
    """

    norm: ArrayLike
    w_o: ArrayLike
    where: ArrayLike = True

    def check(self, site: Site) -> None:
        """Nothing is left to check: it is made here for the site "v" alone, from the network's own W_O."""

    def changed(self, x: jax.Array) -> jax.Array:
        image = jnp.einsum("...nh,nhd->...nd", x, jnp.asarray(self.w_o).astype(x.dtype))
        square = jnp.square(image).sum(-1, keepdims=True)
        # As in `Clamp`: the root has no finite gradient at zero, so it never sees one.
        norm = jnp.sqrt(jnp.where(square > 0, square, 1))
        return jnp.where(square > 0, x * (jnp.asarray(self.norm).astype(x.dtype) / norm), x)


def _offset(site: Site, length: int) -> int:
    """Index of the first token on the site's axis of positions: registers stand before it."""
    return site.shape[1] - length


@dataclass(frozen=True)
class Interventions:
    """The interventions of a run, on its network.

    Several may act on one site; they apply in the order given.

    Raises:
      ValueError: a site does not exist (the nearest is named) or has no vector a position, or a block no attention.
    """

    model: Transformer
    task: BigramBackcopy
    given: tuple[Intervention, ...]

    def __post_init__(self) -> None:
        if not self.given:
            return
        table = sites(self.model)
        for one in self.given:
            if isinstance(one, UniformAttention | EqualValues):
                self._require_attention(table, one)
                continue
            require_sites(table, [one.site])
            if table[one.site].axes[1] not in "TS":
                raise ValueError(
                    f"{one.site!r} has the axes {', '.join(table[one.site].axes)} and no vector a position to be held; "
                    "choose a site such as 'blocks.0.v'."
                )

    def _require_attention(self, table: dict[str, Site], one: UniformAttention | EqualValues) -> None:
        if f"blocks.{one.layer}.pattern" not in table:
            raise ValueError(f"the model has no attention in block {one.layer}; choose a block that has.")
        if isinstance(one, UniformAttention) and one.key >= self.model.max_length:
            raise ValueError(
                f"key {one.key} was given, but a sequence has {self.model.max_length} positions; choose one of them."
            )

    @property
    def _holds(self) -> dict[str, _Hold]:
        return {str(i): one for i, one in enumerate(self.given) if isinstance(one, _Hold)}

    def edits(self, state: TrainState, length: int | None = None) -> dict[str, Edit]:
        """What is in force at a state, as the `edits` of `probing.run`.

        Args:
          state: of the run. length: T of the tokens; None means the model's `max_length`.
        """
        return self._edits(state, length or self.model.max_length)

    def held(self, state: TrainState) -> Held:
        """What is held at a state that has its parameters and step already, and from the step before what was held.

        Until an intervention begins that is what stands there now.

        Args:
          state: of the run; its `held` is {} before the first step.
        """
        if not self._holds:
            return {}
        tokens = jnp.full((1, self.task.starts), self.task.start_id, jnp.int32)
        names = [one.site for one in self._holds.values()]
        # One less, for at its first step an intervention must not feel what it held a step ago.
        edits = self._edits(state, self.task.starts, holding_late=True)
        _, captured = run(self.model, state.params, tokens, capture=names, edits=edits)
        table = sites(self.model, 1, self.task.starts)
        found = {}
        for name, one in self._holds.items():
            index = _offset(table[one.site], self.task.starts) + one.position
            now, begins = one.kept(captured[one.site][:, index : index + 1]), name + _BEGINS
            if state.held:
                found[begins] = state.held[begins]
                found[name] = jnp.where(state.step <= found[begins], now, state.held[name])
            else:
                # Data and no constant, so that runs that differ in it alone share their compiled programs.
                found[begins], found[name] = jnp.asarray(one.from_step, jnp.int32), now
        return found

    def _edits(self, state: TrainState, length: int, *, holding_late: bool = False) -> dict[str, Edit]:
        """Edits for sequences of a length; with `holding_late` a hold begins a step later than it does."""
        if not self.given:
            return {}
        table, step, held = sites(self.model, 1, length), state.step, state.held
        found: list[dict[str, Edit]] = []
        for i, one in enumerate(self.given):
            if isinstance(one, UniformAttention):
                found.append(self._even(table, one, step, length))
            elif isinstance(one, EqualValues):
                found.append(self._equal(one, state))
            elif str(i) in held:
                site = table[one.site]
                begun = step >= held[f"{i}{_BEGINS}"] + int(holding_late)
                position: dict[str, Any] = {site.axes[1]: _offset(site, length) + one.position}
                found.append({one.site: one.edit(held[str(i)], at(site, **position) & begun)})
        return merge(*found)

    def _equal(self, one: EqualValues, state: TrainState) -> dict[str, Edit]:
        begun, norm = state.step >= one.from_step, jnp.asarray(one.norm)
        if one.of == "v":
            return {f"blocks.{one.layer}.v": Clamp(norm, norm, begun)}
        config = self.model.config
        w_o = state.params[f"blocks_{one.layer}"]["W_O"].reshape(config.n_heads, -1, config.d_model)
        return {f"blocks.{one.layer}.v": _ClampImage(norm, w_o, begun)}

    def _even(self, table: dict[str, Site], one: UniformAttention, step: jax.Array, length: int) -> dict[str, Edit]:
        site = table[f"blocks.{one.layer}.pattern"]
        rows = jnp.arange(site.shape[2])[:, None]
        key = site.shape[2] - length + one.key
        if key >= site.shape[2]:
            return {}
        return {site.name: ForceAttention(key, 1 / (rows + 1), (rows >= key) & (step >= one.from_step))}
