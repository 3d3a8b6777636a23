"""Gradients in the residual stream, where an empty block 0 makes them gradients of the token table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.models import Transformer, TransformerConfig, init
from jaxsink.probing import Set, run
from jaxsink.tasks import BigramBackcopy, dirichlet
from jaxsink.training.residual_gradients import SEQUENCES, residual_gradients

B, T, D = 6, 8, 8
TASK = BigramBackcopy.make(dirichlet(6, 0.7, 1), 2)
FREQUENT = int(np.argmax(TASK.chain.marginal))
EMPTY = {"layers_without_attention": (0,), "layers_without_mlp": (0,)}
TOKENS = TASK.sample(jax.random.key(1), B, T)[:, :-1]


def built(**config):
    model = Transformer(TASK.vocab_size, T, TransformerConfig(n_heads=2, d_model=D, **config))
    params = jax.jit(lambda key: init(model, key))(jax.random.key(0))
    for i in (1, 2):
        block = params.get(f"blocks_{i}", {})
        if "ln1" in block:
            scale = 1 + jax.random.normal(jax.random.key(i), (D,)) / 2
            params[f"blocks_{i}"] = {**block, "ln1": {**block["ln1"], "scale": scale}}
    return model, params


def measured(model, params, tokens=TOKENS, loss_on="all", edits=None):
    found = jax.jit(lambda p, t: residual_gradients(model, TASK, p, t, loss_on, edits))(params, tokens)
    return jax.device_get(found)


@pytest.mark.parametrize("loss_on", ["all", "triggers"])
@pytest.mark.parametrize("more", [{}, {"registers": 2, "positions": "alibi"}, {"normalise": False}])
def test_gradients_are_those_of_the_token_table(loss_on, more):
    model, params = built(n_layers=2, **EMPTY, **more)

    def expected_loss(table):
        log_probs = jax.nn.log_softmax(model.apply({"params": {**params, "W_E": table}}, TOKENS))
        crosses = -(TASK.law(TOKENS) * log_probs).sum(-1)
        return crosses.mean() if loss_on == "all" else crosses[TASK.is_trigger(TOKENS)].mean()

    wanted = np.asarray(jax.grad(expected_loss)(params["W_E"]))
    found = measured(model, params, loss_on=loss_on)
    # float32 sums in another order.
    close = {"rtol": 1e-4, "atol": 1e-7}
    np.testing.assert_allclose(found["gradient_start"], wanted[TASK.start_id], **close)
    np.testing.assert_allclose(found["gradient_content"], wanted[FREQUENT], **close)
    assert np.abs(wanted[[TASK.start_id, FREQUENT]]).max(axis=1).min() > 1e-4


def test_residuals_are_those_of_block_0():
    model, params = built(n_layers=2)
    _, captured = run(model, params, TOKENS, capture=["blocks.0.resid_post"])
    resid = np.asarray(captured["blocks.0.resid_post"])
    found = measured(model, params)
    np.testing.assert_allclose(found["residual_start"], resid[0, 0], rtol=1e-5, atol=1e-6)
    places = [(b, i) for b in range(B) for i in range(1, T) if TOKENS[b, i] == FREQUENT]
    assert len(places) > 3
    np.testing.assert_allclose(
        found["residual_content"], np.mean([resid[place] for place in places], axis=0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("normalise", [True, False])
def test_images_are_relative_to_those_of_all_directions(normalise):
    model, params = built(n_layers=3, layers_without_attention=(1,), normalise=normalise)
    found = measured(model, params)
    block = jax.tree.map(lambda x: np.asarray(x, np.float64), params["blocks_2"])

    def written(vector):
        """What a small step along the vector makes of W_O v, but for the standard deviation."""
        read = (vector - vector.mean()) * block["ln1"]["scale"] if normalise else vector
        return np.linalg.norm(read @ block["W_V"] @ block["W_O"])

    at_random = np.sqrt(np.mean([written(unit) ** 2 for unit in np.eye(D)]))
    for name in ("gradient_start", "gradient_content", "residual_start", "residual_content"):
        image = found[f"{name}_image"]
        assert np.isnan(image).tolist() == [True, True, False]  # block 0 does not read itself, block 1 has no attention
        vector = np.asarray(found[name], np.float64)
        np.testing.assert_allclose(image[2], written(vector) / np.linalg.norm(vector) / at_random, rtol=1e-4)


def test_only_the_first_sequences_are_used_and_edits_are_in_force():
    model, params = built(n_layers=2)
    many = TASK.sample(jax.random.key(2), SEQUENCES + 8, T)[:, :-1]
    found, first = measured(model, params, many), measured(model, params, many[:SEQUENCES])
    jax.tree.map(np.testing.assert_array_equal, found, first)
    # With a read-out that is nothing no gradient is left.
    silent = measured(model, params, edits={"final_norm": Set(jnp.zeros(D))})
    np.testing.assert_array_equal(silent["gradient_start"], np.zeros(D))
