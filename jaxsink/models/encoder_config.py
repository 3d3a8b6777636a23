"""The configuration of an encoder of the BERT family."""

from __future__ import annotations

from dataclasses import dataclass

from jaxsink.attention import AttentionDims, Softmax, Variant
from jaxsink.models.config_checks import ActivationDtype, check_counts, check_dtype, check_norm_eps


@dataclass(frozen=True)
class EncoderConfig:
    """Shape and switches of an encoder of the BERT family (1810.04805).

    Attributes:
      vocab_size: number of token ids V. n_layers: number of blocks L. d_model: residual width D. d_mlp: hidden width F.
      n_heads: heads N per block, a divisor of D.
      max_length: learned positions P, the largest T.
      n_types: token types A (segments).
      norm_eps: added to the variance in every LayerNorm.
      pooler: a tanh layer on the first token, the site "pooled".
      mlm_head: a read-out to the vocabulary, tied to the embedding; without it the output is the last hidden states.
      attention: the attention variant, an instance (never a name).
      dtype: of activations; logits and what attention and norms sum up are float32 at least. Parameters keep the dtype
        they are given in and are cast where they meet an activation.
    """

    vocab_size: int
    n_layers: int
    n_heads: int
    d_model: int
    d_mlp: int
    max_length: int = 512
    n_types: int = 2
    norm_eps: float = 1e-12
    pooler: bool = False
    mlm_head: bool = False
    attention: Variant = Softmax()
    dtype: ActivationDtype = "float32"

    def __post_init__(self) -> None:
        check_counts(self, "vocab_size", "n_layers", "n_heads", "d_model", "d_mlp", "max_length", "n_types")
        if self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads={self.n_heads} must divide d_model={self.d_model}; choose another number of heads."
            )
        check_norm_eps(self.norm_eps)
        check_dtype(self.dtype)

    @property
    def head_size(self) -> int:
        return self.d_model // self.n_heads

    @property
    def dims(self) -> AttentionDims:
        size = self.head_size
        return AttentionDims(self.n_heads, self.n_heads, size, value_size=size, model_size=self.d_model)
