"""What the configurations of decoders and encoders check alike."""

from __future__ import annotations

import math
from typing import Literal, get_args

ActivationDtype = Literal["float32", "bfloat16", "float64"]


def check_counts(config: object, *names: str) -> None:
    """Check that these fields are whole numbers of at least 1."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, but {value!r} was given; set it to one.")


def check_norm_eps(eps: float) -> None:
    """Check what norms add to their mean square."""
    if not 0.0 <= eps < math.inf:
        raise ValueError(f"norm_eps must be a finite number of at least 0, but {eps!r} was given; 1e-6 is usual.")


def check_dtype(dtype: str) -> None:
    """Check the dtype of activations."""
    if dtype not in get_args(ActivationDtype):
        raise ValueError(
            f"dtype must be one of {', '.join(get_args(ActivationDtype))}, but {dtype!r} was given; choose of those."
        )
