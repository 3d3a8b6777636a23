"""The identities and bounds against loops, the bounds attained and not exceeded, and what the calculations store."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import identities as oracle

from theory import bounds, identities
from theory.calculations import bounds as bound_calculations
from theory.calculations import identities as calculations
from theory.claims import exactness

# Twenty operations in float64, each off by 1.1e-16 of numbers of the order of one.
CLOSE = {"rtol": 1e-12, "atol": 1e-13}
B, T, S, N, K, H = 2, 3, 4, 4, 2, 3
seeds = given(seed=st.integers(0, 2**32 - 1))
few = settings(max_examples=20)


def draw(seed):
    """Scores [B, N, T, S], what is visible [B, N, T, S] with a row that sees nothing, values [B, S, N, H]."""
    rng = np.random.default_rng(seed)
    visible = rng.uniform(size=(B, N, T, S)) < 0.6
    visible[:, :, 1] = False
    return rng, 2 * rng.normal(size=(B, N, T, S)), visible, rng.normal(size=(B, S, N, H))


def rows():
    return np.ndindex(B, N, T)


def by_row(function):
    """[B, N, T, ...] of what the function makes of each row's index."""
    found = [function(*index) for index in rows()]
    return np.array(found).reshape(B, N, T, *np.shape(found[0]))


# Identities -----------------------------------------------------------------------------------------------------
@few
@seeds
def test_a_gate_of_softmax_is_a_sink_logit(seed):
    rng, scores, visible, values = draw(seed)
    sink = rng.normal(size=N)
    lse = by_row(lambda *i: oracle.log_sum_exp(scores[i], visible[i]))
    gate = identities.sink_gate(lse, sink[:, None])

    def output(b, n, t, constant):
        return oracle.average(oracle.row(scores[b, n, t], visible[b, n, t], constant), values[b, :, n])

    plain = by_row(lambda *i: output(*i, 0.0))
    sunk = by_row(lambda b, n, t: output(b, n, t, np.exp(sink[n])))
    np.testing.assert_allclose(gate[..., None] * plain, sunk, **CLOSE)
    assert (gate[:, :, 1] == 0).all()


@pytest.mark.parametrize("n", [0.25, 1.0, 7.0])
def test_a_constant_in_the_denominator_is_the_sink_logit_of_its_logarithm(n):
    _, scores, visible, _ = draw(0)
    lse = by_row(lambda *i: oracle.log_sum_exp(scores[i], visible[i]))
    mass = by_row(lambda *i: sum(oracle.row(scores[i], visible[i], n)))
    np.testing.assert_allclose(identities.sink_gate(lse, identities.equivalent_sink(np.array(n))), mass, **CLOSE)


