"""The sparse and clipped row maps: against loops, by hand, at their limits, on empty rows and at extreme scores."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import attention as oracle

from jaxsink import attention
from jaxsink.attention import Clipped, Elastic, Entmax15, Softmax, Softpick, Sparsemax

CASES = (
    pytest.param(Clipped(-0.1, 1.05), oracle.clipped(-0.1, 1.05), id="clipped"),
    pytest.param(Sparsemax(), oracle.sparsemax, id="sparsemax"),
    pytest.param(Entmax15(), oracle.entmax15, id="entmax-1.5"),
    pytest.param(Elastic(), oracle.elastic, id="elastic"),
    pytest.param(Softpick(), oracle.softpick(1e-6), id="softpick"),
)
cases = pytest.mark.parametrize(("variant", "row"), CASES)
seeds = given(seed=st.integers(0, 2**32 - 1))
B, T, N, K, H = 2, 4, 2, 1, 3
# float32: 2^-24 per operation, about ten of them in a row on numbers below 10.
F32 = {"rtol": 1e-5, "atol": 1e-5}


def draw(seed: int, variant: Any, dtype: Any = np.float32) -> tuple[dict[str, Any], np.ndarray]:
    """Inputs of which some pairs are hidden, among them all of one row."""
    rng = np.random.default_rng(seed)
    fresh = variant.init(jax.random.key(0), attention.AttentionDims(N, K, H))
    shapes = {"q": (B, T, N, H), "k": (B, T, K, H), "v": (B, T, K, H)}
    inputs: dict[str, Any] = {name: rng.normal(size=s).astype(dtype) for name, s in shapes.items()}
    inputs["q"] *= 2
    inputs["params"] = {name: rng.normal(size=x.shape).astype(dtype) for name, x in fresh.items()}
    visible = rng.random((B, 1, T, T)) < 0.7
    visible[0, 0, 1] = False
    return inputs, visible


def loops(row: oracle.Row, q: Any, k: Any, v: Any, params: Any, visible: np.ndarray) -> oracle.Attended:
    return oracle.attend(q, k, v, row, params, np.broadcast_to(visible, (B, N, T, T)))


def weights(variant: Any, scores: Any, params: Any = None, **options: Any) -> np.ndarray:
    """Weights of one row of scores."""
    bias = jnp.asarray(scores, jnp.float32)[None, None, None]
    zero = jnp.zeros((1, bias.shape[-1], 1, 2))
    _, aux = attention.attend_with_aux(
        zero[:, :1], zero, zero, variant, params=params, bias=bias, want=("weights",), **options
    )
    return np.asarray(aux.weights[0, 0, 0])


@cases
@settings(max_examples=3)
@seeds
def test_output_and_weights_are_those_of_the_loops(variant: Any, row: oracle.Row, seed: int) -> None:
    inputs, visible = draw(seed, variant)
    out, aux = attention.attend_with_aux(variant=variant, mask=visible, want=("weights",), **inputs)
    expected = loops(row, **inputs, visible=visible)
    np.testing.assert_allclose(out, expected.out, **F32)
    np.testing.assert_allclose(aux.weights, expected.weights, **F32)
    assert not np.any(np.where(visible, 0.0, aux.weights))
    assert not np.any(out[0, 1])


@cases
@settings(max_examples=3)
@seeds
def test_gradients_are_those_of_the_loops(variant: Any, row: oracle.Row, seed: int) -> None:
    inputs, visible = draw(seed, variant, np.float64)
    rng = np.random.default_rng(seed + 1)
    cotangent = rng.normal(size=inputs["q"].shape)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), inputs)

    def at(step: float) -> float:
        moved = jax.tree.map(lambda x, d: x + step * d, inputs, direction)
        return float(np.sum(loops(row, **moved, visible=visible).out * cotangent))

    slope, finer = ((at(h) - at(-h)) / (2 * h) for h in (1e-5, 5e-6))
    if abs(slope - finer) > 1e-7:  # a key enters or leaves within the step: there is no derivative to compare with
        return
    with jax.enable_x64(True):

        def loss(x: Any) -> jax.Array:
            return jnp.sum(attention.attend(variant=variant, mask=visible, **x) * cotangent)

        found = jax.grad(loss)(jax.tree.map(jnp.asarray, inputs))
        moves = jax.tree.map(lambda g, d: float(np.sum(np.asarray(g) * d)), found, direction)
    # Central differences: step^2 times third derivatives up to 1e3, plus 2^-53 / step times values up to 1e2.
    np.testing.assert_allclose(sum(jax.tree.leaves(moves)), slope, rtol=1e-6, atol=1e-6)


@cases
def test_rows_that_see_no_key_are_zero_and_send_nothing_back(variant: Any, row: oracle.Row) -> None:
    inputs, visible = draw(0, variant)
    arrays = jax.tree.map(jnp.asarray, inputs)

    def loss(x: Any, mask: Any) -> jax.Array:
        return jnp.sum(attention.attend(variant=variant, mask=mask, **x))

    some, none = (jax.grad(loss)(arrays, mask) for mask in (visible, np.zeros_like(visible)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(some))
    assert not np.any(some["q"][0, 1])
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(none))
    assert not np.any(attention.attend(variant=variant, mask=np.zeros_like(visible), **arrays))


@cases
@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_extreme_scores(variant: Any, row: oracle.Row, size: float) -> None:
    """Large scores stay finite; small ones keep their digits, which softpick would lose in e^s - 1."""
    scores = size * np.array([1.0, -1.0, 0.5, -0.3, 0.0, 0.99])
    params = {name: x[:1] for name, x in variant.init(jax.random.key(0), attention.AttentionDims(1, 1, 2)).items()}
    tau = float(next(iter(params.values()), jnp.zeros(1))[0])
    expected = row(np.float32(scores).astype(np.float64), 0, tau)
    # The sum of float32 weights of about 1/6 rounds by 2^-26, which is the leftover of a difference at tau = -1.
    np.testing.assert_allclose(weights(variant, scores, params), expected, rtol=2e-6, atol=1e-7)

    def loss(bias: jax.Array) -> jax.Array:
        zero = jnp.zeros((1, scores.size, 1, 2))
        out = attention.attend(
            zero, zero, zero + jnp.arange(6.0)[None, :, None, None], variant, params=params, bias=bias
        )
        return jnp.sum(out)

    slope = jax.grad(loss)(jnp.broadcast_to(jnp.asarray(scores, jnp.float32), (1, 1, 6, 6)))
    assert np.isfinite(slope).all()


@settings(max_examples=3)
@seeds
def test_limits_are_softmax(seed: int) -> None:
    """I4: clipped(0, 1) and elastic at tau = 0 are softmax, in value and gradient."""
    inputs, visible = draw(seed, Softmax())

    def run(variant: Any, params: Any) -> tuple[Any, Any]:
        def loss(x: Any) -> tuple[jax.Array, jax.Array]:
            out = attention.attend(variant=variant, mask=visible, **x, params=params)
            return jnp.sum(jnp.sin(out)), out

        arrays = {name: jnp.asarray(inputs[name]) for name in ("q", "k", "v")}
        return jax.grad(loss, has_aux=True)(arrays)

    expected = run(Softmax(), None)
    for variant, params in ((Clipped(0.0, 1.0), None), (Elastic(), {"tau": jnp.zeros(N)})):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **F32), run(variant, params), expected)


@settings(max_examples=20)
@given(scores=st.lists(st.floats(-3, 3, width=32), min_size=6, max_size=6))
def test_entmax_stands_between_softmax_and_sparsemax(scores: list[float]) -> None:
    """The support shrinks and the Tsallis optimum of each alpha beats the other two on its own objective."""
    soft, between, sparse = (weights(v, scores) for v in (Softmax(), Entmax15(), Sparsemax()))
    assert np.count_nonzero(soft) >= np.count_nonzero(between) >= np.count_nonzero(sparse)

    def objective(w: np.ndarray, alpha: float) -> float:
        wide = w.astype(np.float64)
        return float(wide @ scores + (wide.sum() - (wide**alpha).sum()) / (alpha * (alpha - 1.0)))

    # Each objective is flat to first order at its optimum; the sum of float32 weights is off by a few 2^-24, times
    # scores of at most 3.
    assert objective(between, 1.5) >= max(objective(soft, 1.5), objective(sparse, 1.5)) - 2e-6
    assert objective(sparse, 2.0) >= max(objective(soft, 2.0), objective(between, 2.0)) - 2e-6


def test_values_by_hand() -> None:
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)  # noqa: E731 - float32
    close(weights(Sparsemax(), [1.0, 0.5, -2.0]), [0.75, 0.25, 0.0])
    close(weights(Sparsemax(), [2.0, 1.0, 0.0]), [1.0, 0.0, 0.0])
    close(weights(Entmax15(), [2.0, 0.0, 0.0]), [1.0, 0.0, 0.0])
    # (1/2 - t)^2 + t^2 = 1 at t = (1 - sqrt(7)) / 4.
    root = (1.0 - math.sqrt(7.0)) / 4.0
    close(weights(Entmax15(), [1.0, 0.0, -5.0]), [(0.5 - root) ** 2, root**2, 0.0])
    close(weights(Clipped(-0.1, 1.1), [math.log(3.0), 0.0]), [0.8, 0.2])
    close(weights(Clipped(-0.5, 1.0), [math.log(3.0), 0.0]), [0.625, 0.0])
    close(weights(Clipped(-0.1, 1.3), [10.0]), [1.0])
    close(weights(Elastic(), [math.log(3.0), 0.0], {"tau": jnp.array([-1.0])}), [0.25, 0.0])
    close(weights(Elastic(), [math.log(3.0), 0.0], {"tau": jnp.array([0.5])}), [1.0, 0.5])
    close(weights(Softpick(1e-12), [math.log(3.0), math.log(2.0), math.log(0.5)]), [4 / 7, 2 / 7, 0.0])


@pytest.mark.parametrize("variant", [Sparsemax(), Entmax15(), Softpick()])
def test_zero_scores(variant: Any) -> None:
    """Ties share evenly and keep finite slopes; softpick has no score above zero and is dead."""
    expected = 0.0 if isinstance(variant, Softpick) else 0.25
    np.testing.assert_allclose(weights(variant, np.zeros(4)), expected, rtol=1e-6)  # float32


def test_elastic_at_minus_one_is_exactly_zero_on_even_rows() -> None:
    params = {"tau": jnp.array([-1.0])}
    assert not np.any(weights(Elastic(), np.full(7, 0.3), params))
    assert not np.any(weights(Elastic(), [2.0, 0.0, 0.0], params, mask=np.array([[[[True, False, False]]]])))


def test_elastic_counts_the_keys_that_it_sees() -> None:
    hidden = weights(Elastic(), [1.0, 0.0, 3.0], {"tau": jnp.array([-0.5])}, mask=np.array([[[[True, True, False]]]]))
    np.testing.assert_allclose(hidden[:2], weights(Elastic(), [1.0, 0.0], {"tau": jnp.array([-0.5])}), rtol=1e-6)


def test_clipped_for_length() -> None:
    assert Clipped.for_length(128) == Clipped(-0.025, 1.0)
    assert Clipped.for_length(512, alpha=2.0) == Clipped(-2.0 / 512, 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clipped(gamma=0.1), "gamma must be a finite number <= 0, but is 0.1"),
        (lambda: Clipped(gamma=-math.inf), "gamma must be a finite number <= 0"),
        (lambda: Clipped(zeta=0.9), "zeta must be a finite number >= 1, but is 0.9"),
        (lambda: Clipped(zeta=math.nan), "zeta must be a finite number >= 1"),
        (lambda: Clipped.for_length(0), "length must be at least 1, but is 0"),
        (lambda: Clipped.for_length(8, alpha=-1.0), "gamma must be a finite number <= 0"),
        (lambda: Elastic(init_value=math.nan), "init_value must be a finite number, but is nan"),
        (lambda: Softpick(eps=0.0), "eps must be a positive finite number, but is 0.0"),
    ],
)
def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
