"""The Llama family: configurations and names of tensors of Hugging Face, GGUF and glassllm."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from jaxsink.attention import LinearScaling, Llama3Scaling, RopeScaling
from jaxsink.checkpoints.families.config_keys import architecture, check_keys, required
from jaxsink.checkpoints.families.tables import Layout, Place, Row, import_tensors, on_default_device, tensors_of
from jaxsink.checkpoints.source import CheckpointError, TensorSource
from jaxsink.models import Decoder, DecoderConfig

ARCHITECTURES = ("LlamaForCausalLM", "llama", "Qwen2ForCausalLM", "qwen2")
_READ = frozenset(
    {
        "attention_bias", "head_dim", "hidden_size", "intermediate_size", "layer_types", "max_position_embeddings",
        "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_parameters",
        "rope_scaling", "rope_theta", "tie_word_embeddings", "vocab_size",
    }
)  # fmt: skip
_FIXED = {"hidden_act": ("silu",), "mlp_bias": (False, None), "use_sliding_window": (False, None)}


def decoder_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a decoder from Hugging Face's config.json, as transformers 4 or 5 writes it.

    Raises:
      CheckpointError: a key is missing, unknown, or has a value that is not implemented.
      ValueError: the sizes do not fit together.
    """
    kind = architecture(config)
    if kind not in ARCHITECTURES:
        raise CheckpointError(f"the architecture {kind!r} is none of {', '.join(ARCHITECTURES)}: load another model.")
    qwen = kind.lower().startswith("qwen")
    # Qwen2 has its window switched off by use_sliding_window, wherever the size of it stands.
    check_keys(config, read=_READ, fixed=_FIXED, irrelevant={"sliding_window"} if qwen else ())
    if any(each != "full_attention" for each in config.get("layer_types") or ()):
        raise CheckpointError(
            f"the configuration has layer_types = {config['layer_types']!r}, but only 'full_attention' is implemented: "
            "load another model."
        )
    biased = bool(config.get("attention_bias", False))
    n_heads, d_model = required(config, "num_attention_heads"), required(config, "hidden_size")
    base, scaling = _rope(config)
    return DecoderConfig(
        vocab_size=required(config, "vocab_size"),
        n_layers=required(config, "num_hidden_layers"),
        n_heads=n_heads,
        n_key_heads=config.get("num_key_value_heads") or n_heads,
        head_size=config.get("head_dim") or d_model // n_heads,
        d_model=d_model,
        d_mlp=required(config, "intermediate_size"),
        max_length=config.get("max_position_embeddings") or 2048,
        rope_base=base,
        rope_scaling=scaling,
        norm_eps=required(config, "rms_norm_eps"),
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=qwen or biased,
        output_bias=biased and not qwen,
    )


