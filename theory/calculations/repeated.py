"""Networks with random weights that read one token repeated T times, and single heads at the edge of its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxsink.attention import (
    AttentionDims,
    Causal,
    Mask,
    RowMap,
    Softmax,
    Window,
    WindowWithSinks,
    alibi_bias,
    alibi_slopes,
    attend_with_aux,
    rope,
    t5_bias,
)
from theory.calculations.base import Calculation

Positions = Literal["none", "learned", "t5", "alibi", "rope"]
Draws = Mapping[str, NDArray[np.float64]]
# Positions t whose rows of attention weights are kept, where the context is as long.
ROWS = (1, 2, 3, 8, 32, 64)
_T5_BUCKETS = 32
# Of a layer; what else it has are parameters of its row map.
_WEIGHTS = ("wq", "wk", "value", "output", "mlp_in", "mlp_out", "norm_attention", "norm_mlp")


@dataclass(frozen=True)
class RepeatedToken(Calculation):
    """Pre-norm transformers, attention and a ReLU MLP, with random weights on one repeated token.

    Queries and keys are scaled so that |q||k|/sqrt(H) runs from about half to about six over the networks.

    Attributes:
      attention: the row map. positions: how they enter. window: of the causal mask, None for none. sinks: first keys
        that the window keeps. instances: networks M. layers: L. width: D. heads: N. length: T.

    Evidence: the weights "embedding" [M, D], "norm_attention", "norm_mlp" [M, L, D], "value", "output" [M, L, D, D],
      "mlp_in" [M, L, D, 2 D], "mlp_out" [M, L, 2 D, D] and parameters "sink_logit" [M, L, N], where there are any;
      "query", "key" [M, N, H] of layer 1 at position 1, before any rotation; "states" [M, L, T, D] after each layer;
      "update" [M, L], smallest over the positions, norm of what attention adds over that of the state; "mass"
      [M, N, T] of the rows of layer 1; "rows" [R] and "weights" [M, L, N, R, T] of those rows; "first" [M, L, N], mean
      weight on key 1; "largest" [M, L, N, T], of each row; "xi" [M, L, N], largest |q||k|/sqrt(H); "slopes" [N] of
      ALiBi.
    """

    attention: RowMap = Softmax()
    positions: Positions = "none"
    window: int | None = None
    sinks: int = 0
    instances: int = 4
    layers: int = 3
    width: int = 16
    heads: int = 2
    length: int = 64
    seconds: ClassVar[float] = 0.4

    @property
    def label(self) -> str:
        seen = "" if self.window is None else f", window {self.window} and {self.sinks} sinks"
        name = type(self.attention).__name__
        return f"one repeated token, {name}, positions {self.positions}{seen}, {self.instances} random networks"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        once, layers = self._drawn(np.random.default_rng(seed))
        found = _run(self.attention, self.heads, _entry(self, once), _on_device(layers))
        kept = {name: x for name, x in layers.items() if name not in ("wq", "wk")} | {"embedding": once["embedding"]}
        kept |= {
            "rows": np.array([t for t in ROWS if t <= self.length]),
            "slopes": np.asarray(alibi_slopes(self.heads)),
        }
        return kept | {name: np.asarray(x) for name, x in found.items()}

    def _drawn(self, rng: np.random.Generator) -> tuple[Draws, Draws]:
        """(what a network has once, what it has by layer)."""
        width, hidden = self.width, 2 * self.width
        matrices = {
            "wq": (width, width),
            "wk": (width, width),
            "value": (width, width),
            "output": (width, width),
            "mlp_in": (width, hidden),
            "mlp_out": (hidden, width),
        }
        by_layer = (self.instances, self.layers)
        layers = {name: rng.normal(size=(*by_layer, *shape)) / np.sqrt(shape[0]) for name, shape in matrices.items()}
        gains = np.geomspace(0.45, 1.5, self.instances)[:, None, None, None]
        layers["wq"], layers["wk"] = gains * layers["wq"], gains * layers["wk"]
        for name in ("norm_attention", "norm_mlp"):
            layers[name] = rng.uniform(0.5, 1.5, size=(*by_layer, width))
        once = {
            "embedding": rng.normal(size=(self.instances, width)),
            "learned": rng.normal(size=(self.instances, self.length, width)),
            "t5": rng.normal(size=(self.instances, _T5_BUCKETS, self.heads)),
        }
        # Last, so that networks with and without parameters of their row map have the same weights.
        dims = AttentionDims(self.heads, self.heads, width // self.heads)
        for name, fresh in jax.eval_shape(lambda: self.attention.init(jax.random.key(0), dims)).items():
            layers[name] = rng.normal(size=(*by_layer, *fresh.shape))
        return once, layers


class _Entry(NamedTuple):
    """How positions enter, as arrays, so that one program serves all of them.

    Attributes:
      x: [M, T, D], the vectors that the first layer reads. turns: [T], positions for RoPE, all 0 without it. bias:
        [M, N, T, T]. visible: bool [1, 1, T, T].
    """

    x: jax.Array
    turns: jax.Array
    bias: jax.Array
    visible: jax.Array


def _entry(spec: RepeatedToken, once: Draws) -> _Entry:
    length, shape = spec.length, (spec.instances, spec.heads, spec.length, spec.length)
    x = np.repeat(once["embedding"][:, None], length, axis=1)
    turns, bias = np.zeros(length, np.int32), jnp.zeros(shape)
    mask: Mask = Causal()
    if spec.positions == "learned":
        x = x + once["learned"]
    if spec.positions == "rope":
        turns = np.arange(length, dtype=np.int32)
    if spec.positions == "alibi":
        bias = jnp.broadcast_to(alibi_bias(alibi_slopes(spec.heads), length, length), shape)
    if spec.positions == "t5":
        bias = jnp.concatenate([t5_bias(jnp.asarray(table), length, length) for table in once["t5"]])
    if spec.window is not None:
        mask = mask & (WindowWithSinks(spec.window, spec.sinks) if spec.sinks else Window(spec.window))
    return _Entry(jnp.asarray(x), jnp.asarray(turns), bias, mask.materialise(length, length))


def _on_device(arrays: Draws) -> dict[str, jax.Array]:
    return {name: jnp.asarray(x) for name, x in arrays.items()}


@partial(jax.jit, static_argnums=(0, 1))
def _run(attention: RowMap, heads: int, entry: _Entry, layers: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    def network(x: jax.Array, bias: jax.Array, layers: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        one = entry._replace(bias=bias[None])
        found: dict[str, jax.Array] = jax.lax.scan(partial(_layer, attention, heads, one), x, layers)[1]
        return found | {name: found[name][0] for name in ("query", "key", "mass")}

    return jax.vmap(network)(entry.x, entry.bias, layers)


def _layer(
    attention: RowMap, n_heads: int, entry: _Entry, x: jax.Array, w: Mapping[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    length, width = x.shape
    heads = (1, length, n_heads, width // n_heads)
    normed = _rms_norm(x, w["norm_attention"])
    q, k, v = (jnp.reshape(normed @ w[name], heads) for name in ("wq", "wk", "value"))
    norms = [jnp.linalg.norm(part[0], axis=-1).max(0) for part in (q, k)]
    out, aux = attend_with_aux(
        rope(q, entry.turns),
        rope(k, entry.turns),
        v,
        attention,
        params={name: x for name, x in w.items() if name not in _WEIGHTS},
        mask=entry.visible,
        bias=entry.bias,
        want=("weights", "row_mass"),
    )
    assert aux.weights is not None
    assert aux.row_mass is not None
    weights = aux.weights[0]
    update = out[0].reshape(length, width) @ w["output"]
    found = {
        "update": jnp.min(jnp.linalg.norm(update, axis=-1) / jnp.linalg.norm(x, axis=-1)),
        "query": q[0, 0],
        "key": k[0, 0],
        "mass": aux.row_mass[0],
        "weights": weights[:, np.array([t - 1 for t in ROWS if t <= length])],
        "first": weights[:, :, 0].mean(-1),
        "largest": weights.max(-1),
        "xi": norms[0] * norms[1] / np.sqrt(heads[-1]),
    }
    x = x + update
    x = x + jax.nn.relu(_rms_norm(x, w["norm_mlp"]) @ w["mlp_in"]) @ w["mlp_out"]
    return x, found | {"states": x}


def _rms_norm(x: jax.Array, gain: jax.Array) -> jax.Array:
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * gain[None]


# Single heads ---------------------------------------------------------------------------------------------------
@jax.jit
def _heads(q: jax.Array, k: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean weight on the first key [N], largest weight of each row [N, T]) of causal softmax attention."""
    _, aux = attend_with_aux(q, k, k, mask=Causal(), bias=bias, want=("weights",))
    assert aux.weights is not None
    return aux.weights[0, :, :, 0].mean(-1), aux.weights[0].max(-1)


