"""Every row map obeys the laws that follow from what it declares; broken row maps show that they bite."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import attention as oracle

from jaxsink import attention


@dataclass(frozen=True)
class Case:
    name: str
    variant: attention.RowMap
    row: oracle.Row


CASES = (
    Case("softmax", attention.Softmax(), oracle.softmax),
    Case("softmax-1", attention.SoftmaxN(), oracle.softmax_n(1.0)),
    Case("softmax-0.3", attention.SoftmaxN(0.3), oracle.softmax_n(0.3)),
    Case("sink-logit", attention.SinkLogit(), oracle.sink_logit),
    Case("relu", attention.ReLU(), oracle.relu),
    Case("sigmoid", attention.Sigmoid(), oracle.sigmoid(0.0)),
    Case("sigmoid-log-n", attention.Sigmoid.for_length(6), oracle.sigmoid(-math.log(6.0))),
)

# (B, T, S, N, K, H), few of them because each new shape compiles every operation once.
SHAPES = ((2, 4, 4, 4, 2, 3), (1, 3, 6, 2, 1, 4))
# float32: 2^-24 per operation, about ten of them in a row on numbers below 10.
F32 = {"rtol": 1e-5, "atol": 1e-5}


@dataclass(frozen=True)
class Problem:
    """Random inputs; at least one pair per row is visible, unless a law hides more."""

    q: Any
    k: Any
    v: Any
    params: Any
    visible: Any
    offset: int
    rng: np.random.Generator

    @property
    def inputs(self) -> dict[str, Any]:
        return {"q": self.q, "k": self.k, "v": self.v, "params": self.params}

    def run(self, case: Case, **changes: Any) -> tuple[jax.Array, Any]:
        known = case.variant.properties.has_total
        arguments = {"mask": self.visible, "params": self.params, "query_offset": self.offset} | changes
        want = ("weights", "scores", "row_mass", "received", *(("lse", "null_mass") if known else ()))
        return attention.attend_with_aux(self.q, self.k, self.v, case.variant, want=want, **arguments)

    def expect(self, case: Case, **options: Any) -> oracle.Attended:
        full = (self.q.shape[0], self.q.shape[2], self.q.shape[1], self.k.shape[1])
        visible = np.broadcast_to(self.visible, full)
        return oracle.attend(self.q, self.k, self.v, case.row, self.params, visible, offset=self.offset, **options)


def make_problem(case: Case, shape: tuple[int, ...], seed: int) -> Problem:
    batch, queries, keys, heads, key_heads, size = shape
    rng = np.random.default_rng(seed)
    draw = lambda *s: rng.normal(size=s).astype(np.float32)  # noqa: E731
    visible = rng.random((batch, 1, queries, keys)) < 0.6
    visible[..., 0] |= ~visible.any(-1)
    fresh = case.variant.init(jax.random.key(0), attention.AttentionDims(heads, key_heads, size))
    return Problem(
        q=2.0 * draw(batch, queries, heads, size),
        k=draw(batch, keys, key_heads, size),
        v=draw(batch, keys, key_heads, size),
        params={name: draw(*value.shape) for name, value in fresh.items()},
        visible=visible,
        offset=keys - queries,
        rng=rng,
    )


def gradients(case: Case, p: Problem, cotangent: Any, **changes: Any) -> Any:
    arguments = {"mask": p.visible, "query_offset": p.offset} | changes

    def loss(inputs: Any) -> jax.Array:
        return jnp.sum(attention.attend(variant=case.variant, **inputs, **arguments) * cotangent)

    return jax.grad(loss)(jax.tree.map(jnp.asarray, p.inputs))


def all_zero(tree: Any) -> bool:
    return all(not np.any(leaf) for leaf in jax.tree.leaves(tree))


def all_finite(tree: Any) -> bool:
    return all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(tree))


def law_oracle(case: Case, p: Problem) -> None:
    out, aux = p.run(case)
    expected = p.expect(case)
    np.testing.assert_allclose(out, expected.out, **F32)
    np.testing.assert_allclose(aux.weights, expected.weights, **F32)
    np.testing.assert_allclose(aux.scores, expected.scores, **F32)
    np.testing.assert_allclose(aux.row_mass, expected.weights.sum(-1), **F32)
    np.testing.assert_allclose(aux.received, expected.weights.sum(-2), **F32)
    if case.variant.properties.has_total:
        np.testing.assert_allclose(aux.lse, expected.lse, **F32)


def law_gradients(case: Case, p: Problem) -> None:
    if np.abs(p.expect(case).scores).min() < 1e-3:  # attention.ReLU has no derivative at 0
        return
    wide = jax.tree.map(np.float64, p.inputs)
    cotangent, step = p.rng.normal(size=p.q.shape), 1e-5
    direction = jax.tree.map(lambda x: p.rng.normal(size=x.shape), wide)
    moved = [jax.tree.map(lambda x, d, h=h: x + h * d, wide, direction) for h in (step, -step)]
    up, down = (np.sum(replace(p, **m).expect(case).out * cotangent) for m in moved)
    with jax.enable_x64(True):
        found = gradients(case, replace(p, **wide), cotangent)
        slopes = jax.tree.map(lambda g, d: np.sum(np.asarray(g) * d), found, direction)
    # Central differences: step^2 times third derivatives up to 1e3, plus 2^-53 / step times values up to 1e2.
    np.testing.assert_allclose(sum(jax.tree.leaves(slopes)), (up - down) / (2.0 * step), rtol=1e-6, atol=1e-6)


def law_grouped_heads_repeat_keys(case: Case, p: Problem) -> None:
    group = p.q.shape[2] // p.k.shape[2]
    repeated = replace(p, k=np.repeat(p.k, group, 2), v=np.repeat(p.v, group, 2))
    np.testing.assert_allclose(p.run(case)[0], repeated.run(case)[0], **F32)


def law_masked_is_deleted(case: Case, p: Problem) -> None:
    keep = np.arange(p.k.shape[1]) != 1
    hidden = replace(p, visible=p.visible & keep)
    out, aux = hidden.run(case)
    deleted = replace(p, k=p.k[:, keep], v=p.v[:, keep], visible=p.visible[..., keep])
    np.testing.assert_allclose(out, deleted.run(case)[0], **F32)
    assert not np.any(np.where(hidden.visible, 0.0, aux.weights))
    grads = gradients(case, hidden, np.ones(p.q.shape, np.float32))
    assert all_zero((grads["k"][:, ~keep], grads["v"][:, ~keep]))
    huge = np.where(keep, 1.0, 1e4).astype(np.float32)[None, :, None, None]
    np.testing.assert_array_equal(out, replace(hidden, k=p.k * huge, v=p.v * huge).run(case)[0])


def law_causal(case: Case, p: Problem) -> None:
    for t in range(p.q.shape[1]):
        cotangent = np.zeros(p.q.shape, np.float32)
        cotangent[:, t] = 1.0
        grads = gradients(case, p, cotangent, mask=attention.Causal())
        after = p.offset + t + 1
        assert all_zero((grads["k"][:, after:], grads["v"][:, after:]))
        assert all_zero(np.delete(grads["q"], t, axis=1))


def law_keys_permute(case: Case, p: Problem) -> None:
    if case.variant.properties.streaming is attention.Streaming.ORDERED:
        return
    order = p.rng.permutation(p.k.shape[1])
    shuffled = replace(p, k=p.k[:, order], v=p.v[:, order], visible=p.visible[..., order])
    (out, aux), (out_shuffled, aux_shuffled) = p.run(case), shuffled.run(case)
    np.testing.assert_allclose(out, out_shuffled, **F32)
    np.testing.assert_allclose(aux.weights[..., order], aux_shuffled.weights, **F32)


def law_shift(case: Case, p: Problem) -> None:
    batch, queries, heads, _ = p.q.shape
    shift = p.rng.uniform(1.0, 2.0, size=(batch, heads, queries, 1)).astype(np.float32)
    difference = np.abs(p.run(case)[1].weights - p.run(case, bias=shift)[1].weights).max()
    assert difference < 1e-5 if case.variant.properties.shift_invariant else difference > 1e-3


def law_row_mass(case: Case, p: Problem) -> None:
    _, aux = p.run(case)
    properties = case.variant.properties
    if properties.normalised:
        np.testing.assert_allclose(aux.row_mass, 1.0, **F32)
    if properties.mass is attention.Mass.AT_MOST_ONE:
        assert np.all(aux.row_mass <= 1.0 + 1e-6)
        assert np.any(aux.row_mass < 1.0 - 1e-3)
    if properties.non_negative:
        assert np.all(aux.weights >= 0.0)
    if properties.has_total:
        np.testing.assert_allclose(aux.row_mass + aux.null_mass, 1.0, **F32)
        weights = np.exp(aux.scores - aux.lse[..., None]) * aux.row_mass[..., None]
        np.testing.assert_allclose(aux.weights, np.where(p.visible, weights, 0.0), **F32)


def law_one_score(case: Case, p: Problem) -> None:
    """Raising the score of key 0 in every row shows whether weights are monotone and elementwise."""
    raised = np.zeros((1, 1, 1, p.k.shape[1]), np.float32)
    raised[..., 0] = 1.0
    before, after = (p.run(case, mask=None, bias=bias)[1].weights for bias in (None, raised))
    if case.variant.properties.monotone:
        assert np.all(after[..., 0] >= before[..., 0] - 1e-6)  # rounding of weights below one
    assert np.array_equal(before[..., 1:], after[..., 1:]) == case.variant.properties.elementwise


def law_empty_rows(case: Case, p: Problem) -> None:
    visible = p.visible.copy()
    visible[0, :, 1] = False
    empty = replace(p, visible=visible)
    out, aux = empty.run(case)
    assert all_finite(out)
    assert all_zero((out[0, 1], aux.weights[0, :, 1], aux.row_mass[0, :, 1]))
    if case.variant.properties.has_total:
        assert np.all(np.isneginf(aux.lse[0, :, 1]))
        assert np.all(aux.null_mass[0, :, 1] == float(case.variant.properties.null_column))
    cotangent = np.ones(p.q.shape, np.float32)
    grads = gradients(case, empty, cotangent)
    assert all_finite(grads)
    assert all_zero(grads["q"][0, 1])
    grads = gradients(case, replace(p, visible=np.zeros_like(visible)), cotangent)
    assert all_finite(grads)
    assert all_zero(grads)


def law_extreme(case: Case, p: Problem) -> None:
    _, aux = p.run(case)
    wild = replace(p, q=p.q * np.float32(1e4 / np.abs(aux.scores).max()))
    out, aux = wild.run(case)
    assert all_finite((out, aux))
    assert all_finite(gradients(case, wild, np.ones(p.q.shape, np.float32)))
    # Scores of 1e4 carry 1e-3 of rounding in float32, which moves each weight by that much of itself.
    expected = wild.expect(case).out
    np.testing.assert_allclose(out, expected, rtol=5e-3, atol=5e-3 * np.abs(expected).max())


def law_bfloat16(case: Case, p: Problem) -> None:
    low = replace(p, **{name: jnp.asarray(getattr(p, name), jnp.bfloat16) for name in ("q", "k", "v")})
    out, aux = low.run(case)
    assert out.dtype == jnp.bfloat16
    assert aux.weights.dtype == jnp.float32
    # The inputs are exact and all else is float32, so only the output is rounded, to 8 significant bits.
    np.testing.assert_allclose(out.astype(jnp.float32), low.expect(case).out, rtol=2**-8 + 1e-5, atol=1e-5)


def law_jit(case: Case, p: Problem) -> None:
    arguments = {"mask": p.visible, "query_offset": p.offset}
    jitted = jax.jit(lambda q, k, v, params: attention.attend(q, k, v, case.variant, params=params, **arguments))
    np.testing.assert_allclose(jitted(p.q, p.k, p.v, p.params), p.run(case)[0], **F32)


def law_vmap(case: Case, p: Problem) -> None:
    other = make_problem(case, (*p.q.shape[:2], p.k.shape[1], p.q.shape[2], *p.k.shape[2:]), seed=1)
    both = [{**x.inputs, "visible": x.visible} for x in (p, other)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *both)
    mapped = jax.vmap(lambda x: replace(p, **x).run(case))(stacked)
    for i, x in enumerate(both):
        one = replace(p, **x).run(case)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, **F32), mapped, one)


def law_observation(case: Case, p: Problem) -> None:
    arguments = {"params": p.params, "mask": p.visible, "query_offset": p.offset}
    plain = lambda q: attention.attend(q, p.k, p.v, case.variant, **arguments)  # noqa: E731
    tapped = lambda q: attention.attend(q, p.k, p.v, case.variant, tap=lambda name, x: x, **arguments)  # noqa: E731
    watched = lambda q: replace(p, q=q).run(case)[0]  # noqa: E731
    np.testing.assert_array_equal(plain(p.q), tapped(p.q))
    np.testing.assert_array_equal(plain(p.q), watched(p.q))
    np.testing.assert_array_equal(jax.jit(plain)(p.q), jax.jit(watched)(p.q))


LAWS: tuple[Callable[[Case, Problem], None], ...] = (
    law_oracle,
    law_gradients,
    law_grouped_heads_repeat_keys,
    law_masked_is_deleted,
    law_causal,
    law_keys_permute,
    law_shift,
    law_row_mass,
    law_one_score,
    law_empty_rows,
    law_extreme,
    law_bfloat16,
    law_jit,
    law_vmap,
    law_observation,
)
COMPILES = {law_jit, law_observation}  # these compile anew for each example


def test_every_variant_has_a_case() -> None:
    assert {type(case.variant) for case in CASES} == set(attention.CATALOGUE.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law: Callable[[Case, Problem], None], case: Case) -> None:
    @settings(max_examples=2 if law in COMPILES else 5)
    @given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**32 - 1))
    def check(shape: tuple[int, ...], seed: int) -> None:
        law(case, make_problem(case, shape, seed))

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


def _sees_hidden_keys(s: jax.Array, context: attention.RowContext) -> jax.Array:
    return jax.nn.softmax(s, axis=-1)


def _no_maximum(s: jax.Array, context: attention.RowContext) -> jax.Array:
    exp = jnp.where(context.visible, jnp.exp(s), 0.0)
    total = exp.sum(-1, keepdims=True)
    return exp / jnp.where(total > 0.0, total, 1.0)


def _constant_denominator(s: jax.Array, context: attention.RowContext) -> jax.Array:
    top = jnp.max(s, axis=-1, keepdims=True, initial=-1e9, where=context.visible)
    exp = jnp.where(context.visible, jnp.exp(s - jax.lax.stop_gradient(jnp.minimum(top, 1e5))), 0.0)
    total = jax.lax.stop_gradient(exp.sum(-1, keepdims=True))
    return exp / jnp.where(total > 0.0, total, 1.0)


def _low_precision(s: jax.Array, context: attention.RowContext) -> jax.Array:
    return attention.masked_softmax(s.astype(jnp.bfloat16), context.visible).astype(s.dtype)


def _reads_later_queries(s: jax.Array, context: attention.RowContext) -> jax.Array:
    return attention.masked_softmax(s + 0.1 * s.sum(axis=-2, keepdims=True), context.visible)


def _prefers_late_keys(s: jax.Array, context: attention.RowContext) -> jax.Array:
    return attention.masked_softmax(s + 0.1 * jnp.arange(s.shape[-1], dtype=s.dtype)[None, None, None], context.visible)


def _loses_mass(s: jax.Array, context: attention.RowContext) -> jax.Array:
    return attention.masked_softmax(s, context.visible, jnp.zeros((1, 1, 1), s.dtype))


def _repels(s: jax.Array, context: attention.RowContext) -> jax.Array:
    return attention.masked_softmax(-s, context.visible)


def _elementwise(s: jax.Array, context: attention.RowContext) -> jax.Array:
    return jax.nn.sigmoid(s)


FAULTS = (
    (_sees_hidden_keys, law_masked_is_deleted),
    (_no_maximum, law_extreme),
    (_constant_denominator, law_gradients),
    (_low_precision, law_bfloat16),
    (_reads_later_queries, law_causal),
    (_prefers_late_keys, law_keys_permute),
    (_loses_mass, law_row_mass),
    (_loses_mass, law_shift),
    (_repels, law_one_score),
    (_elementwise, law_one_score),
    (_repels, law_oracle),
)


@dataclass(frozen=True)
class BrokenSink(attention.SinkLogit):
    """The output gate form of the sink logit, whose gradient is 0 * inf where the log-sum-exp is -inf."""

    def weights(self, scores: jax.Array, context: attention.RowContext, params: Any) -> jax.Array:
        lse = jax.nn.logsumexp(jnp.where(context.visible, scores, -jnp.inf), axis=-1, keepdims=True)
        return jnp.exp(scores - lse) * jax.nn.sigmoid(lse - params["sink_logit"][None, :, None, None])


def test_the_laws_catch_a_gradient_that_is_not_finite() -> None:
    case = Case("broken-sink", BrokenSink(), oracle.sink_logit)
    law_oracle(case, make_problem(case, SHAPES[0], seed=0))
    with pytest.raises(AssertionError):
        law_empty_rows(case, make_problem(case, SHAPES[0], seed=0))


@pytest.mark.parametrize(("fault", "law"), FAULTS)
def test_the_laws_catch_a_broken_variant(fault: Any, law: Callable[[Case, Problem], None]) -> None:
    case = Case("broken", Broken(fault), oracle.softmax)
    with pytest.raises(AssertionError):  # noqa: PT012 - any of a few examples may show the fault
        for seed in range(6):
            law(case, make_problem(case, SHAPES[0], seed))
