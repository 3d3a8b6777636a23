"""The control by the position: a token with another position's vector is that token there."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.control import norm_matched, transplant_position
from jaxsink.models import Decoder, DecoderConfig, Encoder, EncoderConfig, Transformer, TransformerConfig, init
from jaxsink.probing import run, sweep

T = 6
TOKENS = jnp.array([[1, 5, 3, 2, 8, 0], [4, 4, 7, 0, 8, 6]])
ENCODER = Encoder(EncoderConfig(vocab_size=9, n_layers=2, n_heads=2, d_model=8, d_mlp=12, max_length=T))


def fresh(model):
    """Random numbers of the parameters' shapes; `init` would compile."""
    rng = np.random.default_rng(11)
    shapes = jax.eval_shape(partial(init, model), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)


PARAMS = fresh(ENCODER)
TABLE = PARAMS["W_pos"]
EMBEDDED = "blocks.0.resid_pre"
# Sums of three terms of another program, then a LayerNorm over eight entries of about one.
REORDERED = {"rtol": 2e-6, "atol": 2e-6}


@partial(jax.jit, static_argnames="model")
def _embedded(params, edits, inputs, *, model):
    return run(model, params, TOKENS, capture=[EMBEDDED, "pos_embed"], edits=edits, inputs=inputs)[1]


def embedded(edits=None, inputs=None, model=ENCODER, params=PARAMS):
    """(the vectors of the positions, the residual stream that they enter)."""
    found = _embedded(params, edits, inputs, model=model)
    return np.asarray(found["pos_embed"]), np.asarray(found[EMBEDDED])


@pytest.mark.parametrize(
    ("target", "source", "positions"),
    [(4, 0, [0, 1, 2, 3, 0, 5]), ([1, 3], 5, [0, 5, 2, 5, 4, 5]), (jnp.array(0), 2, [2, 1, 2, 3, 4, 5])],
)
def test_a_token_with_another_position_is_that_token_there(target, source, positions):
    vectors, found = embedded(transplant_position(ENCODER, TABLE[source], target, T))
    expected_vectors, expected = embedded(inputs={"positions": jnp.array(positions)})
    np.testing.assert_array_equal(vectors, expected_vectors)
    np.testing.assert_allclose(found, expected, **REORDERED)
    moved = np.abs(found - embedded()[1]).max((0, 2)) > 1e-3
    assert moved.tolist() == [i != position for i, position in enumerate(positions)]


def test_the_scale_multiplies_the_vector():
    found = {scale: embedded(transplant_position(ENCODER, TABLE[0], 4, T, scale=scale)) for scale in (0, 0.5, 1.0)}
    for scale, (vectors, resid) in found.items():
        row = scale * np.asarray(TABLE[0])
        np.testing.assert_array_equal(vectors[:, 4], np.broadcast_to(row, (2, 8)))
        np.testing.assert_allclose(resid, embedded(params=PARAMS | {"W_pos": TABLE.at[4].set(row)})[1], **REORDERED)
    assert min(np.abs(found[0.5][1] - found[scale][1]).max() for scale in (0, 1.0)) > 1e-3


def test_targets_vectors_and_scales_may_be_traced():
    def make(target, vector, scale):
        return transplant_position(ENCODER, vector, target, T, scale=scale)

    given = jnp.array([1, 4]), TABLE[jnp.array([0, 5])], jnp.array([1.0, 2.0])
    swept = sweep(ENCODER, PARAMS, TOKENS, jax.vmap(make)(*given), captured_of, capture=[EMBEDDED])
    for k, one in enumerate([make(1, TABLE[0], 1.0), make(4, TABLE[5], 2.0)]):
        np.testing.assert_allclose(swept[k], embedded(one)[1], **REORDERED)
    assert np.abs(np.asarray(swept[0] - swept[1])).max() > 1e-2


def captured_of(_, found):
    return found[EMBEDDED]


def test_registers_do_not_count():
    model = Transformer(9, T, TransformerConfig(n_layers=1, d_model=8, registers=2))
    params = fresh(model)
    edits = transplant_position(model, params["W_pos"][0], 3, T)
    found, plain = (embedded(given, model=model, params=params)[1] for given in (edits, None))
    assert np.flatnonzero(np.abs(found - plain).max((0, 2)) > 1e-3).tolist() == [2 + 3]


def test_a_matched_vector_has_the_direction_of_one_and_the_norm_of_the_other():
    matched = np.asarray(norm_matched(TABLE[2], 3 * TABLE[0]))
    np.testing.assert_allclose(np.sqrt((matched**2).sum()), 3 * np.sqrt((np.asarray(TABLE[0]) ** 2).sum()), rtol=1e-6)
    ratios = matched / np.asarray(TABLE[2])
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6)
    assert ratios[0] > 0
    assert abs(ratios[0] - 1) > 0.1
    with pytest.raises(ValueError, match="must have a direction"):
        norm_matched(jnp.zeros(8), TABLE[0])


def test_mistakes_are_named():
    decoder = Decoder(
        DecoderConfig(vocab_size=9, n_layers=1, n_heads=2, n_key_heads=1, head_size=4, d_model=8, d_mlp=12)
    )
    with pytest.raises(ValueError, match="Decoder adds no position vectors"):
        transplant_position(decoder, jnp.zeros(8), 0, T)
    with pytest.raises(ValueError, match="has 6 positions, but position 9"):
        transplant_position(ENCODER, jnp.zeros(8), [0, 9], T)
    with pytest.raises(ValueError, match="has value of shape"):
        embedded(transplant_position(ENCODER, jnp.zeros(7), 0, T))
