"""Named sites: where activations come out and edits go in, as pytrees, under any JAX transformation."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import linen as nn

CAPTURES = "captures"
EDITS = "edits"
# Which sites are captured: an empty array for each. Its structure is static, so a compiled function computes no others.
WANTED = "wanted"
# An edit is a pytree that can be called: the kinds are in `jaxsink.probing`.
Edit = Callable[[jax.Array], jax.Array]


class Tapped(nn.Module):
    """A module with sites. `tap` first applies the edit given for the site, then lets the value be captured.

    What is captured is what the collection WANTED names; without that collection, every site.
    """

    def tap(self, name: str, x: jax.Array) -> jax.Array:
        if self.has_variable(EDITS, name):
            x = self.get_variable(EDITS, name)(x)
        self.show(name, x)
        return x

    def show(self, name: str, x: jax.Array) -> None:
        """Let the value be captured at a site that takes no edit, because nothing is computed from it."""
        if self.wants(name):
            # A site is tapped once a call: the newest value replaces, where Flax would append to a tuple.
            self.sow(CAPTURES, name, x, init_fn=lambda: None, reduce_fn=lambda _, new: new)

    def wants(self, name: str) -> bool:
        """Whether the site is captured in this call."""
        if not self.is_mutable_collection(CAPTURES):
            return False
        every = self.scope is None or self.scope.root.is_collection_empty(WANTED)
        return every or self.has_variable(WANTED, name)

    def attention_tap_needed(self) -> bool:
        """Whether a T x S site is wanted or edited, which only the reference attention backend can offer."""
        return any(self.has_variable(EDITS, name) or self.wants(name) for name in ("attn_scores", "pattern"))
