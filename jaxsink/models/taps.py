"""Named sites: where activations come out and edits go in, as pytrees, under any JAX transformation."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import linen as nn

CAPTURES = "captures"
EDITS = "edits"
# An edit is a pytree that can be called: the kinds are in `jaxsink.probing`.
Edit = Callable[[jax.Array], jax.Array]


class Tapped(nn.Module):
    """A module with sites. `tap` first applies the edit given for the site, then lets the value be captured."""

    def tap(self, name: str, x: jax.Array) -> jax.Array:
        if self.has_variable(EDITS, name):
            x = self.get_variable(EDITS, name)(x)
        # A site is tapped once a call: the newest value replaces, where Flax would append to a tuple.
        self.sow(CAPTURES, name, x, init_fn=lambda: None, reduce_fn=lambda _, new: new)
        return x

    def attention_tap_needed(self) -> bool:
        """Whether a T x S site is wanted, which only the reference attention backend can offer."""
        edited = any(self.has_variable(EDITS, name) for name in ("attn_scores", "pattern"))
        return edited or self.is_mutable_collection(CAPTURES)
