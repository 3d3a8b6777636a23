"""Every optimiser against its published update as a float64 loop, on a quadratic whose gradient moves with it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsink.models import Transformer, TransformerConfig, init
from jaxsink.training import SGD, Adam, AdamW, Muon, SignSGD

STEPS = 12
# Loss 1/2 sum_i CURVATURE_i (x_i - TARGET_i)^2, started far from the target so that no gradient changes its sign:
# the sign of a gradient that is nothing but rounding is no number to compare.
CURVATURE = np.array([0.3, 1.0, 2.5, 0.05])
TARGET = np.array([40.0, -30.0, 25.0, 60.0])
START = np.array([1.0, -2.0, 0.5, 3.0])


def adam_loop(x, rate, b1, b2, eps, decay):
    """1412.6980, algorithm 1; `decay` decoupled as in 1711.05101, algorithm 2, scaled by the rate."""
    first, second = [0.0] * len(x), [0.0] * len(x)
    for t in range(1, STEPS + 1):
        for i in range(len(x)):
            g = CURVATURE[i] * (x[i] - TARGET[i])
            first[i] = b1 * first[i] + (1 - b1) * g
            second[i] = b2 * second[i] + (1 - b2) * g * g
            direction = first[i] / (1 - b1**t) / (math.sqrt(second[i] / (1 - b2**t)) + eps)
            x[i] = x[i] - rate * direction - rate * decay * x[i]
    return x


def sgd_loop(x, rate, momentum, decay):
    """Heavy ball whose velocity takes in the decayed gradient, undamped."""
    velocity = [0.0] * len(x)
    for _ in range(STEPS):
        for i in range(len(x)):
            g = CURVATURE[i] * (x[i] - TARGET[i]) + decay * x[i]
            velocity[i] = momentum * velocity[i] + g
            x[i] -= rate * velocity[i]
    return x


def sign_loop(x, rate, decay):
    """1802.04434, algorithm 1, with decoupled decay."""
    for _ in range(STEPS):
        for i in range(len(x)):
            g = CURVATURE[i] * (x[i] - TARGET[i])
            x[i] = x[i] - rate * math.copysign(1.0, g) - rate * decay * x[i]
    return x


# Decays and rates far above the defaults, or their effect would drown in the tolerance.
CASES = {
    "AdamW": (AdamW(0.1, 0.8, 0.95, 1e-3, 0.3), lambda x: adam_loop(x, 0.1, 0.8, 0.95, 1e-3, 0.3)),
    "AdamW, defaults": (AdamW(), lambda x: adam_loop(x, 3e-4, 0.9, 0.99, 1e-8, 1e-4)),
    "Adam": (Adam(0.1, 0.8, 0.95, 1e-3), lambda x: adam_loop(x, 0.1, 0.8, 0.95, 1e-3, 0.0)),
    "Adam, defaults": (Adam(), lambda x: adam_loop(x, 3e-4, 0.9, 0.99, 1e-8, 0.0)),
    "SGD": (SGD(0.05, None, 0.3), lambda x: sgd_loop(x, 0.05, 0.0, 0.3)),
    "SGD with momentum": (SGD(0.05, 0.9, 0.3), lambda x: sgd_loop(x, 0.05, 0.9, 0.3)),
    "SGD, the paper's": (SGD(0.03, 0.9, 1e-4), lambda x: sgd_loop(x, 0.03, 0.9, 1e-4)),
    "SignSGD": (SignSGD(0.1, 0.3), lambda x: sign_loop(x, 0.1, 0.3)),
    "SignSGD, defaults": (SignSGD(), lambda x: sign_loop(x, 3e-4, 1e-4)),
}


def applied(transformation, params, gradient, steps):
    """Parameters after some steps along gradient(params)."""

    @jax.jit
    def step(params, state):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = transformation.update(gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    state = transformation.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params


def after(optimiser):
    """The quadratic's parameters, in two leaves of different rank, after STEPS steps in float32."""

    def split(x):
        return {"matrix": jnp.asarray(x[:2], jnp.float32).reshape(1, 2), "vector": jnp.asarray(x[2:], jnp.float32)}

    curvature, target = split(CURVATURE), split(TARGET)
    result = applied(
        optimiser.build(),
        split(START),
        lambda params: jax.tree.map(lambda a, x, c: a * (x - c), curvature, params, target),
        STEPS,
    )
    return np.concatenate([np.ravel(result["matrix"]), np.ravel(result["vector"])])


# Twelve float32 steps of a handful of roundings (6e-8) each on numbers below 100; SGD with momentum adds up to
# ten of them coherently.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.mark.parametrize(("optimiser", "loop"), CASES.values(), ids=CASES)
def test_an_optimiser_is_its_published_update(optimiser, loop):
    np.testing.assert_allclose(after(optimiser), loop(list(START)), **TOLERANCE)


