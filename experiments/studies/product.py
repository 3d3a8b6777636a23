"""What every study hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Advance = Callable[[float], None]


class Product(NamedTuple):
    """What one seed's run leaves: arrays by name, final parameters, and entries of the manifest."""

    arrays: Mapping[str, np.ndarray]
    params: Any
    manifest: Mapping[str, Any]
