"""The compiled loop: chunks, seeds, ensembles, donation, and runs that stop and continue."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.models import TransformerConfig
from jaxsink.training import (
    SGD,
    Adam,
    AdamW,
    DirichletChain,
    Muon,
    SignSGD,
    TaskConfig,
    TrainConfig,
    make_program,
    restore,
    save,
    seed_keys,
    train,
)
from jaxsink.training.runs import build

CONFIG = TrainConfig(
    task=TaskConfig(DirichletChain(6, 0.5, 0), n_triggers=2),
    model=TransformerConfig(d_model=8),
    optimiser=AdamW(rate=1e-2),
    length=8,
    batch=4,
    steps=20,
    chunk_steps=5,
    probe_batch=8,
)


@pytest.fixture(scope="module")
def program():
    return build(CONFIG)[0]


def read(point):
    """A point as numpy: a yielded state is gone once the next one is asked for."""
    return jax.device_get((point.state, point.measured, point.loss))


def run(program, seed, points=(0, 10, 20), state=None):
    keys = seed_keys(seed)
    state = program.init(keys.init) if state is None else state
    return {point.step: read(point) for point in train(program, state, keys, points)}


def assert_same(left, right, **tolerance):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if tolerance:
            np.testing.assert_allclose(a, b, **tolerance)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole(program):
    """A run that never stopped."""
    return run(program, 0)


@pytest.mark.parametrize("chunk_steps", [1, 10])
def test_the_chunk_length_does_not_move_the_result(whole, chunk_steps):
    program, keys = build(dataclasses.replace(CONFIG, chunk_steps=chunk_steps))[0], seed_keys(0)
    state, losses = program.init(keys.init), []
    for _ in range(20 // chunk_steps):
        state, loss = program.chunk(state, keys.data)
        losses.append(float(loss))
    if chunk_steps == 1:
        # XLA may unroll a loop of one step and fuse it otherwise (it does in jax 0.12): roundings of 6e-8 a step,
        # which Adam's division carries on; 1e-7 was seen after these 20 steps.
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), jax.device_get(state), whole[20][0])
    else:
        # Bit for bit: the scan compiles the same step whatever its length, and a batch depends on its step alone.
        assert_same(jax.device_get(state), whole[20][0])
    assert int(state.step) == 20
    # The loss of a point is the mean over its chunk of 5: float32 numbers summed in one order or another.
    if chunk_steps == 1:
        np.testing.assert_allclose(whole[20][2], np.mean(losses[15:]), rtol=1e-6)


def test_equal_seeds_give_equal_numbers_and_others_do_not(program, whole):
    assert_same(run(program, 0), whole)
    other = run(program, 1)
    for step in whole:
        assert np.abs(other[step][0].params["W_E"] - whole[step][0].params["W_E"]).max() > 0.1
    assert not np.array_equal(other[20][2], whole[20][2])


def test_the_three_streams_of_a_seed_differ():
    keys = [jax.random.key_data(key).tobytes() for seed in range(3) for key in seed_keys(seed)]
    assert len(set(keys)) == 9
    assert [jax.random.key_data(k).tobytes() for k in seed_keys(0)] == keys[:3]


def test_an_ensemble_is_its_separate_runs(program, whole):
    together, _, _ = build(CONFIG, ensemble=True)
    keys = jax.tree.map(lambda *k: jnp.stack(k), seed_keys(0), seed_keys(1))
    points = {p.step: read(p) for p in train(together, together.init(keys.init), keys, (0, 20))}
    alone = [whole, run(program, 1)]
    for step in (0, 20):
        for member in range(2):
            found, expected = jax.tree.map(lambda x, i=member: x[i], points[step]), alone[member][step]
            # Batched matrix products sum in another order, one rounding (6e-8) each, which twenty steps of Adam
            # amplify where a gradient is small: 2e-6 was measured; twenty times that for other machines.
            assert_same(found, expected, rtol=4e-5, atol=4e-5)
    assert points[20][0].step.tolist() == [20, 20]


def test_loss_falls(program):
    points = run(program, 0, range(0, 301, 20))
    assert np.isnan(points[0][2])
    losses = [points[step][2] for step in sorted(points)][1:]
    # From the guess among seven tokens towards the entropy of the chain.
    assert losses[-1] < 0.7 * losses[0]
    assert points[300][1]["bigram"] < 0.3 * points[0][1]["bigram"]


# What compiles, and what is given away -------------------------------------------------------------------------
def toy(optimiser, chunk_steps=5):
    """A regression of two matrices whose names Muon knows and does not know, with traces counted."""
    traced = []

    def loss(state, batch):
        traced.append(batch.shape)
        return jnp.square(batch @ state.params["W_Q"] - state.params["b"][None, :]).mean()

    def init_params(key):
        return {"W_Q": jax.random.normal(key, (3, 3)), "b": jnp.ones(3)}

    def sample_many(keys):
        return jax.vmap(lambda key: jax.random.normal(key, (4, 3)))(keys)

    def measure(state, key):
        return {"norm": jnp.linalg.norm(state.params["W_Q"]), "draw": jax.random.normal(key)}

    return make_program(init_params, loss, sample_many, optimiser.build(), measure, chunk_steps), traced


OPTIMISERS = (AdamW(1e-2), Adam(1e-2), SGD(), SGD(momentum=0.9), SignSGD(1e-2), Muon())


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=repr)
def test_a_run_compiles_each_program_once_and_can_stop_and_continue(tmp_path, optimiser):
    # All jitted functions of a process share one cache: a long session before this test could evict what is counted.
    jax.clear_caches()
    program, traced = toy(optimiser)
    whole = run(program, 3, range(0, 41, 5))
    traces = len(traced)
    stopped = run(program, 3, range(0, 21, 5))
    assert_same(stopped, {step: whole[step] for step in stopped})
    save(tmp_path / "state", stopped[20][0])
    # Another seed's fresh state: nothing of it may survive.
    state = restore(tmp_path / "state", program.init(seed_keys(4).init))
    continued = run(program, 3, range(0, 41, 5), state)
    assert list(continued) == [25, 30, 35, 40]
    assert_same(continued, {step: whole[step] for step in continued})
    # A restored state traces nothing anew either: it has the dtypes, and the weak types, of one that was computed.
    assert len(traced) == traces
    assert {f: getattr(program, f)._cache_size() for f in ("chunk", "measure")} == {"chunk": 1, "measure": 1}


def test_a_network_s_run_that_stops_and_continues(tmp_path, program, whole):
    stopped = run(program, 0, (0, 10))
    save(tmp_path / "state", stopped[10][0])
    continued = run(program, 0, (15, 20), restore(tmp_path / "state", program.init(seed_keys(1).init)))
    assert list(continued) == [15, 20]
    assert_same(continued[20], whole[20])


def test_the_state_is_donated():
    program, _ = toy(AdamW())
    keys = seed_keys(0)
    state = program.init(keys.init)
    after, _ = program.chunk(state, keys.data)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(state.step)
    # Measuring takes nothing away.
    program.measure(after, keys.probe)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_points_behind_the_state_are_passed_over():
    program, _ = toy(SGD())
    points = run(program, 0, (0, 5, 15))
    assert [int(state.step) for state, _, _ in points.values()] == list(points) == [0, 5, 15]
    state = jax.tree.map(jnp.asarray, points[5][0])
    assert list(run(program, 0, (0, 15), state)) == [15]


def test_every_log_point_is_measured_on_the_same_draw():
    program, _ = toy(SGD())
    assert len({float(measured["draw"]) for _, measured, _ in run(program, 0, (0, 5, 10)).values()}) == 1
