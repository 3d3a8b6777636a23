"""Attention computed on both sides of an identity, on batches of drawn queries, keys, values and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsink import metrics
from jaxsink.attention import (
    AttentionDims,
    Causal,
    Clipped,
    Elastic,
    Entmax15,
    ReLU,
    RowMap,
    Sigmoid,
    SinkLogit,
    Softmax,
    SoftmaxN,
    Softpick,
    Sparsemax,
    attend,
    attend_with_aux,
)
from theory.calculations.base import Calculation

# Its own type cannot say that what is asked for is there.
observed: Callable[..., Any] = attend_with_aux
_QUERIES, _KEYS, _DIMS = 5, 6, AttentionDims(query_heads=4, key_heads=2, head_size=4)
INVARIANT: tuple[RowMap, ...] = (Softmax(), Clipped(-0.1, 1.0), Sparsemax(), Entmax15(), Elastic())
MOVING: tuple[RowMap, ...] = (SoftmaxN(1.0), SinkLogit(1.0), Sigmoid(), ReLU(), Softpick())


def _draw(rng: np.random.Generator, instances: int) -> tuple[Array, Array, Array, Array]:
    """Queries [B, T, N, H] of twice the usual size, keys and values [B, S, K, H], and the mask [B, 1, T, S].

    About two keys in three are visible. The last query sees none.
    """
    heads, kv = (_DIMS.query_heads, _DIMS.head_size), (instances, _KEYS, _DIMS.key_heads, _DIMS.head_size)
    q = 2 * rng.normal(size=(instances, _QUERIES, *heads))
    visible = rng.uniform(size=(instances, 1, _QUERIES, _KEYS)) < 0.7
    visible[:, :, -1] = False
    return jnp.asarray(q), jnp.asarray(rng.normal(size=kv)), jnp.asarray(rng.normal(size=kv)), jnp.asarray(visible)


def _with_slot(key: Array, k: Array) -> Array:
    """A slot [B, K, H] before the keys or values [B, S, K, H]."""
    return jnp.concatenate([key[:, None], k], axis=1)


def _seen_with_slot(visible: Array) -> Array:
    return jnp.concatenate([jnp.ones((*visible.shape[:-1], 1), bool), visible], axis=-1)


# I1 -------------------------------------------------------------------------------------------------------------
@jax.jit
def _gated(q: Array, k: Array, v: Array, visible: Array, sink: Array) -> dict[str, Any]:
    plain, aux = observed(q, k, v, mask=visible, want=("lse",))
    # Every instance has sink logits of its own, which are parameters of the map: one call for each.
    with_sink = jax.vmap(partial(observed, variant=SinkLogit(), want=("row_mass",)))
    one = [x[:, None] for x in (q, k, v, visible)]
    out, sink_aux = with_sink(*one[:3], mask=one[3], params={"sink_logit": sink})
    return {"softmax_output": plain, "lse": aux.lse, "output": out[:, 0], "row_mass": sink_aux.row_mass[:, 0]}


@dataclass(frozen=True)
class SinkGate(Calculation):
    """Attention with a sink logit per query head, and softmax attention on the same inputs.

    Attributes:
      instances: B. heads_away: the sink logit stored for a head is that of the head so many places on.

    Evidence: "output" and "softmax_output" [B, T, N, H], "row_mass" and "lse" [B, N, T], "sink" [B, N].
    """

    instances: int = 64
    heads_away: int = 0
    seconds: ClassVar[float] = 0.5

    @property
    def label(self) -> str:
        return f"a sink logit against softmax, {self.instances} instances"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        sink = rng.normal(size=(self.instances, _DIMS.query_heads))
        found = _gated(*_draw(rng, self.instances), jnp.asarray(sink))
        return {**found, "sink": np.roll(sink, -self.heads_away, axis=1)}


# I2 -------------------------------------------------------------------------------------------------------------
@partial(jax.jit, static_argnames="constants")
def _extra_key(
    q: Array, k: Array, v: Array, visible: Array, slot: tuple[Array, Array], constants: tuple[float, ...]
) -> dict[str, Any]:
    plain, aux = observed(q, k, v, mask=visible, want=("lse",))
    zeros = {"sink_logit": jnp.zeros(_DIMS.query_heads)}
    wide, wide_aux = observed(
        q, _with_slot(slot[0], k), _with_slot(slot[1], v), mask=_seen_with_slot(visible), want=("weights",)
    )
    return {
        "softmax_output": plain,
        "lse": aux.lse,
        "softmax_1": attend(q, k, v, SoftmaxN(1.0), mask=visible),
        "softmax_n": jnp.stack([attend(q, k, v, SoftmaxN(n), mask=visible) for n in constants]),
        "sink_zero": attend(q, k, v, SinkLogit(), params=zeros, mask=visible),
        "extra_key": wide,
        "extra_mass": wide_aux.weights[..., 0],
    }


@dataclass(frozen=True)
class ExtraKey(Calculation):
    """softmax1, softmax_n, a sink logit of 0, and softmax with one more key that every query sees.

    Attributes:
      instances: B. constants: the n of softmax_n. key, value: sizes of the drawn key and value of the extra slot.

    Evidence: "softmax_output", "softmax_1", "sink_zero", "extra_key" [B, T, N, H], "softmax_n" [n, B, T, N, H],
    "constants" [n], "lse" [B, N, T], "extra_mass" [B, N, T], the weight on the extra key.
    """

    instances: int = 64
    constants: tuple[float, ...] = (0.25, 2.0, 7.0)
    key: float = 0.0
    value: float = 0.0
    seconds: ClassVar[float] = 0.5

    @property
    def label(self) -> str:
        return f"softmax_n against an extra key, {self.instances} instances"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        inputs = _draw(rng, self.instances)
        drawn = rng.normal(size=(2, self.instances, _DIMS.key_heads, _DIMS.head_size))
        slot = jnp.asarray(self.key * drawn[0]), jnp.asarray(self.value * drawn[1])
        return {**_extra_key(*inputs, slot, self.constants), "constants": np.array(self.constants)}


# I3 -------------------------------------------------------------------------------------------------------------
@partial(jax.jit, static_argnames="softcap")
def _slot(
    q: Array, k: Array, v: Array, visible: Array, slot: tuple[Array, Array], softcap: float | None
) -> dict[str, Any]:
    out, aux = observed(
        q,
        _with_slot(slot[0], k),
        _with_slot(slot[1], v),
        mask=_seen_with_slot(visible),
        softcap=softcap,
        want=("scores", "weights"),
    )
    logit = aux.scores[..., 0]

    def as_sink(q: Array, k: Array, v: Array, visible: Array, logit: Array) -> tuple[Array, Array]:
        """A sink logit belongs to a head, the slot's to a query: one call for each query [N, H]."""
        params = {"sink_logit": logit}
        found, aux = observed(
            q[None, None], k, v, SinkLogit(), params=params, mask=visible, softcap=softcap, want=("lse",)
        )
        return found[0, 0], aux.lse[0, :, 0]

    each_query = jax.vmap(as_sink, in_axes=(0, None, None, 2, 1), out_axes=(0, 1))
    sunk, lse = jax.vmap(each_query)(q, k[:, None], v[:, None], visible[:, None, :, :, None], logit)
    return {"output": out, "logit": logit, "mass": aux.weights[..., 0], "sink_output": sunk, "lse": lse}


