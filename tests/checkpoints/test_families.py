"""Configurations and tensors of the Llama and the BERT family, there and back."""

import json
from collections import UserDict
from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxsink.attention import LinearScaling, Llama3Scaling, SinkLogit
from jaxsink.checkpoints import CheckpointError
from jaxsink.checkpoints.families import bert, family_of, llama
from jaxsink.models import Decoder, DecoderConfig, Encoder, EncoderConfig, init


class Source(UserDict):
    """Tensors in a dict that counts what is read."""

    where = "memory"

    def names(self):
        return tuple(sorted(self.data))

    def shape(self, name):
        return self.data[name].shape

    def dtype(self, name):
        return self.data[name].dtype

    def read(self, name):
        return self.data[name]


DECODER = DecoderConfig(13, 2, n_heads=4, n_key_heads=2, head_size=6, d_model=16, d_mlp=20, max_length=64)
DECODERS = {
    "plain": DECODER,
    "tied": replace(DECODER, tied=True),
    "biases": replace(DECODER, qkv_bias=True, output_bias=True),
}
ENCODER = EncoderConfig(13, 2, n_heads=4, d_model=16, d_mlp=20, max_length=8)
ENCODERS = {
    "plain": ENCODER,
    "pooler": replace(ENCODER, pooler=True),
    "head": replace(ENCODER, mlm_head=True),
    "both": replace(ENCODER, mlm_head=True, pooler=True),
}


def drawn(model, dtype=np.float32):
    shapes = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return tree.unflatten([rng.normal(size=leaf.shape).astype(dtype) for leaf in leaves])


def same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# Configurations ----------------------------------------------------------------------------------------------------
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 13,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0",
    "use_cache": True,
    "initializer_range": 0.02,
    "bos_token_id": 1,
}
EXPECTED = replace(DECODER, norm_eps=1e-5)
THREE = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("keys", "changes"),
    [
        ({}, {}),
        ({"rope_theta": 5e5, "rope_scaling": None}, {"rope_base": 5e5}),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, {"rope_base": 5e5}),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, {"rope_scaling": LinearScaling(2.0)}),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            {"rope_scaling": LinearScaling(2.0)},
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "type": "llama3", **THREE}},
            {"rope_base": 5e5, "rope_scaling": Llama3Scaling(8.0, 1.0, 4.0, 32)},
        ),
        (
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **THREE}},
            {"rope_base": 5e5, "rope_scaling": Llama3Scaling(8.0, 1.0, 4.0, 32)},
        ),
        ({"tie_word_embeddings": True}, {"tied": True}),
        ({"attention_bias": True}, {"qkv_bias": True, "output_bias": True}),
        ({"head_dim": None}, {"head_size": 4}),
        ({"num_key_value_heads": None}, {"n_key_heads": 4}),
        ({"architectures": None}, {}),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "use_sliding_window": False,
                "sliding_window": 32,
                "max_window_layers": 2,
                "layer_types": ["full_attention"] * 2,
            },
            {"qkv_bias": True},
        ),
    ],
)
def test_configurations_of_llama(keys, changes):
    given = LLAMA | keys
    assert llama.decoder_config(given) == replace(EXPECTED, **changes)
    assert family_of(given).config(given, ()) == replace(EXPECTED, **changes)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"logit_scale": 0.1}, "has the key 'logit_scale' = 0.1"),
        ({"sliding_window": 32}, "has the key 'sliding_window' = 32"),
        ({"quantization_config": {}}, "has the key 'quantization_config'"),
        ({"hidden_act": "gelu"}, "has hidden_act = 'gelu', but only 'silu' is implemented"),
        ({"mlp_bias": True}, "has mlp_bias = True, but only False or None is implemented"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "has the rope_type 'yarn', but only default, linear"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "rope_type 'llama3' without 'low_freq_factor'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "has 'partial_rotary_factor' beside rope_type 'default'"),
        ({"layer_types": ["sliding_attention"] * 2}, "but only 'full_attention' is implemented"),
        ({"vocab_size": None}, "lacks the key 'vocab_size'"),
        ({"architectures": ["A", "B"]}, "must name one architecture"),
        ({"architectures": ["MambaForCausalLM"]}, "the architecture 'MambaForCausalLM' is none of LlamaForCausalLM"),
        ({"num_key_value_heads": 3}, "n_key_heads=3 must divide n_heads=4"),
    ],
)
def test_mistakes_in_a_configuration_of_llama(keys, words):
    with pytest.raises(ValueError, match=words):
        family_of(LLAMA | keys).config(LLAMA | keys, ())
    with pytest.raises(ValueError, match=words):
        llama.decoder_config(LLAMA | keys)


BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 13,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 8,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "position_embedding_type": "absolute",
    "directionality": "bidi",
    "pooler_num_fc_layers": 3,
    "pad_token_id": 0,
    "gradient_checkpointing": False,
}


