"""Instrumented Flax transformers: `model.apply({"params": params}, tokens)`, params a plain nested dict."""

from jaxsink.models.adapters import LinenAttention, NNXAttention, attention_fn
from jaxsink.models.config import TransformerConfig
from jaxsink.models.taps import CAPTURES, EDITS, Edit
from jaxsink.models.toy import Transformer, init

__all__ = [
    "CAPTURES",
    "EDITS",
    "Edit",
    "LinenAttention",
    "NNXAttention",
    "Transformer",
    "TransformerConfig",
    "attention_fn",
    "init",
]