@dataclass(frozen=True)
class KeyValueSlot(Calculation):
    """Softmax with one more key-value slot that every query sees, and attention with the slot's score as sink logit.

    Attributes:
      instances: B. softcap: of all scores. owns_value: without it the slot's value is 0 in the attention that is run.

    Evidence: "output" and "sink_output" [B, T, N, H], "logit", "mass" and "lse" [B, N, T] (the slot's score and
    weight, log-sum-exp of the other keys), "query" [B, T, N, H], "key" and "value" [B, K, H] of the slot as drawn.
    """

    instances: int = 64
    softcap: float | None = None
    owns_value: bool = True
    seconds: ClassVar[float] = 0.5

    @property
    def label(self) -> str:
        cap = "" if self.softcap is None else f", soft-cap {self.softcap:g}"
        return f"a key-value slot against its sink logit, {self.instances} instances{cap}"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        inputs = _draw(rng, self.instances)
        key, value = rng.normal(size=(2, self.instances, _DIMS.key_heads, _DIMS.head_size))
        slot = jnp.asarray(key), jnp.asarray(value * self.owns_value)
        return {**_slot(*inputs, slot, self.softcap), "query": inputs[0], "key": key, "value": value}


# I4 -------------------------------------------------------------------------------------------------------------
@partial(jax.jit, static_argnames="variant")
def _clipped(q: Array, k: Array, v: Array, visible: Array, variant: Clipped) -> dict[str, Any]:
    out, aux = observed(q, k, v, variant, mask=visible, want=("weights",))
    plain, plain_aux = observed(q, k, v, mask=visible, want=("weights",))
    return {"output": out, "weights": aux.weights, "softmax_output": plain, "softmax_weights": plain_aux.weights}