def test_configurations_of_bert():
    assert bert.encoder_config(BERT, ()) == ENCODER
    assert bert.encoder_config(BERT, ["bert.pooler.dense.weight"]) == ENCODERS["pooler"]
    masked = BERT | {"architectures": ["BertForMaskedLM"], "layer_norm_eps": 1e-5, "type_vocab_size": 1}
    found = family_of(masked).config(masked, ["pooler.dense.weight", "cls.predictions.bias"])
    assert found == replace(ENCODERS["both"], norm_eps=1e-5, n_types=1)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"hidden_act": "gelu_new"}, "has hidden_act = 'gelu_new', but only 'gelu' is implemented"),
        ({"position_embedding_type": "relative_key"}, "has position_embedding_type = 'relative_key'"),
        ({"is_decoder": True}, "has is_decoder = True"),
        ({"embedding_size": 128}, "has the key 'embedding_size' = 128"),
        ({"architectures": ["AlbertModel"]}, "the architecture 'AlbertModel' is none of"),
    ],
)
def test_mistakes_in_a_configuration_of_bert(keys, words):
    with pytest.raises(CheckpointError, match=words):
        bert.encoder_config(BERT | keys, ())


# Tensors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("config", DECODERS.values(), ids=DECODERS)
def test_a_decoder_goes_out_and_comes_back(config, dtype):
    params = drawn(Decoder(config), dtype)
    tensors = llama.export_tensors(params, config)
    assert all(tensor.flags.c_contiguous for tensor in tensors.values())
    assert tensors["model.layers.1.self_attn.k_proj.weight"].shape == (12, 16)
    assert ("lm_head.weight" in tensors) != config.tied
    same(llama.import_params(Source(tensors), config), params)


@pytest.mark.parametrize("config", ENCODERS.values(), ids=ENCODERS)
def test_an_encoder_goes_out_and_comes_back(config):
    params = drawn(Encoder(config))
    tensors = bert.export_tensors(params, config)
    assert ("bert.embeddings.word_embeddings.weight" in tensors) == config.mlm_head
    same(bert.import_params(Source(tensors), config), params)


def test_names_of_bert_may_be_those_of_its_first_files():
    config = ENCODERS["both"]
    params = drawn(Encoder(config))
    tensors = bert.export_tensors(params, config)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    assert sum("gamma" in name for name in old) == 6
    others = {
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
        "cls.seq_relationship.weight": np.ones((2, 16)),
        "bert.embeddings.position_ids": np.arange(8)[None],
    }
    same(bert.import_params(Source(old | others), config), params)
    bare = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    same(bert.import_params(Source(bare), config), params)
    others["cls.predictions.decoder.weight"] = others["cls.predictions.decoder.weight"] + 1
    with pytest.raises(
        CheckpointError, match=r"'cls.predictions.decoder.weight' with other values than 'bert.embeddings"
    ):
        bert.import_params(Source(old | others), config)


def test_each_tensor_is_placed_where_it_is_wanted_and_alone():
    config = DECODERS["tied"]
    params = drawn(Decoder(config))
    log = []

    class Watched(Source):
        def read(self, name):
            log.append(name)
            return super().read(name)

    def place(path, array):
        log.append("/".join(path))
        return jnp.asarray(array, jnp.bfloat16)

    tensors = llama.export_tensors(params, config)
    extra = {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()}
    inverse = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(3) for i in range(2)}
    found = llama.import_params(Watched(tensors | inverse), config, place)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    assert log[1::2] == ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert sorted(log[::2]) == sorted(tensors)
    same(llama.import_params(Source(tensors | extra), config), params)


