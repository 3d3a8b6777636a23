"""Encoders of the BERT family: learned positions, token types, LayerNorm after each part (1810.04805)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxsink.models.encoder_config import EncoderConfig
from jaxsink.models.parts import (
    Block,
    Stack,
    along_rows,
    check_layer,
    checked_tokens,
    layer_norm,
    map_init,
    padding_mask,
    scale_and_bias_init,
    wide,
)


def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x), by the error function and not the tanh that resembles it (1606.08415, section 2)."""
    return nn.gelu(x, approximate=False)


class EncoderBlock(Block):
    """Attention and MLP, each adding to the residual stream, which is normalised afterwards."""

    config: EncoderConfig

    def normalised(self, name: str, x: jax.Array) -> jax.Array:
        params = self.param(name, lambda _: scale_and_bias_init(x.shape[-1], x.dtype))
        return layer_norm(x, params["scale"], params["bias"], self.config.norm_eps)

    def attention(self, x: jax.Array, valid: jax.Array | None) -> jax.Array:
        c = self.config
        q, k, v = (self.heads(site, x, c.n_heads, c.head_size, bias=True) for site in "qkv")
        mask = None if valid is None else padding_mask(valid, x)
        z = self.attended(q, k, v, x=x, mask=mask, variant=c.attention, dims=c.dims)
        return self.linear(z, c.d_model, "W_O", "b_O")

    def mlp(self, x: jax.Array) -> jax.Array:
        hidden = self.tap("mlp_pre", self.linear(x, self.config.d_mlp, "W_in", "b_in"))
        return self.linear(self.tap("mlp_post", gelu(hidden)), self.config.d_model, "W_out", "b_out")

    @nn.compact
    def __call__(
        self, x: jax.Array, *, valid: jax.Array | None = None, positions: jax.Array | None = None
    ) -> jax.Array:
        """The block of a decoder takes positions; here they entered with the embedding, and nothing reads them."""
        x = self.tap("resid_pre", x)
        x = self.tap("resid_mid", self.normalised("ln1", x + self.tap("attn_out", self.attention(x, valid))))
        return self.tap("resid_post", self.normalised("ln2", x + self.tap("mlp_out", self.mlp(x))))


class Encoder(Stack):
    """Tokens int [B, T] to logits [B, T, V], float32 (float64 for float64), or the last hidden states [B, T, D].

    A call takes `valid` bool [B, T], True = a real token: padding, left or right, gives and takes no attention, and
    its output means nothing. `positions` are whole numbers [T] or [B, T] below P, 0, 1, ... if None. `token_types` are
    whole numbers [B, T] below A, 0 if None.

    Attributes:
      config: everything about it.
    """

    config: EncoderConfig

    @property
    def max_length(self) -> int:
        return self.config.max_length

    @nn.nowrap
    def block(self, layer: int) -> EncoderBlock:
        """The block of a layer, to be applied alone to `params[f"blocks_{layer}"]`; equal for all layers.

        Raises:
          ValueError: there is no such layer.
        """
        check_layer(layer, self.config.n_layers)
        return EncoderBlock(self.config, parent=None)

    def table(self, name: str, rows: int) -> jax.Array:
        c = self.config
        table: jax.Array = self.held(name, lambda key: map_init(key, (rows, c.d_model), wide(c.dtype)))
        return table

    def embedding(
        self, tokens: jax.Array, positions: jax.Array | None = None, token_types: jax.Array | None = None
    ) -> jax.Array:
        """Tokens int [B, T] to the residual stream [B, T, D] before the first block, normalised.

        Raises:
          ValueError: an input has another shape, or there are more tokens than positions.
        """
        c = self.config
        length = checked_tokens(tokens).shape[1]
        if positions is None:
            if length > c.max_length:
                raise ValueError(
                    f"tokens have {length} positions, but the encoder has max_length={c.max_length}; shorten them."
                )
            positions = jnp.arange(length)
        if positions.shape not in (tokens.shape[1:], tokens.shape):
            raise ValueError(
                f"positions must have shape [T] or [B, T] of tokens {tokens.shape}, but have {positions.shape}; "
                "give one per token."
            )
        token_types = jnp.zeros_like(tokens) if token_types is None else token_types
        if token_types.shape != tokens.shape:
            raise ValueError(
                f"token_types must have the shape [B, T] of tokens {tokens.shape}, but have {token_types.shape}; "
                "give one per token."
            )

        def rows(site: str, name: str, count: int, index: jax.Array) -> jax.Array:
            found = self.table(name, count)[index].astype(c.dtype)
            return self.tap(site, jnp.broadcast_to(found, (*tokens.shape, c.d_model)))

        x = rows("embed", "W_E", c.vocab_size, tokens) + rows("type_embed", "W_type", c.n_types, token_types)
        x = x + rows("pos_embed", "W_pos", c.max_length, positions)
        return self.normalised("ln_embed", x)

    def normalised(self, name: str, x: jax.Array) -> jax.Array:
        c = self.config
        params = self.held(name, lambda _: scale_and_bias_init(c.d_model, c.dtype))
        return layer_norm(x, params["scale"], params["bias"], c.norm_eps)

    def read_out(self, x: jax.Array) -> jax.Array:
        """The residual stream [B, T, D] after the last block to the output; also the site "pooled"."""
        c = self.config
        if c.pooler:
            pooler = self.held("pooler", self.new_map)
            first = x[:, 0] @ pooler["W"].astype(x.dtype)
            self.show("pooled", jnp.tanh(first + along_rows(pooler["b"], first)))
        if not c.mlm_head:
            return x
        head = self.held("mlm", self.new_head)
        hidden = x @ head["W"].astype(x.dtype)
        hidden = gelu(hidden + along_rows(head["b"], hidden))
        hidden = layer_norm(hidden, head["ln"]["scale"], head["ln"]["bias"], c.norm_eps)
        table = self.table("W_E", c.vocab_size).T.astype(x.dtype)
        logits = jnp.matmul(hidden, table, preferred_element_type=wide(x.dtype))
        return self.tap("logits", logits + along_rows(head["bias"], logits))

    @nn.nowrap
    def new_map(self, key: jax.Array) -> dict[str, Any]:
        size, dtype = self.config.d_model, wide(self.config.dtype)
        return {"W": map_init(key, (size, size), dtype), "b": jnp.zeros(size, dtype)}

    @nn.nowrap
    def new_head(self, key: jax.Array) -> dict[str, Any]:
        c = self.config
        norm = {"ln": scale_and_bias_init(c.d_model, c.dtype), "bias": jnp.zeros(c.vocab_size, wide(c.dtype))}
        return self.new_map(key) | norm

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        valid: jax.Array | None = None,
        positions: jax.Array | None = None,
        token_types: jax.Array | None = None,
    ) -> jax.Array:
        x = self.embedding(tokens, positions, token_types)
        for layer in range(self.config.n_layers):
            x = EncoderBlock(self.config, name=f"blocks_{layer}")(x, valid=valid)
        return self.read_out(x)