def _rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling: in `rope_parameters` since transformers 5, before that in `rope_theta` and `rope_scaling`."""
    given = {**(config.get("rope_parameters") or {}), **(config.get("rope_scaling") or {})}
    base = float(given.pop("rope_theta", config.get("rope_theta") or 10000.0))
    older = given.pop("type", "default")
    kind = given.pop("rope_type", older)
    longest = config.get("max_position_embeddings")
    scaling: RopeScaling | None = None
    try:
        if kind == "linear":
            scaling = LinearScaling(float(given.pop("factor")))
        elif kind == "llama3":
            scaling = Llama3Scaling(
                float(given.pop("factor")),
                float(given.pop("low_freq_factor")),
                float(given.pop("high_freq_factor")),
                given.pop("original_max_position_embeddings", longest),
            )
        elif kind != "default":
            raise CheckpointError(
                f"the configuration has the rope_type {kind!r}, but only default, linear and llama3 are implemented: "
                "load another model."
            )
    except KeyError as error:
        raise CheckpointError(
            f"the configuration has rope_type {kind!r} without {error.args[0]!r}: give the whole config.json."
        ) from None
    if given:
        raise CheckpointError(
            f"the configuration has {min(given)!r} beside rope_type {kind!r}, of which it is not known what it does: "
            "remove it if it says nothing about the computation, or load another model."
        )
    return base, scaling


_GGUF_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
}


def config_of_gguf(metadata: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """What config.json would say, from the metadata of a GGUF file.

    Args:
      metadata: by key, "general.architecture" and so on.
      names: of the tensors; without "output.weight" the read-out is tied to the embedding.

    Raises:
      CheckpointError: the architecture is another one, or its positions are scaled in a way that is not implemented.
    """
    kind = metadata.get("general.architecture")
    if kind != "llama":
        raise CheckpointError(f"the GGUF file has the architecture {kind!r}, but only 'llama' is read: load another.")
    found = {key: metadata[f"llama.{tail}"] for key, tail in _GGUF_KEYS.items() if f"llama.{tail}" in metadata}
    config = {key: value.item() if isinstance(value, np.generic) else value for key, value in found.items()}
    if "vocab_size" not in config and "tokenizer.ggml.tokens" in metadata:
        config["vocab_size"] = len(metadata["tokenizer.ggml.tokens"])
    scaling = metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        factor = metadata.get("llama.rope.scaling.factor")
        config["rope_scaling"] = {"rope_type": scaling} | ({} if factor is None else {"factor": factor})
    # GGUF says whether there are biases by having them.
    biased = "blk.0.attn_q.bias" in names
    return config | {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": biased,
        "tie_word_embeddings": "output.weight" not in names,
    }


def config_of_glassllm(metadata: Mapping[str, Any], d_mlp: int) -> DecoderConfig:
    """The configuration of a decoder from the metadata of glassllm's weights, which rotate adjacent pairs.

    Args:
      metadata: "__config__" in JSON.
      d_mlp: F, which is not in it: the last axis of "blocks.0.ffn.W1".
    """
    given = json.loads(metadata["__config__"])
    return DecoderConfig(
        vocab_size=given["vocab_size"],
        n_layers=given["n_layers"],
        n_heads=given["n_heads"],
        n_key_heads=given["n_kv_heads"],
        head_size=given["d_model"] // given["n_heads"],
        d_model=given["d_model"],
        d_mlp=d_mlp,
        max_length=given["max_len"],
        rope_base=given["rope_base"],
        rope_pairing="adjacent",
        norm_eps=given["eps"],
        tied=True,
    )


def hugging_face(config: DecoderConfig) -> Layout:
    """Names as `LlamaForCausalLM` and `Qwen2ForCausalLM` write them."""
    block, mlp = "model.layers.{i}", "model.layers.{i}.mlp"
    maps = [(letter, f"{block}.self_attn.{letter.lower()}_proj") for letter in "QKVO"]
    return Layout(
        rows=(
            Row("W_E", "model.embed_tokens.weight"),
            Row("blocks_{i}/ln1/scale", f"{block}.input_layernorm.weight"),
            *(Row(f"blocks_{{i}}/W_{letter}", f"{name}.weight", transposed=True) for letter, name in maps),
            *(Row(f"blocks_{{i}}/b_{letter}", f"{name}.bias") for letter, name in maps),
            Row("blocks_{i}/ln2/scale", f"{block}.post_attention_layernorm.weight"),
            Row("blocks_{i}/W_gate", f"{mlp}.gate_proj.weight", transposed=True),
            Row("blocks_{i}/W_in", f"{mlp}.up_proj.weight", transposed=True),
            Row("blocks_{i}/W_out", f"{mlp}.down_proj.weight", transposed=True),
            Row("ln_final/scale", "model.norm.weight"),
            Row("W_U", "lm_head.weight", transposed=True),
        ),
        copies=(("lm_head.weight", "W_E"),),
        # Computed from the configuration; transformers wrote it until 4.32.
        unused=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    )


def gguf(config: DecoderConfig) -> Layout:
    """Names as llama.cpp's converter writes them, with the rows of queries and keys in its order."""
    heads = {"Q": config.n_heads, "K": config.n_key_heads, "V": None, "O": None}
    maps = [(letter, f"blk.{{i}}.attn_{'output' if letter == 'O' else letter.lower()}") for letter in heads]
    return Layout(
        rows=(
            Row("W_E", "token_embd.weight"),
            Row("blocks_{i}/ln1/scale", "blk.{i}.attn_norm.weight"),
            *(
                Row(f"blocks_{{i}}/W_{letter}", f"{name}.weight", transposed=True, interleaved=heads[letter])
                for letter, name in maps
            ),
            *(Row(f"blocks_{{i}}/b_{letter}", f"{name}.bias", interleaved=heads[letter]) for letter, name in maps),
            Row("blocks_{i}/ln2/scale", "blk.{i}.ffn_norm.weight"),
            Row("blocks_{i}/W_gate", "blk.{i}.ffn_gate.weight", transposed=True),
            Row("blocks_{i}/W_in", "blk.{i}.ffn_up.weight", transposed=True),
            Row("blocks_{i}/W_out", "blk.{i}.ffn_down.weight", transposed=True),
            Row("ln_final/scale", "output_norm.weight"),
            Row("W_U", "output.weight", transposed=True),
        )
    )


