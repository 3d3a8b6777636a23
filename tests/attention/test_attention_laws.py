"""Every row map obeys the laws that follow from what it declares, and is what its formula says, in float64 loops."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import attention as oracle

from jaxsink import attention
from theory import laws
from theory.laws import Example, draw

AnyRow = oracle.Row | oracle.PlacedRow


@dataclass(frozen=True)
class Case:
    name: str
    variant: attention.RowMap
    row: AnyRow


CASES = (
    Case("softmax", attention.Softmax(), oracle.softmax),
    Case("softmax-1", attention.SoftmaxN(), oracle.softmax_n(1.0)),
    Case("softmax-0.3", attention.SoftmaxN(0.3), oracle.softmax_n(0.3)),
    Case("sink-logit", attention.SinkLogit(), oracle.sink_logit),
    Case("relu", attention.ReLU(), oracle.relu),
    Case("sigmoid", attention.Sigmoid(), oracle.sigmoid(0.0)),
    Case("sigmoid-log-n", attention.Sigmoid.for_length(6), oracle.sigmoid(-math.log(6.0))),
    Case("clipped", attention.Clipped(-0.1, 1.05), oracle.clipped(-0.1, 1.05)),
    Case("sparsemax", attention.Sparsemax(), oracle.sparsemax),
    Case("entmax-1.5", attention.Entmax15(), oracle.entmax15),
    Case("elastic", attention.Elastic(), oracle.elastic),
    Case("softpick", attention.Softpick(), oracle.softpick(1e-6)),
    Case("scaled-softmax", attention.Scaled(0.2), oracle.scaled(0.2)),
    Case("p-normalised-0.5", attention.PNormalised(0.5), oracle.p_normalised(0.5)),
    Case("p-normalised-3", attention.PNormalised(3.0), oracle.p_normalised(3.0)),
    Case("relu-over-length", attention.ReLUOverLength(6, 0.75), oracle.relu_over_length(6, 0.75)),
    Case("squared-relu", attention.SquaredReLU(), oracle.squared_relu),
    Case("gelu", attention.GELU(), oracle.gelu),
    Case("elu-plus-one", attention.ELUPlusOne(), oracle.elu_plus_one),
    Case("identity", attention.Identity(), oracle.identity),
    Case("normalised-sigmoid", attention.NormalisedSigmoid(), oracle.normalised_sigmoid(1e-8)),
    Case("normalised-linear", attention.NormalisedLinear(), oracle.normalised_linear(1e-8)),
    Case("clamped-linear", attention.ClampedLinear(), oracle.clamped_linear),
    Case("entmax-1.25", attention.Entmax(), oracle.entmax(1.25)),
    Case("entmax-1.8", attention.Entmax(1.8), oracle.entmax(1.8)),
    Case("threshold-rectified", attention.ThresholdRectified(), oracle.threshold_rectified(2.0, 1.0)),
    Case("threshold-rectified-1", attention.ThresholdRectified(1.0, 2.0), oracle.threshold_rectified(1.0, 2.0)),
    Case("stick-breaking", attention.StickBreaking(), oracle.stick_breaking),
)
SHAPES = st.sampled_from(laws.SHAPES)
SEEDS = st.integers(0, 2**32 - 1)
# float32: 2^-24 per operation, about ten of them in a row on numbers below 10.
F32 = {"rtol": 1e-5, "atol": 1e-5}


def test_every_variant_has_a_case() -> None:
    assert {type(case.variant) for case in CASES} == set(attention.CATALOGUE.values())


# A second choice of parameters shares the code of the first: it is held against its formula, below, and costs no laws.
@laws.parametrize({type(case.variant): case.variant for case in reversed(CASES)}.values())
def test_law(law: laws.Law, variant: attention.RowMap) -> None:
    @settings(max_examples=3)
    @given(seed=SEEDS)
    def check(seed: int) -> None:
        assert law.verify(variant, examples=2, seed=seed).status == "holds"  # two examples: both shapes

    check()


def expect(row: AnyRow, e: Example) -> oracle.Attended:
    full = (e.q.shape[0], e.q.shape[2], e.q.shape[1], e.k.shape[1])
    return oracle.attend(e.q, e.k, e.v, row, e.params, np.broadcast_to(e.visible, full), offset=e.offset)


def is_the_formula(row: AnyRow, e: Example) -> None:
    found, expected = e.run(), expect(row, e)
    for name in ("out", "weights", "scores"):
        np.testing.assert_allclose(found[name], getattr(expected, name), **F32)
    np.testing.assert_allclose(found["row_mass"], expected.weights.sum(-1), **F32)
    np.testing.assert_allclose(found["received"], expected.weights.sum(-2), **F32)
    if e.variant.properties.has_total:
        np.testing.assert_allclose(found["lse"], expected.lse, **F32)


def has_its_gradient(row: AnyRow, e: Example) -> None:
    wide, cotangent = e.wide(), e.cotangent()
    at = {"q": wide.q, "k": wide.k, "v": wide.v, "params": wide.params}
    direction = jax.tree.map(lambda x: e.rng.normal(size=x.shape), at)
    slopes = jax.tree.map(lambda g, d: np.sum(g * d), wide.exact(cotangent)[1], direction)
    found = sum(jax.tree.leaves(slopes))

    def value(step: float) -> float:
        moved = jax.tree.map(lambda x, d: x + step * d, at, direction)
        return float(np.sum(expect(row, replace(wide, **moved)).out * cotangent))

    # A row map that is smooth in pieces may have an edge within the step; the smaller ones get past it.
    for step in (1e-5, 1e-6, 1e-7):
        expected = (value(step) - value(-step)) / (2.0 * step)
        # Central differences: step^2 times third derivatives up to 1e3, plus 2^-53 / step times values up to 1e2.
        if np.isclose(found, expected, rtol=1e-6, atol=1e-6):
            return
    raise AssertionError(f"slope by grad is {found}, by differences {expected}")


def is_the_formula_at_extremes(row: AnyRow, e: Example) -> None:
    wild = replace(e, q=e.q * np.float32(1e4 / np.abs(expect(row, e).scores).max()))
    expected = expect(row, wild).out
    # Scores of 1e4 carry 1e-3 of rounding in float32, which moves each weight by that much of itself.
    np.testing.assert_allclose(wild.out(), expected, rtol=5e-3, atol=5e-3 * np.abs(expected).max())


def is_the_formula_in_bfloat16(row: AnyRow, e: Example) -> None:
    low = e.cast(jax.numpy.bfloat16)
    # The inputs are exact and all else is float32, so only the output is rounded, to 8 significant bits.
    np.testing.assert_allclose(low.out().astype(np.float32), expect(row, low).out, rtol=2**-8 + 1e-5, atol=1e-5)


Judge = Callable[[AnyRow, Example], None]
JUDGES: tuple[Judge, ...] = (
    is_the_formula,
    has_its_gradient,
    is_the_formula_at_extremes,
    is_the_formula_in_bfloat16,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.__name__)
def test_variant(judge: Judge, case: Case) -> None:
    @settings(max_examples=5)
    @given(shape=SHAPES, seed=SEEDS)
    def check(shape: tuple[int, ...], seed: int) -> None:
        judge(case.row, draw(case.variant, shape, seed))

    check()


@dataclass(frozen=True)
class Broken:
    """A row map with one fault, declared as softmax."""

    fault: Callable[[jax.Array, attention.RowContext], jax.Array]
    properties: ClassVar[attention.Properties] = attention.Softmax.properties

    def init(self, key: jax.Array, dims: attention.AttentionDims) -> dict[str, jax.Array]:
        return {}

    def weights(self, scores: jax.Array, context: attention.RowContext, params: Any) -> jax.Array:
        return self.fault(scores, context)


def _repels(s: jax.Array, context: attention.RowContext) -> jax.Array:
    return attention.masked_softmax(-s, context.visible)


def _no_maximum(s: jax.Array, context: attention.RowContext) -> jax.Array:
    exp = jax.numpy.where(context.visible, jax.numpy.exp(s), 0.0)
    total = exp.sum(-1, keepdims=True)
    return exp / jax.numpy.where(total > 0.0, total, 1.0)


def _constant_denominator(s: jax.Array, context: attention.RowContext) -> jax.Array:
    weights = attention.masked_softmax(s, context.visible)
    # In value softmax; in gradient that of the numerator alone.
    return jax.lax.stop_gradient(weights) * jax.numpy.exp(s - jax.lax.stop_gradient(s))


def _low_precision(s: jax.Array, context: attention.RowContext) -> jax.Array:
    return attention.masked_softmax(s.astype(jax.numpy.bfloat16), context.visible).astype(s.dtype)


@pytest.mark.parametrize(
    ("fault", "judge"),
    [
        (_repels, is_the_formula),
        (_constant_denominator, has_its_gradient),
        (_no_maximum, is_the_formula_at_extremes),
        (_low_precision, is_the_formula_in_bfloat16),
    ],
)
def test_the_loops_catch_a_broken_variant(fault: Any, judge: Judge) -> None:
    with pytest.raises(AssertionError):  # noqa: PT012 - any of a few examples may show the fault
        for seed in range(6):
            judge(oracle.softmax, draw(Broken(fault), laws.SHAPES[0], seed))
