"""Wrappers: what `Wrapped` can put around a row map."""

from jaxsink.attention.wrappers.features import EluFeatures, MLPFeatures
from jaxsink.attention.wrappers.forget_gate import ForgetGate, decay_bias
from jaxsink.attention.wrappers.head_gates import PerHeadGate, PerTokenGate, UnconditionalGate
from jaxsink.attention.wrappers.head_norm import HeadRMSNorm
from jaxsink.attention.wrappers.output_gates import ElementwiseGate, HeadwiseGate, ValueStateOutputGate
from jaxsink.attention.wrappers.qk_norm import CosineQK, QKNorm
from jaxsink.attention.wrappers.slots import KeyBias, KeyValueBias, ValueBias
from jaxsink.attention.wrappers.value_gates import InputGate, ValueGate, ValueStateGate

__all__ = [
    "CosineQK",
    "ElementwiseGate",
    "EluFeatures",
    "ForgetGate",
    "HeadRMSNorm",
    "HeadwiseGate",
    "InputGate",
    "KeyBias",
    "KeyValueBias",
    "MLPFeatures",
    "PerHeadGate",
    "PerTokenGate",
    "QKNorm",
    "UnconditionalGate",
    "ValueBias",
    "ValueGate",
    "ValueStateGate",
    "ValueStateOutputGate",
    "decay_bias",
]
