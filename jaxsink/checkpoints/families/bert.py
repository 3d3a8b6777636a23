"""The BERT family: configuration and names of tensors of Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from jaxsink.checkpoints.families.config_keys import architecture, check_keys, required
from jaxsink.checkpoints.families.tables import Layout, Place, Row, import_tensors, on_default_device, tensors_of
from jaxsink.checkpoints.source import CheckpointError, TensorSource
from jaxsink.models import Encoder, EncoderConfig

ARCHITECTURES = ("BertModel", "BertForMaskedLM", "BertForPreTraining", "AntiBERTy", "bert")
_READ = frozenset(
    {
        "hidden_size", "intermediate_size", "layer_norm_eps", "max_position_embeddings", "num_attention_heads",
        "num_hidden_layers", "type_vocab_size", "vocab_size",
    }
)  # fmt: skip
_FIXED = {
    "add_cross_attention": (False,),
    "hidden_act": ("gelu",),
    "is_decoder": (False,),
    "pruned_heads": ({},),
    "position_embedding_type": ("absolute",),
    "tie_word_embeddings": (True,),
    "use_bfloat16": (False,),
}
# Settings of the pooler in the first published configurations, which no code reads.
_IRRELEVANT = frozenset(
    {
        "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
        "pooler_size_per_head", "pooler_type",
    }
)  # fmt: skip
_TODAY = {"gamma": "weight", "beta": "bias"}
_POOLER, _HEAD = "pooler.dense.weight", "cls.predictions.bias"


def encoder_config(config: Mapping[str, Any], names: Collection[str]) -> EncoderConfig:
    """The configuration of an encoder from Hugging Face's config.json.

    Args:
      config: of config.json.
      names: of the tensors, which tell whether there are a pooler and a masked language modelling head.

    Raises:
      CheckpointError: a key is missing, unknown, or has a value that is not implemented.
      ValueError: the sizes do not fit together.
    """
    kind = architecture(config, names)
    if kind not in ARCHITECTURES:
        raise CheckpointError(f"the architecture {kind!r} is none of {', '.join(ARCHITECTURES)}: load another model.")
    check_keys(config, read=_READ, fixed=_FIXED, irrelevant=_IRRELEVANT)
    known = {_canonical(name) for name in names}
    return EncoderConfig(
        vocab_size=required(config, "vocab_size"),
        n_layers=required(config, "num_hidden_layers"),
        n_heads=required(config, "num_attention_heads"),
        d_model=required(config, "hidden_size"),
        d_mlp=required(config, "intermediate_size"),
        max_length=required(config, "max_position_embeddings"),
        n_types=required(config, "type_vocab_size"),
        norm_eps=required(config, "layer_norm_eps"),
        pooler=_POOLER in known,
        mlm_head=_HEAD in known,
    )


def _canonical(name: str) -> str:
    """The name in `BertModel`: without the prefix of models around it, and with today's names in LayerNorm."""
    name = name.removeprefix("bert.")
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{_TODAY[m[1]]}", name)


def _norm(path: str, name: str) -> tuple[Row, Row]:
    return Row(f"{path}/scale", f"{name}.weight"), Row(f"{path}/bias", f"{name}.bias")


def _map(weight: str, bias: str, name: str) -> tuple[Row, Row]:
    return Row(weight, f"{name}.weight", transposed=True), Row(bias, f"{name}.bias")


def hugging_face() -> Layout:
    """Names as `BertModel` and the models with a head write them."""
    layer, block, head = "encoder.layer.{i}", "blocks_{i}", "cls.predictions"
    maps = {
        "Q": "attention.self.query",
        "K": "attention.self.key",
        "V": "attention.self.value",
        "O": "attention.output.dense",
        "in": "intermediate.dense",
        "out": "output.dense",
    }
    return Layout(
        rows=(
            Row("W_E", "embeddings.word_embeddings.weight"),
            Row("W_pos", "embeddings.position_embeddings.weight"),
            Row("W_type", "embeddings.token_type_embeddings.weight"),
            *_norm("ln_embed", "embeddings.LayerNorm"),
            *(
                row
                for letter, name in maps.items()
                for row in _map(f"{block}/W_{letter}", f"{block}/b_{letter}", f"{layer}.{name}")
            ),
            *_norm(f"{block}/ln1", f"{layer}.attention.output.LayerNorm"),
            *_norm(f"{block}/ln2", f"{layer}.output.LayerNorm"),
            *_map("pooler/W", "pooler/b", "pooler.dense"),
            *_map("mlm/W", "mlm/b", f"{head}.transform.dense"),
            *_norm("mlm/ln", f"{head}.transform.LayerNorm"),
            Row("mlm/bias", f"{head}.bias"),
        ),
        canonical=_canonical,
        copies=((f"{head}.decoder.weight", "W_E"), (f"{head}.decoder.bias", "mlm/bias")),
        # 0, 1, 2, ..., and heads on the pooled state: whether one sentence follows another, and AntiBERTy's.
        unused=(
            r"embeddings\.(position|token_type)_ids",
            r"cls\.(seq_relationship|species|chain|graft)\.(weight|bias)",
        ),
    )


def import_params(source: TensorSource, config: EncoderConfig, place: Place = on_default_device) -> dict[str, Any]:
    """Parameters of `Encoder(config)`.

    Args:
      source: the tensors, with or without the prefix "bert.", LayerNorms with weight and bias or gamma and beta.
      config: that of the checkpoint.
      place: called as place(path, array) for each parameter; what it returns stands in params.

    Raises:
      CheckpointError: tensors are missing, left over, of another shape, or not what they are tied to.
    """
    return import_tensors(source, hugging_face(), Encoder(config), place)


def export_tensors(params: Mapping[str, Any], config: EncoderConfig) -> dict[str, np.ndarray]:
    """The tensors of Hugging Face's files: those of `BertModel`, or with a head those of `BertForMaskedLM`.

    Raises:
      CheckpointError: the parameters are not those of the configuration.
    """
    tensors = tensors_of(params, hugging_face(), Encoder(config))
    if not config.mlm_head:
        return tensors
    return {name if name.startswith("cls.") else f"bert.{name}": tensor for name, tensor in tensors.items()}
