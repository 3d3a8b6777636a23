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

from jaxsink.attention import AttentionDims, Composite, Trait, Variant, attend, attend_with_aux

Inputs = dict[str, Any]
# (B, T, S, N, K, H), few of them because each new shape is compiled: grouped heads in a square, and decoding, where
# the queries stand on the last keys and share one key head.
SHAPES = ((2, 4, 4, 4, 2, 6), (1, 3, 6, 2, 1, 4))


def traits(variant: Variant) -> frozenset[Trait]:
    """What a composite declares besides its properties; nothing for a row map."""
    return variant.traits if isinstance(variant, Composite) else frozenset()


def shapes(variant: Variant) -> tuple[tuple[int, ...], ...]:
    """`SHAPES`, with as many keys as queries where the variant reads both as the same tokens."""
    if Trait.SAME_TOKENS in traits(variant):
        return tuple((batch, queries, queries, *rest) for batch, queries, _, *rest in SHAPES)
    return SHAPES


def evaluate(variant: Variant, inputs: Inputs) -> dict[str, jax.Array]:
    """Output `out` and everything of `Aux` that the variant defines, by name; `inputs` are arguments of `attend`."""
    scores = () if Trait.SEVERAL_SCORES in traits(variant) else ("scores",)
    totals = ("lse", "null_mass") if variant.properties.has_total else ()
    want = ("weights", "row_mass", "received", *scores, *totals)
    out, aux = attend_with_aux(variant=variant, want=want, **inputs)
    return {"out": out} | {name: getattr(aux, name) for name in want}


class _Static:
    """A variant as a static argument of jit: by value where it can be hashed, else by identity."""

    def __init__(self, variant: Variant) -> None:
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


def _output(static: _Static, inputs: Inputs) -> jax.Array:
    return attend(variant=static.variant, **inputs)


def _everything(static: _Static, inputs: Inputs) -> dict[str, jax.Array]:
    return evaluate(static.variant, inputs)


_attend, _evaluate = (jax.jit(of, static_argnums=0) for of in (_output, _everything))
# As XLA compiles by default, whatever its flags say: what is compared to the last bit is what users run.
_usual_attend, _usual_evaluate = (
    jax.jit(of, static_argnums=0, compiler_options={"xla_backend_optimization_level": 3})
    for of in (_output, _everything)
)


@partial(jax.jit, static_argnums=0)
def _evaluate_each(static: _Static, inputs: Inputs) -> dict[str, jax.Array]:
    return jax.vmap(partial(evaluate, static.variant))(inputs)


@partial(jax.jit, static_argnums=0)
def _differentiate(static: _Static, inputs: Inputs, cotangent: jax.Array) -> tuple[jax.Array, Inputs]:
    def loss(moving: Inputs) -> tuple[jax.Array, jax.Array]:
        out = attend(variant=static.variant, **(inputs | moving))
        return jnp.sum(out * cotangent), out

    moving = {name: inputs[name] for name in ("q", "k", "v", "params", "x") if name in inputs}
    gradients, out = jax.grad(loss, has_aux=True)(moving)
    return out, gradients


@dataclass(frozen=True)
class Example:
    """One call of `attend` with a variant; every query sees at least one key, unless a law hides more.

    Attributes:
        variant: the row map or composite.
        q: queries [B, T, N, H], float32 as drawn.
        k: keys [B, S, K, H].
        v: values [B, S, K, H].
        x: what the queries were projected from [B, T, D] with D = 2 N, for a variant that reads it; else None.
        params: parameters of the variant, normal of standard deviation one in the shapes of its `init`, a dict of
            arrays or of such dicts.
        visible: bool [B, 1, T, S].
        offset: position of the first query.
        rng: source of whatever a law draws besides.
    """

    variant: Variant
    q: NDArray[Any]
    k: NDArray[Any]
    v: NDArray[Any]
    x: NDArray[Any] | None
    params: Mapping[str, Any]
    visible: NDArray[np.bool_]
    offset: int
    rng: np.random.Generator

    @property
    def traits(self) -> frozenset[Trait]:
        """What the variant declares besides its properties."""
        return traits(self.variant)

    @property
    def moving(self) -> Inputs:
        """Whatever the output may be differentiated by: q, k, v, params, and x where there is one."""
        arrays = {"q": self.q, "k": self.k, "v": self.v, "params": dict(self.params)}
        return arrays if self.x is None else arrays | {"x": self.x}

    @property
    def inputs(self) -> Inputs:
        """The arguments of `attend` besides the variant."""
        return {
            **self.moving,
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

    def observed(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Output [B, T, N, H] with everything of `Aux` beside it, and alone, compiled at XLA's usual level."""
        static = _Static(self.variant)
        return np.asarray(_usual_evaluate(static, self.inputs)["out"]), np.asarray(_usual_attend(static, self.inputs))

    def run_each(self, *others: Example) -> dict[str, NDArray[Any]]:
        """What `run` gives for this example and the others in one `vmap`, stacked along a first axis, compiled."""
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), self.inputs, *(other.inputs for other in others))
        return jax.tree.map(np.asarray, _evaluate_each(_Static(self.variant), stacked))

    def gradients(self, cotangent: NDArray[Any]) -> Inputs:
        """Gradients of sum(output * cotangent) by whatever is moving, compiled.

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
        """The same with q, k, v and x in another dtype."""
        x = None if self.x is None else self.x.astype(dtype)
        return replace(self, q=self.q.astype(dtype), k=self.k.astype(dtype), v=self.v.astype(dtype), x=x)

    def wide(self) -> Example:
        """The same in float64 throughout, parameters included."""
        params = jax.tree.map(lambda value: value.astype(np.float64), dict(self.params))
        return replace(self.cast(np.float64), params=params)


def parameter_shapes(variant: Variant, dims: AttentionDims) -> Any:
    """What the variant initialises, with shapes and dtypes in the places of arrays."""
    return jax.eval_shape(lambda: variant.init(jax.random.key(0), dims))


def draw(variant: Variant, shape: tuple[int, ...], seed: int | tuple[int, ...]) -> Example:
    """A random example.

    Args:
        variant: the row map or composite.
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
    width = 2 * heads if isinstance(variant, Composite) and variant.needs_x else None
    fresh = parameter_shapes(variant, AttentionDims(heads, key_heads, size, model_size=width))
    return Example(
        variant=variant,
        q=np.float32(2.0) * normal(batch, queries, heads, size),
        k=normal(batch, keys, key_heads, size),
        v=normal(batch, keys, key_heads, size),
        params=jax.tree.map(lambda leaf: normal(*leaf.shape), fresh),
        x=None if width is None else normal(batch, queries, width),
        visible=visible,
        offset=keys - queries,
        rng=rng,
    )
