"""The kernels for Hopper GPUs against `reference`: on a CPU in the interpreter of Pallas, else as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import beside
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxsink.attention import (
    CATALOGUE,
    AttentionDims,
    Causal,
    Lengths,
    Mask,
    RowMap,
    Softmax,
    Window,
    attend,
    attend_with_aux,
    mosaic,
    reference,
)
from jaxsink.attention.mosaic_plan import ROWS, Plan, key_blocks, query_blocks
from jaxsink.attention.mosaic_rules import Rows, Rule, given_rows, refuses, rule_of

calls: Any = beside.load(__file__, "backend_calls")
call_of, distance = calls.call_of, calls.distance
RULED = {name: make for name, make in CATALOGUE.items() if refuses(make()) is None}
# bfloat16 keeps 8 bits: inputs of an exact computation are rounded by this much, weights and cotangents once more.
CLOSE = 0.01
B, N, K, H = 1, 2, 1, 16


def arrays(
    queries: int, keys: int, heads: int = N, dtype: str = "bfloat16", size: int = H
) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    shapes = (B, queries, heads, size), (B, keys, K, size), (B, keys, K, size)
    q, k, v = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)
    return q, k, v


def params_of(variant: RowMap, heads: int = N) -> Any:
    # Parameters of each head, neither at a border of the weights nor far from it.
    fresh = variant.init(jax.random.key(0), AttentionDims(heads, K, H))
    return jax.tree.map(lambda x: x * jnp.linspace(0.3, 0.6, x.size), fresh)


def exactly(variant: RowMap, mask: Mask | None, q: Array, k: Array, v: Array, params: Any) -> Array:
    wide = (x.astype(jnp.float32) for x in (q, k, v))
    return attend(*wide, variant, params=params, mask=mask, scale=0.3, backend="reference")


def errors(found: Any, expected: Any) -> list[float]:
    """Of an output and the gradients of q, k, v and parameters; where one is 0, the other has to be."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return [distance(a, b) if np.any(b) else float(np.abs(a).max()) for a, b in pairs]


