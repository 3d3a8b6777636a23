"""The control by the mask (2407.01601): what chosen rows see, and who sees chosen columns.

The edits are made of attention scores before the model's mask, so that a score can hide a key and never show one. A
hidden score is -inf, which has no weight in the variants of the catalogue but makes NaN of those that are linear in
their scores ("identity", "clamped-linear", "gelu"). Padding is not known here: a row to which a rule leaves nothing but
padding has no key at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxsink.models import Encoder, Model, Transformer
from jaxsink.probing import Edit, Set, Site, sites
from jaxsink.probing.builders import require_block
from jaxsink.probing.edits import known

Array = np.ndarray | jax.Array
# (rows int [T, 1], keys int [1, S]) -> bool [T, S], the keys that a controlled row still sees if the model's own mask
# lets it. Both count positions from 0.
Sees = Callable[[Array, Array], Array]
Indices = ArrayLike | Sequence[int]


def itself(rows: Array, keys: Array) -> Array:
    """The row's own key: what the first token sees under a causal mask, and the control of the paper."""
    return keys == rows


def previous(rows: Array, keys: Array) -> Array:
    """The key right before the row, and not its own."""
    return keys == rows - 1


def itself_and_previous(rows: Array, keys: Array) -> Array:
    """The row's own key and the one right before it."""
    return itself(rows, keys) | previous(rows, keys)


def last(n: ArrayLike) -> Sees:
    """The row's own key and the n - 1 before it, and none after.

    Raises:
      ValueError: n is below 1, which would leave nothing.
    """
    if known(n) and np.any(np.asarray(n) < 1):
        raise ValueError(f"n must be at least 1, but {n} was given; 1 is the row itself.")
    return lambda rows, keys: (keys <= rows) & (keys > rows - n)


def all_but(key: ArrayLike) -> Sees:
    """Every key but this one, 0-based.

    Raises:
      ValueError: the key is negative.
    """
    _check_key(key)
    return lambda rows, keys: ~_is(key, rows, keys)


def only(key: ArrayLike) -> Sees:
    """This key alone, 0-based.

    Raises:
      ValueError: the key is negative.
    """
    _check_key(key)
    return lambda rows, keys: _is(key, rows, keys)


def restrict_rows(model: Model, layers: Sequence[int], rows: Indices, sees: Sees, length: int) -> dict[str, Edit]:
    """In some blocks, chosen rows see only what a rule leaves of what they saw; all other rows stay as they are.

    How others see the keys of these rows stays as it is, too.

    Args:
      model: the model. layers: 0-based blocks. rows: 0-based queries, one or several; registers come first. A
        traced row that does not exist, or to which the rule leaves nothing, stays as it is.
      sees: the rule. length: T of the tokens.

    Returns:
      Edits of "blocks.L.attn_scores".

    Raises:
      ValueError: there is no such block or row, a block has no matrix of scores, the rule returns something else than
        bool [T, S], or leaves a row no key that the model's mask lets it see.
    """
    found = _in_blocks(model, layers, "attn_scores", length)
    if not found:
        return {}
    queries, keys = _positions(found[0])
    seen = sees(queries, keys)
    if seen.dtype != jnp.bool_ or seen.shape != found[0].shape[-2:]:
        raise ValueError(
            f"the rule must return bool {list(found[0].shape[-2:])}, True for a key that is seen, but returned shape "
            f"{list(seen.shape)} and dtype {seen.dtype}; compare rows [T, 1] with keys [1, S]."
        )
    sees_all = isinstance(model, Encoder) or (isinstance(model, Transformer) and not model.causal)
    own = seen if sees_all else seen & (keys <= queries)
    chosen, left = selected(rows, found[0], "T"), own.any(-1)
    lost = chosen & ~left
    if known(lost) and np.any(lost):
        raise ValueError(
            f"the rule leaves row {int(np.argmax(lost))} of {found[0].name!r} nothing to see; leave out that row or "
            "choose another rule."
        )
    hidden = (chosen & left)[:, None] & ~seen
    return {site.name: Set(-jnp.inf, jnp.asarray(hidden)) for site in found}


