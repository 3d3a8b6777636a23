"""Row maps: one file each, and one row each in `CATALOGUE`."""

from collections.abc import Mapping
from types import MappingProxyType

from jaxsink.attention.row_map import RowMap
from jaxsink.attention.variants.clipped import Clipped
from jaxsink.attention.variants.elastic import Elastic
from jaxsink.attention.variants.entmax import Entmax15
from jaxsink.attention.variants.relu import ReLU
from jaxsink.attention.variants.sigmoid import Sigmoid
from jaxsink.attention.variants.sink_logit import SinkLogit
from jaxsink.attention.variants.softmax import Softmax
from jaxsink.attention.variants.softmax_n import SoftmaxN
from jaxsink.attention.variants.softpick import Softpick
from jaxsink.attention.variants.sparsemax import Sparsemax

CATALOGUE: Mapping[str, type[RowMap]] = MappingProxyType(
    {
        "softmax": Softmax,
        "softmax-n": SoftmaxN,
        "sink-logit": SinkLogit,
        "relu": ReLU,
        "sigmoid": Sigmoid,
        "clipped": Clipped,
        "sparsemax": Sparsemax,
        "entmax-1.5": Entmax15,
        "elastic": Elastic,
        "softpick": Softpick,
    }
)

__all__ = [
    "CATALOGUE",
    "Clipped",
    "Elastic",
    "Entmax15",
    "ReLU",
    "Sigmoid",
    "SinkLogit",
    "Softmax",
    "SoftmaxN",
    "Softpick",
    "Sparsemax",
]
