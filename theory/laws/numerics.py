"""Laws about numbers: derivatives, extreme scores, dtypes, compilation, mapping, and observation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxsink.attention import attend
from theory.laws.example import Example, draw, evaluate
from theory.laws.finding import F32, Finding, close, finite, has_dtype
from theory.laws.law import Law

# Central differences err by step^2 times third derivatives, up to 1e3, and by 2^-53 / step times values up to 1e2.
# A map that is smooth in pieces may have an edge within the step; the smaller ones get past it.
_STEPS = (1e-5, 1e-6, 1e-7)
_SLOPE = {"rtol": 1e-6, "atol": 1e-6}


def _gradients(e: Example) -> Iterator[Finding]:
    wide = e.wide()
    at = wide.moving
    cotangent = e.cotangent()
    direction = jax.tree.map(lambda x: e.rng.normal(size=x.shape), at)
    _, gradients = wide.exact(cotangent)
    slopes = jax.tree.map(lambda g, d: float(np.sum(g * d)), gradients, direction)

    def value(step: float) -> float:
        moved = jax.tree.map(lambda x, d: x + step * d, at, direction)
        return float(np.sum(replace(wide, **moved).exact()[0] * cotangent))

    for step in _STEPS:
        difference = (value(step) - value(-step)) / (2.0 * step)
        finding = close("slope by grad less that by differences", sum(jax.tree.leaves(slopes)), difference, **_SLOPE)
        if finding.holds:
            break
    yield finding


def _finite(e: Example) -> Iterator[Finding]:
    group, size = e.q.shape[2] // e.k.shape[2], e.q.shape[3]
    largest = np.abs(np.einsum("btnh,bsnh->bnts", e.q, np.repeat(e.k, group, 2))).max() / math.sqrt(size)
    wild = replace(e, q=e.q * np.float32(1e4 / largest))
    found = wild.run()
    yield finite("output, weights and sums at scores of 1e4", found)
    yield finite("the gradients at scores of 1e4", wild.gradients(np.ones_like(e.q)))
    expected, _ = wild.exact()
    # Scores of 1e4 carry 1e-3 of rounding in float32, which moves each weight by that much of itself.
    tolerance = {"rtol": 5e-3, "atol": 5e-3 * float(np.abs(expected).max())}
    yield close("output at scores of 1e4 less that of float64", found["out"], expected, **tolerance)


def _dtypes(e: Example) -> Iterator[Finding]:
    low = e.cast(jnp.bfloat16)
    yield has_dtype("weights of float32 inputs", e.weights_dtype(), np.float32)
    yield has_dtype("weights of float64 inputs", e.wide().weights_dtype(), np.float64)
    yield has_dtype("weights of bfloat16 inputs", low.weights_dtype(), np.float32)
    yield close("output of float32 inputs less that of float64", e.out(), e.exact()[0], **F32)
    # The inputs are exact and all else is float32, so only the output is rounded, to 8 significant bits.
    bound = {"rtol": 2**-8 + F32["rtol"], "atol": F32["atol"]}
    out = low.out()
    yield has_dtype("outputs of bfloat16 inputs", out.dtype, jnp.bfloat16)
    yield close("output of bfloat16 inputs less that of float64", out, low.exact()[0], **bound)


def _jit(e: Example) -> Iterator[Finding]:
    compiled = e.run()
    for name, eager in evaluate(e.variant, e.inputs).items():
        yield close(f"{name} with jit less that without", compiled[name], eager, **F32)


def _vmap(e: Example) -> Iterator[Finding]:
    shape = (*e.q.shape[:2], e.k.shape[1], e.q.shape[2], *e.k.shape[2:])
    other = draw(e.variant, shape, int(e.rng.integers(2**32)))
    both = e.run_each(other)
    for i, one in enumerate((e, other)):
        for name, alone in one.run().items():
            yield close(f"{name} with vmap less that alone", both[name][i], alone, **F32)


def _observation(e: Example) -> Iterator[Finding]:
    out = attend(variant=e.variant, **e.inputs)
    tapped = attend(variant=e.variant, tap=lambda name, array: array, **e.inputs)
    yield close("output with a tap less that without", tapped, out)
    yield close("output with aux less that without", evaluate(e.variant, e.inputs)["out"], out)
    # Under jit on a GPU, XLA may take another matrix product kernel when more arrays are returned.
    tolerance = {} if jax.default_backend() == "cpu" else F32
    yield close("compiled output with aux less that without", *e.observed(), **tolerance)


LAWS = (
    Law("gradients", "Gradients are those of central differences, in float64.", _gradients),
    Law(
        "finite",
        "With scores of plus and minus 1e4 everything is finite, and the output is that of float64 to 0.5 %.",
        _finite,
    ),
    Law(
        "dtypes",
        "Weights are float32 for float32 and bfloat16 inputs, and outputs are rounded no more than their dtype asks.",
        _dtypes,
    ),
    Law("jit", "Compiling changes nothing.", _jit),
    Law("vmap", "Mapping over calls is a loop over calls.", _vmap),
    Law("observation", "Asking for weights and sums, or tapping, does not change one bit of the output.", _observation),
)
