"""Row statistics and the row maps built on them: keys in blocks give what whole rows give, in value and gradient."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsink import attention
from jaxsink.attention import LogSumExp, RowStatistic, ScaledSum, StatisticMap, Total

B, N, T, S, H = 2, 3, 4, 7, 5
STATISTICS = (LogSumExp(), Total(), ScaledSum())
VARIANTS = (
    *(kind() for kind in attention.CATALOGUE.values() if issubclass(kind, StatisticMap)),
    attention.Clipped(-0.1, 1.05),
    attention.PNormalised(3.0),
    attention.Elastic(-0.5),
)
CUTS = st.sampled_from(((0, 7), (0, 1, 2, 3, 4, 5, 6, 7), (0, 3, 7), (0, 5, 7), (0, 2, 4, 6, 7)))
SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=8)


@dataclass(frozen=True)
class LastBlockAlone(LogSumExp):
    """A statistic with a fault: it forgets what it has read."""

    def update(self, carry: Any, term: Any, visible: Any) -> Any:
        return super().update(self.empty(carry[0].shape, carry[0].dtype), term, visible)


@dataclass(frozen=True)
class EveryTieCounts(ScaledSum):
    """A statistic with a fault: each of several largest exponents has the derivative of one alone."""

    def share(self, term: Any, visible: Any, carry: Any) -> Any:
        return super().share(term, visible, (carry[0], carry[1], jnp.ones_like(carry[2])))


def close(found: Any, expected: Any) -> None:
    """float64: 2^-53 per operation, tens of them, on sums that cancel down from the largest entry."""

    def one(a: Any, b: Any) -> None:
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * max(1.0, float(np.abs(b).max())))

    jax.tree.map(one, found, expected)


def on_a_grid(rng: np.random.Generator, size: float) -> np.ndarray:
    """Normal numbers rounded to multiples of a half, of which many are equal."""
    return np.round(2.0 * size * rng.normal(size=(B, N, T, S))) / 2.0


def seen(rng: np.random.Generator) -> np.ndarray:
    """bool [B, 1, T, S]: six in ten pairs; one row sees nothing, one its first key alone, one its last alone."""
    visible = rng.random((B, 1, T, S)) < 0.6
    visible[0, 0, :3] = False
    visible[0, 0, 1, 0] = visible[0, 0, 2, -1] = True
    return visible


def term_of(statistic: RowStatistic, rng: np.random.Generator) -> Any:
    size = rng.choice([1.0, 300.0])
    if isinstance(statistic, ScaledSum):
        return on_a_grid(rng, 1.0), on_a_grid(rng, size)
    return on_a_grid(rng, size)


def blocks(tree: Any, cuts: tuple[int, ...]) -> list[Any]:
    """An array whose last axis is that of the keys, or a pair of them, in blocks of keys."""
    return [jax.tree.map(lambda x, a=a, b=b: jnp.asarray(x[..., a:b]), tree) for a, b in pairwise(cuts)]


def joined(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=-1), *parts)


def read(statistic: RowStatistic, terms: list[Any], visible: list[Any]) -> Any:
    carry = statistic.empty((B, N, T, 1), np.float64)
    for term, shown in zip(terms, visible, strict=True):
        carry = statistic.update(carry, term, shown)
    return carry


def blocks_give_the_value(statistic: RowStatistic, cuts: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    term, visible = term_of(statistic, rng), seen(rng)
    with jax.enable_x64(True):
        carry = read(statistic, blocks(term, cuts), blocks(visible, cuts))
        found = statistic.finish(carry)
        close(found, statistic.full(jax.tree.map(jnp.asarray, term), jnp.asarray(visible)))
    assert all(not np.any(leaf[0, :, 0]) for leaf in jax.tree.leaves(found))


def blocks_give_the_derivative(statistic: RowStatistic, cuts: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    term, visible = term_of(statistic, rng), seen(rng)
    with jax.enable_x64(True):
        value, pull = jax.vjp(lambda t: statistic.full(t, jnp.asarray(visible)), jax.tree.map(jnp.asarray, term))
        cotangent = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), value)
        (expected,) = pull(cotangent)
        shown, terms = blocks(visible, cuts), blocks(term, cuts)
        carry = read(statistic, terms, shown)
        parts = [
            jax.vjp(lambda t, s=s: statistic.share(t, s, carry), part)[1](cotangent)[0]
            for part, s in zip(terms, shown, strict=True)
        ]
        close(joined(parts), expected)
    assert all(not np.any(np.where(visible, 0.0, leaf)) for leaf in jax.tree.leaves(expected))


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("judge", [blocks_give_the_value, blocks_give_the_derivative], ids=lambda j: j.__name__)
def test_statistic(judge: Any, statistic: RowStatistic) -> None:
    @few
    @given(cuts=CUTS, seed=SEEDS)
    def check(cuts: tuple[int, ...], seed: int) -> None:
        judge(statistic, cuts, seed)

    check()


@pytest.mark.parametrize(
    ("fault", "judge"),
    [(LastBlockAlone(), blocks_give_the_value), (EveryTieCounts(), blocks_give_the_derivative)],
)
def test_a_broken_statistic_is_caught(fault: RowStatistic, judge: Any) -> None:
    with pytest.raises(AssertionError):  # noqa: PT012 - any of a few examples may show the fault
        for seed in range(5):
            judge(fault, (0, 3, 7), seed)


@pytest.mark.parametrize("variant", VARIANTS, ids=repr)
def test_row_map(variant: StatisticMap) -> None:
    """Three sweeps over blocks: the statistics, the weights with what they send back, and the shares of that."""
    dims = attention.AttentionDims(N, N, H)
    shapes = jax.eval_shape(lambda: variant.init(jax.random.key(0), dims))

    @few
    @given(cuts=CUTS, seed=SEEDS)
    def check(cuts: tuple[int, ...], seed: int) -> None:
        rng = np.random.default_rng(seed)
        visible = seen(rng)
        shown = blocks(visible, cuts)
        scores = np.where(visible, on_a_grid(rng, 1.5), 0.0)
        cotangent = np.where(visible, rng.normal(size=scores.shape), 0.0)
        counted = jnp.asarray(visible.sum(-1, keepdims=True), jnp.int32)
        whole = attention.RowContext(jnp.asarray(visible), jnp.arange(T, dtype=jnp.int32)[None], dims)
        context = replace(whole, counted=counted)
        with jax.enable_x64(True):
            params = {name: jnp.asarray(rng.normal(size=x.shape)) for name, x in shapes.items()}

            def full(s: Any, p: Any) -> Any:
                return jnp.where(whole.visible, variant.weights(s, whole, p), 0.0)

            weights, pull = jax.vjp(full, jnp.asarray(scores), params)
            expected = pull(jnp.asarray(cotangent))

            parts = list(zip(blocks(scores, cuts), shown, blocks(cotangent, cuts), strict=True))
            carries = [
                read(statistic, list(terms), shown)
                for statistic, terms in zip(
                    variant.statistics, zip(*(variant.terms(s, params) for s, _, _ in parts), strict=True), strict=True
                )
            ]
            known = tuple(s.finish(carry) for s, carry in zip(variant.statistics, carries, strict=True))

            def weigh(s: Any, k: Any, p: Any, v: Any) -> Any:
                return jnp.where(v, variant.weights_given(s, k, replace(context, visible=v), p), 0.0)

            def shares(s: Any, p: Any, v: Any) -> Any:
                triples = zip(variant.statistics, variant.terms(s, p), carries, strict=True)
                return tuple(statistic.share(term, v, carry) for statistic, term, carry in triples)

            found, sent = [], []
            for s, v, c in parts:
                part, back = jax.vjp(lambda *x, v=v: weigh(*x, v), s, known, params)
                found.append(part)
                sent.append(back(c))
            to_statistics, to_params = jax.tree.map(lambda *x: sum(x), *((k, p) for _, k, p in sent))
            to_scores = []
            for (s, v, _), (direct, _, _) in zip(parts, sent, strict=True):
                through, more = jax.vjp(lambda *x, v=v: shares(*x, v), s, params)[1](to_statistics)
                to_scores.append(direct + through)
                to_params = jax.tree.map(jnp.add, to_params, more)
            close(joined(found), weights)
            close((joined(to_scores), to_params), expected)
        assert not np.any(weights[0, :, 0])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))

    check()