def _evidence(q: np.ndarray, k: np.ndarray, bias: np.ndarray, xi: np.ndarray) -> dict[str, np.ndarray]:
    """The evidence of heads with q, k [T, N, H] and a bias [N, T, T]."""
    first, largest = _heads(jnp.asarray(q)[None], jnp.asarray(k)[None], jnp.asarray(bias)[None])
    return {"xi": xi, "first": np.asarray(first), "largest": np.asarray(largest)}


@dataclass(frozen=True)
class RopeHeads(Calculation):
    """Softmax heads with RoPE that see one query and one key, |q||k|/sqrt(H) = xi, at all positions.

    Half of the heads have all of q and k in one pair of features, at even phases over each pair; of these the first has
    the fastest pair and the phase at which scores at distances 1 and 0 differ most. The other half point anywhere.

    Attributes:
      xi: size of the scores. instances: heads N, a multiple of 2 size. size: H. length: T.

    Evidence: "xi" [N], "first" [N], mean weight on key 1, "largest" [N, T], largest weight of each row.
    """

    xi: float
    instances: int = 256
    size: int = 16
    length: int = 64
    seconds: ClassVar[float] = 0.2

    @property
    def label(self) -> str:
        return f"RoPE on one repeated query and key of |q||k|/sqrt(H) = {self.xi:g}, {self.instances} heads"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        pairs, single = self.size // 2, self.instances // 2
        q, k = rng.normal(size=(2, self.instances, self.size))
        pair, place = np.arange(single) % pairs, np.arange(single) // pairs
        phase = 2 * np.pi * (place + rng.uniform()) / (single // pairs)
        phase[0] = (np.pi + 1) / 2  # f(n) = xi cos(n - phase)
        q[:single], k[:single] = 0, 0
        q[np.arange(single), pair], k[np.arange(single), pair] = 1, np.cos(phase)
        k[np.arange(single), pair + pairs] = np.sin(phase)
        norm = np.sqrt(self.xi * np.sqrt(self.size))
        q, k = (np.asarray(norm * x / np.linalg.norm(x, axis=-1, keepdims=True)) for x in (q, k))
        xi = np.linalg.norm(q, axis=-1) * np.linalg.norm(k, axis=-1) / np.sqrt(self.size)
        no_bias = np.zeros((self.instances, self.length, self.length))
        return _evidence(_turned(q, self.length), _turned(k, self.length), no_bias, xi)


def _turned(x: np.ndarray, length: int) -> np.ndarray:
    """[T, N, H], the vectors [N, H] at every position."""
    return np.asarray(rope(jnp.asarray(np.broadcast_to(x, (1, length, *x.shape))), np.arange(length)))[0]


@dataclass(frozen=True)
class DistinctFirstKey(Calculation):
    """Softmax heads whose first key differs: score xi on it, -xi on all others; xi even in (0, xi_max).

    Attributes:
      xi_max: largest size of the scores. instances: heads N. size: H. length: T.

    Evidence: that of `RopeHeads`.
    """

    xi_max: float = 2.2
    instances: int = 256
    size: int = 16
    length: int = 64
    seconds: ClassVar[float] = 0.1

    @property
    def label(self) -> str:
        return f"a first key unlike all others, {self.instances} heads"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        xi = np.random.default_rng(seed).uniform(0, self.xi_max, size=self.instances)
        q = np.zeros((self.length, self.instances, self.size))
        q[:, :, 0] = xi[None] * np.sqrt(self.size)
        k = np.zeros_like(q)
        k[:, :, 0], k[0, :, 0] = -1, 1
        return _evidence(q, k, np.zeros((self.instances, self.length, self.length)), xi)


@dataclass(frozen=True)
class RisingDistance(Calculation):
    """Softmax heads whose scores rise with the distance by a slope of even chance in (0, slope_max).

    Attributes:
      slope_max: largest slope. instances: heads N. size: H. length: T.

    Evidence: that of `RopeHeads`, "xi" being half the range of a head's scores.
    """

    slope_max: float = 0.5
    instances: int = 256
    size: int = 16
    length: int = 64
    seconds: ClassVar[float] = 0.1

    @property
    def label(self) -> str:
        return f"scores that rise with the distance, {self.instances} heads"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        slope = np.random.default_rng(seed).uniform(0, self.slope_max, size=self.instances)
        zero = np.zeros((self.length, self.instances, self.size))
        bias = np.asarray(alibi_bias(jnp.asarray(-slope), self.length, self.length))[0]
        return _evidence(zero, zero, bias, slope * (self.length - 1) / 2)
