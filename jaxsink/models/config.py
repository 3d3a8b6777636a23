"""The configuration of the paper's transformer: a frozen, hashable description from which everything follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from jaxsink.attention import AttentionDims, Composite, Softmax, Trait, Variant

Positions = Literal["learned", "sinusoidal", "none", "rope", "alibi", "t5"]


@dataclass(frozen=True)
class TransformerConfig:
    """Shape and switches of the Bigram-Backcopy transformer (2410.13835, appendix; defaults are the paper's).

    Attributes:
      n_layers: number of blocks; `n_heads`: query heads N per block; `d_model`: residual width D.
      d_mlp: hidden width of the MLP; None means 4 D.
      attention: the attention variant, an instance (never a name).
      layers_without_attention, layers_without_mlp: 0-based blocks in which that part is left out altogether.
      positions: how positions enter: "learned" vectors as in the paper, "sinusoidal" vectors, "none", "rope" (halves,
        base 10000), "alibi" or "t5" (32 buckets up to distance 128, a table per block).
      registers: learned vectors R in front of the sequence (sink tokens), without a position vector; their read-outs
        are dropped, and sites over positions have them first.
      mlp: "relu", or "linear" for an MLP without its non-linearity.
      normalise: LayerNorm (scale and bias) before attention, MLP and read-out; False leaves all three out.
      one_hot: token and position embeddings are fixed one-hots in disjoint coordinates (then D = V + T).
      dtype: of parameters and activations, "float32", or "float64" (needs jax_enable_x64).
      compute_dtype: "bfloat16" for activations and matrix products in it; norms, attention logits, logits over the
        vocabulary and parameters stay float32. None means `dtype`.
    """

    n_layers: int = 1
    n_heads: int = 1
    d_model: int = 256
    d_mlp: int | None = None
    attention: Variant = Softmax()
    positions: Positions = "learned"
    registers: int = 0
    layers_without_attention: tuple[int, ...] = ()
    layers_without_mlp: tuple[int, ...] = ()
    mlp: Literal["relu", "linear"] = "relu"
    normalise: bool = True
    one_hot: bool = False
    dtype: Literal["float32", "float64"] = "float32"
    compute_dtype: Literal["bfloat16"] | None = None

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but {getattr(self, name)} was given; raise it.")
        if self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads={self.n_heads} must divide d_model={self.d_model}; choose another number of heads."
            )
        if self.registers < 0:
            raise ValueError(f"registers must be at least 0, but {self.registers} was given; use 0 for none.")
        if self.positions not in get_args(Positions):
            raise ValueError(
                f"positions must be one of {', '.join(get_args(Positions))}, but {self.positions!r} was given."
            )
        if self.one_hot and (self.positions != "learned" or self.registers):
            raise ValueError("one_hot needs positions='learned' and registers=0, because it sets both by itself.")
        if self.mlp not in ("relu", "linear"):
            raise ValueError(f"mlp must be 'relu' or 'linear', but {self.mlp!r} was given.")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64', but {self.dtype!r} was given.")
        if self.compute_dtype not in ("bfloat16", None):
            raise ValueError(f"compute_dtype must be 'bfloat16' or None, but {self.compute_dtype!r} was given.")
        if self.compute_dtype is not None and self.dtype != "float32":
            raise ValueError(f"compute_dtype needs dtype='float32', but it is {self.dtype!r}; leave one of them out.")
        for name in ("layers_without_attention", "layers_without_mlp"):
            if bad := [layer for layer in getattr(self, name) if not 0 <= layer < self.n_layers]:
                raise ValueError(f"{name} must list blocks 0 to {self.n_layers - 1}, but {bad[0]} was given; drop it.")

    @property
    def mlp_width(self) -> int:
        return 4 * self.d_model if self.d_mlp is None else self.d_mlp

    @property
    def dims(self) -> AttentionDims:
        size = self.d_model // self.n_heads
        return AttentionDims(self.n_heads, self.n_heads, size, value_size=size, model_size=self.d_model)

    @property
    def has_scores(self) -> bool:
        """Whether attention has one matrix of scores, the site "attn_scores"; an operator on several has none."""
        return not (isinstance(self.attention, Composite) and Trait.SEVERAL_SCORES in self.attention.traits)
