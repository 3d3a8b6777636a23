"""How scores become weights inside the kernels for Hopper GPUs, tile by tile: pure functions that no GPU is needed for.

A tile is float32 [rows, keys] or its transpose. What belongs to a row comes as float32 [rows], and `spread` makes a
tile of it. Functions that a GPU has no fast instruction for are written in those that it has: exp2 and rsqrt.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention import variants as v
from jaxsink.attention.row_map import Params, RowMap

Rows = tuple[Array, ...]
Spread = Callable[[Array], Array]
# (scores, row arguments, spread) -> weights
Weight = Callable[[Array, Rows, Spread], Array]
# (scores, cotangents of the weights, row arguments, cotangent of the row, spread) -> cotangents of the scores
Back = Callable[[Array, Array, Rows, Array | None, Spread], Array]

LOG2_E = math.log2(math.e)
# Below any score, and finite: a difference of two of it is 0.
LOWEST = -1e30
# Shares of one round by about this much, relative to their size, where scores are up to 50.
_NOISE = 2.0**-18
# The sum of a padded query that sees no key is 0.
_TINY = 1e-30


@dataclass(frozen=True)
class Sums:
    """Statistics of a row, kept while its keys go by, and what follows from them.

    Attributes:
        size: (scores, largest exponent, spread) -> what is added up.
        rows: (largest exponent, sum) -> the first row arguments of the rule.
        exponent: scores -> what the largest of is kept, or None for sums that need no such scale.
        lowest: the largest exponent of no keys.
        power: a sum scales with e^(-power largest exponent).
        numerator: like `size`, weights up to the factor of their row; None if weights need the finished sums.
        factor: (largest exponent, sum) -> the factor of a row.
    """

    size: Callable[[Array, Array | None, Spread], Array]
    rows: Callable[[Array | None, Array], Rows]
    exponent: Callable[[Array], Array] | None = None
    lowest: float = LOWEST
    power: float = 1.0
    numerator: Callable[[Array, Array | None, Spread], Array] | None = None
    factor: Callable[[Array | None, Array], Array] | None = None


@dataclass(frozen=True)
class Rule:
    """One way from scores to weights.

    Attributes:
        weight: the weights, given the row arguments.
        back: cotangents of the scores, given those of the weights.
        sums: statistics of which the first row arguments are made, or None.
        through: weights whose output, times the cotangent of the output, is the cotangent of the row in `back`; None if
            the weights themselves are those.
        of_argument: derivative of the weights in the last row argument, or None if nothing learned is in it.
    """

    weight: Weight
    back: Back
    sums: Sums | None = None
    through: Weight | None = None
    of_argument: Weight | None = None


def exp(x: Array) -> Array:
    """e^x."""
    return jnp.exp2(x * LOG2_E)


def _exp_less(x: Array, shift: Array, spread: Spread, power: float = 1.0) -> Array:
    """e^(power (x - shift)) with the shift of a row."""
    factor = power * LOG2_E
    return jnp.exp2(x * factor - spread(shift * factor))


def _inverse(x: Array) -> Array:
    """1 / x of positive x, inf allowed."""
    root = jax.lax.rsqrt(x)
    return root * root


def _sigmoid(x: Array) -> Array:
    return _inverse(1.0 + exp(-x))


def _relu(x: Array) -> Array:
    return jnp.maximum(x, 0.0)


def _normal(x: Array) -> tuple[Array, Array]:
    """Distribution and density of the normal distribution; to 1e-7, by a formula of Abramowitz and Stegun."""
    t = _inverse(1.0 + 0.3275911 * math.sqrt(0.5) * jnp.abs(x))
    shape = exp(-0.5 * x * x)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * series * shape
    return jnp.where(x > 0.0, 1.0 - tail, tail), shape * (1.0 / math.sqrt(2.0 * math.pi))


def _some(x: Array | None) -> Array:
    assert x is not None
    return x


# Elementwise ----------------------------------------------------------------------------------------------------
def _of_sigmoid(variant: v.Sigmoid) -> Rule:
    def back(s: Array, d: Array, rows: Rows, delta: Array | None, spread: Spread) -> Array:
        w = _sigmoid(s + variant.bias)
        return d * (w - w * w)

    return Rule(lambda s, rows, spread: _sigmoid(s + variant.bias), back)


def _of_relu(variant: v.ReLU) -> Rule:
    return Rule(
        lambda s, rows, spread: _relu(s) * spread(rows[0]),
        lambda s, d, rows, delta, spread: jnp.where(s > 0.0, d * spread(rows[0]), 0.0),
    )


def _of_relu_over_length(variant: v.ReLUOverLength) -> Rule:
    factor = float(variant.length) ** -variant.exponent
    return Rule(
        lambda s, rows, spread: _relu(s) * factor,
        lambda s, d, rows, delta, spread: jnp.where(s > 0.0, d * factor, 0.0),
    )


def _of_squared_relu(variant: v.SquaredReLU) -> Rule:
    return Rule(
        lambda s, rows, spread: _relu(s) * _relu(s) * spread(rows[0]),
        lambda s, d, rows, delta, spread: 2.0 * d * _relu(s) * spread(rows[0]),
    )


def _of_gelu(variant: v.GELU) -> Rule:
    def back(s: Array, d: Array, rows: Rows, delta: Array | None, spread: Spread) -> Array:
        distribution, density = _normal(s)
        return d * (distribution + s * density) * spread(rows[0])

    return Rule(lambda s, rows, spread: s * _normal(s)[0] * spread(rows[0]), back)


def _of_elu_plus_one(variant: v.ELUPlusOne) -> Rule:
    return Rule(
        lambda s, rows, spread: exp(jnp.minimum(s, 0.0)) + _relu(s),
        lambda s, d, rows, delta, spread: d * exp(jnp.minimum(s, 0.0)),
    )


def _of_identity(variant: v.Identity) -> Rule:
    return Rule(lambda s, rows, spread: s, lambda s, d, rows, delta, spread: d)


def _of_threshold_rectified(variant: v.ThresholdRectified) -> Rule:
    power = int(variant.exponent)

    def slope(s: Array, rows: Rows, spread: Spread) -> Array:
        above = _relu(s - spread(rows[0]))
        if power == 1:
            return jnp.where(above > 0.0, 0.0 * above + 1.0, 0.0)
        return 2.0 * above if power == 2 else 3.0 * above * above

    def weight(s: Array, rows: Rows, spread: Spread) -> Array:
        above = _relu(s - spread(rows[0]))
        return above if power == 1 else above * above if power == 2 else above * above * above

    return Rule(
        weight,
        lambda s, d, rows, delta, spread: d * slope(s, rows, spread),
        of_argument=lambda s, rows, spread: -slope(s, rows, spread),
    )


# Two sums -------------------------------------------------------------------------------------------------------
def _added_up(term: Callable[[Array], Array], eps: float) -> Sums:
    """Sums of terms that are the numerators, too."""

    def inverse(top: Array | None, total: Array) -> Array:
        return 1.0 / (total + eps)

    return Sums(
        size=lambda s, top, spread: term(s),
        numerator=lambda s, top, spread: term(s),
        factor=inverse,
        rows=lambda top, total: (inverse(top, total),),
    )


def _of_normalised_sigmoid(variant: v.NormalisedSigmoid) -> Rule:
    def back(s: Array, d: Array, rows: Rows, delta: Array | None, spread: Spread) -> Array:
        w = _sigmoid(s)
        return (w - w * w) * (d - spread(_some(delta))) * spread(rows[0])

    return Rule(lambda s, rows, spread: _sigmoid(s) * spread(rows[0]), back, _added_up(_sigmoid, variant.eps))


def _of_normalised_linear(variant: v.NormalisedLinear) -> Rule:
    def back(s: Array, d: Array, rows: Rows, delta: Array | None, spread: Spread) -> Array:
        return jnp.where(s > 0.0, (d - spread(_some(delta))) * spread(rows[0]), 0.0)

    return Rule(lambda s, rows, spread: _relu(s) * spread(rows[0]), back, _added_up(_relu, variant.eps))


def _of_clamped_linear(variant: v.ClampedLinear) -> Rule:
    def back(s: Array, d: Array, rows: Rows, delta: Array | None, spread: Spread) -> Array:
        return (d - spread(rows[1] * _some(delta))) * spread(rows[0])

    sums = Sums(
        size=lambda s, top, spread: s,
        numerator=lambda s, top, spread: s,
        factor=lambda top, total: 1.0 / jnp.maximum(jnp.abs(total), 1.0),
        rows=lambda top, total: (
            1.0 / jnp.maximum(jnp.abs(total), 1.0),
            jnp.where(jnp.abs(total) > 1.0, jnp.sign(total), 0.0),
        ),
    )
    return Rule(lambda s, rows, spread: s * spread(rows[0]), back, sums)


def _of_softpick(variant: v.Softpick) -> Rule:
    def less_one(s: Array, shift: Array | None, spread: Spread) -> Array:
        return _exp_less(s, _some(shift), spread) - spread(exp(-_some(shift)))

    def back(s: Array, d: Array, rows: Rows, delta: Array | None, spread: Spread) -> Array:
        # What the largest score moves through eps is left out: it is eps of what its own term moves.
        moved = spread(_some(delta))
        return jnp.where(s > 0.0, d - moved, moved) * _exp_less(s, rows[0], spread)

    sums = Sums(
        size=lambda s, top, spread: jnp.abs(less_one(s, top, spread)),
        numerator=lambda s, top, spread: _relu(less_one(s, top, spread)),
        factor=lambda top, total: 1.0 / (total + variant.eps),
        rows=lambda top, total: (_some(top) + jnp.log(total + variant.eps),),
        exponent=_relu,
        lowest=0.0,
    )
    return Rule(lambda s, rows, spread: _relu(less_one(s, rows[0], spread)), back, sums)


def _exponentials(power: float, factor: Callable[[Array], Array] | None) -> Sums:
    """Sums of e^(power s), whose row argument is their power-norm; with the factor of rows weighted e^s."""

    def term(power: float) -> Callable[[Array, Array | None, Spread], Array]:
        return lambda s, top, spread: _exp_less(s, _some(top), spread, power)

    return Sums(
        size=term(power),
        rows=lambda top, total: (_some(top) + jnp.log(jnp.maximum(total, _TINY)) / power,),
        exponent=lambda s: s,
        power=power,
        numerator=None if factor is None else term(1.0),
        factor=None if factor is None else lambda top, total: factor(jnp.maximum(total, _TINY)),
    )


def _of_p_normalised(variant: v.PNormalised) -> Rule:
    def back(s: Array, d: Array, rows: Rows, delta: Array | None, spread: Spread) -> Array:
        return d * _exp_less(s, rows[0], spread) - _exp_less(s, rows[0], spread, variant.p) * spread(_some(delta))

    def factor(total: Array) -> Array:
        return exp(jnp.log(total) * (-1.0 / variant.p))

    return Rule(lambda s, rows, spread: _exp_less(s, rows[0], spread), back, _exponentials(variant.p, factor))


def _of_scaled(variant: v.Scaled) -> Rule:
    def back(s: Array, d: Array, rows: Rows, delta: Array | None, spread: Spread) -> Array:
        return (variant.factor * d - spread(_some(delta))) * _exp_less(s, rows[0], spread)

    sums = _exponentials(1.0, lambda total: variant.factor / total)
    return Rule(lambda s, rows, spread: variant.factor * _exp_less(s, rows[0], spread), back, sums)


def softmax_share(s: Array, rows: Rows, spread: Spread) -> Array:
    """Weights of softmax, where the row argument is the logarithm of its denominator."""
    return _exp_less(s, rows[0], spread)


# Two passes -----------------------------------------------------------------------------------------------------
def _of_clipped(variant: v.Clipped) -> Rule:
    stretch = variant.zeta - variant.gamma

    def inside(share: Array, value: Array) -> Array:
        stretched = stretch * share + variant.gamma
        return jnp.where(stretched > _NOISE * share, jnp.where(stretched < 1.0, value, 0.0), 0.0)

    def weight(s: Array, rows: Rows, spread: Spread) -> Array:
        return jnp.minimum(_relu(stretch * _exp_less(s, rows[0], spread) + variant.gamma), 1.0)

    def through(s: Array, rows: Rows, spread: Spread) -> Array:
        share = _exp_less(s, rows[0], spread)
        return inside(share, stretch * share)

    def back(s: Array, d: Array, rows: Rows, delta: Array | None, spread: Spread) -> Array:
        share = _exp_less(s, rows[0], spread)
        return share * (inside(share, stretch * d) - spread(_some(delta)))

    return Rule(weight, back, _exponentials(1.0, None), through)


def _of_elastic(variant: v.Elastic) -> Rule:
    def kept(share: Array, rows: Rows, spread: Spread, value: Array) -> Array:
        # An even row is exactly 0 at tau = -1, where a share that is not exact would be on either side.
        return jnp.where(share + spread(rows[1]) > _NOISE * share, value, 0.0)

    def weight(s: Array, rows: Rows, spread: Spread) -> Array:
        return _relu(_exp_less(s, rows[0], spread) + spread(rows[1]))

    def through(s: Array, rows: Rows, spread: Spread) -> Array:
        share = _exp_less(s, rows[0], spread)
        return kept(share, rows, spread, share)

    def back(s: Array, d: Array, rows: Rows, delta: Array | None, spread: Spread) -> Array:
        share = _exp_less(s, rows[0], spread)
        return share * (kept(share, rows, spread, d) - spread(_some(delta)))

    def of_argument(s: Array, rows: Rows, spread: Spread) -> Array:
        share = _exp_less(s, rows[0], spread)
        return kept(share, rows, spread, 0.0 * share + 1.0)

    return Rule(weight, back, _exponentials(1.0, None), through, of_argument)


# What a row map is ----------------------------------------------------------------------------------------------
_RULES: MappingProxyType[type, Callable[[Any], Rule]] = MappingProxyType(
    {
        v.Sigmoid: _of_sigmoid,
        v.ReLU: _of_relu,
        v.ReLUOverLength: _of_relu_over_length,
        v.SquaredReLU: _of_squared_relu,
        v.GELU: _of_gelu,
        v.ELUPlusOne: _of_elu_plus_one,
        v.Identity: _of_identity,
        v.ThresholdRectified: _of_threshold_rectified,
        v.NormalisedSigmoid: _of_normalised_sigmoid,
        v.NormalisedLinear: _of_normalised_linear,
        v.ClampedLinear: _of_clamped_linear,
        v.Softpick: _of_softpick,
        v.PNormalised: _of_p_normalised,
        v.Scaled: _of_scaled,
        v.Clipped: _of_clipped,
        v.Elastic: _of_elastic,
    }
)


def refuses(variant: RowMap) -> str | None:
    """Why there is no rule for a row map, or None."""
    if type(variant) not in _RULES:
        return f"it has no {type(variant).__name__}"
    if isinstance(variant, v.ThresholdRectified) and variant.exponent not in (1.0, 2.0, 3.0):
        return "the exponent of ThresholdRectified must be 1, 2 or 3"
    return None


def rule_of(variant: RowMap) -> Rule:
    """The rule of a row map that is not refused."""
    return _RULES[type(variant)](variant)


def given_rows(variant: RowMap, params: Params, positions: Array, seen: Array, head_size: int) -> Rows:
    """Row arguments that follow from the position of a row alone, each float32 [N|1, T]; they come after those of sums.

    Args:
        variant: not refused.
        params: its parameters.
        positions: float32 [T], positions of the queries on the axis of the keys.
        seen: float32 [T], keys that each query sees.
        head_size: H.
    """
    if isinstance(variant, v.ReLU):
        return ((1.0 / (positions + 1.0))[None],)
    if isinstance(variant, v.GELU | v.SquaredReLU):
        return ((1.0 / jnp.maximum(seen, 1.0))[None],)
    if isinstance(variant, v.Elastic):
        return (params["tau"].astype(jnp.float32)[:, None] / jnp.maximum(seen, 1.0)[None],)
    if isinstance(variant, v.ThresholdRectified):
        compared = (positions + 1.0) / variant.kappa
        extreme = jnp.sqrt(2.0 * jnp.log(jnp.maximum(compared, 1.0)) / head_size)
        return (params["beta"].astype(jnp.float32)[:, None] * extreme[None],)
    return ()
