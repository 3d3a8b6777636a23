"""The models that the papers measure, by configuration, with random weights at full width, beside transformers.

The vocabularies are cut to 1,000, and the decoders to two blocks, so that each fits into some gigabytes.
"""

import os
import warnings

import numpy as np
import pytest
from beside import load

os.environ.setdefault("HF_HUB_OFFLINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they warn of on import is not ours to mend
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow
hugging_face = load(__file__, "hugging_face")
V = 1000
MASK = np.array([[1] * 12, [1] * 9 + [0] * 3])
# As their config.json says, but for the sizes named above.
MODELS = {
    "bert-large-cased-whole-word-masking": (
        "BertForMaskedLM",
        "BertConfig",
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
        },
    ),
    "Llama-2-7B": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            "hidden_size": 4096,
            "num_hidden_layers": 2,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "intermediate_size": 11008,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        },
    ),
    "Llama-3-8B": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            "hidden_size": 4096,
            "num_hidden_layers": 2,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 14336,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        },
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_the_papers(name, tmp_path):
    kind, config, keys = MODELS[name]
    tokens = np.random.default_rng(0).integers(1, V, size=MASK.shape)
    layers = keys["num_hidden_layers"]
    only = {f"blocks.{i}.{site}" for i in range(layers) for site in ("q", "k", "pattern", "attn_out", "resid_post")}
    comparison = hugging_face.Comparison(
        tmp_path,
        getattr(transformers, kind),
        getattr(transformers, config)(vocab_size=V, **keys),
        {"input_ids": tokens, "attention_mask": MASK},
        only,
    )
    assert set(comparison.names) == only
    assert comparison.beyond(comparison.found()) == {}
