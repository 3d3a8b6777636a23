"""Row maps: one file each, and one row each in `CATALOGUE`."""

from collections.abc import Mapping
from types import MappingProxyType

from jaxsink.attention.row_map import RowMap
from jaxsink.attention.variants.clamped_linear import ClampedLinear
from jaxsink.attention.variants.clipped import Clipped
from jaxsink.attention.variants.elastic import Elastic
from jaxsink.attention.variants.elu_plus_one import ELUPlusOne
from jaxsink.attention.variants.entmax import Entmax15
from jaxsink.attention.variants.entmax_alpha import Entmax
from jaxsink.attention.variants.gelu import GELU
from jaxsink.attention.variants.identity import Identity
from jaxsink.attention.variants.normalised_linear import NormalisedLinear
from jaxsink.attention.variants.normalised_sigmoid import NormalisedSigmoid
from jaxsink.attention.variants.p_normalised import PNormalised
from jaxsink.attention.variants.relu import ReLU
from jaxsink.attention.variants.relu_over_length import ReLUOverLength
from jaxsink.attention.variants.scaled import Scaled
from jaxsink.attention.variants.sigmoid import Sigmoid
from jaxsink.attention.variants.sink_logit import SinkLogit
from jaxsink.attention.variants.softmax import Softmax
from jaxsink.attention.variants.softmax_n import SoftmaxN
from jaxsink.attention.variants.softpick import Softpick
from jaxsink.attention.variants.sparsemax import Sparsemax
from jaxsink.attention.variants.squared_relu import SquaredReLU
from jaxsink.attention.variants.stick_breaking import StickBreaking
from jaxsink.attention.variants.threshold_rectified import ThresholdRectified

CATALOGUE: Mapping[str, type[RowMap]] = MappingProxyType(
    {
        "softmax": Softmax,
        "scaled-softmax": Scaled,
        "p-normalised": PNormalised,
        "softmax-n": SoftmaxN,
        "sink-logit": SinkLogit,
        "clipped": Clipped,
        "elastic": Elastic,
        "softpick": Softpick,
        "sparsemax": Sparsemax,
        "entmax-1.5": Entmax15,
        "entmax": Entmax,
        "relu": ReLU,
        "relu-over-length": ReLUOverLength,
        "squared-relu": SquaredReLU,
        "gelu": GELU,
        "threshold-rectified": ThresholdRectified,
        "sigmoid": Sigmoid,
        "normalised-sigmoid": NormalisedSigmoid,
        "elu-plus-one": ELUPlusOne,
        "identity": Identity,
        "normalised-linear": NormalisedLinear,
        "clamped-linear": ClampedLinear,
        "stick-breaking": StickBreaking,
    }
)

__all__ = [
    "CATALOGUE",
    "ClampedLinear",
    "Clipped",
    "ELUPlusOne",
    "Elastic",
    "Entmax",
    "Entmax15",
    "GELU",
    "Identity",
    "NormalisedLinear",
    "NormalisedSigmoid",
    "PNormalised",
    "ReLU",
    "ReLUOverLength",
    "Scaled",
    "Sigmoid",
    "SinkLogit",
    "Softmax",
    "SoftmaxN",
    "Softpick",
    "Sparsemax",
    "SquaredReLU",
    "StickBreaking",
    "ThresholdRectified",
]
