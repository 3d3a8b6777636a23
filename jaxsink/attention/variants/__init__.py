"""Row maps: one file each, and one row each in `CATALOGUE`."""

from collections.abc import Mapping
from types import MappingProxyType

from jaxsink.attention.row_map import RowMap
from jaxsink.attention.variants.relu import ReLU
from jaxsink.attention.variants.sigmoid import Sigmoid
from jaxsink.attention.variants.sink_logit import SinkLogit
from jaxsink.attention.variants.softmax import Softmax
from jaxsink.attention.variants.softmax_n import SoftmaxN

CATALOGUE: Mapping[str, type[RowMap]] = MappingProxyType(
    {
        "softmax": Softmax,
        "softmax-n": SoftmaxN,
        "sink-logit": SinkLogit,
        "relu": ReLU,
        "sigmoid": Sigmoid,
    }
)

__all__ = ["CATALOGUE", "ReLU", "Sigmoid", "SinkLogit", "Softmax", "SoftmaxN"]
