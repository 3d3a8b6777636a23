"""Optimisers as frozen configurations, each built by optax. Weight decay is coupled where PyTorch couples it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import optax


class Optimiser(Protocol):
    """A configuration that builds an optax transformation."""

    @property
    def rate(self) -> float: ...

    def build(self) -> optax.GradientTransformation: ...


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled decay of every parameter (1711.05101); the defaults are 2410.13835's."""

    rate: float = 3e-4
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 1e-4

    def build(self) -> optax.GradientTransformation:
        return optax.adamw(self.rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class Adam:
    """Adam without decay (1412.6980)."""

    rate: float = 3e-4
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8

    def build(self) -> optax.GradientTransformation:
        return optax.adam(self.rate, self.b1, self.b2, self.eps)


@dataclass(frozen=True)
class SGD:
    """Gradient descent with optional momentum; decay is added to the gradient. 2410.13835: .03, .9, 1e-4."""

    rate: float = 0.03
    momentum: float | None = None
    weight_decay: float = 1e-4

    def build(self) -> optax.GradientTransformation:
        step = optax.sgd(self.rate, self.momentum)
        return optax.chain(optax.add_decayed_weights(self.weight_decay), step)


@dataclass(frozen=True)
class SignSGD:
    """The sign of the gradient (1802.04434), with decoupled decay."""

    rate: float = 3e-4
    weight_decay: float = 1e-4

    def build(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_sign(),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(self.rate),
        )


MUON_MATRICES = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out")


@dataclass(frozen=True)
class Muon:
    """Orthogonalised momentum (Jordan 2024) for the matrices inside the blocks, AdamW for the rest.

    Muon takes W_Q, W_K, W_V, W_O, W_in and W_out; AdamW takes the embedding tables, the read-out, LayerNorm
    and the parameters of the attention variant, at `adam_rate`. The momentum is optax's, with its bias correction, and
    the update is not scaled by the shape of the matrix.
    """

    rate: float = 0.02
    momentum: float = 0.95
    weight_decay: float = 1e-4
    adam_rate: float = 3e-4

    def build(self) -> optax.GradientTransformation:
        def label(path: tuple[Any, ...], _: jax.Array) -> str:
            return "muon" if path[-1].key in MUON_MATRICES else "adamw"

        def labels(params: Any) -> Any:
            return jax.tree_util.tree_map_with_path(label, params)

        def matrices(updates: Any) -> Any:
            # optax can find the matrices of a tree by itself only where every leaf is one.
            return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), updates)

        muon = optax.chain(
            optax.contrib.scale_by_muon(beta=self.momentum, weight_dimension_numbers=matrices),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(self.rate),
        )
        rest = AdamW(self.adam_rate, weight_decay=self.weight_decay).build()
        return optax.partition({"muon": muon, "adamw": rest}, labels)
