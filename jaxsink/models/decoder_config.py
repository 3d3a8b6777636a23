"""The configuration of a decoder of the Llama family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from jaxsink.attention import AttentionDims, Pairing, RopeScaling, Softmax, Variant
from jaxsink.models.config_checks import ActivationDtype, check_counts, check_dtype, check_norm_eps


@dataclass(frozen=True)
class DecoderConfig:
    """Shape and switches of a decoder of the Llama family (2302.13971; grouped queries: 2305.13245).

    Attributes:
      vocab_size: number of token ids V. n_layers: number of blocks L. d_model: residual width D. d_mlp: hidden width F.
      n_heads: query heads N per block. n_key_heads: key heads K, a divisor of N. head_size: H, even.
      max_length: longest sequence the weights were made for; a longer one is computed all the same.
      rope_base, rope_pairing, rope_scaling: as `jaxsink.attention.rope` takes them.
      norm_eps: added to the mean square in every RMSNorm.
      tied: the read-out is the transposed embedding, so that there is no W_U.
      qkv_bias: queries, keys and values have a bias. output_bias: W_O has one.
      attention: the attention variant, an instance (never a name).
      dtype: of activations; logits and what attention and norms sum up are float32 at least. Parameters keep the dtype
        they are given in and are cast where they meet an activation.
    """

    vocab_size: int
    n_layers: int
    n_heads: int
    n_key_heads: int
    head_size: int
    d_model: int
    d_mlp: int
    max_length: int = 2048
    rope_base: float = 10000.0
    rope_pairing: Pairing = "half"
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    attention: Variant = Softmax()
    dtype: ActivationDtype = "float32"

    def __post_init__(self) -> None:
        check_counts(self, "vocab_size", "n_layers", "n_heads", "n_key_heads", "head_size", "d_model", "d_mlp")
        check_counts(self, "max_length")
        if self.n_heads % self.n_key_heads:
            raise ValueError(
                f"n_key_heads={self.n_key_heads} must divide n_heads={self.n_heads}; choose another number of them."
            )
        if self.head_size % 2:
            raise ValueError(f"head_size must be even for rotary positions, but {self.head_size} was given; pad it.")
        if not 1.0 < self.rope_base < float("inf"):
            raise ValueError(
                f"rope_base must be a finite number above 1, but {self.rope_base} was given; 1e4 is usual."
            )
        if self.rope_pairing not in get_args(Pairing):
            raise ValueError(
                f"rope_pairing must be 'half' or 'adjacent', but {self.rope_pairing!r} was given; 'half' is usual."
            )
        if self.rope_scaling is not None and not isinstance(self.rope_scaling, RopeScaling):
            raise ValueError(
                f"rope_scaling must be None, a LinearScaling or a Llama3Scaling, but {self.rope_scaling!r} was given; "
                "make one of them."
            )
        check_norm_eps(self.norm_eps)
        check_dtype(self.dtype)

    @property
    def dims(self) -> AttentionDims:
        return AttentionDims(
            self.n_heads, self.n_key_heads, self.head_size, value_size=self.head_size, model_size=self.d_model
        )
