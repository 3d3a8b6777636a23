"""The two controls of 2407.01601: a row that sees itself alone, and a token with another position's vector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.models import Decoder, DecoderConfig, Encoder, EncoderConfig, init
from jaxsink.probing import isolate_row, run, transplant_position

DECODER = Decoder(DecoderConfig(vocab_size=9, n_layers=2, n_heads=2, n_key_heads=1, head_size=4, d_model=8, d_mlp=12))
ENCODER = Encoder(EncoderConfig(vocab_size=9, n_layers=2, n_heads=2, d_model=8, d_mlp=12, max_length=6))
TOKENS = jnp.array([[1, 5, 3, 2, 8, 0], [4, 4, 7, 0, 8, 6]])


@pytest.mark.parametrize("model", [DECODER, ENCODER], ids=["decoder", "encoder"])
def test_an_isolated_row_sees_itself_alone(model):
    params = init(model, jax.random.key(0))
    names = [f"blocks.{i}.pattern" for i in range(2)]
    _, before = run(model, params, TOKENS, capture=names)
    _, after = run(model, params, TOKENS, capture=names, edits=isolate_row(model, [0], 3, 6))
    first = np.asarray(after[names[0]])
    np.testing.assert_allclose(first[:, :, 3], np.broadcast_to(np.eye(6)[3], (2, 2, 6)), atol=1e-7)
    others = np.arange(6) != 3
    np.testing.assert_array_equal(first[:, :, others], before[names[0]][:, :, others])
    # Only in the blocks named: above, the row sees others, but it has become another.
    second = np.asarray(after[names[1]])
    assert (second[:, :, 3, :3] > 0).all()
    assert np.abs(second - before[names[1]]).max() > 1e-6


def test_a_token_with_another_position_is_that_token_there():
    params = init(ENCODER, jax.random.key(0))
    _, found = run(
        ENCODER,
        params,
        TOKENS,
        capture=["blocks.0.resid_pre"],
        edits=transplant_position(ENCODER, params["W_pos"][0], 4, 6),
    )
    positions = jnp.array([0, 1, 2, 3, 0, 5])
    _, expected = run(ENCODER, params, TOKENS, capture=["blocks.0.resid_pre"], inputs={"positions": positions})
    np.testing.assert_array_equal(found["blocks.0.resid_pre"], expected["blocks.0.resid_pre"])
    _, plain = run(ENCODER, params, TOKENS, capture=["blocks.0.resid_pre"])
    moved = np.abs(np.asarray(plain["blocks.0.resid_pre"] - expected["blocks.0.resid_pre"])).max((0, 2)) > 0
    assert moved.tolist() == [False, False, False, False, True, False]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="has 6 positions, but 6 was given"):
        isolate_row(DECODER, [1], 6, 6)
    with pytest.raises(ValueError, match="2 blocks, but block 2"):
        isolate_row(DECODER, [2], 0, 6)
    with pytest.raises(ValueError, match="Decoder adds no position vectors"):
        transplant_position(DECODER, jnp.zeros(8), 0, 6)
    with pytest.raises(ValueError, match="has 6 positions, but position 9"):
        transplant_position(ENCODER, jnp.zeros(8), 9, 6)
