"""Row maps against loops, by hand, at their limits, on empty rows and at extreme scores."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import attention as oracle

from jaxsink import attention
from jaxsink.attention import (
    GELU,
    Causal,
    ClampedLinear,
    Clipped,
    Elastic,
    ELUPlusOne,
    Entmax,
    Entmax15,
    NormalisedLinear,
    NormalisedSigmoid,
    PNormalised,
    ReLUOverLength,
    Scaled,
    Softmax,
    SoftmaxN,
    Softpick,
    Sparsemax,
    SquaredReLU,
    StickBreaking,
    ThresholdRectified,
)

CASES = (
    pytest.param(Clipped(-0.1, 1.05), oracle.clipped(-0.1, 1.05), id="clipped"),
    pytest.param(Sparsemax(), oracle.sparsemax, id="sparsemax"),
    pytest.param(Entmax15(), oracle.entmax15, id="entmax-1.5"),
    pytest.param(Elastic(), oracle.elastic, id="elastic"),
    pytest.param(Softpick(), oracle.softpick(1e-6), id="softpick"),
)
# What is smooth, or elementwise, or both: for these the laws say enough, but for the digits at extreme scores.
SMOOTH = (
    pytest.param(Scaled(0.2), oracle.scaled(0.2), id="scaled-softmax"),
    pytest.param(PNormalised(3.0), oracle.p_normalised(3.0), id="p-normalised"),
    pytest.param(ReLUOverLength(6, 0.75), oracle.relu_over_length(6, 0.75), id="relu-over-length"),
    pytest.param(SquaredReLU(), oracle.squared_relu, id="squared-relu"),
    pytest.param(GELU(), oracle.gelu, id="gelu"),
    pytest.param(ELUPlusOne(), oracle.elu_plus_one, id="elu-plus-one"),
    pytest.param(NormalisedSigmoid(), oracle.normalised_sigmoid(1e-8), id="normalised-sigmoid"),
    pytest.param(NormalisedLinear(), oracle.normalised_linear(1e-8), id="normalised-linear"),
    pytest.param(ClampedLinear(), oracle.clamped_linear, id="clamped-linear"),
    pytest.param(Entmax(1.25), oracle.entmax(1.25), id="entmax-1.25"),
    pytest.param(ThresholdRectified(), oracle.threshold_rectified(2.0, 1.0), id="threshold-rectified"),
    pytest.param(StickBreaking(), oracle.stick_breaking, id="stick-breaking"),
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


@pytest.mark.parametrize(("variant", "row"), CASES + SMOOTH)
@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_extreme_scores(variant: Any, row: oracle.Row | oracle.PlacedRow, size: float) -> None:
    """Large scores stay finite; small ones keep their digits, which softpick would lose in e^s - 1."""
    scores = size * np.array([1.0, -1.0, 0.5, -0.3, 0.0, 0.99])
    params = {name: x[:1] for name, x in variant.init(jax.random.key(0), attention.AttentionDims(1, 1, 2)).items()}
    tau = float(next(iter(params.values()), jnp.zeros(1))[0])
    # The one query stands on the last key.
    expected = oracle.row_weights(row, np.float32(scores).astype(np.float64), list(range(6)), 5, 2, tau)
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
    """I4: clipped(0, 1), elastic at tau = 0, scale 1 and norm 1 are softmax, in value and gradient."""
    inputs, visible = draw(seed, Softmax())

    def run(variant: Any, params: Any) -> tuple[Any, Any]:
        def loss(x: Any) -> tuple[jax.Array, jax.Array]:
            out = attention.attend(variant=variant, mask=visible, **x, params=params)
            return jnp.sum(jnp.sin(out)), out

        arrays = {name: jnp.asarray(inputs[name]) for name in ("q", "k", "v")}
        return jax.grad(loss, has_aux=True)(arrays)

    expected = run(Softmax(), None)
    limits = (
        (Clipped(0.0, 1.0), None),
        (Elastic(), {"tau": jnp.zeros(N)}),
        (Scaled(1.0), None),
        (PNormalised(1.0), None),
    )
    for variant, params in limits:
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


@partial(jax.jit, static_argnums=0)
def derivatives(variant: Any, seen: Any, at: Any, directions: Any, cotangent: Any) -> Any:
    """Weights, their gradient, and their second derivative in two directions."""
    context = attention.RowContext(seen, jnp.zeros((1, 1), jnp.int32), attention.AttentionDims(1, 1, 1))

    def f(s: Any) -> Any:
        return jnp.where(seen, variant.weights(jnp.where(seen, s, 0.0), context, {}), 0.0)

    def slope(s: Any) -> Any:
        return jax.jvp(f, (s,), (directions[0],))[1]

    return f(at), jax.grad(lambda s: jnp.sum(f(s) * cotangent))(at), jax.jvp(slope, (at,), (directions[1],))[1]


@settings(max_examples=10)
@seeds
def test_entmax_is_that_of_its_alpha(seed: int) -> None:
    """At 1.5 and 2 it is what the sorts find, near 1 it is softmax; in value, slope and curvature, in float64."""
    rng = np.random.default_rng(seed)
    seen = rng.random((1, 1, 8, 5)) < 0.8
    scores, *directions, cotangent = rng.normal(size=(4, 1, 1, 8, 5))
    with jax.enable_x64(True):

        def run(variant: Any) -> Any:
            return derivatives(variant, seen, 2.0 * scores, directions, cotangent)

        # Halving leaves 2^-58 of log S; what is left of the tolerance is for sums of a few terms.
        for alpha, exact in ((2.0, Sparsemax()), (1.5, Entmax15())):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), run(Entmax(alpha)), run(exact)
            )
        # First order in alpha - 1 with factors up to the square of the gaps between scores, 1e2.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), run(Entmax(1.0 + 1e-7)), run(Softmax()))


@pytest.mark.parametrize("alpha", [1.01, 3.0, 6.0])
def test_entmax_far_from_its_usual_alpha(alpha: float) -> None:
    scores = np.random.default_rng(0).normal(size=4000)
    with jax.enable_x64(True):
        visible = jnp.ones((1, 1, 1, scores.size), bool)
        context = attention.RowContext(visible, jnp.zeros((1, 1), jnp.int32), attention.AttentionDims(1, 1, 1))
        for size in (1e-12, 1e-4, 1.0):  # the first leaves all keys equal
            found = Entmax(alpha).weights(size * jnp.asarray(scores)[None, None, None], context, {})[0, 0, 0]
            # Beside the threshold w^(alpha - 1) rounds by 2^-53, which alpha = 6 makes 2^-53/5 = 6e-4 of a weight.
            np.testing.assert_allclose(found, oracle.entmax(alpha)(size * scores, 0, 0.0), rtol=1e-9, atol=1e-3 / 4000)
            np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-12)


def test_stick_breaking_of_equal_scores_is_geometric() -> None:
    """Identity 7: share^distance falls off from the key before the query; the own key has nothing, the rest is left."""
    share = 1.0 / (1.0 + math.exp(-0.3))
    bias = jnp.full((1, 1, 6, 6), 0.3)
    zero = jnp.zeros((1, 6, 1, 2))
    _, aux = attention.attend_with_aux(
        zero, zero, zero, StickBreaking(), mask=Causal(), bias=bias, want=("weights", "row_mass")
    )
    for i in range(6):
        expected = [share * (1.0 - share) ** (i - j - 1) if j < i else 0.0 for j in range(6)]
        np.testing.assert_allclose(aux.weights[0, 0, i], expected, rtol=1e-6)  # float32
        np.testing.assert_allclose(1.0 - aux.row_mass[0, 0, i], (1.0 - share) ** i, rtol=1e-5)


def test_stick_breaking_does_not_round_what_is_left() -> None:
    """A thousand keys that take 1e-4 each leave the first key what they should, and 1e4 takes all."""
    some = math.log(1e-4 / (1.0 - 1e-4))
    scores = np.array([0.0, *[some] * 1000, 7.0])  # the last key is the query's own
    found = weights(StickBreaking(), scores)
    expected = oracle.row_weights(oracle.stick_breaking, scores, list(range(1002)), 1001, 2, 0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # a thousand float32 terms that add up to 0.1
    np.testing.assert_array_equal(weights(StickBreaking(), [5.0, -3.0, 1e4, -1e4, 0.0]), [0.0, 0.0, 1.0, 0.0, 0.0])


def test_threshold_rises_with_the_position() -> None:
    beta = {"beta": jnp.array([0.5])}
    bias = jnp.full((1, 1, 4, 4), 2.0)
    zero = jnp.zeros((1, 4, 1, 8))
    for variant in (ThresholdRectified(), ThresholdRectified(1.0, kappa=2.0)):
        _, aux = attention.attend_with_aux(
            zero, zero, zero, variant, params=beta, bias=bias, mask=Causal(), want=("weights",)
        )
        for i in range(4):
            tau = 0.5 * math.sqrt(max(2.0 * math.log((i + 1) / variant.kappa) / 8, 0.0))
            expected = [(2.0 - tau) ** variant.exponent] * (i + 1) + [0.0] * (3 - i)
            np.testing.assert_allclose(aux.weights[0, 0, i], expected, rtol=1e-6)  # float32


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
    close(weights(Scaled(0.5), [math.log(3.0), 0.0]), [0.375, 0.125])
    close(weights(PNormalised(2.0), [math.log(3.0), math.log(4.0)]), [0.6, 0.8])
    close(weights(ReLUOverLength(4, 0.5), [3.0, -1.0]), [1.5, 0.0])
    close(weights(SquaredReLU(), [3.0, -1.0]), [4.5, 0.0])
    close(weights(GELU(), [1.0, -1.0]), [0.8413447 / 2, -0.1586553 / 2])
    close(weights(ELUPlusOne(), [2.0, 0.0, math.log(0.25)]), [3.0, 1.0, 0.25])
    close(weights(NormalisedSigmoid(), [0.0, math.log(3.0)]), [0.4, 0.6])
    close(weights(NormalisedSigmoid(), [-40.0, -40.0]), np.full(2, math.exp(-40.0) / 1e-8))
    close(weights(NormalisedLinear(), [3.0, 1.0, -2.0]), [0.75, 0.25, 0.0])
    close(weights(ClampedLinear(), [3.0, 1.0, -8.0]), [0.75, 0.25, -2.0])
    close(weights(ClampedLinear(), [0.5, -0.25]), [0.5, -0.25])
    close(weights(StickBreaking(), [0.0, math.log(3.0), 9.0]), [0.125, 0.75, 0.0])
    close(weights(Softpick(1e-12), [math.log(3.0), math.log(2.0), math.log(0.5)]), [4 / 7, 2 / 7, 0.0])


@pytest.mark.parametrize("variant", [Sparsemax(), Entmax15(), Entmax(), Softpick()])
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
        (lambda: Scaled(0.0), "factor must be a finite number > 0, but is 0.0"),
        (lambda: PNormalised(math.inf), "p must be a finite number > 0, but is inf"),
        (lambda: ReLUOverLength(0), "length must be at least 1, but is 0"),
        (lambda: ReLUOverLength(8, math.nan), "exponent must be a finite number, but is nan"),
        (lambda: NormalisedSigmoid(0.0), "eps must be a positive finite number, but is 0.0"),
        (lambda: NormalisedLinear(-1.0), "eps must be a positive finite number, but is -1.0"),
        (lambda: Entmax(1.0), r"alpha must be a finite number > 1, but is 1.0; use Softmax\(\)"),
        (lambda: ThresholdRectified(0.5), "exponent must be a finite number >= 1, but is 0.5"),
        (lambda: ThresholdRectified(kappa=0.0), "kappa must be a finite number > 0, but is 0.0"),
        (lambda: ThresholdRectified(init_value=math.inf), "init_value must be a finite number, but is inf"),
        (lambda: SoftmaxN(0.0), r"n must be a finite number > 0, but is 0.0; use Softmax\(\)"),
    ],
)
def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
