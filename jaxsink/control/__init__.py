"""Which token becomes a waiver element, one that takes attention and gives nothing: two controls, as edits.

The mask control: under a causal mask the first token is the only one that sees itself alone, and a row that is made to
see itself alone becomes a waiver element, too. The position control: in a bidirectional model with learned positions, a
token that gets the first position's vector becomes one. Their comparisons change as much, but not this.

All functions return edits for `jaxsink.probing.run`, `stages` and `sweep`; `sweep_blocks` takes the same edits by name
within the block ("attn_scores"). Those of several functions go together by `jaxsink.probing.merge`.

>>> import jax, jax.numpy as jnp
>>> from jaxsink.control import isolate_rows
>>> from jaxsink.models import Decoder, DecoderConfig
>>> model = Decoder(DecoderConfig(vocab_size=9, n_layers=1, n_heads=2, n_key_heads=1, head_size=4, d_model=8, d_mlp=12))
>>> edits = isolate_rows(model, layers=[0], rows=2, length=4)  # for run(model, params, tokens, edits=edits)
>>> edits["blocks.0.attn_scores"].where.astype(int).tolist()  # scores that become -inf
[[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0]]

A row, column, target, or what a rule counts with may be traced, so that `jax.vmap` makes the edits of a whole sweep:

>>> every = jax.vmap(lambda row: isolate_rows(model, [0], row, 4))(jnp.arange(4))
>>> every["blocks.0.attn_scores"].where.shape
(4, 4, 4)

A decoder that rotates positions adds no vectors: there the position control is the input of `run`, `stages` and
`sweep`, as in `run(model, params, tokens, inputs={"positions": jnp.array([0, 1, 0, 3])})`, by which token 2 is rotated
as the first is.

Source: Yan et al. 2024, Unveiling and Controlling Anomalous Attention Distribution in Transformers (2407.01601).
"""

from jaxsink.control.positions import norm_matched, transplant_position
from jaxsink.control.rows import (
    Sees,
    all_but,
    hide_columns,
    isolate_rows,
    itself,
    itself_and_previous,
    last,
    only,
    open_rows,
    previous,
    restrict_rows,
)

__all__ = [
    "restrict_rows",
    "isolate_rows",
    "hide_columns",
    "open_rows",
    "Sees",
    "itself",
    "itself_and_previous",
    "previous",
    "last",
    "all_but",
    "only",
    "transplant_position",
    "norm_matched",
]
