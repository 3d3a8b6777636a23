"""Attention as pure functions on arrays: one driver, `attend`, and row maps that turn scores into weights.

Arrays are [B, T, N, H] for queries and [B, S, K, H] for keys and values; scores and weights are [B, N, T, S].
"""

from jaxsink.attention.backends import BACKENDS, Backend
from jaxsink.attention.call import Aux, Call, Tap
from jaxsink.attention.composite import Composite, Evaluate, Inputs, Wrapped, Wrapper
from jaxsink.attention.driver import Variant, attend, attend_with_aux
from jaxsink.attention.masks import (
    AllOf,
    Causal,
    IsolateRows,
    Lengths,
    Mask,
    QueryOffset,
    Segments,
    Window,
    WindowWithSinks,
    query_positions,
)
from jaxsink.attention.positions import alibi_bias, alibi_slopes, rope, sinusoidal, t5_bias, t5_buckets
from jaxsink.attention.row_map import (
    AttentionDims,
    Mass,
    NullColumnMap,
    Params,
    Properties,
    RowContext,
    RowMap,
    StatisticMap,
    Streaming,
)
from jaxsink.attention.row_statistics import (
    masked_log_sum_exp,
    masked_softmax,
)
from jaxsink.attention.statistics import LogSumExp, RowStatistic, ScaledSum, Total
from jaxsink.attention.variants import (
    CATALOGUE,
    Clipped,
    Elastic,
    Entmax15,
    ReLU,
    Sigmoid,
    SinkLogit,
    Softmax,
    SoftmaxN,
    Softpick,
    Sparsemax,
)

__all__ = [
    "AllOf",
    "AttentionDims",
    "Aux",
    "BACKENDS",
    "Backend",
    "CATALOGUE",
    "Call",
    "Causal",
    "Clipped",
    "Composite",
    "Elastic",
    "Entmax15",
    "Evaluate",
    "Inputs",
    "IsolateRows",
    "Lengths",
    "LogSumExp",
    "Mask",
    "Mass",
    "NullColumnMap",
    "Params",
    "Properties",
    "QueryOffset",
    "ReLU",
    "RowContext",
    "RowMap",
    "RowStatistic",
    "ScaledSum",
    "Segments",
    "Sigmoid",
    "SinkLogit",
    "Softmax",
    "SoftmaxN",
    "Softpick",
    "Sparsemax",
    "StatisticMap",
    "Streaming",
    "Tap",
    "Total",
    "Variant",
    "Window",
    "WindowWithSinks",
    "Wrapped",
    "Wrapper",
    "alibi_bias",
    "alibi_slopes",
    "attend",
    "attend_with_aux",
    "masked_log_sum_exp",
    "masked_softmax",
    "query_positions",
    "rope",
    "sinusoidal",
    "t5_bias",
    "t5_buckets",
]