@dataclass(frozen=True)
class Clipping(Calculation):
    """Clipped softmax and softmax on the same inputs.

    Attributes:
      gamma, zeta: of the clipped softmax. instances: B.

    Evidence: "output", "softmax_output" [B, T, N, H], "weights", "softmax_weights" [B, N, T, S], "visible"
    [B, 1, T, S], "interval" [gamma, zeta].
    """

    gamma: float = 0.0
    zeta: float = 1.0
    instances: int = 64
    seconds: ClassVar[float] = 0.3

    @property
    def label(self) -> str:
        return f"clipped({self.gamma:g}, {self.zeta:g}) against softmax, {self.instances} instances"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        inputs = _draw(np.random.default_rng(seed), self.instances)
        found = _clipped(*inputs, Clipped(self.gamma, self.zeta))
        return {**found, "visible": np.asarray(inputs[3]), "interval": np.array([self.gamma, self.zeta])}


# I6 -------------------------------------------------------------------------------------------------------------
@jax.jit
def _first_key(q: Array, k: Array) -> tuple[Array, Array, Array, Array]:
    everyone = jnp.ones(q.shape[:2], bool)
    others = everyone.at[:, 0].set(False)
    _, aux = observed(q, k, k, mask=Causal(), want=("weights",))
    mass = [metrics.attention_to_key(aux.weights, where) for where in (everyone, others)]
    baseline = [metrics.uniform_baseline(where) for where in (everyone, others)]
    return mass[0], mass[1], baseline[0], baseline[1]


@dataclass(frozen=True)
class FirstKeyMass(Calculation):
    """Mean weight that causal softmax gives the first key, and the baseline of `jaxsink.metrics`.

    Attributes:
      keys: all equal, so that attention is uniform whatever the queries, or drawn one by one.
      lengths: numbers of tokens. instances: N, one head each.

    Evidence, "lengths" [L]: "mass" [L, N] over all queries, "mass_of_others" [L, N] over all but the first,
    "baseline" and "baseline_of_others" [L].
    """

    keys: Literal["equal", "drawn"] = "equal"
    lengths: tuple[int, ...] = (32, 64, 256)
    instances: int = 4
    seconds: ClassVar[float] = 1.0

    @property
    def label(self) -> str:
        return f"causal attention of {self.instances} heads with {self.keys} keys at lengths {self.lengths}"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        found = [self._at(rng, length) for length in self.lengths]
        names = ("mass", "mass_of_others", "baseline", "baseline_of_others")
        return {
            "lengths": np.array(self.lengths),
            **dict(zip(names, map(np.stack, zip(*found, strict=True)), strict=True)),
        }

    def _at(self, rng: np.random.Generator, length: int) -> tuple[Array, Array, Array, Array]:
        q, k = rng.normal(size=(2, 1, length, self.instances, _DIMS.head_size))
        if self.keys == "equal":
            k[:] = k[:, :1]
        return _first_key(jnp.asarray(q), jnp.asarray(k))


