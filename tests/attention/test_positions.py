"""Position encodings against loops, and the laws that they are used for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import positions as oracle

from jaxsink.attention import (
    Causal,
    LinearScaling,
    Llama3Scaling,
    alibi_bias,
    alibi_slopes,
    attend,
    attend_with_aux,
    rope,
    sinusoidal,
    t5_bias,
    t5_buckets,
)

# float32: a few roundings of 2^-24 on numbers of a few units, and angles up to 100 off by as many times 2^-24.
F32 = {"rtol": 1e-5, "atol": 2e-5}
B, T, N, H = 2, 5, 2, 6
seeds = given(seed=st.integers(0, 2**32 - 1))
few = settings(max_examples=5)
pairings = pytest.mark.parametrize("pairing", ["half", "adjacent"])


def draw(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    q, k = (rng.normal(size=(B, T, N, H)).astype(np.float32) for _ in range(2))
    return q, k, rng.integers(0, 100, size=(B, T))


@pairings
@few
@seeds
def test_rope_is_that_of_the_loops(pairing: Any, seed: int) -> None:
    q, _, positions = draw(seed)
    found = rope(jnp.asarray(q), positions, 500.0, pairing)
    np.testing.assert_allclose(found, oracle.rope(q, positions, 500.0, pairing), **F32)
    shared = rope(jnp.asarray(q), positions[0], 500.0, pairing)
    np.testing.assert_allclose(shared, oracle.rope(q, np.broadcast_to(positions[0], (B, T)), 500.0, pairing), **F32)


# Of 16 features at base 10000 the wavelengths are 6.28 * 3.16^f: with these, two frequencies stay, two are blended and
# four divided.
LLAMA3 = Llama3Scaling(8.0, 1.0, 4.0, 240)


@pairings
@pytest.mark.parametrize(
    ("scaling", "scaled"),
    [
        (LinearScaling(2.5), lambda f: oracle.linear(f, 2.5)),
        (LLAMA3, lambda f: oracle.llama3(f, 8.0, 1.0, 4.0, 240)),
        (Llama3Scaling(4.0, 1.5, 2.0, 90), lambda f: oracle.llama3(f, 4.0, 1.5, 2.0, 90)),
    ],
)
def test_scaled_rope_is_that_of_the_loops(pairing: Any, scaling: Any, scaled: Any) -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(B, T, N, 16)).astype(np.float32)
    positions = rng.integers(0, 100, size=(B, T))
    expected = oracle.rope(x, positions, 10000.0, pairing, scaled)
    np.testing.assert_allclose(rope(jnp.asarray(x), positions, 10000.0, pairing, scaling), expected, **F32)
    # Unscaled, or scaled by another factor, it would be far off.
    for other in (None, LinearScaling(2.0), Llama3Scaling(8.0, 1.0, 5.0, 240)):
        assert np.abs(rope(jnp.asarray(x), positions, 10000.0, pairing, other) - expected).max() > 1e-2


def test_frequencies_of_llama3_come_in_three_bands() -> None:
    plain = 10000.0 ** (-np.arange(8) / 8)
    share = LLAMA3.scaled(plain) / plain
    np.testing.assert_array_equal(share[:2], 1)
    assert np.all((share[2:4] > 1 / 8) & (share[2:4] < 1))
    # A product and a quotient in float64.
    np.testing.assert_allclose(share[4:], 1 / 8, rtol=1e-15)
    np.testing.assert_allclose(share, [oracle.llama3(f, 8.0, 1.0, 4.0, 240) / f for f in plain], rtol=1e-14)


def test_linear_scaling_divides_positions() -> None:
    q, _, positions = draw(6)
    found = rope(jnp.asarray(q), positions, scaling=LinearScaling(4.0))
    np.testing.assert_allclose(found, rope(jnp.asarray(q), positions / 4), **F32)


@pairings
@few
@seeds
def test_rope_keeps_norms_and_scores_know_distances_only(pairing: Any, seed: int) -> None:
    q, k, positions = draw(seed)
    turned = rope(jnp.asarray(q), positions, pairing=pairing)
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), np.linalg.norm(q, axis=-1), **F32)

    def scores(query_shift: int, key_shift: int) -> Any:
        shifted = ((q, positions + query_shift), (k, positions + key_shift))
        a, b = (rope(jnp.asarray(x), at, pairing=pairing) for x, at in shifted)
        return attend_with_aux(a, b, b, want=("scores",))[1].scores

    np.testing.assert_allclose(scores(0, 0), scores(37, 37), **F32)
    assert np.abs(scores(0, 0) - scores(1, 0)).max() > 1e-2


def test_rope_of_one_repeated_vector_has_scores_that_are_constant_along_diagonals() -> None:
    q, k = (jnp.broadcast_to(jnp.asarray(x[:1, :1]), (1, 8, N, H)) for x in draw(3)[:2])
    a, b = (rope(x, jnp.arange(8)) for x in (q, k))
    scores = np.asarray(attend_with_aux(a, b, b, want=("scores",))[1].scores)
    np.testing.assert_allclose(scores[..., 1:, 1:], scores[..., :-1, :-1], **F32)
    assert np.abs(scores[..., 0, 0] - scores[..., 5, 0]).max() > 1e-2


def test_rope_pairings_differ_by_a_permutation() -> None:
    q, _, positions = draw(4)
    order = np.arange(H).reshape(2, -1).T.reshape(-1)  # half pairs (f, f + H/2), laid side by side
    half = rope(jnp.asarray(q), positions, pairing="half")
    adjacent = rope(jnp.asarray(q[..., order]), positions, pairing="adjacent")
    np.testing.assert_allclose(adjacent, half[..., order], **F32)


def test_rope_keeps_dtypes_and_position_zero() -> None:
    q, _, positions = draw(5)
    low = rope(jnp.asarray(q, jnp.bfloat16), positions)
    assert low.dtype == jnp.bfloat16
    # The input is exact and all else float32, so only the result is rounded, to 8 significant bits.
    exact = oracle.rope(np.asarray(jnp.asarray(q, jnp.bfloat16), np.float64), positions, 10000.0, "half")
    np.testing.assert_allclose(low.astype(jnp.float32), exact, rtol=2**-8, atol=1e-4)
    with jax.enable_x64(True):
        wide = rope(jnp.asarray(q, jnp.float64), positions)
        assert wide.dtype == jnp.float64
        # float64: angles up to 100 are off by 100 * 2^-53.
        np.testing.assert_allclose(wide, oracle.rope(q.astype(float), positions, 10000.0, "half"), atol=1e-13)
    np.testing.assert_array_equal(rope(jnp.asarray(q), np.zeros(T)), q)


@pytest.mark.parametrize("n_heads", [1, 2, 3, 4, 6, 8, 12, 16, 40])
def test_alibi_slopes(n_heads: int) -> None:
    found = alibi_slopes(n_heads)
    assert found.shape == (n_heads,)
    np.testing.assert_allclose(found, oracle.alibi_slopes(n_heads), rtol=1e-6)  # float32
    assert np.unique(found).size == n_heads


def test_alibi_slopes_of_eight_heads_are_halvings() -> None:
    np.testing.assert_array_equal(alibi_slopes(8), 0.5 ** np.arange(1, 9))


def test_alibi_is_constant_along_diagonals_and_falls_with_distance() -> None:
    bias = np.asarray(alibi_bias(alibi_slopes(4), 6, 6))
    assert bias.shape == (1, 4, 6, 6)
    np.testing.assert_array_equal(bias[..., 1:, 1:], bias[..., :-1, :-1])
    assert np.all(np.diagonal(bias, axis1=2, axis2=3) == 0)
    assert np.all(np.diff(bias[0, :, -1]) > 0)
    np.testing.assert_array_equal(bias[0, :, 5, 2], -3 * np.asarray(alibi_slopes(4)))
    np.testing.assert_array_equal(bias, np.swapaxes(bias, 2, 3))


@pytest.mark.parametrize("make", [lambda **o: alibi_bias(alibi_slopes(2), **o), lambda **o: t5_bias(TABLE, **o)])
def test_biases_of_a_decoding_step_are_the_last_row(make: Any) -> None:
    full = make(queries=7, keys=7)
    np.testing.assert_array_equal(make(queries=1, keys=7), full[:, :, -1:])
    offsets = make(queries=1, keys=7, query_offset=jnp.array([2, 5]))
    np.testing.assert_array_equal(offsets[:, :, 0], np.stack([full[0, :, 2], full[0, :, 5]]))


TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(32, 2)), jnp.float32)


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (32, 1024), (8, 64), (7, 50), (2, 9)])
def test_t5_buckets_are_those_of_the_logarithm(buckets: int, max_distance: int) -> None:
    lag = np.arange(-3, 2 * max_distance)
    found = np.asarray(t5_buckets(lag, buckets, max_distance))
    np.testing.assert_array_equal(found, [oracle.t5_bucket(int(n), buckets, max_distance) for n in lag])
    assert np.all(np.diff(found) >= 0)
    small = np.arange(buckets // 2)
    np.testing.assert_array_equal(t5_buckets(small, buckets, max_distance), small)
    assert np.all(found[lag >= max_distance] == buckets - 1)
    assert np.all(found[lag < 0] == 0)


def test_t5_bias_looks_the_bucket_up() -> None:
    bias = np.asarray(t5_bias(TABLE, 150, 150))
    assert bias.shape == (1, 2, 150, 150)
    for i, j in ((0, 0), (9, 3), (149, 120), (149, 0), (3, 9)):
        np.testing.assert_array_equal(bias[0, :, i, j], TABLE[oracle.t5_bucket(i - j, 32, 128)])


@pytest.mark.parametrize("bias", [alibi_bias(alibi_slopes(2), 4, 4), t5_bias(TABLE, 4, 4)])
def test_biases_pass_through_attend(bias: Any) -> None:
    zero = jnp.zeros((1, 4, 2, 3))
    _, aux = attend_with_aux(zero, zero, zero, mask=Causal(), bias=bias, want=("scores",))
    np.testing.assert_array_equal(aux.scores, bias)
    assert attend(zero, zero, zero, mask=Causal(), bias=bias).shape == (1, 4, 2, 3)


def test_sinusoidal() -> None:
    # float32 results of float64 angles.
    np.testing.assert_allclose(sinusoidal(30, 8), oracle.sinusoidal(30, 8), atol=1e-7)
    np.testing.assert_array_equal(sinusoidal(3, 4)[0], [0, 1, 0, 1])


X = jnp.zeros((B, T, N, H))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rope(jnp.zeros((B, T, N, 5)), jnp.arange(T)), "x must have shape .* with H even"),
        (lambda: rope(jnp.zeros((T, N, H)), jnp.arange(T)), "x must have shape"),
        (lambda: rope(X, jnp.arange(T + 1)), "positions must have shape"),
        (lambda: rope(X, jnp.arange(T), base=1.0), "base must be a finite number above 1, but is 1.0"),
        (lambda: rope(X, jnp.arange(T), pairing="odd"), "pairing must be half or adjacent, but is 'odd'"),
        (lambda: LinearScaling(0.0), "factor must be a positive finite number, but is 0.0"),
        (lambda: Llama3Scaling(8.0, 4.0, 4.0, 8192), "low_freq_factor must be below high_freq_factor=4.0, but is 4.0"),
        (lambda: Llama3Scaling(8.0, 1.0, float("nan"), 9), "high_freq_factor must be a positive finite number"),
        (lambda: Llama3Scaling(8.0, 1.0, 4.0, 0), "original_max_position must be a whole number of at least 1"),
        (lambda: alibi_slopes(0), "n_heads must be a whole number of at least 1, but is 0"),
        (lambda: alibi_bias(jnp.ones((1, 2)), 3, 3), "slopes must have shape"),
        (lambda: alibi_bias(jnp.ones(2), 3, 3, query_offset=-1), "query_offset must not be negative"),
        (lambda: t5_buckets(np.arange(3), buckets=1), "buckets must be a whole number of at least 2"),
        (lambda: t5_buckets(np.arange(3), 32, 16), "max_distance must be a whole number of at least 17"),
        (lambda: t5_buckets(np.arange(3.0)), "lag must be of whole numbers"),
        (lambda: t5_bias(jnp.ones(32), 3, 3), "table must have shape"),
        (lambda: sinusoidal(0, 4), "length must be a whole number of at least 1"),
        (lambda: sinusoidal(4, 5), "size must be even, but is 5"),
    ],
)
def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
