"""Round-to-nearest of weights and activations to few levels: what a network loses in integers.

Levels are symmetric: with k bits they are the whole numbers from -(2^(k-1) - 1) to 2^(k-1) - 1 times a scale, which
takes the entry of the largest size to the last level. Everything is computed in floating point, as is usual to judge a
quantisation without kernels for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass
from jax.typing import ArrayLike

from jaxsink.probing.edits import Edit, known
from jaxsink.probing.sites import Site

# What shares one scale: a whole array; a column of a weight [in, out], or of an activation one place along its last
# axis; or a vector along the last axis, of an activation one token.
Per = Literal["tensor", "channel", "token"]
_SHARED: Mapping[Per, Any] = {"tensor": lambda n: None, "channel": lambda n: tuple(range(n - 1)), "token": lambda n: -1}


def levels_of(bits: int) -> int:
    """The last level of k bits, 2^(k-1) - 1: 127 of 8 bits, 7 of 4.

    Raises:
      ValueError: there are fewer than 2 bits, which leave no level but zero, or more than 24, which float32 lacks.
    """
    if not 2 <= bits <= 24:
        raise ValueError(f"bits must be from 2 to 24, but {bits} was given; 8 and 4 are usual.")
    return 2 ** (bits - 1) - 1


def _check_per(per: str) -> None:
    if per not in _SHARED:
        raise ValueError(f"per must be one of {', '.join(get_args(Per))}, but {per!r} was given.")


def round_to_nearest(x: ArrayLike, levels: ArrayLike, per: Per = "tensor", where: ArrayLike = True) -> jax.Array:
    """An array with its entries rounded to the nearest of 2 levels + 1 values that lie evenly around zero.

    The error is at most half a step, which is the largest size among the entries that share a scale over `levels`.
    Where all of these are zero, they stay it. Rounding what is rounded changes nothing but the last digits.

    Args:
      x: [..., D], floating. levels: of each sign, one number, from `levels_of`; it may be traced.
      per: what shares a scale (see `Per`). A vector has a single "token".
      where: bool that broadcasts to x: entries to be rounded. Others stay bit for bit, and no scale counts them.

    Raises:
      ValueError: `per` is unknown, x is a number alone or not floating, or levels are below 1.

    Source: symmetric round-to-nearest, as the baseline of 2208.07339 and 2306.12929.
    """
    x, where = jnp.asarray(x), jnp.asarray(where)
    _check_per(per)
    if x.ndim < 1 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x must be a floating array [..., D], but has shape {x.shape} and dtype {x.dtype}.")
    if known(levels) and np.any(np.asarray(levels) < 1):
        raise ValueError(f"levels must be at least 1, but {levels} was given; 4 bits have 7.")
    where = jnp.broadcast_to(where, x.shape)
    largest = jnp.where(where, jnp.abs(x), 0).max(axis=_SHARED[per](x.ndim), keepdims=True)
    step = largest / jnp.asarray(levels, x.dtype)
    # A step that is zero, or so small that it has become it, has nothing to round.
    rounded = jnp.round(x / jnp.where(step > 0, step, 1)) * step
    return jnp.where(where & (step > 0), rounded, x)


def rounded_params(params: Any, bits: int, per: Per = "tensor") -> Any:
    """Parameters with every matrix rounded; vectors, such as scales and biases of norms, stay as they are.

    Args:
      params: arrays in a pytree; a matrix is an array of two axes or more. bits: of the levels. per: as above.

    Raises:
      ValueError: the bits or `per` are not possible.
    """
    levels = levels_of(bits)
    return jax.tree.map(lambda x: round_to_nearest(x, levels, per) if jnp.ndim(x) > 1 else x, params)


@register_dataclass
@dataclass(frozen=True)
class Round(Edit):
    """The site is rounded; as every edit, in company of others (`Chain`, `merge`).

    Attributes:
      levels: of each sign, one number, as from `levels_of`. where: what is rounded; no scale counts the rest.
      per: what shares a scale, "tensor" the whole site with its batch.
    """

    levels: ArrayLike
    where: ArrayLike = True
    per: Per = field(default="tensor", metadata={"static": True})

    def changed(self, x: jax.Array) -> jax.Array:
        return round_to_nearest(x, self.levels, self.per, self.where)

    def check(self, site: Site) -> None:
        super().check(site)
        if jnp.shape(self.levels) != () or (known(self.levels) and np.asarray(self.levels) < 1):
            raise ValueError(
                f"the edit of {site.name!r} must have one number of levels from 1 up, but has {self.levels}; 4 bits "
                "have 7."
            )
        _check_per(self.per)
