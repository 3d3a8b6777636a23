"""Checkpoints: bit-exact, whole or absent, and never taken for those of another run."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.training import SGD, Adam, AdamW, Muon, SignSGD, restore, save
from jaxsink.training.loop import TrainState

OPTIMISERS = (AdamW(), Adam(), SGD(), SGD(momentum=0.9), SignSGD(), Muon())


def state_of(optimiser):
    """A state a few steps into a run, with counters, moments and parameters that are all different."""
    params = {"blocks_0": {"W_Q": jnp.array([[1.0, 2.0], [3.0, 5.0]])}, "W_U": jnp.array([0.1, 0.2, 0.3])}
    transformation = optimiser.build()

    @jax.jit
    def advanced(params):
        opt_state = transformation.init(params)
        for factor in (0.5, -0.3):
            gradient = jax.tree.map(lambda x, f=factor: f * x + 1.0, params)
            with jax.numpy_dtype_promotion("standard"):
                _, opt_state = transformation.update(gradient, opt_state, params)
        return opt_state

    return TrainState(params, advanced(params), jnp.int32(7), {"0": jnp.array([[7.0, 11.0]])})


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=repr)
def test_round_trip_of_a_training_state(tmp_path, optimiser):
    state = state_of(optimiser)
    save(tmp_path / "state.safetensors", state)
    # What is restored into holds other numbers: only its shapes may count.
    like = jax.tree.map(jnp.zeros_like, state)
    assert_same(restore(tmp_path / "state.safetensors", like), state)


@pytest.mark.parametrize(
    "leaf",
    [
        np.float32(0.1),
        np.array(-(2**31), np.int32),
        np.array([True, False]),
        np.array([0, 2**32 - 1], np.uint32),
        np.zeros((0, 3), np.float32),
        np.array([np.nan, np.inf, -0.0, 1e-45], np.float32),
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.ones((1, 1), np.int8),
    ],
    ids=["scalar", "int scalar", "bool", "unsigned", "empty", "special floats", "transposed", "small int"],
)
def test_round_trip_of_any_leaf(tmp_path, leaf):
    tree = {"nested": [leaf, (leaf,)], "other": jnp.ones(2)}
    save(tmp_path / "a", tree)
    found = restore(tmp_path / "a", tree)["nested"]
    for value in (found[0], found[1][0]):
        assert (value.shape, value.dtype) == (leaf.shape, leaf.dtype)
        assert np.asarray(value).tobytes() == leaf.tobytes()


TREE = {"a": jnp.arange(6, dtype=jnp.int32).reshape(2, 3), "b": jnp.ones(2)}


@pytest.mark.parametrize(
    ("like", "name"),
    [
        ({**TREE, "a": jnp.zeros((3, 2), jnp.int32)}, "a"),
        ({**TREE, "a": jnp.zeros((2, 3))}, "a"),
        ({"a": TREE["a"]}, "b"),
        ({**TREE, "c": jnp.ones(1)}, "c"),
        ({"a": TREE["a"], "z": TREE["b"]}, "b"),
    ],
    ids=["another shape", "another dtype", "an extra tensor", "a missing tensor", "another name"],
)
def test_a_checkpoint_of_another_run(tmp_path, like, name):
    save(tmp_path / "state", TREE)
    with pytest.raises(ValueError, match=rf"does not fit .* \(first difference: \['{name}'\]\)") as caught:
        restore(tmp_path / "state", like)
    assert str(caught.value).endswith("delete it to start afresh.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 40, -1], ids=["empty", "half a header", "no data", "a byte short"])
def test_a_truncated_checkpoint(tmp_path, keep):
    save(tmp_path / "state", TREE)
    whole = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(whole[:keep])
    with pytest.raises(ValueError, match="is not a whole checkpoint") as caught:
        restore(tmp_path / "state", TREE)
    assert str(caught.value).endswith("delete it to start afresh.")
    assert "\n" not in str(caught.value)


def refuses(*_):
    raise OSError("no space left")


def half_written(path, _):
    with path.open("wb") as file:
        file.write(b"half")
    raise OSError("no space left")


@pytest.mark.parametrize(
    ("where", "name", "fails"),
    [(os, "replace", refuses), (Path, "write_bytes", half_written)],
    ids=["before the rename", "while writing"],
)
def test_an_interrupted_save_leaves_the_old_file_whole(tmp_path, monkeypatch, where, name, fails):
    path = tmp_path / "state"
    save(path, TREE)
    newer = jax.tree.map(lambda x: x + 1, TREE)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fails)
        with pytest.raises(OSError, match="no space left"):
            save(path, newer)
    assert_same(restore(path, TREE), TREE)
    assert [file.name for file in tmp_path.iterdir()] == ["state"]
    save(path, newer)
    assert_same(restore(path, TREE), newer)