# I8 -------------------------------------------------------------------------------------------------------------
def _moved(variant: RowMap, q: Array, k: Array, visible: Array, shift: Array) -> tuple[Array, Array, Array]:
    """Scores [B, N, T, S], weights as they are, and after the shift [B, N, T, 1] of all scores of a row."""
    params = variant.init(jax.random.key(0), _DIMS)
    run = partial(observed, q, k, k, variant, params=params, mask=visible, want=("weights", "scores"))
    (_, before), (_, after) = run(), run(bias=shift)
    return before.scores, before.weights, after.weights


@partial(jax.jit, static_argnames="variants")
def _differences(q: Array, k: Array, visible: Array, shift: Array, variants: tuple[RowMap, ...]) -> Array:
    pairs = [_moved(variant, q, k, visible, shift)[1:] for variant in variants]
    return jnp.stack([jnp.max(jnp.abs(after - before)) for before, after in pairs])


def _shifted_draw(seed: int, instances: int) -> tuple[Array, Array, Array, Array]:
    rng = np.random.default_rng(seed)
    q, k, _, visible = _draw(rng, instances)
    # Not further: where softmax gives 1 - M = 0 up to rounding, e^-c magnifies what is left of it.
    return q, k, visible, jnp.asarray(rng.uniform(-3, 3, (instances, _DIMS.query_heads, _QUERIES, 1)))


@dataclass(frozen=True)
class Shift(Calculation):
    """How far weights move when a number drawn for each row is added to all its scores.

    Attributes:
      variants: the row maps, with their initial parameters. instances: B.

    Evidence: "difference", the largest change of a weight [variant].
    """

    variants: tuple[RowMap, ...] = INVARIANT
    instances: int = 64
    seconds: ClassVar[float] = 1.5

    @property
    def label(self) -> str:
        names = ", ".join(type(variant).__name__ for variant in self.variants)
        return f"shifted scores of {names}, {self.instances} instances"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        return {"difference": _differences(*_shifted_draw(seed, self.instances), self.variants)}


@jax.jit
def _rows(q: Array, k: Array, visible: Array, shift: Array) -> dict[str, Any]:
    pairs = {
        variant: _moved(variant, q, k, visible, shift) for variant in (Softmax(), SoftmaxN(1.0), ReLU(), Softpick())
    }
    scores = pairs[Softmax()][0]
    # Dead: the row sees something, but no score above 0, neither before nor after.
    top = jnp.max(scores + jnp.maximum(shift, 0.0), axis=-1, initial=-jnp.inf, where=visible)
    dead = jnp.isfinite(top) & (top <= 0.0)
    moves = [jnp.max(jnp.abs(pairs[variant][2] - pairs[variant][1]), axis=-1) for variant in (ReLU(), Softpick())]
    return {
        "before": jnp.stack([pairs[variant][1] for variant in (Softmax(), SoftmaxN(1.0))]),
        "after": jnp.stack([pairs[variant][2] for variant in (Softmax(), SoftmaxN(1.0))]),
        "shift": shift,
        "dead": dead,
        "moves": jnp.stack(moves),
    }


@dataclass(frozen=True)
class ShiftedRows(Calculation):
    """Weights of softmax and softmax1 before and after a shift of their rows, and the dead rows of ReLU and softpick.

    Attributes:
      instances: B.

    Evidence: "before" and "after" [2, B, N, T, S], "shift" [B, N, T, 1], "dead" bool [B, N, T] (a row that sees keys
    and has no score above 0 before and after), "moves" [2, B, N, T], the largest change in a row of ReLU and softpick.
    """

    instances: int = 64
    seconds: ClassVar[float] = 1.0

    @property
    def label(self) -> str:
        return f"rows of softmax1, ReLU and softpick under a shift, {self.instances} instances"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        return dict(_rows(*_shifted_draw(seed, self.instances)))
