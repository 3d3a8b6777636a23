"""What the operators share: the difference of two attentions, whose heads are the halves of q and k."""

import math
from dataclasses import replace

import jax.numpy as jnp
from jax import Array

from jaxsink.attention.call import Aux
from jaxsink.attention.composite import Evaluate, Inputs, Tree
from jaxsink.attention.probes import entropy, x_log_x
from jaxsink.attention.row_map import Mass, Properties, RowMap

_LINEAR = frozenset({"weights", "row_mass", "received", "on_keys", "on_groups"})


def halves(inputs: Inputs) -> tuple[Inputs, Inputs]:
    """The inputs of the two attentions, with heads of size H / 2, the same values, and sqrt(2) times the scale.

    The default scale of heads of size H is that of heads of size H / 2 afterwards.
    """
    size = inputs.q.shape[3] // 2
    inputs = replace(inputs, scale=inputs.scale * math.sqrt(2.0))
    first = replace(inputs, q=inputs.q[..., :size], k=inputs.k[..., :size])
    second = replace(inputs, q=inputs.q[..., size:], k=inputs.k[..., size:])
    return first, second


def difference(
    pair: tuple[Inputs, Inputs], row_map: RowMap, params: Tree, share: Array, evaluate: Evaluate, want: frozenset[str]
) -> tuple[Array, Aux]:
    """Attention with the weights a_1 - share a_2.

    Args:
        pair: inputs of the two attentions.
        row_map: from scores to weights, for both.
        params: of the row map.
        share: factor of the second, one number.
        evaluate: attention of a row map.
        want: entries of `Aux`; those that are linear in the weights, and the entropy of the combined weights.

    Returns:
        Output [B, T, N, Hv] in the compute dtype, and the wanted entries.

    Raises:
        ValueError: if an entry of `want` belongs to one of the two attentions.
    """
    undefined = sorted(want - _LINEAR - {"entropy"})
    if undefined:
        raise ValueError(
            f"want asks for {' and '.join(undefined)}, which an operator on several score matrices does not define; "
            f"choose from {', '.join(sorted(_LINEAR | {'entropy'}))}"
        )
    needed = want & _LINEAR | ({"weights"} if "entropy" in want else set())
    dtype = pair[0].compute_dtype
    # Backends round their output to the dtype of the values.
    wide = (replace(inputs, v=inputs.v.astype(dtype)) for inputs in pair)
    (out, aux), (other, less) = (evaluate(inputs, row_map, params, needed) for inputs in wide)
    share = share.astype(dtype)
    found = {name: getattr(aux, name) - share * getattr(less, name) for name in needed}
    if "entropy" in want:
        size = jnp.abs(found["weights"])
        found["entropy"] = entropy(jnp.sum(size, axis=-1), jnp.sum(x_log_x(size), axis=-1))
    return out - share * other, Aux(**{name: found[name] for name in want})


def difference_properties(properties: Properties) -> Properties:
    """Properties of a_1 - share a_2, given those of each."""
    return replace(properties, mass=Mass.FREE, non_negative=False, monotone=False, has_total=False, null_column=False)