def glassllm(config: DecoderConfig) -> Layout:
    """Names of the package glassllm, whose maps are [in, out]."""
    return Layout(
        rows=(
            Row("W_E", "E"),
            Row("blocks_{i}/ln1/scale", "blocks.{i}.norm1.gamma"),
            *(Row(f"blocks_{{i}}/W_{letter}", f"blocks.{{i}}.attn.W_{letter}") for letter in "QKVO"),
            Row("blocks_{i}/ln2/scale", "blocks.{i}.norm2.gamma"),
            Row("blocks_{i}/W_gate", "blocks.{i}.ffn.W1"),
            Row("blocks_{i}/W_in", "blocks.{i}.ffn.W3"),
            Row("blocks_{i}/W_out", "blocks.{i}.ffn.W2"),
            Row("ln_final/scale", "norm_f.gamma"),
        )
    )


# By the name of the embedding, which each layout calls otherwise.
LAYOUTS = {"model.embed_tokens.weight": hugging_face, "token_embd.weight": gguf, "E": glassllm}


def import_params(source: TensorSource, config: DecoderConfig, place: Place = on_default_device) -> dict[str, Any]:
    """Parameters of `Decoder(config)` from any of the layouts above; which one it is, the names tell.

    Args:
      source: the tensors.
      config: that of the checkpoint.
      place: called as place(path, array) for each parameter; what it returns stands in params.

    Raises:
      CheckpointError: tensors are missing, left over, of another shape, or of an unknown layout, or the configuration
        rotates other pairs than the layout.
    """
    names = set(source.names())
    make = next((make for mark, make in LAYOUTS.items() if mark in names), None)
    if make is None:
        raise CheckpointError(
            f"{source.where} has none of the tensors {', '.join(LAYOUTS)}, so it is no decoder of the Llama family: "
            "give another file."
        )
    if config.rope_pairing != (pairing := "adjacent" if make is glassllm else "half"):
        raise CheckpointError(
            f"{source.where} has queries and keys as rope_pairing={pairing!r} wants them, but the configuration has "
            f"{config.rope_pairing!r}: give the configuration that belongs to it."
        )
    return import_tensors(source, make(config), Decoder(config), place)


def export_tensors(params: Mapping[str, Any], config: DecoderConfig) -> dict[str, np.ndarray]:
    """The tensors of Hugging Face's files from parameters of `Decoder(config)`, which has to rotate halves.

    Raises:
      CheckpointError: the parameters are not those of the configuration, or it rotates adjacent pairs.
    """
    if config.rope_pairing != "half":
        raise CheckpointError(
            "Hugging Face's Llama rotates halves, but the configuration has rope_pairing='adjacent': "
            "reorder the columns of W_Q and W_K first."
        )
    return tensors_of(params, hugging_face(config), Decoder(config))
