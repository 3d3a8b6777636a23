"""What decoders and encoders have in common: norms, linear maps, and attention with its sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxsink.attention import AttentionDims, Mask, Segments, Variant, attend_with_aux
from jaxsink.models.taps import Tapped

# The initialisation of both families (config.json calls it initializer_range).
map_init = nn.initializers.normal(0.02)
# Sites that `attend_with_aux` fills without an array of T x S, and the entries of `Aux` that they are.
ATTENTION_READINGS = {"attn_on_first": "on_keys", "attn_received": "received", "attn_entropy": "entropy"}


def wide(dtype: Any) -> jnp.dtype:
    """Of sums, logits and new parameters beside activations of a dtype: float32, or float64 for float64."""
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)


def along_rows(vector: jax.Array, x: jax.Array) -> jax.Array:
    """A vector [D], in the dtype of x [..., D], as large as x."""
    return jnp.broadcast_to(vector.astype(x.dtype), x.shape)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis of [..., D]; statistics as `wide` (1910.07467, eq. 4)."""
    y = x.astype(wide(x.dtype))
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    return y.astype(x.dtype) * along_rows(scale, x)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """LayerNorm over the last axis of [..., D], computed as `wide` and returned in the dtype of x (1607.06450)."""
    y = x.astype(wide(x.dtype))
    y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    return (y * along_rows(scale, y) + along_rows(bias, y)).astype(x.dtype)


def scale_init(size: int, dtype: Any) -> dict[str, jax.Array]:
    """New parameters of `rms_norm`."""
    return {"scale": jnp.ones(size, wide(dtype))}


def scale_and_bias_init(size: int, dtype: Any) -> dict[str, jax.Array]:
    """New parameters of `layer_norm`."""
    return scale_init(size, dtype) | {"bias": jnp.zeros(size, wide(dtype))}


def padding_mask(valid: jax.Array, x: jax.Array) -> Mask:
    """Real tokens see real tokens, and padding neither gives nor takes attention.

    Args:
      valid: bool [B, T], True = a real token. x: [B, T, D].

    Raises:
      ValueError: `valid` has another shape or dtype.
    """
    if valid.shape != x.shape[:2] or valid.dtype != jnp.bool_:
        raise ValueError(
            f"valid must be bool [B, T] = {list(x.shape[:2])}, True for a real token, but has shape "
            f"{list(valid.shape)} and dtype {valid.dtype}; compare the attention mask with 1."
        )
    return Segments(jnp.where(valid, 1, 2), jnp.where(valid, 1, 0))


def checked_tokens(tokens: jax.Array) -> jax.Array:
    """The tokens, if they are whole numbers [B, T]."""
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(
            f"tokens must be whole numbers [B, T], but have shape {tokens.shape} and dtype {tokens.dtype}; "
            "give one row per sequence."
        )
    return tokens


def check_layer(layer: int, n_layers: int) -> None:
    """Raise ValueError unless a stack of so many blocks has this one, counted from 0."""
    if not 0 <= layer < n_layers:
        raise ValueError(f"layer must be from 0 to {n_layers - 1}, but {layer} was given; choose of those.")


class Block(Tapped):
    """The parts of a block. It knows no layer index, so that a driver compiles one block for all layers."""

    def linear(self, x: jax.Array, size: int, weight: str, bias: str | None) -> jax.Array:
        """x [..., D] to [..., size], with the parameters of these names, cast to the dtype of x."""
        y = x @ self.param(weight, map_init, (x.shape[-1], size), wide(x.dtype)).astype(x.dtype)
        if bias is None:
            return y
        return y + along_rows(self.param(bias, nn.initializers.zeros, (size,), wide(x.dtype)), y)

    def heads(self, site: str, x: jax.Array, count: int, size: int, bias: bool) -> jax.Array:
        """Projection of x [B, T, D] to the heads [B, T, count, size] of a site "q", "k" or "v"."""
        letter = site.upper()
        y = self.linear(x, count * size, f"W_{letter}", f"b_{letter}" if bias else None)
        return self.tap(site, y.reshape(*x.shape[:2], count, size))

    def attended(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        *,
        x: jax.Array,
        mask: Mask | None,
        variant: Variant,
        dims: AttentionDims,
    ) -> jax.Array:
        """Weighted values of all heads [B, T, N H], with the sites of attention."""
        params = variant.init(jax.random.key(0), dims) or None
        if params is not None:
            params = self.param("attention", variant.init, dims)
        readings = {site: entry for site, entry in ATTENTION_READINGS.items() if self.wants(site)}
        z, aux = attend_with_aux(
            q,
            k,
            v,
            variant,
            params=params,
            x=x,
            mask=mask,
            tap=self.tap if self.attention_tap_needed() else None,
            want=tuple(readings.values()),
            keys=[0] if "on_keys" in readings.values() else None,
        )
        for site, entry in readings.items():
            value = getattr(aux, entry)
            self.show(site, value[..., 0] if entry == "on_keys" else value)
        return self.tap("z", z).reshape(*x.shape[:2], -1)


class Stack(Tapped):
    """What stands around the blocks, in methods that can also be applied alone."""

    def held(self, name: str, init: Callable[[jax.Array], Any]) -> Any:
        """A parameter, or several in a dict, of this module.

        Flax initialises parameters only below a compact method, but a method applied alone is none.

        Raises:
          ValueError: the parameter is absent or has another shape.
        """
        if self.is_initializing() and not self.has_variable("params", name):
            return self.param(name, init)
        if not self.has_variable("params", name):
            raise ValueError(f"params must have the entry {name!r} for this configuration, but it is absent; add it.")
        value: Any = self.get_variable("params", name)
        expected = jax.tree.map(jnp.shape, jax.eval_shape(init, jax.random.key(0)))
        if (found := jax.tree.map(jnp.shape, value)) != expected:
            raise ValueError(
                f"params[{name!r}] must have the shapes {expected}, but has {found}; load those of this configuration."
            )
        return value
