"""Attention as pure functions on arrays: one driver, `attend`, and row maps that turn scores into weights.

Arrays are [B, T, N, H] for queries and [B, S, K, H] for keys and values; scores and weights are [B, N, T, S].
"""

from jaxsink.attention.backends import BACKENDS, Backend
from jaxsink.attention.call import Aux, Call, Tap
from jaxsink.attention.driver import attend, attend_with_aux
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
from jaxsink.attention.row_map import (
    AttentionDims,
    Mass,
    NullColumnMap,
    Params,
    Properties,
    RowContext,
    RowMap,
    Streaming,
)
from jaxsink.attention.row_statistics import (
    masked_log_sum_exp,
    masked_softmax,
)
from jaxsink.attention.variants import (
    CATALOGUE,
    ReLU,
    Sigmoid,
    SinkLogit,
    Softmax,
    SoftmaxN,
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
    "IsolateRows",
    "Lengths",
    "Mask",
    "Mass",
    "NullColumnMap",
    "Params",
    "Properties",
    "QueryOffset",
    "ReLU",
    "RowContext",
    "RowMap",
    "Segments",
    "Sigmoid",
    "SinkLogit",
    "Softmax",
    "SoftmaxN",
    "Streaming",
    "Tap",
    "Window",
    "WindowWithSinks",
    "attend",
    "attend_with_aux",
    "masked_log_sum_exp",
    "masked_softmax",
    "query_positions",
]
