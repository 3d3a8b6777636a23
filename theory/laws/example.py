"""Random inputs of one call of `attend`, and the compiled functions through which the laws see a variant."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxsink.attention import AttentionDims, RowMap, attend, attend_with_aux

Inputs = dict[str, Any]
# (B, T, S, N, K, H), few of them because each new shape is compiled: grouped heads in a square, and decoding, where
# the queries stand on the last keys and share one key head.
SHAPES = ((2, 4, 4, 4, 2, 3), (1, 3, 6, 2, 1, 4))
DIFFERENTIABLE = ("q", "k", "v", "params")


def evaluate(variant: RowMap, inputs: Inputs) -> dict[str, jax.Array]:
    """Output `out` and everything of `Aux` that the variant defines, by name; `inputs` are arguments of `attend`."""
    totals = ("lse", "null_mass") if variant.properties.has_total else ()
    want = ("weights", "scores", "row_mass", "received", *totals)
    out, aux = attend_with_aux(variant=variant, want=want, **inputs)
    return {"out": out} | {name: getattr(aux, name) for name in want}


class _Static:
    """A variant as a static argument of jit: by value where it can be hashed, else by identity."""

    def __init__(self, variant: RowMap) -> None:
        self.variant = variant
        try:
            self._key: Any = hash(variant)
        except TypeError:
            self._key = None

    def __hash__(self) -> int:
        return id(self.variant) if self._key is None else int(self._key)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Static):
            return NotImplemented
        same_value = None not in (self._key, other._key) and type(self.variant) is type(other.variant)
        return self.variant is other.variant or (same_value and bool(self.variant == other.variant))


@partial(jax.jit, static_argnums=0)
def _attend(static: _Static, inputs: Inputs) -> jax.Array:
    return attend(variant=static.variant, **inputs)


@partial(jax.jit, static_argnums=0)
def _evaluate(static: _Static, inputs: Inputs) -> dict[str, jax.Array]:
    return evaluate(static.variant, inputs)


@partial(jax.jit, static_argnums=0)
def _evaluate_each(static: _Static, inputs: Inputs) -> dict[str, jax.Array]:
    return jax.vmap(partial(evaluate, static.variant))(inputs)


@partial(jax.jit, static_argnums=0)
def _differentiate(static: _Static, inputs: Inputs, cotangent: jax.Array) -> tuple[jax.Array, Inputs]:
    def loss(moving: Inputs) -> tuple[jax.Array, jax.Array]:
        out = attend(variant=static.variant, **(inputs | moving))
        return jnp.sum(out * cotangent), out

    gradients, out = jax.grad(loss, has_aux=True)({name: inputs[name] for name in DIFFERENTIABLE})
    return out, gradients


@dataclass(frozen=True)
class Example:
    """One call of `attend` with a variant; every query sees at least one key, unless a law hides more.

    Attributes:
        variant: the row map.
        q: queries [B, T, N, H], float32 as drawn.
        k: keys [B, S, K, H].
        v: values [B, S, K, H].
        params: parameters of the variant, normal of standard deviation one in the shapes of its `init`.
        visible: bool [B, 1, T, S].
        offset: position of the first query.
        rng: source of whatever a law draws besides.
    """

    variant: RowMap
    q: NDArray[Any]
    k: NDArray[Any]
    v: NDArray[Any]
    params: Mapping[str, NDArray[Any]]
    visible: NDArray[np.bool_]
    offset: int
    rng: np.random.Generator

    @property
    def inputs(self) -> Inputs:
        """The arguments of `attend` besides the variant."""
        return {
            "q": self.q,
            "k": self.k,
            "v": self.v,
            "params": dict(self.params),
            "mask": self.visible,
            "query_offset": np.int32(self.offset),
            # Always there, so that the laws about shifted scores need no compilation of their own.
            "bias": np.zeros((self.q.shape[0], self.q.shape[2], self.q.shape[1], self.k.shape[1]), self.q.dtype),
        }

    def out(self) -> NDArray[Any]:
        """Output of `attend` [B, T, N, H], compiled."""
        return np.asarray(_attend(_Static(self.variant), self.inputs))

    def run(self, bias: NDArray[Any] | None = None) -> dict[str, NDArray[Any]]:
        """Output `out` and everything of `Aux` that the variant defines, by name, compiled.

        Args:
            bias: added to the scores, broadcastable to [B, N, T, S].
        """
        inputs = self.inputs if bias is None else self.inputs | {"bias": self.inputs["bias"] + bias}
        return jax.tree.map(np.asarray, _evaluate(_Static(self.variant), inputs))

    def run_each(self, *others: Example) -> dict[str, NDArray[Any]]:
        """What `run` gives for this example and the others in one `vmap`, stacked along a first axis, compiled."""
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), self.inputs, *(other.inputs for other in others))
        return jax.tree.map(np.asarray, _evaluate_each(_Static(self.variant), stacked))

    def gradients(self, cotangent: NDArray[Any]) -> Inputs:
        """Gradients of sum(output * cotangent) by q, k, v and params, compiled.

        Args:
            cotangent: [B, T, N, H].
        """
        return jax.tree.map(np.asarray, _differentiate(_Static(self.variant), self.inputs, cotangent)[1])

    def exact(self, cotangent: NDArray[Any] | None = None) -> tuple[NDArray[Any], Inputs]:
        """Output and gradients with everything in float64, compiled.

        Args:
            cotangent: as in `gradients`; zeros if None.
        """
        wide = self.wide()
        with jax.enable_x64(True):
            cotangent = np.zeros(self.q.shape) if cotangent is None else cotangent.astype(np.float64)
            return jax.tree.map(np.asarray, _differentiate(_Static(self.variant), wide.inputs, cotangent))

    def weights_dtype(self) -> np.dtype[Any]:
        """dtype of the weights, without computing them."""
        with jax.enable_x64(True) if self.q.dtype == np.float64 else nullcontext():
            return np.dtype(jax.eval_shape(partial(evaluate, self.variant), self.inputs)["weights"].dtype)

    def cotangent(self) -> NDArray[Any]:
        """A random normal [B, T, N, H]."""
        return self.rng.normal(size=self.q.shape).astype(np.float32)

    def cast(self, dtype: Any) -> Example:
        """The same with q, k and v in another dtype."""
        return replace(self, q=self.q.astype(dtype), k=self.k.astype(dtype), v=self.v.astype(dtype))

    def wide(self) -> Example:
        """The same in float64 throughout, parameters included."""
        params = {name: value.astype(np.float64) for name, value in self.params.items()}
        return replace(self.cast(np.float64), params=params)


def parameter_shapes(variant: RowMap, dims: AttentionDims) -> dict[str, tuple[int, ...]]:
    """Shapes of what the variant initialises."""
    fresh = jax.eval_shape(lambda: variant.init(jax.random.key(0), dims))
    return {name: tuple(value.shape) for name, value in fresh.items()}


def draw(variant: RowMap, shape: tuple[int, ...], seed: int | tuple[int, ...]) -> Example:
    """A random example.

    Args:
        variant: the row map.
        shape: (B, T, S, N, K, H).
        seed: whole numbers that the draw depends on.

    Returns:
        Scores of standard deviation two, six in ten pairs visible, and at least one of each query.
    """
    batch, queries, keys, heads, key_heads, size = shape
    rng = np.random.default_rng(seed)

    def normal(*axes: int) -> NDArray[Any]:
        return np.asarray(rng.normal(size=axes), np.float32)

    visible = rng.random((batch, 1, queries, keys)) < 0.6
    visible[..., 0] |= ~visible.any(-1)
    shapes = parameter_shapes(variant, AttentionDims(heads, key_heads, size))
    return Example(
        variant=variant,
        q=np.float32(2.0) * normal(batch, queries, heads, size),
        k=normal(batch, keys, key_heads, size),
        v=normal(batch, keys, key_heads, size),
        params={name: normal(*axes) for name, axes in shapes.items()},
        visible=visible,
        offset=keys - queries,
        rng=rng,
    )
