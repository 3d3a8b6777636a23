"""Patching moves what it names and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.models import Decoder, DecoderConfig, Transformer, TransformerConfig, init
from jaxsink.probing import patch, patch_path, run

LINEAR = Transformer(7, 6, TransformerConfig(n_layers=3, n_heads=2, d_model=8, normalise=False))
DECODER = Decoder(DecoderConfig(vocab_size=7, n_layers=3, n_heads=2, n_key_heads=1, head_size=4, d_model=8, d_mlp=12))
TOKENS = jnp.array([[6, 0, 3, 2, 5, 1]])
SOURCE = jnp.array([[6, 1, 1, 4, 0, 2]])
HEAD = jnp.array([False, True])[:, None]
# Float32 sums of at most 12 terms in another order.
REORDERED = {"rtol": 1e-5, "atol": 1e-5}


def test_all_of_the_stream_is_the_other_run():
    params = init(DECODER, jax.random.key(0))
    theirs, _ = run(DECODER, params, SOURCE)
    ours, _ = run(DECODER, params, TOKENS)
    for name in ("embed", "blocks.1.resid_mid", "final_norm"):
        patched, _ = patch(DECODER, params, TOKENS, SOURCE, {name: True})
        np.testing.assert_allclose(patched, theirs, **REORDERED)
    nowhere, _ = patch(DECODER, params, TOKENS, SOURCE, {"embed": False})
    np.testing.assert_array_equal(nowhere, ours)


def test_one_position_moves_only_what_sees_it():
    params = init(DECODER, jax.random.key(0))
    _, before = run(DECODER, params, TOKENS, capture=["blocks.2.resid_post"])
    where = (jnp.arange(6) == 3)[:, None]
    _, after = patch(DECODER, params, TOKENS, SOURCE, {"blocks.1.attn_out": where}, capture=["blocks.2.resid_post"])
    moved = np.abs(np.asarray(after["blocks.2.resid_post"] - before["blocks.2.resid_post"])).max((0, 2))
    assert (moved[:3] == 0).all()
    assert (moved[3:] > 1e-7).all()


def test_the_direct_path_to_the_logits_is_linear_without_norms():
    params = init(LINEAR, jax.random.key(0))
    ours, z = run(LINEAR, params, TOKENS, capture=["blocks.0.z"])
    _, other = run(LINEAR, params, SOURCE, capture=["blocks.0.z"])
    change = jnp.where(HEAD, other["blocks.0.z"] - z["blocks.0.z"], 0.0).reshape(1, 6, 8)
    expected = ours + change @ params["blocks_0"]["W_O"] @ params["W_U"]
    found, _ = patch_path(LINEAR, params, TOKENS, SOURCE, {"blocks.0.z": HEAD}, ["logits"])
    np.testing.assert_allclose(found, expected, **REORDERED)
    # The whole effect is another: it also goes through the blocks above.
    whole, _ = patch(LINEAR, params, TOKENS, SOURCE, {"blocks.0.z": HEAD})
    assert np.abs(np.asarray(whole - expected)).max() > 0.01


def test_a_path_to_queries_changes_them_and_not_the_values():
    params = init(LINEAR, jax.random.key(0))
    names = ["blocks.0.z", "blocks.2.q", "blocks.2.v", "blocks.1.z"]
    _, ours = run(LINEAR, params, TOKENS, capture=names)
    _, other = run(LINEAR, params, SOURCE, capture=names)
    _, found = patch_path(LINEAR, params, TOKENS, SOURCE, {"blocks.0.z": True}, ["blocks.2.q"], capture=names)
    change = (other["blocks.0.z"] - ours["blocks.0.z"]).reshape(1, 6, 8)
    moved = change @ params["blocks_0"]["W_O"] @ params["blocks_2"]["W_Q"]
    np.testing.assert_allclose(found["blocks.2.q"], ours["blocks.2.q"] + moved.reshape(1, 6, 2, 4), **REORDERED)
    for name in names:
        if name != "blocks.2.q":
            np.testing.assert_allclose(found[name], ours[name], **REORDERED, err_msg=name)


def test_mistakes_are_named():
    params = init(LINEAR, jax.random.key(0))
    with pytest.raises(ValueError, match="source must have the shape of tokens"):
        patch(LINEAR, params, TOKENS, SOURCE[:, :3], {"embed": True})
    with pytest.raises(ValueError, match=r"receiver 'blocks\.0\.q' stands before every sender"):
        patch_path(LINEAR, params, TOKENS, SOURCE, {"blocks.1.z": True}, ["blocks.0.q"])
    with pytest.raises(ValueError, match="nearest is"):
        patch(LINEAR, params, TOKENS, SOURCE, {"embeds": True})
