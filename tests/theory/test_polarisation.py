"""The flow of the value-softmax model and its closed forms against slower ways to get them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import expit
from scipy.stats import entropy

from theory import polarisation
from theory.calculations.polarisation import Polarisation

KINDS = list(polarisation.WEIGHTS)
INSTANCES, WIDTH, VALUES = 3, 2, 5
TIME = 30.0
SMALL = {"instances": INSTANCES, "values": VALUES, "width": WIDTH, "decades": (0.0, 1.0)}


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def weights(kind, logits):
    if kind == "softmax":
        return np.exp(logits) / np.exp(logits).sum()
    return expit(logits) if kind == "sigmoid" else logits


def instance(seed):
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(INSTANCES, WIDTH))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction, rng.normal(size=(INSTANCES, WIDTH, VALUES)), rng.normal(size=(INSTANCES, VALUES))


def reduced(kind, u, logits, time):
    """The flow of (u, a), one instance from t = 0, written out for each kind: [2, n] at `time`."""

    def velocity(_, state):
        u, a = np.split(state, 2)
        w = weights(kind, a)
        slope = expit(-w @ u)
        jacobian = {"softmax": np.diag(w) - np.outer(w, w), "linear": np.eye(len(w)), "sigmoid": np.diag(w * (1 - w))}
        return slope * np.concatenate([w, jacobian[kind] @ u])

    solved = solve_ivp(velocity, (0, time), np.concatenate([u, logits]), method="DOP853", rtol=1e-11, atol=1e-12)
    return solved.y[:, -1].reshape(2, -1)


def test_velocity_is_the_derivative():
    direction, value, logits = instance(1)
    u = np.einsum("id,idn->in", direction, value)
    found = polarisation.flow_velocity(
        jnp.asarray(0), jnp.asarray(direction), (jnp.asarray(value), jnp.asarray(logits)), jnp.asarray(np.log(2.0))
    )
    d_u, d_logits = polarisation.velocity(u, logits)
    np.testing.assert_allclose(np.einsum("id,idn->in", direction, found[0]), 2 * d_u, rtol=1e-12)
    np.testing.assert_allclose(found[1], 2 * d_logits, rtol=1e-10, atol=1e-14)

    def loss(u, a):
        return np.log1p(np.exp(-weights("softmax", a) @ u))

    step = 1e-5
    for i in range(INSTANCES):
        for k, unit in enumerate(np.eye(VALUES) * step):
            by_u = loss(u[i] - unit, logits[i]) - loss(u[i] + unit, logits[i])
            by_a = loss(u[i], logits[i] - unit) - loss(u[i], logits[i] + unit)
            # Central differences: step^2, and rounding over step.
            np.testing.assert_allclose([by_u / 2 / step, by_a / 2 / step], [d_u[i, k], d_logits[i, k]], atol=1e-9)


def test_ranking():
    np.testing.assert_array_equal(polarisation.ranking(np.array([[0.3, -1.0, 2.0]])), [[1, 0, 2]])


def closed(c, s):
    """(u, w) where the losers are 1/w_i = G (c_i + S) and all D_i equal: the closed solution itself."""
    c = np.asarray(c)
    grown = np.polynomial.Polynomial.fromroots(-c)
    big_t = grown.integ()(s)
    inverse = grown(s) * (c + s)
    u = np.zeros(len(c) + 1)
    u[2] = np.sqrt(2 * big_t)
    return u, np.insert(1 / inverse, 2, 1 - (1 / inverse).sum())


@pytest.mark.parametrize("s", [100.0, 1000.0])
def test_the_weight_lost_is_right_to_second_order(s):
    c = np.array([-3.0, -1.0, 0.5, 1.0, 2.5])  # whose mean is 0: the start of T is a free choice
    u, w = closed(c, s)
    predicted = polarisation.weight_lost(u, w)
    m, spread = len(c), c.std() / s
    # The next order is 2 C^3 / (m - 2) times the skewness, here below one; what 1/w_i > 0 adds is far smaller.
    assert predicted == pytest.approx(np.delete(w, 2).sum(), rel=2 * spread**3)
    leading = 2 * m / ((m + 1) * u[2] ** 2)
    assert np.delete(w, 2).sum() / leading - 1 == pytest.approx(-(spread**2) / (m - 1), rel=5 * spread)


def test_the_weight_lost_with_unequal_gaps():
    # The equation of the losers in log T, from a spread that goes with the gaps.
    m, n, ends = 7, 8, np.log([1e3, 1e7])
    away = np.linspace(-1, 1, m)

    def ratios(log_t):
        return 3 * away / np.sqrt(2 * np.exp(log_t))

    def velocity(log_t, log_x):
        x, ahead = np.exp(log_x), 1 + ratios(log_t)
        return np.exp(log_t) * (ahead / x + (ahead / x).sum())

    start = np.log(n * np.exp(ends[0]) * (1 + 0.1 * away))
    solved = solve_ivp(velocity, ends, start, rtol=1e-11, atol=1e-12, t_eval=[ends[1]])
    lost = np.exp(-solved.y[:, -1])
    gap = np.sqrt(2 * np.exp(ends[1])) * (1 + ratios(ends[1]))
    u, w = np.append(-gap, 0.0), np.append(lost, 1 - lost.sum())
    predicted = polarisation.weight_lost(u, w)
    inverse = 1 / lost / (1 / lost).mean() - 1
    covariance = (ratios(ends[1]) * inverse).mean()
    # What is left out: the square of the gaps' spread, the fourth power of the other, and from the start T0/T times its
    # square.
    left_out = (ratios(ends[1]) ** 2).mean() + inverse.std() ** 4 + 0.1**2 * np.exp(ends[0] - ends[1])
    assert predicted == pytest.approx(lost.sum(), rel=2 * left_out)
    assert 2 * m * n / (n - 2) ** 2 * covariance > 20 * left_out, "the term would not be seen"


def test_entropy():
    for log_time, n in ((100.0, 8), (1000.0, 3)):
        w = 2 / (n * log_time**2)
        exact = entropy([1 - (n - 1) * w, *[w] * (n - 1)])
        found = float(polarisation.entropy(np.array(log_time), n))
        # Left out is half the square of the weight lost.
        assert found == pytest.approx(exact, rel=(n - 1) * w)
        step = 1e-4
        near = np.log(polarisation.entropy(log_time * np.exp([-step, step]), n))
        slope = float(polarisation.entropy_slope(np.array(log_time), n))
        assert np.diff(near)[0] / (2 * step) == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_linear_weights(seed):
    _, value, logits = instance(seed)
    u, a = value[0, 0], logits[0]
    late_u, late_a = reduced("linear", u, a, TIME)
    # 1e-11 a step over some tens of steps.
    np.testing.assert_allclose(polarisation.linear_logits(u, a, np.array(late_u @ late_a)), late_a, atol=1e-8)
    np.testing.assert_allclose(polarisation.linear_logits(u, a, np.array(u @ a)), a, atol=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_the_sigmoid_model_conserves(seed):
    _, value, logits = instance(seed)
    u, a = value[0, 0], logits[0]
    late = reduced("sigmoid", u, a, TIME)
    # 1e-11 a step over some tens of steps.
    np.testing.assert_allclose(polarisation.sigmoid_conserved(*late), polarisation.sigmoid_conserved(u, a), atol=1e-8)
    assert np.abs(late - [u, a]).max() > 0.1


def test_share_entropy():
    w = np.array([[1.0, -3.0, 2.0], [0.0, 0.0, 5.0]])
    np.testing.assert_allclose(polarisation.share_entropy(w), entropy(np.abs(w), axis=1), atol=1e-15)


def test_mistakes():
    inputs = [jnp.asarray(x) for x in (*instance(0), np.ones(1))]
    with jax.enable_x64(False), pytest.raises(ValueError, match="needs float64"):
        polarisation.gradient_flow(jnp.asarray(0), *inputs)


# The calculation ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_follow_from_the_seed_and_the_reduced_model(kind):
    calculation = Polarisation(kind, "random", **SMALL)
    first, again, other = (calculation.arrays(seed) for seed in (0, 0, 1))
    assert set(first) == {"u_start", "logits_start", "log_time", "u", "logits", "weights", "d_u", "d_logits"}
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert not np.array_equal(first["u"], other["u"])
    assert first["u"].shape == first["weights"].shape == (2, INSTANCES, VALUES)
    np.testing.assert_allclose(first["weights"][0, 0], weights(kind, first["logits"][0, 0]), rtol=1e-14)
    np.testing.assert_allclose(np.exp(first["log_time"]), [2.0, 11.0])
    for i in range(INSTANCES):
        expected = reduced(kind, first["u_start"][i], first["logits_start"][i], 10.0)
        # 1e-10 and 1e-11 a step over some tens of steps.
        np.testing.assert_allclose([first["u"][-1, i], first["logits"][-1, i]], expected, atol=1e-8)


def test_the_starts_differ():
    assert (Polarisation(**SMALL).arrays(0)["logits_start"] == 0).all()
    assert (Polarisation("linear", **SMALL).arrays(0)["logits_start"] == 1 / VALUES).all()
    assert np.ptp(Polarisation(start="random", **SMALL).arrays(0)["logits_start"]) > 0
