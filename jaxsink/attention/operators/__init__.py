"""Operators: variants that combine several attentions of row maps."""

from jaxsink.attention.operators.differential import Differential
from jaxsink.attention.operators.threshold_differential import ThresholdDifferential

__all__ = ["Differential", "ThresholdDifferential"]
