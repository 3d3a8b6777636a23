"""Differential attention."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.call import Aux
from jaxsink.attention.composite import Composite, Evaluate, Inputs, Trait, Tree
from jaxsink.attention.operators.difference import difference, difference_properties, halves
from jaxsink.attention.row_map import AttentionDims, Params, Properties
from jaxsink.attention.variants.softmax import Softmax
from jaxsink.attention.wrappers.arrays import fresh_normal, half_size, rms_norm, value_size

_EPS = 1e-5  # of the norm, in the code of the source
_DEVIATION = 0.1  # of the initial vectors


@dataclass(frozen=True)
class Differential(Composite):
    """Differential attention, RMSNorm((softmax(s_1) - lambda softmax(s_2)) v) * (1 - lambda_0).

    The halves of q and k on their last axis are the queries and keys of the two score matrices; the values are whole.
    lambda = exp(q_1.k_1) - exp(q_2.k_2) + lambda_0 with four learned vectors, the same for all heads, and
    lambda_0 = 0.8 - 0.6 exp(-0.3 depth). The scale of `attend` is that of a head of size H: each half uses sqrt(2)
    times it, so that the default is 1/sqrt(H / 2).

    Source: Ye et al. 2024 (arXiv 2410.05258), equations 1-3 and its code.

    Attributes:
        depth: 0-based index of the layer.

    Raises:
        ValueError: if `depth` is not a whole number of at least 0, or, from `init`, H is odd.
    """

    depth: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.depth, bool) or not isinstance(self.depth, int) or self.depth < 0:
            raise ValueError(f"depth must be a whole number of at least 0, but is {self.depth!r}; count layers from 0")

    @property
    def properties(self) -> Properties:
        return difference_properties(Softmax.properties)

    @property
    def traits(self) -> frozenset[Trait]:
        return frozenset({Trait.SEVERAL_SCORES})

    @property
    def lambda_init(self) -> float:
        """lambda_0."""
        return 0.8 - 0.6 * math.exp(-0.3 * self.depth)

    def init(self, key: Array, dims: AttentionDims) -> Tree:
        """Return `{"lambda": {"q_1", "k_1", "q_2", "k_2": [H / 2]}, "norm": {"gain": [Hv]}}`."""
        size = half_size(dims, "Differential")
        names = ("q_1", "k_1", "q_2", "k_2")
        keys = jax.random.split(key, len(names))
        return {
            "lambda": {name: fresh_normal(k, (size,), _DEVIATION) for name, k in zip(names, keys, strict=True)},
            "norm": {"gain": jnp.ones((value_size(dims),), jnp.float32)},
        }

    def share(self, params: Params) -> Array:
        """Return lambda, given the entry "lambda" of the parameters."""
        first, second = (jnp.exp(jnp.sum(params[f"q_{i}"] * params[f"k_{i}"])) for i in (1, 2))
        return first - second + self.lambda_init

    def run(self, inputs: Inputs, params: Tree, evaluate: Evaluate, want: frozenset[str]) -> tuple[Array, Aux]:
        out, aux = difference(halves(inputs), Softmax(), {}, self.share(params["lambda"]), evaluate, want)
        out = rms_norm(out, params["norm"]["gain"], _EPS) * (1.0 - self.lambda_init)
        return out.astype(inputs.v.dtype), aux