@pytest.mark.parametrize(
    ("optimiser", "wrong"),
    [
        (AdamW(0.1, weight_decay=0.3), lambda x: adam_loop(x, 0.1, 0.9, 0.99, 1e-8, 0.0)),
        (SGD(0.05, 0.9, 0.3), lambda x: sgd_loop(x, 0.05, 0.9, 0.0)),
        (SGD(0.05, 0.9, 0.0), lambda x: sgd_loop(x, 0.05, 0.0, 0.0)),
        (SignSGD(0.1, 0.3), lambda x: sign_loop(x, 0.1, 0.0)),
    ],
    ids=["AdamW's decay", "SGD's decay", "SGD's momentum", "SignSGD's decay"],
)
def test_the_loops_notice_a_missing_part(optimiser, wrong):
    assert np.abs(after(optimiser) - wrong(list(START))).max() > 0.05


def test_the_defaults_are_the_paper_s():
    assert AdamW() == AdamW(rate=3e-4, b1=0.9, b2=0.99, eps=1e-8, weight_decay=1e-4)
    assert (SGD().rate, SGD().weight_decay) == (0.03, 1e-4)


# Muon -----------------------------------------------------------------------------------------------------------
MATRICES = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out")


@pytest.fixture(scope="module")
def network():
    """Parameters of a real network and two gradients of the same structure."""
    model = Transformer(7, 6, TransformerConfig(n_heads=2, d_model=8))
    params = jax.jit(lambda key: init(model, key))(jax.random.key(0))
    rng = np.random.default_rng(0)

    def gradient_of(x):
        # Rows and columns of very different size, so that singular values are, too.
        scales = [np.geomspace(1.0, 0.2, size).reshape(-1, *[1] * i) for i, size in enumerate(reversed(x.shape))]
        return jnp.asarray(rng.normal(size=x.shape) * np.prod(np.broadcast_arrays(*scales), axis=0), x.dtype)

    return params, [jax.tree.map(gradient_of, params) for _ in range(2)]


def by_name(tree):
    return {
        tuple(part.key for part in path): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def updates_of(optimiser, params, gradients):
    """The update of each of several steps, the parameters held where they are."""
    transformation = optimiser.build()

    @jax.jit
    def update(gradient, state):
        with jax.numpy_dtype_promotion("standard"):
            return transformation.update(gradient, state, params)

    state, found = transformation.init(params), []
    for gradient in gradients:
        updates, state = update(gradient, state)
        found.append(by_name(updates))
    return found


def newton_schulz(g):
    """Jordan 2024: five quintic steps with coefficients 3.4445, -4.7750, 2.0315 on g scaled to Frobenius norm 1."""
    transposed = g.shape[0] > g.shape[1]
    x = (g.T if transposed else g) / math.sqrt(float((g * g).sum()))
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if transposed else x


def test_muon_takes_the_matrices_of_the_blocks_and_no_others(network):
    params, gradients = network
    muon = Muon(rate=0.02, weight_decay=0.1, adam_rate=1e-3)
    (update,) = updates_of(muon, params, gradients[:1])
    (adam,) = updates_of(AdamW(1e-3, weight_decay=0.1), params, gradients[:1])
    weights = by_name(params)
    taken = {name for name in update if name[-1] in MATRICES}
    assert len(taken) == len(MATRICES)
    assert {("W_E",), ("W_pos",), ("W_U",), ("ln_final", "scale")} <= set(update) - taken
    for name in update:
        if name not in taken:
            # Two compilations of one formula, a few float32 roundings apart.
            np.testing.assert_allclose(update[name], adam[name], rtol=1e-5, err_msg=str(name))
            continue
        direction = -update[name] / muon.rate - muon.weight_decay * weights[name]
        singular = np.linalg.svd(direction, compute_uv=False)
        raw = np.linalg.svd(by_name(gradients[0])[name], compute_uv=False)
        # The quintic iteration does not converge: it leaves singular values between .68 and 1.2 of one.
        assert singular.min() > 0.6, name
        assert singular.max() < 1.25, name
        assert raw.max() / raw.min() > 5  # ... of a gradient whose singular values were far from equal


def test_muon_s_steps_are_orthogonalised_nesterov_momentum(network):
    params, gradients = network
    muon = Muon(rate=0.02, momentum=0.95, weight_decay=0.1)
    weights, g = by_name(params), [by_name(gradient) for gradient in gradients]
    steps = updates_of(muon, params, gradients)
    beta = 0.95
    for name in (n for n in weights if n[-1] in MATRICES):
        # Means of the past with their bias removed, the momentum's looked ahead one step as in NAdam: optax's way
        # of writing Nesterov. Scale does not matter to what follows, so the first step is that of the gradient.
        mean = (1 - beta) * g[0][name]
        directions = [g[0][name]]
        mean = beta * mean + (1 - beta) * g[1][name]
        directions.append(beta * mean / (1 - beta**3) + (1 - beta) * g[1][name] / (1 - beta**2))
        for step, direction in zip(steps, directions, strict=True):
            expected = -0.02 * (newton_schulz(direction) + 0.1 * weights[name])
            # Five float32 iterations, each of which multiplies an error by at most 3.4445: 6e-8 * 485, times .02.
            np.testing.assert_allclose(step[name], expected, rtol=0, atol=1e-6, err_msg=str(name))
