"""Block by block gives what `run` gives, from one compilation for all blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.models import Decoder, DecoderConfig, Encoder, EncoderConfig, init
from jaxsink.probing import Scale, Set, heads_of_block, read_out, run, stages, sweep_blocks, zero_head
from jaxsink.probing.by_block import _block

DECODER = Decoder(DecoderConfig(vocab_size=11, n_layers=4, n_heads=4, n_key_heads=2, head_size=4, d_model=8, d_mlp=12))
ENCODER = Encoder(EncoderConfig(vocab_size=11, n_layers=3, n_heads=2, d_model=8, d_mlp=12, max_length=9, mlm_head=True))
TOKENS = jnp.array([[1, 5, 3, 2, 9, 0], [4, 4, 7, 10, 8, 6]])
VALID = jnp.array([[False, True, True, True, True, True], [True] * 6])
INPUTS = {
    "decoder": {"valid": VALID, "positions": jnp.array([[0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]])},
    "encoder": {"valid": VALID, "token_types": jnp.array([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]])},
}
MODELS = {"decoder": DECODER, "encoder": ENCODER}
# Another compilation adds up the same float32 sums of at most 12 terms in another order, some blocks deep.
REORDERED = {"rtol": 2e-5, "atol": 2e-6}


def fresh(model):
    # The usual start (normal, .02) is so small that every logit is near zero.
    return jax.tree.map(lambda x: x * 10 if x.ndim == 2 else x, init(model, jax.random.key(1)))


@pytest.mark.parametrize("kind", MODELS)
def test_stages_are_run(kind):
    model, inputs = MODELS[kind], INPUTS[kind]
    params = fresh(model)
    edits = {
        "embed": Scale(1.5),
        "blocks.1.z": Set(0.0, jnp.array([True, False])[None, None, :, None].repeat(model.config.n_heads // 2, 2)),
        "blocks.2.mlp_out": (Scale(2.0), Set(0.25, jnp.arange(6)[:, None] == 3)),
    }

    def length(v):
        return jnp.linalg.norm(v, axis=-1)

    found = {}
    for stage in stages(model, params, TOKENS, capture={"v": length, "resid_post": length}, edits=edits, inputs=inputs):
        found |= {f"blocks.{stage.layer}.{name}": value for name, value in stage.captured.items()}
        last = stage.resid
    logits = read_out(model, params, last)
    expected, captured = run(model, params, TOKENS, capture=dict.fromkeys(found, length), edits=edits, inputs=inputs)
    # What stands at padding means nothing.
    np.testing.assert_allclose(logits[VALID], expected[VALID], **REORDERED)
    assert len(found) == 2 * model.config.n_layers
    for name, value in found.items():
        np.testing.assert_allclose(value, captured[name], **REORDERED, err_msg=name)
    free, _ = run(model, params, TOKENS, inputs=inputs)
    assert np.abs(np.asarray(free - expected)).max() > 0.01


def test_all_blocks_share_one_compilation():
    params = fresh(DECODER)
    # All jitted functions of a process share one cache: a long session before this test could evict what is counted.
    jax.clear_caches()
    list(stages(DECODER, params, TOKENS[:1, :5], capture=["v"]))
    assert _block._cache_size() == 1


@pytest.mark.parametrize("kind", MODELS)
def test_a_sweep_zeroes_each_head_in_turn(kind):
    model, inputs = MODELS[kind], INPUTS[kind]
    params = fresh(model)

    def read(logits):
        return {"logits": logits, "mean": logits.mean()}

    layers = [2, 1]
    found = dict(sweep_blocks(model, params, TOKENS, heads_of_block(model), read, layers=layers, inputs=inputs))
    assert list(found) == [1, 2]
    for layer in layers:
        assert found[layer]["mean"].shape == (model.config.n_heads,)
        for head in range(model.config.n_heads):
            expected, _ = run(model, params, TOKENS, edits=zero_head(model, layer, head), inputs=inputs)
            ours = found[layer]["logits"][head]
            np.testing.assert_allclose(ours[VALID], expected[VALID], **REORDERED, err_msg=f"{layer} {head}")
        spread = np.ptp(np.asarray(found[layer]["logits"]), axis=0)
        assert spread.max() > 0.01  # the heads differ, or any of them would do for all


def test_a_sweep_takes_other_edits_for_each_layer():
    params = fresh(DECODER)
    _, other = run(DECODER, params, TOKENS[::-1], capture=[f"blocks.{i}.resid_post" for i in range(4)])

    def row(layer):
        values = jnp.broadcast_to(other[f"blocks.{layer}.resid_post"], (6, 2, 6, 8))
        return {"resid_post": Set(values, jnp.eye(6, dtype=bool)[:, None, :, None])}

    for layer, logits in sweep_blocks(DECODER, params, TOKENS, row, lambda logits: logits):
        assert logits.shape == (6, 2, 6, 11)
        name = f"blocks.{layer}.resid_post"
        for position in (0, 4):
            edit = Set(other[name], (jnp.arange(6) == position)[:, None])
            expected, _ = run(DECODER, params, TOKENS, edits={name: edit})
            np.testing.assert_allclose(logits[position], expected, **REORDERED)


def test_mistakes_are_named():
    params = fresh(DECODER)
    with pytest.raises(ValueError, match=r"site 'vs' does not exist.*nearest is 'v'"):
        list(stages(DECODER, params, TOKENS, capture=["vs"]))
    with pytest.raises(ValueError, match=r"site 'blocks\.4\.z' does not exist"):
        list(stages(DECODER, params, TOKENS, edits={"blocks.4.z": Set(0.0)}))
    with pytest.raises(ValueError, match=r"'blocks\.3\.z' has value of shape \(3,\)"):
        list(stages(DECODER, params, TOKENS, edits={"blocks.3.z": Set(jnp.zeros(3))}))
    with pytest.raises(ValueError, match="takes no edit"):
        list(stages(DECODER, params, TOKENS, edits={"blocks.0.attn_received": Set(0.0)}))
    with pytest.raises(ValueError, match="Decoder takes only valid, positions"):
        list(stages(DECODER, params, TOKENS, inputs={"mask": VALID}))
    with pytest.raises(ValueError, match="layers must be from 0 to 3, but 7"):
        list(sweep_blocks(DECODER, params, TOKENS, heads_of_block(DECODER), jnp.mean, layers=[7]))
    with pytest.raises(ValueError, match="leading axis E"):
        list(sweep_blocks(DECODER, params, TOKENS, {"z": Set(0.0)}, jnp.mean))
