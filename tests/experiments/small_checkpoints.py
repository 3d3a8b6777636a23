"""Checkpoints of small models in Hugging Face folders, with words that pages must escape."""

import json
from pathlib import Path
from typing import Any

import jax
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from jaxsink.checkpoints.families import family_of
from jaxsink.models import init

HOSTILE = ("<script>alert(1)</script>", '"><img/src=x/onerror=alert(2)>', "$x^2_", "{{7*7}}", "\u202e&lt;", "日本")
WORDS = ("[CLS]", "[SEP]", "[UNK]", *HOSTILE, "a", "b", "c", "d", "e")
VOCABULARY = {word: index for index, word in enumerate(WORDS)}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": len(WORDS),
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 12,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32,
}
BERT = {
    "architectures": ["BertModel"],
    "vocab_size": len(WORDS),
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 8,
    "intermediate_size": 12,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
}


def checkpoint(folder: Path, description: dict[str, Any], tokenizer: bool) -> None:
    """A Hugging Face folder of a small model with weights that make attention uneven."""
    folder.mkdir()
    family = family_of(description)
    config = family.config(description, ())
    params = jax.tree.map(lambda x: x * 25 if x.ndim == 2 else x, init(family.model(config), jax.random.key(0)))
    save_file(family.export_tensors(params, config), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(description))
    if tokenizer:
        made = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        made.add_special_tokens(["[CLS]", "[SEP]", "[UNK]"])
        if description is BERT:
            made.post_processor = processors.TemplateProcessing(
                single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
            )
        made.save(str(folder / "tokenizer.json"))
