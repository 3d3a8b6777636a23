"""Values at one norm: what is equal is the norm that is named, from its step on, and no loss depends on the rest."""

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.models import TransformerConfig, init
from jaxsink.probing import run
from jaxsink.training import DirichletChain, EqualValues, Interventions, TaskConfig, TrainConfig, TrainState
from jaxsink.training.runs import next_token_loss

V = "blocks.0.v"
HEADS, WIDTH, NORM, BEGINS = 2, 8, 1.7, 10


CONFIG = TrainConfig(
    task=TaskConfig(DirichletChain(6, 0.5, 0), n_triggers=2),
    model=TransformerConfig(n_heads=HEADS, d_model=WIDTH, registers=1),
    length=8,
    steps=20,
)
TASK = CONFIG.task.build()
MODEL = CONFIG.transformer(TASK)


def state(step):
    """A run's state with random parameters, as if after so many steps."""
    return TrainState(jax.jit(init, static_argnums=0)(MODEL, jax.random.key(0)), (), jnp.asarray(step), {})


def edits(of, at):
    return Interventions(MODEL, TASK, (EqualValues(norm=NORM, of=of, from_step=BEGINS),)).edits(at)


@lru_cache
def reader(of):
    """From a state to the values that are in force, and those of the same parameters without, [B, T, N, H]."""
    tokens = TASK.sample(jax.random.key(1), 4, 8)[:, :-1]

    def read(at):
        return [run(MODEL, at.params, tokens, capture=[V], edits=e)[1][V] for e in (edits(of, at), None)]

    return jax.jit(read)


def values(of, step):
    """What `reader` reads, and W_O [N, H, D]."""
    at = state(step)
    return (*map(np.asarray, reader(of)(at)), np.asarray(at.params["blocks_0"]["W_O"]).reshape(HEADS, -1, WIDTH))


def sizes(of, v, w_o):
    """[B, T, N] the norm that is named, by loops."""
    found = np.zeros(v.shape[:-1])
    for index in np.ndindex(found.shape):
        vector = v[index] if of == "v" else v[index] @ w_o[index[-1]]
        found[index] = np.sqrt(sum(float(x) ** 2 for x in vector))
    return found


@pytest.mark.parametrize("of", ["v", "W_O v"])
def test_all_values_have_the_norm_and_keep_their_directions(of):
    for step in (BEGINS, BEGINS + 5):
        v, free, w_o = values(of, step)
        # float32 sums of eight terms.
        np.testing.assert_allclose(sizes(of, v, w_o), NORM, rtol=1e-5)
        cosine = (v * free).sum(-1) / np.linalg.norm(v, axis=-1) / np.linalg.norm(free, axis=-1)
        np.testing.assert_allclose(cosine, 1.0, rtol=1e-5)
        # The other norm is free.
        other = sizes("v" if of == "W_O v" else "W_O v", v, w_o)
        assert other.max() / other.min() > 1.1


@pytest.mark.parametrize("of", ["v", "W_O v"])
def test_nothing_is_equal_before_it_begins(of):
    v, free, w_o = values(of, BEGINS - 1)
    np.testing.assert_array_equal(v, free)
    assert np.ptp(sizes(of, v, w_o)) > 0.1


@pytest.mark.parametrize("of", ["v", "W_O v"])
def test_no_loss_depends_on_what_is_divided_out(of):
    """The gradient in W_V is orthogonal to W_V, and for W_O v that in W_O to each head's W_O; without it neither is."""
    at, batch = state(BEGINS), TASK.sample(jax.random.key(2), 4, 8)

    @jax.jit
    def gradients(params):
        def loss(params, held):
            given = edits(of, at._replace(params=params)) if held else {}
            return next_token_loss(MODEL, TASK, params, batch, "all", given)

        return {held: jax.grad(loss)(params, held) for held in (True, False)}

    found, block = gradients(at.params), at.params["blocks_0"]
    along = {}
    for held in (True, False):
        g = found[held]["blocks_0"]
        along[held] = {
            name: abs(float((g[name] * block[name]).sum() / jnp.linalg.norm(g[name]) / jnp.linalg.norm(block[name])))
            for name in ("W_V", "W_O")
        }
    assert along[True]["W_V"] < 1e-5 < 1e-3 < along[False]["W_V"]
    assert (along[True]["W_O"] < 1e-5) == (of == "W_O v")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EqualValues(norm=0.0), "norm must be positive and finite, but 0.0"),
        (lambda: EqualValues(of="W_O"), "of must be 'v' or 'W_O v', but 'W_O'"),
        (lambda: EqualValues(layer=-1), "layer must be at least 0, but -1"),
        (lambda: Interventions(MODEL, TASK, (EqualValues(layer=1),)), "no attention in block 1"),
        (
            lambda: replace(CONFIG, interventions=(EqualValues(from_step=20),)),
            "starts at step 20, but the run ends at 20",
        ),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ValueError, match=rf"^.*{words}.*\.$"):
        make()
