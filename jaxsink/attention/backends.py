"""The table of backends and the choice between them; a new backend is a new row."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import jax
from jax import Array

from jaxsink.attention import chunked, cudnn, mosaic, reference, splash
from jaxsink.attention.call import Aux, Call


def _refuses_nothing(call: Call) -> str | None:
    return None


def _always(call: Call) -> bool:
    return True


def _long(call: Call) -> bool:
    # From about here a CPU is faster without the arrays of scores (twice at T = S = 512, five times at 1024), and below
    # it XLA fuses the plain form well. A GPU multiplies large arrays twice as fast as blocks of them, while they fit.
    if jax.default_backend() == "cpu":
        return call.queries * call.keys >= 512 * 512
    return 4 * math.prod(call.scores_shape) >= 2**30


@dataclass(frozen=True)
class Backend:
    """One way to evaluate a call.

    Attributes:
        run: evaluates a call into the output and the wanted aux.
        refuses: why it cannot take a call (a half sentence for the error), or None if it can.
        has_arrays: whether scores and weights exist as [B, N, T, S] arrays, which a tap needs.
        platforms: where it runs, as JAX names platforms.
        dtype: one that it takes for q, k and v.
        worthwhile: whether "auto" should take it for a call that it does not refuse.
    """

    run: Callable[[Call], tuple[Array, Aux]]
    refuses: Callable[[Call], str | None]
    has_arrays: bool
    platforms: tuple[str, ...] = ("cpu", "gpu", "tpu")
    dtype: str = "float32"
    worthwhile: Callable[[Call], bool] = _always

    def refusal(self, call: Call) -> str | None:
        """Return why this backend cannot take the call, or None."""
        if (platform := jax.default_backend()) not in self.platforms:
            return f"it does not run on {platform}"
        if call.tap is not None and not self.has_arrays:
            return "it has no score and weight arrays for a tap"
        return self.refuses(call)


# Fastest first: "auto" takes the first that does not refuse and is worthwhile.
BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        "cudnn": Backend(run=cudnn.run, refuses=cudnn.refuses, has_arrays=False, platforms=("gpu",), dtype="bfloat16"),
        "mosaic": Backend(
            run=mosaic.run, refuses=mosaic.refuses, has_arrays=False, platforms=("gpu",), dtype="bfloat16"
        ),
        "splash": Backend(
            run=splash.run, refuses=splash.refuses, has_arrays=False, platforms=("tpu",), dtype="bfloat16"
        ),
        "chunked": Backend(run=chunked.run, refuses=chunked.refuses, has_arrays=False, worthwhile=_long),
        "reference": Backend(run=reference.run, refuses=_refuses_nothing, has_arrays=True),
    }
)


def select(call: Call, backend: str, table: Mapping[str, Backend] = BACKENDS) -> Backend:
    """Choose the backend for a call.

    Args:
        call: checked arguments.
        backend: a name in the table, or "auto" for the first that takes the call.
        table: backends by name, fastest first.

    Returns:
        The backend.

    Raises:
        ValueError: if the name is not in the table, or the named backend cannot take the call.
    """
    if backend == "auto":
        return next(row for row in table.values() if row.refusal(call) is None and row.worthwhile(call))
    if backend not in table:
        raise ValueError(f"backend must be auto or one of {', '.join(table)}, but is {backend!r}; pick one")
    reason = table[backend].refusal(call)
    if reason is not None:
        able = ", ".join(name for name, row in table.items() if row.refusal(call) is None)
        raise ValueError(f"backend {backend!r} cannot take this call because {reason}; use auto or {able}")
    return table[backend]
