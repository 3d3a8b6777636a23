"""The residual stream after block 0 and the gradient of the training loss in it, at <s> (2410.13835, section 3)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsink import metrics
from jaxsink.models import Transformer
from jaxsink.probing import Edits, gradients, run
from jaxsink.tasks import BigramBackcopy

Measured = dict[str, jax.Array]
SITE = "blocks.0.resid_post"
# How many sequences of a probe batch are differentiated at most: all 256 would cost as much as six steps of training.
SEQUENCES = 64


def _value_map(model: Transformer, params: Any, layer: int) -> jax.Array:
    """[D, D]: what a small change of a block's input makes of W_O v, up to the scale of LayerNorm.

    LayerNorm takes the mean away and multiplies by its gain, so both belong to the map. It also divides by the
    standard deviation, a number that all directions share and that a ratio of two of them loses.
    """
    block = params[f"blocks_{layer}"]
    exact = jax.lax.Precision.HIGHEST
    linear = jnp.matmul(block["W_V"], block["W_O"], precision=exact)
    if not model.config.normalise:
        return linear
    gained = block["ln1"]["scale"][:, None] * linear
    return gained - gained.mean(axis=0, keepdims=True)


def relative_image(direction: jax.Array, linear: jax.Array) -> jax.Array:
    """How much longer a linear map makes a vector than it makes a random direction (root mean square).

    Args:
      direction: [D], of any length but zero. linear: [D, D], applied from the right.

    Returns:
      Scalar: 1 for a direction like any other, 0 for one in the null space.
    """
    image = jnp.matmul(direction, linear, precision=jax.lax.Precision.HIGHEST)
    # E |r M|^2 = |M|_F^2 / D over random unit vectors r.
    at_random = jnp.linalg.norm(linear) / jnp.sqrt(jnp.asarray(direction.size, linear.dtype))
    return jnp.linalg.norm(image) / (jnp.linalg.norm(direction) * at_random)


def residual_gradients(
    model: Transformer,
    task: BigramBackcopy,
    params: Any,
    tokens: jax.Array,
    loss_on: str = "all",
    edits: Edits | None = None,
) -> Measured:
    """The output of block 0 and the gradient of the loss in it, at <s> and at a content token. Jittable.

    The loss is the training loss in expectation over the targets: the cross-entropy under the exact law, which has
    the same mean gradient and less noise. The content token is the most frequent character: its output is averaged
    over all places where it stands, and its gradient is that with respect to one vector added at all of them.

    Args:
      model, task, params: the network, of two blocks or more, and what it was trained on.
      tokens: int [B, T], inputs, of which the first SEQUENCES are used.
      loss_on: as in `TrainConfig`. edits: as for `probing.run`.

    Returns:
      "gradient_start" and "gradient_content" [D] (nats per unit of the residual stream), "residual_start" and
      "residual_content" [D]; and for each of these four with the suffix "_image" [L]: the length of its image under the
      value map W_V W_O of each block (its LayerNorm gain and centring included) over that of a random direction's
      image, see `relative_image`; NaN for block 0, which does not read its own output, and for a block without
      attention.
    """
    tokens = tokens[:SEQUENCES]
    counted = task.is_trigger(tokens) if loss_on == "triggers" else jnp.ones(tokens.shape, bool)
    law = task.law(tokens)

    def loss(logits: jax.Array, captured: dict[str, Any]) -> jax.Array:
        return metrics.excess_risk(jax.nn.log_softmax(logits), law, counted)

    skip = model.config.registers
    _, found = gradients(loss, model, params, tokens, [SITE], edits=edits)
    _, captured = run(model, params, tokens, capture=[SITE], edits=edits)
    content = (tokens == int(np.argmax(task.chain.marginal))) & (jnp.arange(tokens.shape[1])[None, :] >= task.starts)

    def at_content(by_position: jax.Array) -> jax.Array:
        return jnp.where(content[..., None], by_position, 0.0).sum(axis=(0, 1))

    gradient, residual = found[SITE][:, skip:], captured[SITE][:, skip:]
    vectors = {
        "gradient_start": gradient[:, 0].sum(axis=0),
        "gradient_content": at_content(gradient),
        "residual_start": residual[:, 0].mean(axis=0),
        "residual_content": at_content(residual) / content.sum().astype(residual.dtype),
    }
    readers = [i for i in range(1, model.config.n_layers) if i not in model.config.layers_without_attention]
    maps = {i: _value_map(model, params, i) for i in readers}

    def images(vector: jax.Array) -> jax.Array:
        each = [relative_image(vector, maps[i]) if i in maps else jnp.nan for i in range(model.config.n_layers)]
        return jnp.stack([jnp.asarray(x, vector.dtype) for x in each])

    return vectors | {f"{name}_image": images(vector) for name, vector in vectors.items()}
