"""A pass of transformers, which `jaxsink bench scan` compares with where it is installed (the extra `parity`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxsink.models import DecoderConfig, EncoderConfig


def eager_or_sdpa(c: DecoderConfig | EncoderConfig, tokens: np.ndarray, maps: bool) -> Callable[[], Any] | None:
    """The pass of transformers: eager with all attention maps, or its fastest without; None where it is not installed.

    Its weights are random: a pass takes as long with any.
    """
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        return None
    import torch
    import transformers

    common = {
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_mlp,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "max_position_embeddings": max(c.max_length, tokens.shape[1]),
        "attn_implementation": "eager" if maps else "sdpa",
    }
    config: Any
    if isinstance(c, DecoderConfig):
        config = transformers.LlamaConfig(num_key_value_heads=c.n_key_heads, head_dim=c.head_size, **common)
    else:
        config = transformers.BertConfig(**common)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    with torch.device(device):
        network = transformers.AutoModel.from_config(config, dtype=getattr(torch, c.dtype)).eval()
        ids = torch.tensor(tokens, dtype=torch.long)

    def work() -> Any:
        with torch.no_grad():
            network(ids, output_attentions=maps, use_cache=False)
        if device == "cuda":
            torch.cuda.synchronize()
        return np.zeros(())

    return work
