"""The transformer of 2410.13835: pre-LayerNorm, learned positions, linear maps without bias, untied read-out.

Other attention variants, position encodings and registers are a matter of its configuration. Without its causal mask
it is an encoder.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxsink.attention import Causal, alibi_bias, alibi_slopes, attend, rope, sinusoidal, t5_bias
from jaxsink.models import mixed, parts
from jaxsink.models.config import TransformerConfig
from jaxsink.models.taps import Tapped

LAYER_NORM_EPS = 1e-5
T5_BUCKETS = 32
# U(+-1/sqrt(fan_in)), the default of the framework the paper used: variance 1 / (3 fan_in).
linear_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
table_init = nn.initializers.normal(1.0)


class LayerNorm(nn.Module):
    """LayerNorm with scale and bias. The paper's linear maps have no bias; its LayerNorm keeps the framework's."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, dtype = (x.shape[-1],), jnp.dtype(self.config.dtype)
        scale = self.param("scale", nn.initializers.ones, size, dtype)
        bias = self.param("bias", nn.initializers.zeros, size, dtype)
        norm = parts.layer_norm if self.config.compute_dtype is None else mixed.layer_norm
        return norm(x, scale, bias, LAYER_NORM_EPS)


def linear(x: jax.Array, weight: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
    """x [B, T, D] times a weight [D, E]: [B, T, E] in a dtype, by default that of x.

    It is a product of [B T, D], because the weight's gradient from [B, T, D] goes through a transposed copy, which
    takes a CPU as long as the product.
    """
    flat = jnp.matmul(x.reshape(-1, x.shape[-1]), weight, preferred_element_type=dtype)
    return flat.reshape(*x.shape[:-1], weight.shape[1])


def laid_out(config: TransformerConfig, x: jax.Array) -> jax.Array:
    """The residual stream as it lies in memory (see `mixed.row_major`)."""
    return x if config.compute_dtype is None else mixed.row_major(x)


class Block(Tapped):
    """Attention and MLP, each reading the normalised residual stream and adding to it."""

    config: TransformerConfig
    layer: int
    causal: bool = True

    def normalised(self, name: str, x: jax.Array) -> jax.Array:
        return LayerNorm(self.config, name=name)(x) if self.config.normalise else x

    def weight(self, name: str, shape: tuple[int, int], dtype: jnp.dtype) -> jax.Array:
        """A linear map in the dtype of the activations that it meets."""
        return self.param(name, linear_init, shape, jnp.dtype(self.config.dtype)).astype(dtype)

    def attention(self, x: jax.Array, positions: jax.Array | None) -> jax.Array:
        c = self.config
        d, heads = c.d_model, (c.n_heads, c.d_model // c.n_heads)

        # One wide product instead of three narrow ones.
        weights = [self.weight(name, (d, d), x.dtype) for name in ("W_Q", "W_K", "W_V")]
        projected = jnp.split(linear(x, jnp.concatenate(weights, axis=1)), 3, axis=-1)
        q, k, v = (self.tap(site, y.reshape(*x.shape[:-1], *heads)) for site, y in zip("qkv", projected, strict=True))
        if c.positions == "rope":
            turns = jnp.arange(x.shape[1]) if positions is None else positions
            q, k = (rope(y, turns) for y in (q, k))
        params = c.attention.init(jax.random.key(0), c.dims) or None
        if params is not None:
            params = self.param("attention", c.attention.init, c.dims)
        tap = self.tap if self.attention_tap_needed() else None
        bias, mask = self.position_bias(x, positions), Causal() if self.causal else None
        z = self.tap("z", attend(q, k, v, c.attention, params=params, x=x, mask=mask, bias=bias, tap=tap))
        return linear(z.reshape(x.shape), self.weight("W_O", (d, d), x.dtype))

    def position_bias(self, x: jax.Array, positions: jax.Array | None) -> jax.Array | None:
        c, length = self.config, x.shape[1]
        if c.positions == "alibi":
            bias = alibi_bias(alibi_slopes(c.n_heads), length, length)
        elif c.positions == "t5":
            table = self.param("t5", nn.initializers.normal(0.02), (T5_BUCKETS, c.n_heads), jnp.dtype(c.dtype))
            bias = t5_bias(table, length, length)
        else:
            return None
        return bias if positions is None else bias[:, :, positions[:, None], positions[None, :]]

    def mlp(self, x: jax.Array) -> jax.Array:
        c = self.config
        hidden = linear(x, self.weight("W_in", (c.d_model, c.mlp_width), x.dtype))
        hidden = self.tap("mlp_pre", hidden)
        hidden = self.tap("mlp_post", nn.relu(hidden) if c.mlp == "relu" else hidden)
        return linear(hidden, self.weight("W_out", (c.mlp_width, c.d_model), x.dtype))

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        c = self.config
        x = self.tap("resid_pre", x)
        if self.layer not in c.layers_without_attention:
            x = laid_out(c, x + self.tap("attn_out", self.attention(self.normalised("ln1", x), positions)))
        x = self.tap("resid_mid", x)
        if self.layer not in c.layers_without_mlp:
            x = laid_out(c, x + self.tap("mlp_out", self.mlp(self.normalised("ln2", x))))
        return self.tap("resid_post", x)


class Transformer(Tapped):
    """Tokens int [B, T] to logits [B, T, V] under a causal mask (2410.13835, section 2), or without a mask.

    A call takes `positions`, whole numbers [T] from 0 to T - 1 by which vectors, rotations and biases go, 0, 1, ... if
    None; the mask goes by the order of the tokens.

    Attributes:
      vocab_size: number of token ids V, `<s>` included. max_length: largest T.
      config: everything else.
      causal: whether a token sees only those up to its own position, or else all of them.
    """

    vocab_size: int
    max_length: int
    config: TransformerConfig = TransformerConfig()
    causal: bool = True

    def embedding(self, tokens: jax.Array, positions: jax.Array | None) -> jax.Array:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        length = tokens.shape[1]
        if c.one_hot:
            if c.d_model != self.vocab_size + self.max_length:
                raise ValueError(
                    f"one_hot embeddings need d_model = vocab_size + max_length = "
                    f"{self.vocab_size + self.max_length}, but it is {c.d_model}; set it to that."
                )
            token = jax.nn.one_hot(tokens, c.d_model, dtype=dtype)
            numbers = jnp.arange(length) if positions is None else positions
            position = jax.nn.one_hot(self.vocab_size + numbers, c.d_model, dtype=dtype)
        else:
            table = self.param("W_E", table_init, (self.vocab_size, c.d_model), dtype)
            vectors = self.position_vectors(dtype)
            position = vectors[:length] if positions is None else vectors[positions]
            if c.compute_dtype is None:
                token = table[tokens]
            else:
                token = mixed.lookup(table, tokens, jnp.dtype(c.compute_dtype))
                position = position.astype(c.compute_dtype)
        x = self.tap("embed", token) + self.tap("pos_embed", jnp.broadcast_to(position, token.shape))
        if not c.registers:
            return x
        registers = self.param("registers", table_init, (c.registers, c.d_model), dtype)
        return jnp.concatenate([jnp.broadcast_to(registers.astype(x.dtype), (x.shape[0], *registers.shape)), x], axis=1)

    def position_vectors(self, dtype: jnp.dtype) -> jax.Array:
        c = self.config
        if c.positions == "learned":
            return self.param("W_pos", table_init, (self.max_length, c.d_model), dtype)
        if c.positions == "sinusoidal":
            return sinusoidal(self.max_length, c.d_model).astype(dtype)
        return jnp.zeros((self.max_length, c.d_model), dtype)

    def numbers(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        """Positions [R + T] of registers and tokens, of which the registers come first."""
        length = tokens.shape[1]
        if positions.shape != (length,) or not jnp.issubdtype(positions.dtype, jnp.integer):
            raise ValueError(
                f"positions must be whole numbers [T] for tokens {tokens.shape}, but have shape {positions.shape} and "
                f"dtype {positions.dtype}; give one per token."
            )
        if not isinstance(positions, jax.core.Tracer):
            # Under jit, jnp would trace what is known and can be checked.
            lowest, highest = np.asarray(positions).min(), np.asarray(positions).max()
            if lowest < 0 or highest >= length:
                raise ValueError(
                    f"positions must be from 0 to {length - 1}, but go from {lowest} to {highest}; give each token "
                    "that of a token of its sequence."
                )
        return jnp.concatenate([jnp.arange(self.config.registers), self.config.registers + positions])

    @nn.compact
    def __call__(self, tokens: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        c = self.config
        if not self.causal and c.positions == "t5":
            raise ValueError("positions='t5' has buckets for keys before the query alone, so it needs causal=True.")
        if tokens.ndim != 2 or tokens.shape[1] > self.max_length:
            raise ValueError(
                f"tokens must be [B, T] with T at most max_length={self.max_length}, but have shape "
                f"{tokens.shape}; shorten them or build a longer model."
            )
        numbers = None if positions is None else self.numbers(tokens, positions)
        x = laid_out(c, self.embedding(tokens, positions))
        for layer in range(c.n_layers):
            x = Block(config=c, layer=layer, causal=self.causal, name=f"blocks_{layer}")(x, numbers)
        x = x[:, c.registers :]
        x = self.tap("final_norm", LayerNorm(c, name="ln_final")(x) if c.normalise else x)
        read_out = self.param("W_U", linear_init, (c.d_model, self.vocab_size), jnp.dtype(c.dtype)).astype(x.dtype)
        return self.tap("logits", linear(x, read_out, jnp.dtype(c.dtype)))
