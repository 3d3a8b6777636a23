"""What the tests of a backend ask it for, and how far its answer is from another."""

from dataclasses import replace
from typing import Any

import numpy as np
from jax import Array

from jaxsink.attention import Mask, RowMap
from jaxsink.attention.call import Call


def call_of(variant: RowMap, mask: Mask | None, q: Array, k: Array, v: Array, params: Any, **changed: Any) -> Call:
    call = Call(
        q=q,
        k=k,
        v=v,
        variant=variant,
        params=params,
        mask=mask,
        bias=(),
        null_logit=None,
        scale=0.3,
        softcap=None,
        tap=None,
        want=frozenset(),
        query_offset=None,
        on_keys=None,
        on_groups=None,
    )
    return replace(call, **changed)


def distance(found: Array, expected: Array) -> float:
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