# Rules ----------------------------------------------------------------------------------------------------------
def by_rule(rule: Rule, scores: Array, seen: Array, v: Array, d_out: Array, given: Rows) -> tuple[Array, ...]:
    """Output and gradients of scores [T, S], values [S, H] and row arguments [T], with sums over halves of the keys."""

    def spread(row: Array) -> Array:
        return jnp.broadcast_to(row[:, None], (row.size, scores.shape[1] // 2))

    halves = [(part, see) for part, see in zip(jnp.split(scores, 2, 1), jnp.split(seen, 2, 1), strict=True)]
    sums, rows, out = rule.sums, given, jnp.zeros_like(d_out)
    if sums is not None:
        top, total = jnp.full(scores.shape[0], sums.lowest), jnp.zeros(scores.shape[0])
        for (part, see), values in zip(halves, jnp.split(v, 2), strict=True):
            if sums.exponent is not None:
                higher = jnp.maximum(top, jnp.where(see, sums.exponent(part), sums.lowest).max(1))
                shrunk, top = jnp.exp(top - higher), higher
                total, out = total * shrunk**sums.power, out * shrunk[:, None]
            total = total + jnp.where(see, sums.size(part, top, spread), 0.0).sum(1)
            if sums.numerator is not None:
                out = out + jnp.where(see, sums.numerator(part, top, spread), 0.0) @ values
        rows = (*sums.rows(top, total), *given)
        if sums.factor is not None:
            out = out * sums.factor(top, total)[:, None]

    def whole(weight: Any) -> Array:
        return jnp.concatenate([jnp.where(see, weight(part, rows, spread), 0.0) for part, see in halves], axis=1)

    weights = whole(rule.weight)
    if sums is None or sums.numerator is None:
        out = weights @ v
    delta = None
    if sums is not None:
        delta = (d_out * (out if rule.through is None else whole(rule.through) @ v)).sum(1)
    d_weights = jnp.split(d_out @ v.T, 2, 1)
    parts = [
        jnp.where(see, rule.back(part, d, rows, delta, spread), 0.0)
        for (part, see), d in zip(halves, d_weights, strict=True)
    ]
    found = (out, jnp.concatenate(parts, axis=1), weights.T @ d_out)
    return found if rule.of_argument is None else (*found, (d_out * (whole(rule.of_argument) @ v)).sum(1))


@jax.default_matmul_precision("highest")  # a GPU rounds factors to 10 bits otherwise
@pytest.mark.parametrize("name", RULED)
def test_a_rule_has_the_outputs_and_gradients_of_its_row_map(name: str) -> None:
    variant, (t, s) = RULED[name](), (12, 14)
    rng = np.random.default_rng(3)
    scores, v, d_out = (jnp.asarray(rng.standard_normal(x), jnp.float32) for x in ((t, s), (s, H), (t, H)))
    scores = scores * jnp.tile(jnp.asarray([0.1, 1.0, 20.0]), t // 3)[:, None]
    params = params_of(variant)
    seen = Causal().materialise(t, s)[0, 0]
    positions = jnp.arange(t, dtype=jnp.float32) + (s - t)
    head = 1  # whose parameters differ from those of the other

    def exact(scores: Array, v: Array, params: Any) -> Array:
        # Scores of their own: q is one of them in each row, and k the unit vectors.
        q, k = scores[None, :, None], jnp.eye(s)[None, :, None]
        own = jax.tree.map(lambda x: x[head:], params)
        call = call_of(variant, Causal(), q, k, v[None, :, None], own, scale=1.0)
        return reference.run(call)[0][0, :, 0]

    dims_size = s  # the head size that `exact` has
    rows = given_rows(variant, jax.tree.map(lambda x: x[head:], params), positions, positions + 1.0, dims_size)
    expected, pull = jax.vjp(exact, scores, v, params)
    d_scores, d_v, d_params = pull(d_out)
    found = by_rule(rule_of(variant), scores, seen, v, d_out, tuple(row[0] for row in rows))
    d_found = []
    if len(found) > 3:

        def of_params(params: Any) -> Array:
            own = jax.tree.map(lambda x: x[head:], params)
            return given_rows(variant, own, positions, positions + 1.0, dims_size)[-1][0]

        d_found = jax.tree.leaves(jax.vjp(of_params, params)[1](found[3])[0])
    # Sums of some ten float32 numbers; exp2 of a rounded multiple of a score near 60 is off by 1e-5.
    for a, b in zip([*found[:3], *d_found], [expected, d_scores, d_v, *jax.tree.leaves(d_params)], strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5 * float(jnp.abs(b).max()) + 1e-12, err_msg=name)


# Blocks ---------------------------------------------------------------------------------------------------------
def plans() -> Iterator[Plan]:
    for queries, keys in [(300, 300), (130, 700), (700, 130), (1, 1), (128, 256)]:
        for causal, window in [(False, 0), (True, 0), (True, 1), (True, 90), (True, 400)]:
            yield Plan(
                batch=B,
                query_heads=N,
                key_heads=K,
                width=64,
                queries=queries,
                keys=keys,
                scale=1.0,
                causal=causal,
                window=window,
                offset=max(keys - queries, 0),
                dtype="bfloat16",
                interpreted=True,
            )


def seen_by(plan: Plan) -> np.ndarray:
    """bool [T, S], of padded lengths; nothing sees or is seen in what was padded."""
    i, j = np.arange(plan.query_rows)[:, None] + plan.offset, np.arange(plan.key_rows)[None]
    pairs = (i - plan.offset < plan.queries) & (j < plan.keys)
    if plan.causal:
        pairs &= j <= i
    return pairs & (i - j < plan.window) if plan.window else pairs


@pytest.mark.parametrize("plan", list(plans()), ids=str)
def test_blocks_leave_out_no_pair_and_hide_where_they_must(plan: Plan) -> None:
    seen = seen_by(plan)
    for first, size in product(range(0, plan.query_rows, ROWS), (64, 128)):
        begin, left, whole, end = (int(x) * size for x in key_blocks(plan, size, np.int32(first), exact=True))
        rows = seen[first : min(first + ROWS, plan.queries)]
        assert 0 <= begin <= left <= end <= plan.key_rows
        assert rows[:, :begin].sum() + rows[:, end:].sum() == 0
        assert whole <= left or rows[:, left:whole].all()
    for first, size in product(range(0, plan.key_rows, ROWS), (64, 128)):
        begin, left, whole, end = (int(x) * size for x in query_blocks(plan, size, np.int32(first)))
        columns = seen[:, first : min(first + ROWS, plan.keys)]
        assert 0 <= begin <= left <= end <= plan.query_rows
        assert begin < end
        assert columns[:begin].sum() + columns[end:].sum() == 0
        assert whole <= left or columns[left:whole].all()


def test_blocks_are_few() -> None:
    # Of a causal square half of the blocks, of a window a band: what the speed comes from.
    square = next(plan for plan in plans() if plan.causal and not plan.window)
    long = replace(square, queries=16 * ROWS, keys=16 * ROWS)
    for plan, most in [(long, 136), (replace(long, window=ROWS), 31)]:
        spans = [key_blocks(plan, ROWS, np.int32(first), exact=True) for first in range(0, plan.query_rows, ROWS)]
        assert sum(int(end) - int(begin) for begin, _, _, end in spans) == most
        assert sum(int(whole) - int(left) for _, left, whole, _ in spans) == (120 if plan is long else 0)


# Kernels --------------------------------------------------------------------------------------------------------
def test_outputs_are_those_of_reference() -> None:
    # The interpreter compiles a kernel for every thread block anew, for seconds: there is one block.
    variant, mask = RULED["softpick"](), Causal()
    q, k, v = arrays(100, 120, 1)
    found, expected = mosaic.run(call_of(variant, mask, q, k, v, {}))[0], exactly(variant, mask, q, k, v, {})
    assert distance(found, expected) < CLOSE
    # As far as the same formula without its mask is from it.
    assert distance(exactly(variant, None, q, k, v, {}), expected) > 10 * CLOSE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mask", "queries", "keys", "heads", "dtype", "size"),
    [
        ("softpick", Causal(), 100, 120, 1, "bfloat16", 16),
        ("relu", Causal(), 130, 200, 2, "bfloat16", 16),
        ("p-normalised", Causal(), 150, 140, 2, "float16", 16),
        ("elastic", Causal() & Window(70), 140, 140, 2, "bfloat16", 16),
        ("normalised-sigmoid", None, 70, 150, 2, "bfloat16", 16),
        # Heads of more than 64 and of more than 128 have other blocks.
        ("softpick", Causal() & Window(70), 140, 140, 2, "bfloat16", 128),
        ("sigmoid", Causal(), 150, 300, 2, "bfloat16", 250),
        ("clipped", Causal() & Window(70), 140, 140, 2, "float16", 256),
        ("softpick", None, 140, 270, 2, "bfloat16", 256),
    ],
)
def test_outputs_and_gradients_are_those_of_reference(
    name: str, mask: Mask | None, queries: int, keys: int, heads: int, dtype: str, size: int
) -> None:
    variant = RULED[name]()
    q, k, v = arrays(queries, keys, heads, dtype, size)
    params = params_of(variant, heads)
    d_out = jnp.asarray(np.random.default_rng(1).standard_normal(q.shape), jnp.float32)

    def ours(q: Array, k: Array, v: Array, params: Any) -> Array:
        return mosaic.run(call_of(variant, mask, q, k, v, params))[0].astype(jnp.float32)

    def exact(*given: Any) -> Array:
        return exactly(variant, mask, *given).astype(jnp.float32)

    found, expected = (jax.vjp(f, q, k, v, params) for f in (ours, exact))
    worst = errors((found[0], found[1](d_out)), (expected[0], expected[1](d_out)))
    assert max(worst) < CLOSE, worst


@pytest.mark.slow
@pytest.mark.parametrize("size", [16, 256])
def test_what_keys_receive_is_that_of_reference_with_its_derivative(size: int) -> None:
    variant, mask, queries = RULED["softpick"](), Causal(), 200
    q, k, v = arrays(queries, queries, 1, size=size)
    of_keys = jnp.asarray(np.random.default_rng(2).standard_normal((B, 1, queries)), jnp.float32)

    def scalar(backend: str, q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        if backend == "mosaic":
            call = call_of(variant, mask, q, k, v, {}, want=frozenset({"received"}))
            received = mosaic.run(call)[1].received
        else:
            wide = (x.astype(jnp.float32) for x in (q, k, v))
            received = attend_with_aux(*wide, variant, mask=mask, scale=0.3, want=("received",), backend=backend)[
                1
            ].received
        assert received is not None
        return (received * of_keys).sum(), received

    found, expected = (
        jax.value_and_grad(partial(scalar, b), (0, 1, 2), has_aux=True)(q, k, v) for b in ("mosaic", "reference")
    )
    # Float32 sums of weights of products of 16-bit numbers, which nothing rounds in between.
    assert distance(found[0][1], expected[0][1]) < 1e-4
    assert max(errors(found[1], expected[1])) < CLOSE


@pytest.mark.parametrize(
    ("name", "mask", "dtype", "size", "kernels"),
    [
        # One for the output, two for gradients, one for what keys receive.
        ("softpick", Causal(), "bfloat16", 16, 4),
        ("relu", None, "float16", 16, 4),
        # And one for the sums, one for what they pass on, one for what is learned.
        ("elastic", Causal() & Window(70), "bfloat16", 16, 7),
        # And one more for gradients.
        ("softpick", Causal(), "bfloat16", 256, 5),
    ],
)
def test_the_kernels_are_lowered_for_a_gpu(
    name: str, mask: Mask | None, dtype: str, size: int, kernels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_of = mosaic._plan
    monkeypatch.setattr(mosaic, "_plan", lambda call: replace(plan_of(call), interpreted=False))
    variant = RULED[name]()

    def scalar(q: Array, k: Array, v: Array, params: Any) -> tuple[Array, Any]:
        out, aux = mosaic.run(call_of(variant, mask, q, k, v, params, want=frozenset({"received"})))
        return jnp.sum(out.astype(jnp.float32)), aux.received

    traced = jax.jit(jax.value_and_grad(scalar, (0, 1, 2, 3), has_aux=True)).trace(
        *arrays(300, 340, N, dtype, size), params_of(variant)
    )
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert len(re.findall(r"custom_call @mosaic_gpu\w*\(", text)) == kernels


# Choice ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"variant": CATALOGUE["sparsemax"]()}, "no Sparsemax"),
        ({"variant": Softmax()}, "adds nothing to cuDNN"),
        ({"want": frozenset({"entropy"})}, "does not return entropy"),
        ({"mask": Lengths(np.array([3]))}, "mask must be None, Causal"),
        ({"mask": Window(3)}, "mask must be None, Causal"),
        ({"bias": (jnp.zeros((1, 1, 1, 4)),)}, "no bias"),
        ({"softcap": 3.0}, "no bias or softcap"),
        ({"scale": jnp.ones(())}, "scale must be a Python number"),
        ({"query_offset": 2}, "no query_offset"),
        ({"q": jnp.zeros((B, 4, N, H), jnp.float32)}, "must all be bfloat16"),
        ({"v": jnp.zeros((B, 4, K, 264), jnp.bfloat16)}, "at most 256"),
        ({"variant": CATALOGUE["threshold-rectified"](exponent=1.5)}, "exponent of ThresholdRectified"),
    ],
)
def test_a_call_that_it_cannot_take_says_why(changed: dict[str, Any], reason: str) -> None:
    plain = call_of(CATALOGUE["relu"](), Causal(), *arrays(4, 4), {})
    assert mosaic.refuses(plain) is None
    assert reason in (mosaic.refuses(replace(plain, **changed)) or "")


def test_every_streamed_row_map_without_an_order_has_a_rule() -> None:
    assert set(CATALOGUE) - set(RULED) == {
        *("softmax", "softmax-n", "sink-logit"),  # cuDNN's
        *("sparsemax", "entmax-1.5", "entmax", "stick-breaking"),
    }