@pytest.mark.parametrize("softcap", [None, 0.7])
def test_a_slot_is_its_sink_logit_and_its_value(softcap):
    rng, scores, visible, values = draw(1)
    q, key, value = rng.normal(size=(B, T, N, H)), rng.normal(size=(B, K, H)), rng.normal(size=(B, K, H))

    def slot_score(b, n, t):
        score = sum(q[b, t, n, h] * key[b, n // 2, h] for h in range(H)) / H**0.5
        return score if softcap is None else softcap * np.tanh(score / softcap)

    logit = identities.slot_logit(q, key, softcap)
    np.testing.assert_allclose(logit, by_row(slot_score), **CLOSE)
    lse = by_row(lambda *i: oracle.log_sum_exp(scores[i], visible[i]))

    def outputs(b, n, t):
        i = b, n, t
        constant = np.exp(logit[i])
        sunk = oracle.average(oracle.row(scores[i], visible[i], constant), values[b, :, n])
        whole = oracle.slot_output(scores[i], visible[i], values[b, :, n], logit[i], value[b, n // 2])
        return np.subtract(whole, sunk)

    added = identities.slot_addition(lse, logit, value)
    np.testing.assert_allclose(np.swapaxes(added, 1, 2), by_row(outputs), **CLOSE)
    np.testing.assert_allclose(added[:, 1, ::2], value, **CLOSE)  # the row that sees nothing else


def test_clipping():
    weights = np.array([0.0, 0.02, 0.3, 0.95, 1.0])
    np.testing.assert_array_equal(identities.clipped(weights, 0.0, 1.0), weights)
    by_hand = [min(max((1.2 + 0.1) * w - 0.1, 0.0), 1.0) for w in weights]
    np.testing.assert_allclose(identities.clipped(weights, -0.1, 1.2), by_hand, **CLOSE)


@pytest.mark.parametrize("length", [2, 7, 64])
def test_mass_of_the_first_key(length):
    assert identities.first_key_mass(length) == pytest.approx(oracle.first_key_mass(length), rel=1e-13)
    others = identities.first_key_mass_of_others(length)
    assert others == pytest.approx(oracle.first_key_mass(length, first_query=1), rel=1e-13)


@few
@seeds
def test_a_shift_moves_rows_with_a_null_column_alone(seed):
    rng, scores, visible, _ = draw(seed)
    shift = rng.uniform(-2, 2, (B, N, T, 1))
    for constant, moves in ((0.0, False), (2.0, True)):
        before = by_row(lambda *i, c=constant: oracle.row(scores[i], visible[i], c))
        after = by_row(lambda *i, c=constant: oracle.row(scores[i] + shift[i], visible[i], c))
        np.testing.assert_allclose(identities.shifted_weights(before, shift), after, **CLOSE)
        assert np.allclose(before, after, **CLOSE) != moves


# Bounds ---------------------------------------------------------------------------------------------------------
@few
@given(seed=st.integers(0, 2**32 - 1), cap=st.floats(0.01, 10.0), keys=st.integers(1, 8))
def test_bounded_scores_bound_the_weights(seed, cap, keys):
    bound = float(bounds.largest_weight(np.array(keys), cap))
    scores = np.random.default_rng(seed).uniform(-cap, cap, keys)
    assert max(oracle.row(scores, [True] * keys)) <= bound * (1 + 1e-12)
    extremal = np.where(np.arange(keys) == 0, cap, -cap)
    assert max(oracle.row(extremal, [True] * keys)) == pytest.approx(bound, rel=1e-12)


@few
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([0.01, 1.0, 30.0]), eps=st.sampled_from([1e-6, 0.1]))
def test_the_norm_s_jacobian_is_bounded(seed, size, eps):
    rng = np.random.default_rng(seed)
    x, gain = size * rng.normal(size=5), rng.normal(size=5)

    def norm(x):
        quotients = oracle.difference_quotients(lambda y: oracle.rms_norm(y, gain, eps), list(x), 1e-5 * size)
        return np.linalg.norm(quotients, 2)

    # Central differences: (1e-5)^2 of third derivatives that are a few times the first.
    assert norm(x) <= bounds.rms_norm_jacobian(x, gain, eps) * (1 + 1e-8)
    x[np.argmax(np.abs(gain))] = 0.0
    assert norm(x) == pytest.approx(bounds.rms_norm_jacobian(x, gain, eps), rel=1e-8)


@few
@seeds
def test_a_first_row_lifts_the_leading_singular_value_and_bounds_the_entropy(seed):
    rng = np.random.default_rng(seed)
    first, rest = rng.normal(size=5) * rng.choice([0.1, 1.0, 10.0]), rng.normal(size=(3, 5))
    alpha = bounds.alignment(first, rest)
    assert alpha == pytest.approx(oracle.alignment(first, rest), rel=1e-12)
    squares = np.linalg.svd(np.vstack([first, rest]), compute_uv=False) ** 2
    m, r = sum(u * u for u in first), sum(u * u for x in rest for u in x)
    bound = bounds.leading_singular_value(first, rest, alpha)
    assert bound == pytest.approx(m + oracle.alignment(first, rest) * r, rel=1e-12)
    assert bound <= squares[0] * (1 + 1e-12)
    share = squares / squares.sum()
    assert -(share * np.log(share)).sum() <= bounds.matrix_entropy(m / r, alpha, np.array(4)) * (1 + 1e-12)


def test_the_bound_on_the_entropy_is_that_of_one_share_and_an_even_rest():
    p = (2.0 + 0.3) / (2.0 + 1.0)
    expected = oracle.entropy_of_spread(p, 5)
    assert bounds.matrix_entropy(np.array(2.0), np.array(0.3), np.array(5)) == pytest.approx(expected, rel=1e-13)
    # It rises to log r at p = 1/r and falls from there on.
    found = bounds.matrix_entropy(np.array([0.05, 0.25, 1.0, 100.0]), np.array(0.0), np.array(5))
    assert found.argmax() == 1
    assert found[1] == pytest.approx(np.log(5), rel=1e-13)


def test_path_sums_are_sums_over_paths():
    rng = np.random.default_rng(3)
    layers, heads, tokens = 3, 2, 3
    weights = np.tril(rng.uniform(size=(1, layers, heads, tokens, tokens)))
    rho, signs = rng.uniform(size=(1, layers, heads, tokens)), rng.choice([-1, 1], weights.shape)
    for found, options in (
        (bounds.path_factors(weights), lambda layer: {"weights": weights[0, layer]}),
        (
            bounds.path_factors_beside_sink(weights, rho),
            lambda layer: {"weights": weights[0, layer], "rho": rho[0, layer]},
        ),
        (
            bounds.signed_path_factors(weights * signs),
            lambda layer: {"weights": (weights * signs)[0, layer], "signed": True},
        ),
    ):
        steps = [
            [[oracle.factor(i=i, j=j, **options(layer)) for j in range(tokens)] for i in range(tokens)]
            for layer in range(layers)
        ]
        np.testing.assert_allclose(found[0], steps, **CLOSE)
        sums = bounds.path_sum(found, np.array([1.5]))
        by_paths = [[oracle.path_sum(steps, 1.5, n, i) for i in range(tokens)] for n in range(tokens)]
        np.testing.assert_allclose(sums[0], by_paths, **CLOSE)


def test_a_sink_multiplies_the_steps_between_tokens_and_leaves_the_residual():
    weights = np.tril(np.random.default_rng(4).uniform(size=(2, 5, 5)))
    plain = bounds.path_factors(weights)
    beside = bounds.path_factors_beside_sink(weights, np.full((2, 5), 0.7))
    between = ~np.eye(5, dtype=bool)
    np.testing.assert_allclose(beside[between], 0.3 * plain[between], **CLOSE)
    np.testing.assert_allclose(np.diag(beside) - 1, 0.3 * (np.diag(plain) - 1), **CLOSE)


@few
@seeds
def test_jacobians_of_gated_values(seed):
    value, weight = np.random.default_rng(seed).normal(size=(2, 4))
    quotients = oracle.difference_quotients(lambda v: oracle.gated(v, weight), list(value))
    # (1e-5)^2 of third derivatives below 10, and rounding of 1e-16 / 1e-5.
    np.testing.assert_allclose(bounds.value_gated_jacobian(value, weight), quotients, atol=1e-8)
    logit = np.dot(value, weight)
    fixed = bounds.input_gated_jacobian(np.array(logit), 4)
    np.testing.assert_allclose(fixed @ value, oracle.gated(value, weight), **CLOSE)
    second = bounds.value_gated_jacobian(value, weight) - fixed
    assert np.linalg.matrix_rank(second, tol=1e-10) == 1


# Calculations ---------------------------------------------------------------------------------------------------
SPECS = [
    (calculations.SinkGate(), {"output", "softmax_output", "row_mass", "lse", "sink"}),
    (
        calculations.ExtraKey(),
        {"softmax_output", "softmax_1", "sink_zero", "extra_key", "softmax_n", "constants", "lse", "extra_mass"},
    ),
    (calculations.KeyValueSlot(), {"output", "sink_output", "logit", "mass", "lse", "query", "key", "value"}),
    (
        calculations.Clipping(),
        {"output", "softmax_output", "weights", "softmax_weights", "visible", "interval"},
    ),
    (calculations.FirstKeyMass(), {"lengths", "mass", "mass_of_others", "baseline", "baseline_of_others"}),
    (calculations.Shift(), {"difference"}),
    (calculations.ShiftedRows(), {"before", "after", "shift", "dead", "moves"}),
    (bound_calculations.LargestWeight(), {"caps", "largest"}),
    (bound_calculations.NormJacobian(), {"x", "gain", "jacobian", "eps"}),
    (bound_calculations.Spectrum(), {"ratios", "first", "rest", "mirrors", "leading", "entropy", "rank"}),
    (bound_calculations.PathJacobian(), {"jacobian", "weights", "sink_mass", "growth", "turn"}),
    (bound_calculations.ValueGate(), {"jacobian", "weights", "value", "gate_weight", "logit", "shut"}),
]
# The mean masses of equal keys are the same for every seed, up to rounding.
CONSTANT = {"FirstKeyMass", "Shift"}


@pytest.mark.parametrize(("spec", "names"), SPECS, ids=lambda part: type(part).__name__)
def test_a_calculation_stores_what_it_says_and_depends_on_its_seed_alone(spec, names):
    with jax.enable_x64(True):
        first, again, other = (
            {name: np.asarray(values) for name, values in spec.arrays(seed).items()} for seed in (3, 3, 4)
        )
    assert set(first) == names
    assert all(f'"{name}"' in type(spec).__doc__ for name in names)
    for name in names:
        np.testing.assert_array_equal(first[name], again[name])
        assert first[name].dtype in (np.float64, np.int64, np.bool_)
        assert np.isfinite(first[name]).all() or name == "lse"  # -inf where a query sees no key
    changed = any(not np.array_equal(first[name], other[name]) for name in names)
    assert changed or type(spec).__name__ in CONSTANT
    assert str(spec.instances) in spec.label
    assert sum(values.nbytes for values in first.values()) < 1e6


def test_the_invariant_maps_are_those_that_say_so():
    assert all(variant.properties.shift_invariant for variant in calculations.INVARIANT)
    assert not any(variant.properties.shift_invariant for variant in calculations.MOVING)


# Measures -------------------------------------------------------------------------------------------------------
def test_measures_of_equality_and_bounds():
    arms = {"arm": SimpleNamespace(arrays={"found": np.array([1.0, -2.0]), "other": np.array([1.0, -2.2])})}
    sides = lambda left, right: lambda a: (a["arm"].arrays[left], a["arm"].arrays[right])  # noqa: E731
    assert exactness.equal("x", sides("found", "found")).extract(arms) == 2.0**-53
    assert exactness.unequal("x", sides("found", "other"), 0.1).extract(arms) == pytest.approx(0.2 / 2.2)
    assert exactness.within("x", lambda a: a["arm"].arrays["found"]).extract(arms) == 1.0
    assert exactness.attained("x", lambda a: a["arm"].arrays["found"]).extract(arms) == -2.0


def test_the_paper_tier_has_four_times_the_instances():
    evidence = exactness.evidence(arm=calculations.SinkGate(instances=3, heads_away=1))
    assert evidence["quick"]["arm"] == calculations.SinkGate(instances=3, heads_away=1)
    assert evidence["paper"]["arm"] == dataclasses.replace(evidence["quick"]["arm"], instances=12)
