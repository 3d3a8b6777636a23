"""What follows from removing one block of a trained network (2410.13835, section 3)."""

from __future__ import annotations

from typing import Any

import jax

from jaxsink.models import Transformer
from jaxsink.probing import Edits, every_block, merge
from jaxsink.tasks import BigramBackcopy
from jaxsink.training.observe import observe

Measured = dict[str, jax.Array]
# What is kept of `observe`: with an axis of layers, save the two risks.
KEPT = ("peak_ratio", "dlogit", "value_ratio", "attn_start", "backcopy", "bigram")


def block_removals(
    model: Transformer, task: BigramBackcopy, params: Any, tokens: jax.Array, edits: Edits | None = None
) -> Measured:
    """Peak, sink and risks when one block at a time adds nothing to the residual stream. Jittable.

    A removed block still computes its attention, which is measured like that of the others, but nothing reads it.

    Args:
      model, task, params: the network and what it was trained on.
      tokens: int [B, T], inputs.
      edits: as for `probing.run`: what is cut is the network with them.

    Returns:
      Arrays with a leading axis R of the removed block: "removed_peak_ratio", "removed_dlogit" (logits),
      "removed_value_ratio" and "removed_attn_start" (weights) [R, L], "removed_backcopy" and "removed_bigram" (nats)
      [R]; each as `observe` defines it without the prefix.
    """

    def without(block: Edits) -> Measured:
        found = observe(model, task, params, tokens, merge(edits or {}, block))
        return {f"removed_{name}": found[name] for name in KEPT}

    # A loop of the program, so that `observe` is compiled once and not once a block.
    return dict(jax.lax.map(without, every_block(model)[1]))