def interleaved(weight, heads):
    """Row by row: the two halves of every head in turn, as llama.cpp lays them out."""
    out = np.zeros_like(weight)
    size = len(weight) // heads
    for head in range(heads):
        for f in range(size // 2):
            out[head * size + 2 * f] = weight[head * size + f]
            out[head * size + 2 * f + 1] = weight[head * size + size // 2 + f]
    return out


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.mark.parametrize("config", DECODERS.values(), ids=DECODERS)
def test_gguf(config):
    params = drawn(Decoder(config))
    tensors = {}
    for name, tensor in llama.export_tensors(params, config).items():
        part, kind = name.removeprefix("model.layers.").rsplit(".", 1)
        layer, _, part = part.partition(".") if part[0].isdigit() else ("", "", part)
        heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(part)
        known = GGUF_NAMES[part]
        tensors[f"blk.{layer}.{known}.{kind}" if layer else f"{known}.{kind}"] = (
            tensor if heads is None else interleaved(tensor, heads)
        )
    metadata = {
        "general.architecture": "llama",
        "llama.embedding_length": 16,
        "llama.feed_forward_length": 20,
        "llama.block_count": 2,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 6,
        "llama.attention.layer_norm_rms_epsilon": np.float32(1e-6),
        "llama.rope.freq_base": np.float32(1e4),
        "llama.rope.dimension_count": 6,
        "llama.context_length": 64,
        "tokenizer.ggml.tokens": ["a"] * 13,
    }
    given = llama.config_of_gguf(metadata, tensors)
    json.dumps(given)  # what a config.json could hold
    found = family_of(given).config(given, ())
    assert replace(found, norm_eps=1e-6) == config
    assert found.norm_eps == pytest.approx(1e-6)
    same(llama.import_params(Source(tensors), config), params)
    linear = metadata | {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert llama.decoder_config(llama.config_of_gguf(linear, tensors)).rope_scaling == LinearScaling(4.0)
    with pytest.raises(CheckpointError, match="the GGUF file has the architecture 'gemma3'"):
        llama.config_of_gguf({"general.architecture": "gemma3"}, ())
    # Scaled frequencies come as a tensor of their own, which must not be ignored.
    with pytest.raises(CheckpointError, match=r"has rope_freqs.weight, which the model has no place for"):
        llama.import_params(Source(tensors | {"rope_freqs.weight": np.ones(3)}), config)


def test_glassllm():
    config = replace(DECODER, tied=True, rope_pairing="adjacent", head_size=4, n_key_heads=2)
    params = drawn(Decoder(config), np.float16)
    names = {"ln1": "norm1.gamma", "ln2": "norm2.gamma", "W_gate": "ffn.W1", "W_in": "ffn.W3", "W_out": "ffn.W2"}
    tensors = {"E": params["W_E"], "norm_f.gamma": params["ln_final"]["scale"]}
    for i in range(2):
        for name, value in params[f"blocks_{i}"].items():
            leaf = value["scale"] if isinstance(value, dict) else value
            tensors[f"blocks.{i}.{names.get(name, f'attn.{name}')}"] = leaf
    written = {
        "vocab_size": 13, "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "max_len": 64,
        "rope_base": 10000.0, "eps": 1e-06, "init_std": 0.02,
    }  # fmt: skip
    metadata = {"__config__": json.dumps(written)}
    assert llama.config_of_glassllm(metadata, 20) == config
    same(llama.import_params(Source(tensors), config), params)
    with pytest.raises(
        CheckpointError, match="as rope_pairing='adjacent' wants them, but the configuration has 'half'"
    ):
        llama.import_params(Source(tensors), replace(config, rope_pairing="half"))
    with pytest.raises(CheckpointError, match="rotates halves, but the configuration has rope_pairing='adjacent'"):
        llama.export_tensors(params, config)


def test_tensors_that_do_not_fit_are_named():
    params = drawn(Decoder(DECODER))
    tensors = llama.export_tensors(params, DECODER)

    def imported(changed, config=DECODER):
        return llama.import_params(Source({name: x for name, x in changed.items() if x is not None}), config)

    with pytest.raises(CheckpointError, match=r"memory lacks model.norm.weight: give the configuration"):
        imported(tensors | {"model.norm.weight": None})
    with pytest.raises(CheckpointError, match=r"has model.layers.0.self_attn.q_norm.weight, which the model has no"):
        imported(tensors | {"model.layers.0.self_attn.q_norm.weight": np.ones(6)})
    with pytest.raises(CheckpointError, match=r"lacks model.layers.2.input_layernorm.weight, .* \(9 in all\)"):
        imported(tensors, replace(DECODER, n_layers=3))
    with pytest.raises(CheckpointError, match=r"gate_proj.weight' with shape \[20, 16\], but .* says \[24, 16\]"):
        imported(tensors, replace(DECODER, d_mlp=24))
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' with other values than 'model.embed_tokens.weight'"):
        imported(tensors, replace(DECODER, tied=True))
    with pytest.raises(CheckpointError, match=r"memory has none of the tensors model.embed_tokens.weight, token_embd"):
        imported({"transformer.wte.weight": np.ones((13, 16))})
    with pytest.raises(CheckpointError, match="no tensor for params blocks_0/attention/sink_logit"):
        imported(tensors, replace(DECODER, attention=SinkLogit()))
    with pytest.raises(CheckpointError, match="differ at W_U: give the two that belong together"):
        llama.export_tensors({name: x for name, x in params.items() if name != "W_U"}, DECODER)
    with pytest.raises(CheckpointError, match="differ at W_E: give the two that belong together"):
        llama.export_tensors(params | {"W_E": params["W_E"][1:]}, DECODER)
    both = bert.export_tensors(drawn(Encoder(ENCODER)), ENCODER)
    both["bert.embeddings.LayerNorm.bias"] = np.zeros(16)
    with pytest.raises(
        CheckpointError, match=r"memory holds both 'bert.embeddings.LayerNorm.bias' and 'embeddings.Layer"
    ):
        bert.import_params(Source(both), ENCODER)