def isolate_rows(model: Model, layers: Sequence[int], rows: Indices, length: int) -> dict[str, Edit]:
    """In some blocks, chosen rows see themselves alone; what the others see of them stays as it is.

    Source: 2407.01601, the control by the mask.

    Args:
      model, layers, rows, length: as for `restrict_rows`.

    Returns:
      Edits of "blocks.L.attn_scores".

    Raises:
      ValueError: there is no such block or row, or a block has no matrix of scores.
    """
    return restrict_rows(model, layers, rows, itself, length)


def hide_columns(model: Model, layers: Sequence[int], columns: Indices, length: int) -> dict[str, Edit]:
    """In some blocks, no row but their own sees chosen keys: the counterpart of `isolate_rows` by columns.

    Args:
      model: the model. layers: 0-based blocks. columns: 0-based keys, one or several; registers come first.
      length: T of the tokens.

    Returns:
      Edits of "blocks.L.attn_scores".

    Raises:
      ValueError: there is no such block or column, or a block has no matrix of scores.
    """
    found = _in_blocks(model, layers, "attn_scores", length)
    if not found:
        return {}
    queries, keys = _positions(found[0])
    hidden = selected(columns, found[0], "S")[None, :] & ~itself(queries, keys)
    return {site.name: Set(-jnp.inf, jnp.asarray(hidden)) for site in found}


def open_rows(model: Model, layers: Sequence[int], rows: Indices, length: int) -> dict[str, Edit]:
    """In some blocks, chosen rows attend evenly to all positions, under a causal mask also to those after them.

    The weights are all 1/S and not the model's own, which has no scores left for keys behind the mask. Padding gets
    as much as any other key.

    Args:
      model: the model. layers: 0-based blocks. rows: 0-based queries, one or several; registers come first.
      length: T of the tokens.

    Returns:
      Edits of "blocks.L.pattern".

    Raises:
      ValueError: there is no such block or row, or a block has no matrix of attention weights.
    """
    found = _in_blocks(model, layers, "pattern", length)
    if not found:
        return {}
    chosen = jnp.asarray(selected(rows, found[0], "T"))[:, None]
    return {site.name: Set(1 / site.shape[-1], chosen) for site in found}


def selected(indices: Indices, site: Site, letter: str) -> Array:
    """Which positions along an axis of a site are among the indices, bool [axis].

    Args:
      indices: 0-based, one or several. A traced one that does not exist selects nothing.
      site: the site. letter: of its axis.

    Raises:
      ValueError: the indices are no whole numbers, or one does not exist.
    """
    count = site.shape[site.axes.index(letter)]
    # Under jit, jnp would trace what is known and could be checked.
    given = np.asarray(indices) if known(indices) else jnp.asarray(indices)
    if given.ndim > 1 or not jnp.issubdtype(given.dtype, jnp.integer):
        raise ValueError(
            f"positions of {site.name!r} must be whole numbers, one or several, but have shape {list(given.shape)} and "
            f"dtype {given.dtype}; give their indices."
        )
    if known(given) and len(bad := given[(given < 0) | (given >= count)].reshape(-1)):
        raise ValueError(
            f"{site.name!r} has {count} positions, but position {bad[0]} was given; choose from 0 to {count - 1}."
        )
    return (np.arange(count, dtype=np.int32)[:, None] == given.astype(np.int32).reshape(1, -1)).any(-1)


def _is(key: ArrayLike, rows: Array, keys: Array) -> Array:
    return keys - key == rows - rows  # as large as rows and keys together


def _check_key(key: ArrayLike) -> None:
    if known(key) and np.any(np.asarray(key) < 0):
        raise ValueError(f"key must be a position from 0, but {key} was given; count from the first.")


def _positions(site: Site) -> tuple[np.ndarray, np.ndarray]:
    queries, keys = (np.arange(count, dtype=np.int32) for count in site.shape[-2:])
    return queries[:, None], keys[None, :]


def _in_blocks(model: Model, layers: Sequence[int], leaf: str, length: int) -> list[Site]:
    """The sites of this name of some blocks, all of one shape."""
    table = sites(model, length=length)
    for layer in layers:
        require_block(model, layer)
        if f"blocks.{layer}.{leaf}" not in table:
            raise ValueError(f"block {layer} has no site {leaf!r} [B, N, T, S] of attention; choose another block.")
    return [table[f"blocks.{layer}.{leaf}"] for layer in layers]
