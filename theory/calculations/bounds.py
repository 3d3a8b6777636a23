"""Weights, spectra and Jacobians as they are, on batches that hold drawn instances and extremal ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsink.attention import Causal, attend
from theory.calculations.base import Calculation
from theory.calculations.identities import observed


def _spectral_norm(matrices: Array) -> Array:
    """[...] of [..., d, d]."""
    return jnp.max(jnp.linalg.svd(matrices, compute_uv=False), axis=-1)


# I5 -------------------------------------------------------------------------------------------------------------
@partial(jax.jit, static_argnames="softcap")
def _largest_weight(q: Array, k: Array, softcap: float | None) -> Array:
    _, aux = observed(q, k, k, mask=Causal(), softcap=softcap, want=("weights",))
    return jnp.max(aux.weights[:, 0], axis=-1)


@dataclass(frozen=True)
class LargestWeight(Calculation):
    """The largest weight of every row of causal softmax attention whose scores a soft-cap bounds.

    In half of the instances the first key's score is far above the cap and all others are far below minus the cap.

    Attributes:
      capped: whether the soft-cap is applied. caps: c. length: T. instances: B.

    Evidence: "caps" [c], "largest" [c, B, T]; row t sees t + 1 keys.
    """

    capped: bool = True
    caps: tuple[float, ...] = (0.25, 1.0, 3.0)
    length: int = 6
    instances: int = 64
    seconds: ClassVar[float] = 0.3

    @property
    def label(self) -> str:
        return f"largest weights {'with' if self.capped else 'without'} soft-cap, {self.instances} instances"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        q, k = np.random.default_rng(seed).normal(size=(2, self.instances, self.length, 1, 4))
        extremal = slice(None, None, 2)
        # Scores of +-200: tanh(200 / c) is 1 to the last bit for every cap.
        q[extremal], k[extremal] = 10.0, -10.0
        k[extremal, 0] = 10.0
        found = [_largest_weight(jnp.asarray(q), jnp.asarray(k), c if self.capped else None) for c in self.caps]
        return {"caps": np.array(self.caps), "largest": np.stack(found)}


# I7 -------------------------------------------------------------------------------------------------------------
@jax.jit
@partial(jax.vmap, in_axes=(0, 0, None))
def _norm_jacobian(x: Array, gain: Array, eps: Array) -> Array:
    def rms_norm(x: Array) -> Array:
        return gain * x / jnp.sqrt(jnp.mean(x**2) + eps)

    return _spectral_norm(jax.jacfwd(rms_norm)(x))


@dataclass(frozen=True)
class NormJacobian(Calculation):
    """Spectral norm of the Jacobian of RMSNorm at states of many sizes, by automatic differentiation.

    In half of the instances the state is 0 where the gain is largest.

    Attributes:
      at: the Jacobian is taken at so many times the state. sizes: root mean squares of the states. eps: of the norm.
      instances: of each size. width: d.

    Evidence: "x" and "gain" [size, B, d], "jacobian" [size, B], "eps".
    """

    at: float = 1.0
    sizes: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1.0, 1e2)
    eps: float = 1e-6
    instances: int = 32
    width: int = 8
    seconds: ClassVar[float] = 0.3

    @property
    def label(self) -> str:
        return f"Jacobian of RMSNorm, {self.instances} states of each of {len(self.sizes)} sizes"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        x, gain = np.random.default_rng(seed).normal(size=(2, len(self.sizes), self.instances, self.width))
        flat = np.abs(gain) == np.abs(gain).max(-1, keepdims=True)
        flat[:, 1::2] = False
        x[flat] = 0.0
        x *= np.array(self.sizes)[:, None, None] / np.sqrt((x**2).mean(-1, keepdims=True))
        rows = (-1, self.width)
        norm = _norm_jacobian(
            jnp.asarray(self.at * x.reshape(rows)), jnp.asarray(gain.reshape(rows)), jnp.asarray(self.eps)
        )
        return {"x": x, "gain": gain, "jacobian": norm.reshape(x.shape[:-1]), "eps": np.array(self.eps)}


# I9 -------------------------------------------------------------------------------------------------------------
@jax.jit
def _spectrum(states: Array) -> dict[str, Any]:
    squares = jnp.linalg.svd(states, compute_uv=False) ** 2
    share = squares / jnp.sum(squares, axis=-1, keepdims=True)
    entropy = -jnp.sum(share * jnp.log(jnp.where(share > 0.0, share, 1.0)), axis=-1)
    # Directions that only rounding fills: 1e-16 of the largest, 1e-32 squared.
    rank = jnp.sum(share > 1e-20 * share[..., :1], axis=-1)
    return {"leading": squares[..., 0], "entropy": entropy, "rank": rank}


@dataclass(frozen=True)
class Spectrum(Calculation):
    """Spectra of hidden states whose first row is scaled while the others stay.

    In half of the instances the other rows come in pairs that mirror each other in the first row, each pair in a
    direction of its own: the first row is then a right singular vector and the others' remainder is spread evenly.

    Attributes:
      ratios: M / R, squared norm of the first row over that of all others together. instances: B. pairs: of rows.

    Evidence: "ratios" [c], "first" [B, c, D], "rest" [B, T - 1, D], "mirrors" bool [B], and of the states of each
    ratio "leading" [B, c], the largest squared singular value, "entropy" [B, c] (nats) of the normalised squares, and
    "rank" [B, c].
    """

    ratios: tuple[float, ...] = (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0, 100.0)
    instances: int = 64
    pairs: int = 3
    seconds: ClassVar[float] = 0.3

    @property
    def label(self) -> str:
        return f"spectra of {self.instances} sets of states with a growing first row"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        width = 2 * self.pairs + 2
        axes = np.linalg.qr(rng.normal(size=(self.instances, width, width)))[0]
        direction = axes[:, 0]
        rest = rng.normal(size=(self.instances, 2 * self.pairs, width))
        along = rng.uniform(0.1, 3.0, (self.instances, 1, 1)) * direction[:, None]
        mirrored = np.concatenate([along + axes[:, 1 : self.pairs + 1], along - axes[:, 1 : self.pairs + 1]], axis=1)
        mirrors = np.arange(self.instances) % 2 == 0
        rest[mirrors] = mirrored[mirrors]
        size = np.sqrt(np.array(self.ratios)[None, :] * (rest**2).sum((1, 2))[:, None])
        first = size[..., None] * direction[:, None]
        others = np.broadcast_to(rest[:, None], (self.instances, len(self.ratios), *rest.shape[1:]))
        states = np.concatenate([first[:, :, None], others], axis=2)
        inputs = {"ratios": np.array(self.ratios), "first": first, "rest": rest, "mirrors": mirrors}
        return {**_spectrum(jnp.asarray(states)), **inputs}


# I10 ------------------------------------------------------------------------------------------------------------
_WIDTH = 3
Paths = Literal["non-negative", "signed", "empty sink", "valued sink"]


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, 0, None))
def _path_jacobian(x: Array, weights: Array, maps: Array, sink_value: Array) -> Array:
    """Norms [T, T] of dy_n / dx_i for inputs [T, D], weights [L, H, T, 1 + T] with the sink first, maps [H, D, D]."""
    zero_query, zero_key = jnp.zeros((1, x.shape[0], maps.shape[0], _WIDTH)), jnp.zeros((1, x.shape[0] + 1, 1, _WIDTH))

    def layer(x: Array, weights: Array) -> tuple[Array, None]:
        # The sink is the first token's state, or a zero in its place. The values are the states, and each head's
        # W_O W_V stands behind the average.
        values = jnp.concatenate([sink_value * x[:1], x])[None, :, None]
        heads = attend(
            zero_query, zero_key, values, tap=lambda name, array: weights[None] if name == "pattern" else array
        )
        return x + jnp.einsum("thd,hde->te", heads[0], maps), None

    jacobian = jax.jacfwd(lambda x: jax.lax.scan(layer, x, weights)[0])(x)
    return _spectral_norm(jnp.swapaxes(jacobian, 1, 2))


@dataclass(frozen=True)
class PathJacobian(Calculation):
    """How the output of frozen attention layers with residuals depends on each input: by automatic differentiation.

    The instances take turns: (0) all is drawn; (1) W_O W_V is the identity and the weights leave no cancellation;
    (2) tokens attend to the one before them alone and W_O W_V is twice an orthogonal matrix; (3) W_O W_V is minus
    the identity, and signed weights are all negative.

    Attributes:
      paths: weights as softmax gives them; with signs; beside a sink that takes a drawn share of every row's mass and
        has value zero; or beside one that has the value of the first token.
      layers: L. heads: H. instances: B. The number of tokens is T = L + 1.

    Evidence: "jacobian" [B, T, T], to the row's token from the column's, "weights" [B, L, H, T, T] without the sink,
    "sink_mass" [B, L, H, T], "growth" [B], the largest |W_O W_V| or 1, "turn" [B].
    """

    paths: Paths = "non-negative"
    layers: int = 3
    heads: int = 2
    instances: int = 64
    seconds: ClassVar[float] = 0.5

    @property
    def label(self) -> str:
        return f"Jacobians of {self.layers} layers of frozen attention ({self.paths}), {self.instances} instances"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        tokens, turn = self.layers + 1, np.arange(self.instances) % 4
        rows = (self.instances, self.layers, self.heads, tokens)
        weights = np.tril(np.exp(rng.normal(size=(*rows, tokens))))
        weights[turn == 2] = np.eye(tokens, k=-1)
        weights[turn == 2, ..., 0, 0] = 1.0
        weights /= weights.sum(-1, keepdims=True)
        sign = rng.choice([-1.0, 1.0], weights.shape)
        side = rng.choice([-1.0, 1.0], (self.instances, tokens))
        # With one sign a token, all paths between two tokens have the same.
        sign[turn == 1] = (side[:, None, None, :, None] * side[:, None, None, None, :])[turn == 1]
        sign[turn == 2], sign[turn == 3] = -1.0, -1.0
        if self.paths == "signed":
            weights *= sign
        mass = rng.uniform(0.1, 0.9, rows) * ("sink" in self.paths)
        maps = self._maps(rng, turn)
        growth = np.maximum(np.linalg.norm(maps, ord=2, axis=(-2, -1)).max(-1), 1.0)
        pattern = np.concatenate([mass[..., None], (1 - mass)[..., None] * weights], axis=-1)
        jacobian = _path_jacobian(
            jnp.asarray(rng.normal(size=(self.instances, tokens, _WIDTH))),
            jnp.asarray(pattern),
            jnp.asarray(maps),
            jnp.asarray(float(self.paths == "valued sink")),
        )
        return {"jacobian": jacobian, "weights": weights, "sink_mass": mass, "growth": growth, "turn": turn}

    def _maps(self, rng: np.random.Generator, turn: np.ndarray) -> np.ndarray:
        """W_O W_V [B, H, D, D]."""
        maps = rng.normal(size=(self.instances, self.heads, _WIDTH, _WIDTH))
        maps[turn == 1], maps[turn == 3] = np.eye(_WIDTH), -np.eye(_WIDTH)
        turned = np.linalg.qr(rng.normal(size=(self.instances, _WIDTH, _WIDTH)))[0]
        maps[turn == 2] = 2 * turned[turn == 2][:, None]
        return maps


# I11 ------------------------------------------------------------------------------------------------------------
Gate = Literal["key side, reads the value", "key side, reads the input", "query side"]


def _gate_jacobian(q: Array, k: Array, v: Array, gate_weight: Array, logit: Array, gate: Gate) -> tuple[Array, Array]:
    """Jacobian [T, d, S, d] of the output in the values and weights [T, S] of one head; q, k, v [T, d], logit [T]."""

    def run(v: Array) -> tuple[Array, Array]:
        gated = v
        if gate == "key side, reads the value":
            gated = jax.nn.sigmoid(v @ gate_weight)[:, None] * v
        elif gate == "key side, reads the input":
            gated = jax.nn.sigmoid(logit)[:, None] * v
        out, aux = observed(q[None, :, None], k[None, :, None], gated[None, :, None], mask=Causal(), want=("weights",))
        if gate == "query side":
            out = jax.nn.sigmoid(logit)[None, :, None, None] * out
        return out[0, :, 0], aux.weights[0, 0]

    return jax.jacfwd(run, has_aux=True)(v)


_gate_jacobians = jax.jit(jax.vmap(_gate_jacobian, in_axes=(0, 0, 0, 0, 0, None)), static_argnums=5)


@dataclass(frozen=True)
class ValueGate(Calculation):
    """Jacobian of gated causal attention in the values, by automatic differentiation.

    A gate on the key side multiplies the value before the average, one on the query side the output after it. One gate
    of every instance is shut.

    Attributes:
      gate: where it stands and what it reads. tokens: T. width: d. instances: B.

    Evidence: "jacobian" [B, T, T, d, d], of the row's output in the column's value, "weights" [B, T, T],
    "value" [B, T, d], "gate_weight" [B, d], "logit" [B, T], which a gate that does not read the value has, and
    "shut" [B], the position of the shut gate, never the last.
    """

    gate: Gate = "key side, reads the value"
    tokens: int = 4
    width: int = 3
    instances: int = 64
    seconds: ClassVar[float] = 0.4

    @property
    def label(self) -> str:
        return f"Jacobians of gated attention ({self.gate}), {self.instances} instances"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        q, k, value = rng.normal(size=(3, self.instances, self.tokens, self.width))
        gate_weight, logit = rng.normal(size=(self.instances, self.width)), rng.normal(size=value.shape[:2])
        shut, each = np.arange(self.instances) % (self.tokens - 1), np.arange(self.instances)
        # A gate of e^-60; the value that shuts its own gate is moved along the weight until it does.
        logit[each, shut] = -60.0
        missing = -60.0 - (value[each, shut] * gate_weight).sum(-1)
        value[each, shut] += (missing / (gate_weight**2).sum(-1))[:, None] * gate_weight
        jacobian, weights = _gate_jacobians(*map(jnp.asarray, (q, k, value, gate_weight, logit)), self.gate)
        return {
            "jacobian": jnp.swapaxes(jacobian, 2, 3),
            "weights": weights,
            "value": value,
            "gate_weight": gate_weight,
            "logit": logit,
            "shut": shut,
        }
