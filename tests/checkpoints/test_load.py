"""`load` finds the right reader, family and tokenizer, and says what to do where there is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxsink.checkpoints import CheckpointError, load
from jaxsink.checkpoints.families import bert, llama
from jaxsink.models import Decoder, DecoderConfig, Encoder, EncoderConfig, init

CONFIG = DecoderConfig(
    vocab_size=11, n_layers=2, n_heads=4, n_key_heads=2, head_size=4, d_model=8, d_mlp=12, max_length=32, tied=True
)
HUGGING_FACE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 11,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "hidden_size": 8,
    "intermediate_size": 12,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
# As rxnfp's says it, and others of 2019: no architecture, no type.
BERT = {
    "vocab_size": 11,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_size": 8,
    "intermediate_size": 12,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "pruned_heads": {},
    "torchscript": False,
    "use_bfloat16": False,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    params = init(Decoder(CONFIG), jax.random.key(0))
    save_file(llama.export_tensors(params, CONFIG), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(HUGGING_FACE))
    return tmp_path


def leaves(params: Any) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(params)]


def test_an_encoder_without_a_type_is_known_by_its_tensors(tmp_path: Path) -> None:
    config = EncoderConfig(
        vocab_size=11, n_layers=1, n_heads=2, d_model=8, d_mlp=12, max_length=32, pooler=True, mlm_head=True
    )
    params = init(Encoder(config), jax.random.key(0))
    tensors = bert.export_tensors(params, config)
    heads = {f"cls.{name}.weight": np.ones((2, 8), np.float32) for name in ("species", "chain", "graft")}
    for given in (BERT, BERT | {"architectures": ["AntiBERTy"]}):
        save_file(tensors | heads, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(given))
        loaded = load(tmp_path)
        assert loaded.model == Encoder(config)
        assert loaded.tokenizer is None
        for found, expected in zip(leaves(loaded.params), leaves(params), strict=True):
            np.testing.assert_array_equal(found, expected)
    (tmp_path / "config.json").write_text(json.dumps(BERT | {"pruned_heads": {"0": [1]}}))
    with pytest.raises(CheckpointError, match="has pruned_heads = "):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    save_file({name.removeprefix("bert."): tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="lacks the key 'model_type'"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_a_folder_and_its_file_are_the_same_model(folder: Path, name: str) -> None:
    loaded = load(folder / name)
    assert loaded.model == Decoder(CONFIG)
    assert loaded.tokenizer is None
    for found, expected in zip(leaves(loaded.params), leaves(init(Decoder(CONFIG), jax.random.key(0))), strict=True):
        np.testing.assert_array_equal(found, expected)
    logits = loaded.model.apply({"params": loaded.params}, jnp.array([[1, 2, 3]]))
    assert logits.shape == (1, 3, 11)


def test_dtype_is_that_of_activations_and_parameters(folder: Path) -> None:
    loaded = load(folder, dtype="bfloat16")
    assert loaded.model.config.dtype == "bfloat16"
    assert {x.dtype for x in jax.tree.leaves(loaded.params)} == {jnp.dtype("bfloat16")}
    with pytest.raises(ValueError, match="dtype must be one of"):
        load(folder, dtype="int8")  # type: ignore[arg-type]


def test_tensors_are_placed_one_by_one(folder: Path) -> None:
    placed: list[str] = []

    def place(path: tuple[str, ...], tensor: np.ndarray) -> np.ndarray:
        placed.append("/".join(path))
        return tensor * 0

    loaded = load(folder, place=place)
    assert len(set(placed)) == len(placed) == len(jax.tree.leaves(loaded.params))
    assert all(not x.any() for x in leaves(loaded.params))


def test_names_of_the_catalogue_are_fetched() -> None:
    decoder = load("glassllm")
    assert decoder.model.config.rope_pairing == "adjacent"
    encoder = load("minilm-l6")
    assert isinstance(encoder.model, Encoder)
    for loaded in (decoder, encoder):
        assert loaded.tokenizer is not None
        assert loaded.tokenizer.vocab_size == loaded.model.config.vocab_size
        assert loaded.where.is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm2-135", r"nearest name is 'smollm2-135m' \(list: jaxsink fetch\)"),
        ("shakespeare", "is no file, no folder, no Hugging Face id"),
        ("somebody/something", r"pip install 'jaxsink\[hub\]'"),
    ],
)
def test_a_name_of_nothing_is_answered(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if it were not installed
    with pytest.raises(CheckpointError, match=message):
        load(name)


def test_half_a_checkpoint_is_answered(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load(folder)
    (folder / "config.json").write_text(json.dumps(HUGGING_FACE | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\."):
        load(folder)
    other = tmp_path_factory.mktemp("npz") / "other.npz"
    np.savez(other, x=np.zeros(3))
    with pytest.raises(CheckpointError, match="not a checkpoint of glassllm"):
        load(other)
