"""The models, and what holds for each of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxsink.models.decoder import Decoder
from jaxsink.models.encoder import Encoder
from jaxsink.models.toy import Transformer

Model = Transformer | Decoder | Encoder


def init(model: Model, key: jax.Array) -> dict[str, Any]:
    """Initial parameters of a model, a plain nested dict of arrays.

    Args:
      model: the model. key: PRNG key; the same key gives the same parameters.
    """
    # No parameter depends on how many tokens there are.
    tokens = jnp.zeros((1, 1), jnp.int32)
    # Only the params: a capture collection opened here would leak into them.
    return dict(model.init(key, tokens, mutable=["params"])["params"])
