"""The control by the position (2407.01601), for models that add position vectors, and its comparison vectors.

Comparisons of the first position's vector: that of an interior position, that of one with the first's norm
(`norm_matched`), the mean of all (`params["W_pos"].mean(0)`), and the first's with another length (`scale`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsink.control.rows import Indices, selected
from jaxsink.models import Model
from jaxsink.probing import Edit, Set, sites
from jaxsink.probing.edits import known


def transplant_position(
    model: Model, vector: ArrayLike, target: Indices, length: int, *, scale: ArrayLike = 1.0
) -> dict[str, Edit]:
    """Tokens that get another position's vector, or any vector, in the place of their own.

    For models that add position vectors; those that rotate take other `positions` among the inputs of `run`.

    Source: 2407.01601, the control by the position embedding.

    Args:
      model: the model. vector: [D], such as `params["W_pos"][0]`.
      target: 0-based tokens, one or several; registers have no position vector and do not count. A traced one that does
        not exist changes nothing.
      length: T of the tokens. scale: what the vector is multiplied by; 0 leaves the tokens without a position.

    Returns:
      The edit of "pos_embed".

    Raises:
      ValueError: the model adds no position vectors, or there is no such token.
    """
    site = sites(model, length=length).get("pos_embed")
    if site is None:
        raise ValueError(
            f"{type(model).__name__} adds no position vectors, so none could be replaced; give run other positions."
        )
    where = jnp.asarray(selected(target, site, "T"))[:, None]
    return {site.name: Set(jnp.asarray(vector) * scale, where)}


def norm_matched(vector: ArrayLike, reference: ArrayLike) -> jax.Array:
    """A vector [D] with the norm of another [D].

    Args:
      vector: gives the direction. reference: gives the norm.

    Raises:
      ValueError: the vector is zero, and so has no direction; a traced one becomes NaN.
    """
    vector, reference = jnp.asarray(vector), jnp.asarray(reference)
    norm = jnp.linalg.norm(vector)
    if known(norm) and norm == 0:
        raise ValueError("vector must have a direction to get another norm, but it is zero; give another vector.")
    return vector * (jnp.linalg.norm(reference) / norm)
