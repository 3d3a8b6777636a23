"""Instrumented Flax transformers: `model.apply({"params": params}, tokens)`, params a plain nested dict."""

from jaxsink.models.adapters import LinenAttention, NNXAttention, attention_fn
from jaxsink.models.config import TransformerConfig
from jaxsink.models.decoder import Decoder
from jaxsink.models.decoder_config import DecoderConfig
from jaxsink.models.encoder import Encoder
from jaxsink.models.encoder_config import EncoderConfig
from jaxsink.models.model import Model, init
from jaxsink.models.taps import CAPTURES, EDITS, WANTED, Edit
from jaxsink.models.toy import Transformer

__all__ = [
    "CAPTURES",
    "Decoder",
    "DecoderConfig",
    "EDITS",
    "Edit",
    "Encoder",
    "EncoderConfig",
    "LinenAttention",
    "Model",
    "NNXAttention",
    "Transformer",
    "TransformerConfig",
    "WANTED",
    "attention_fn",
    "init",
]
