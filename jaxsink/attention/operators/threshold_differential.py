"""Threshold-differential attention."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jax import Array

from jaxsink.attention.call import Aux
from jaxsink.attention.composite import Composite, Evaluate, Inputs, Trait, Tree
from jaxsink.attention.operators.difference import difference, difference_properties, halves
from jaxsink.attention.row_map import AttentionDims, Properties
from jaxsink.attention.variants.threshold_rectified import ThresholdRectified
from jaxsink.attention.wrappers.arrays import half_size, rms_norm, value_size
from jaxsink.attention.wrappers.qk_norm import CosineQK

_EPS = 1e-6  # of the norm


@dataclass(frozen=True)
class ThresholdDifferential(Composite):
    """Threshold-differential attention, RMSNorm((a_1 - clip(lambda, 0, 1) a_2) v) with threshold-rectified weights a.

    The halves of q and k on their last axis are the queries and keys of the two score matrices; the values are whole.
    The scores are cosines: those of `CosineQK` on each half. Both weights have the same learned thresholds.

    Source: Threshold Differential Attention, 2026 (arXiv 2601.12145). Its text leaves the initial lambda and the eps of
        the norm open.

    Attributes:
        row_map: from cosines to weights.
        lambda_init: initial value of lambda, from 0 to 1.

    Raises:
        ValueError: if `lambda_init` is not between 0 and 1, or, from `init`, H is odd.
    """

    row_map: ThresholdRectified = ThresholdRectified()
    lambda_init: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.lambda_init <= 1.0:
            raise ValueError(f"lambda_init must lie between 0 and 1, but is {self.lambda_init}; use 0.5")

    @property
    def properties(self) -> Properties:
        return difference_properties(self.row_map.properties)

    @property
    def traits(self) -> frozenset[Trait]:
        return frozenset({Trait.SEVERAL_SCORES})

    def init(self, key: Array, dims: AttentionDims) -> Tree:
        """Return `{"row_map": {"beta": [N]}, "lambda": {"value": []}, "norm": {"gain": [Hv]}}`."""
        size = half_size(dims, "ThresholdDifferential")
        return {
            "row_map": self.row_map.init(key, replace(dims, head_size=size)),
            "lambda": {"value": jnp.full((), self.lambda_init, jnp.float32)},
            "norm": {"gain": jnp.ones((value_size(dims),), jnp.float32)},
        }

    def run(self, inputs: Inputs, params: Tree, evaluate: Evaluate, want: frozenset[str]) -> tuple[Array, Aux]:
        first, second = (CosineQK().before(half, {}) for half in halves(inputs))
        share = jnp.clip(params["lambda"]["value"], 0.0, 1.0)
        out, aux = difference((first, second), self.row_map, params["row_map"], share, evaluate, want)
        return rms_norm(out, params["norm"]["gain"], _EPS).astype(inputs.v.dtype), aux
