"""Decoders of the Llama family: RMSNorm, rotary positions, grouped queries, SwiGLU (2302.13971)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxsink.attention import Causal, rope
from jaxsink.models.decoder_config import DecoderConfig
from jaxsink.models.parts import (
    Block,
    Stack,
    check_layer,
    checked_tokens,
    map_init,
    padding_mask,
    rms_norm,
    scale_init,
    wide,
)


class DecoderBlock(Block):
    """Attention and MLP, each reading the normalised residual stream and adding to it."""

    config: DecoderConfig

    def normalised(self, name: str, x: jax.Array) -> jax.Array:
        scale = self.param(name, lambda _: scale_init(x.shape[-1], x.dtype))["scale"]
        return rms_norm(x, scale, self.config.norm_eps)

    def attention(self, x: jax.Array, valid: jax.Array | None, positions: jax.Array) -> jax.Array:
        c = self.config

        def turned(site: str, y: jax.Array) -> jax.Array:
            return self.tap(site, rope(y, positions, c.rope_base, c.rope_pairing, c.rope_scaling))

        q = self.heads("q", x, c.n_heads, c.head_size, c.qkv_bias)
        k = self.heads("k", x, c.n_key_heads, c.head_size, c.qkv_bias)
        v = self.heads("v", x, c.n_key_heads, c.head_size, c.qkv_bias)
        mask = Causal() if valid is None else Causal() & padding_mask(valid, x)
        q, k = turned("rot_q", q), turned("rot_k", k)
        z = self.attended(q, k, v, x=x, mask=mask, variant=c.attention, dims=c.dims)
        return self.linear(z, c.d_model, "W_O", "b_O" if c.output_bias else None)

    def mlp(self, x: jax.Array) -> jax.Array:
        """SwiGLU without biases (2002.05202, eq. 6)."""
        c = self.config
        gate = self.tap("mlp_pre", self.linear(x, c.d_mlp, "W_gate", None))
        up = self.tap("mlp_pre_linear", self.linear(x, c.d_mlp, "W_in", None))
        return self.linear(self.tap("mlp_post", nn.silu(gate) * up), c.d_model, "W_out", None)

    @nn.compact
    def __call__(
        self, x: jax.Array, *, valid: jax.Array | None = None, positions: jax.Array | None = None
    ) -> jax.Array:
        positions = jnp.arange(x.shape[1]) if positions is None else positions
        x = self.tap("resid_pre", x)
        x = x + self.tap("attn_out", self.attention(self.normalised("ln1", x), valid, positions))
        x = self.tap("resid_mid", x)
        return self.tap("resid_post", x + self.tap("mlp_out", self.mlp(self.normalised("ln2", x))))


class Decoder(Stack):
    """Tokens int [B, T] to logits [B, T, V], float32 (float64 for float64), under a causal mask.

    A call takes `valid` bool [B, T], True = a real token: padding, left or right, gives and takes no attention, and
    its logits mean nothing. `positions` are whole numbers [T] or [B, T] from which rotations count, 0, 1, ... if None;
    the mask goes by the order of the tokens.

    Attributes:
      config: everything about it.
    """

    config: DecoderConfig

    @property
    def max_length(self) -> int:
        return self.config.max_length

    @nn.nowrap
    def block(self, layer: int) -> DecoderBlock:
        """The block of a layer, to be applied alone to `params[f"blocks_{layer}"]`; equal for all layers.

        Raises:
          ValueError: there is no such layer.
        """
        check_layer(layer, self.config.n_layers)
        return DecoderBlock(self.config, parent=None)

    def embedding(self, tokens: jax.Array) -> jax.Array:
        """Tokens int [B, T] to the residual stream [B, T, D] before the first block."""
        return self.tap("embed", self.token_table()[checked_tokens(tokens)].astype(self.config.dtype))

    def token_table(self) -> jax.Array:
        c = self.config
        table: jax.Array = self.held("W_E", lambda key: map_init(key, (c.vocab_size, c.d_model), wide(c.dtype)))
        return table

    def read_out(self, x: jax.Array) -> jax.Array:
        """The residual stream [B, T, D] after the last block to logits [B, T, V]."""
        c = self.config
        scale = self.held("ln_final", lambda _: scale_init(c.d_model, c.dtype))["scale"]
        x = self.tap("final_norm", rms_norm(x, scale, c.norm_eps))
        if c.tied:
            weights = self.token_table().T
        else:
            weights = self.held("W_U", lambda key: map_init(key, (c.d_model, c.vocab_size), wide(c.dtype)))
        logits = jnp.matmul(x, weights.astype(x.dtype), preferred_element_type=wide(x.dtype))
        return self.tap("logits", logits)

    @nn.compact
    def __call__(
        self, tokens: jax.Array, valid: jax.Array | None = None, positions: jax.Array | None = None
    ) -> jax.Array:
        x = self.embedding(tokens)
        for layer in range(self.config.n_layers):
            x = DecoderBlock(self.config, name=f"blocks_{layer}")(x, valid=valid, positions=positions)
        return self.read_out(x)
