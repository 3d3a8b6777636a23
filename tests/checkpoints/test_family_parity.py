"""Decoders and encoders beside the eager models of transformers: every module, every head, outputs and gradients.

The noise floor of a number is how far transformers in float32 is from transformers in float64.
"""

import os
import warnings
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from beside import load

from jaxsink.attention import LinearScaling, Llama3Scaling
from jaxsink.checkpoints import open_safetensors
from jaxsink.checkpoints.families import family_of
from jaxsink.models import Decoder, Encoder

os.environ.setdefault("HF_HUB_OFFLINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they warn of on import is not ours to mend
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

hugging_face = load(__file__, "hugging_face")
V, T = 40, 7
MASK = np.array([[1] * T, [1] * 4 + [0] * 3, [0] * 2 + [1] * 5])
SIZES = {"vocab_size": V, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
ROPE = {"rope_theta": 100.0}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def llama(**keys):
    return "LlamaForCausalLM", "LlamaConfig", {**SIZES, "num_key_value_heads": 2, **keys}


CASES = {
    "grouped": llama(),
    "one key head, wide heads, tied": llama(num_key_value_heads=1, head_dim=10, tie_word_embeddings=True),
    "ungrouped, eps": llama(num_key_value_heads=4, rms_norm_eps=1e-3),
    "biases": llama(attention_bias=True),
    "rope base": llama(rope_parameters={"rope_type": "default", **ROPE}),
    "linear": llama(rope_parameters={"rope_type": "linear", "factor": 2.5, **ROPE}),
    "llama3": llama(rope_parameters={"rope_type": "llama3", **LLAMA3, **ROPE}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**SIZES, "num_key_value_heads": 2}),
    "bert": ("BertModel", "BertConfig", SIZES),
    "bert with a head": ("BertForMaskedLM", "BertConfig", {**SIZES, "layer_norm_eps": 1e-3}),
    "bert with both heads": ("BertForPreTraining", "BertConfig", {**SIZES, "max_position_embeddings": 9}),
}


def batch(name, plain=False):
    rng = np.random.default_rng(0)
    given = {"input_ids": rng.integers(1, V, size=MASK.shape)}
    if plain:
        return given
    given |= {"attention_mask": MASK, "position_ids": np.maximum(np.cumsum(MASK, axis=1) - 1, 0)}
    if name.startswith("bert"):
        given["token_type_ids"] = rng.integers(0, 2, size=MASK.shape)
    return given


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Comparisons by name of case, each made once."""
    made = {}

    def compare(name, plain=False):
        if (name, plain) not in made:
            kind, config, keys = CASES[name]
            folder = tmp_path_factory.mktemp("model")
            config = getattr(transformers, config)(**keys)
            made[name, plain] = hugging_face.Comparison(folder, getattr(transformers, kind), config, batch(name, plain))
            made[name, plain].folder = folder
        return made[name, plain]

    return compare


@pytest.mark.parametrize("name", CASES)
def test_everything_is_that_of_transformers(compared, name):
    comparison = compared(name)
    # All that has a module there: the scores, rotated vectors and readings of ours are inside of attention.
    inside = {"attn_scores", "rot_q", "rot_k", "attn_on_first", "attn_received", "attn_entropy"}
    assert set(comparison.names) == {n for n in comparison.table if n.rsplit(".", 1)[-1] not in inside}
    assert comparison.beyond(comparison.found()) == {}


@pytest.mark.parametrize("name", ["grouped", "bert with a head"])
def test_tokens_alone(compared, name):
    comparison = compared(name, plain=True)
    assert comparison.beyond(comparison.found()) == {}


@pytest.mark.parametrize("name", CASES)
def test_what_goes_out_is_what_transformers_wrote(compared, name):
    comparison = compared(name)
    with open_safetensors(comparison.folder) as source:
        family = family_of({"model_type": "llama" if isinstance(comparison.model, Decoder) else "bert"})
        tensors = family.export_tensors(comparison.params, comparison.model.config)
        # The head that says whether one sentence follows another is not part of the model.
        assert set(tensors) == {name for name in source.names() if "seq_relationship" not in name}
        for name, tensor in tensors.items():
            assert tensor.dtype == source.dtype(name)
            np.testing.assert_array_equal(tensor, source.read(name))


def reordered(params, config):
    """Queries and keys of halves (f, f + H/2), laid side by side in every head."""
    order = np.arange(config.head_size).reshape(2, -1).T.reshape(-1)

    def turned(weight):
        heads = weight.reshape(*weight.shape[:-1], -1, config.head_size)
        return heads[..., order].reshape(weight.shape)

    return {
        name: {key: turned(x) if key in ("W_Q", "W_K", "b_Q", "b_K") else x for key, x in part.items()}
        if name.startswith("blocks")
        else part
        for name, part in params.items()
    }


@pytest.mark.parametrize("name", ["grouped", "biases", "llama3"])
def test_adjacent_pairs_are_halves_in_another_order(compared, name):
    comparison = compared(name)
    model = Decoder(replace(comparison.model.config, rope_pairing="adjacent"))
    moved = {f"blocks.{i}.{site}" for i in range(2) for site in "qk"}  # the reordered vectors themselves
    found = comparison.found(model, reordered(comparison.params, model.config))
    assert set(comparison.beyond(found)) == moved
    wrong = comparison.beyond(comparison.found(model))
    assert {"output", "gradient", "blocks.0.pattern", "blocks.1.resid_post"} <= set(wrong)


def swapped(params):
    """The first two query heads of the first block exchanged, before attention but not after it."""
    w = params["blocks_0"]["W_Q"]
    half = jnp.concatenate([w[:, 6:12], w[:, :6], w[:, 12:]], axis=1)
    return params | {"blocks_0": params["blocks_0"] | {"W_Q": half}}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("grouped", {"norm_eps": 1e-5}),
        ("grouped", {"rope_base": 9000.0}),
        ("llama3", {"rope_scaling": None}),
        ("bert", {"norm_eps": 1e-5}),
    ],
)
def test_a_wrong_switch_is_noticed(compared, name, changed):
    comparison = compared(name)
    config = replace(comparison.model.config, **changed)
    model = Decoder(config) if name != "bert" else Encoder(config)
    assert {"output", "gradient", "blocks.0.pattern"} <= set(comparison.beyond(comparison.found(model)))


@pytest.mark.parametrize("name", ["grouped", "bert"])
def test_swapped_heads_are_noticed(compared, name):
    comparison = compared(name)
    beyond = comparison.beyond(comparison.found(params=swapped(comparison.params)))
    assert {"output", "gradient", "blocks.0.q", "blocks.0.pattern"} <= set(beyond)
    assert not {"embed", "blocks.0.k", "blocks.0.v"} & set(beyond)


@pytest.mark.parametrize(
    ("keys", "scaling"),
    [
        ({"rope_type": "linear", "factor": 2.5}, LinearScaling(2.5)),
        ({"rope_type": "llama3", **LLAMA3}, Llama3Scaling(8.0, 1.0, 4.0, 32)),
    ],
)
def test_frequencies_are_those_of_transformers(keys, scaling):
    config = transformers.LlamaConfig(hidden_size=64, num_attention_heads=1, rope_parameters={**keys, **ROPE})
    found = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config).inv_freq.numpy()
    # Theirs are powers in float32, whose exponents of up to ln(100) are off by some 2^-24.
    np.testing.assert_allclose(found, scaling.scaled(100.0 ** (-np.arange(32) / 32)), rtol=1e-6)
