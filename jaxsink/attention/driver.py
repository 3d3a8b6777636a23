"""`attend` and `attend_with_aux`: the one way through which every variant runs."""

import math
from collections.abc import Collection, Sequence
from dataclasses import fields

import numpy as np
from jax import Array

from jaxsink.attention import checks
from jaxsink.attention.backends import select
from jaxsink.attention.call import Aux, Call, Tap
from jaxsink.attention.composite import Composite, Inputs, Trait, Tree
from jaxsink.attention.masks import Mask, QueryOffset
from jaxsink.attention.row_map import Params, RowMap
from jaxsink.attention.variants import Softmax

Variant = RowMap | Composite


def attend(
    q: Array,
    k: Array,
    v: Array,
    variant: Variant = Softmax(),
    *,
    params: Tree | None = None,
    x: Array | None = None,
    mask: Mask | Array | np.ndarray | None = None,
    bias: Array | Sequence[Array] | None = None,
    null_logit: Array | None = None,
    scale: float | Array | None = None,
    softcap: float | None = None,
    query_offset: QueryOffset = None,
    backend: str = "auto",
    tap: Tap | None = None,
) -> Array:
    """Attention with any row map: o_i = sum_j w_ij v_j.

    The scores go through scale, softcap, bias, mask, null column and normalisation, in this order. Scores and
    normalisers are float32, or float64 if an input is. A query that may see no key gets weights 0, output 0
    and zero gradients, whatever the variant.

    >>> import jax
    >>> from jaxsink.attention import Causal, SinkLogit, attend
    >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 5, 4, 8))
    >>> attend(q, k, v, SinkLogit(), params={"sink_logit": jax.numpy.zeros(4)}, mask=Causal()).shape
    (2, 5, 4, 8)

    Args:
        q: queries [B, T, N, H].
        k: keys [B, S, K, H]; N is a multiple of K, and query head n reads key head n // (N / K).
        v: values [B, S, K, Hv], mostly with Hv = H.
        variant: a row map, the function from scores to weights, or a composite: `Wrapped` or an operator.
        params: parameters of the variant, as its `init` makes them; None for a variant without any.
        x: [B, T, D], what q was projected from, for a variant that reads it, such as an output gate.
        mask: structured (`Causal`, `Window`, ..., joined with &), or boolean with four axes, each of size 1
            or as in [B, N, T, S], True where the query may attend.
        bias: added to the scores, four axes, each of size 1 or as in [B, N, T, S]; or several such arrays that add
            up, so that c_i - c_j needs no array of T x S.
        null_logit: logit of a column that takes weight and owns no value, three axes, each of size 1 or as in
            [B, N, T]; only for variants with a total (the softmax family). It is neither scaled nor capped nor masked.
        scale: factor of q.k, 1/sqrt(H) if None.
        softcap: c in c * tanh(score / c), no cap if None.
        query_offset: position of the first query on the axis of the keys, one number or one per sequence [B];
            `max(S - T, 0)` if None, so that in decoding the last query stands on the last key. Structured
            masks and ReLU read it.
        backend: a backend by name, or "auto" for the fastest that takes the call. "reference" has arrays of T x S;
            "chunked" has memory linear in T and S, and derivatives in reverse mode only.
        tap: called as tap(name, array) with "attn_scores" (scores [B, N, T, S] before the mask) and "pattern"
            (weights [B, N, T, S]); what it returns is used instead. Only `reference` has these arrays. An operator on
            several score matrices shows its combined weights alone, and they cannot be edited.

    Returns:
        [B, T, N, Hv] in the dtype of `v`.

    Raises:
        ValueError: if an argument does not fit, or the backend is absent or cannot take the call.
    """
    return attend_with_aux(
        q,
        k,
        v,
        variant,
        params=params,
        x=x,
        mask=mask,
        bias=bias,
        null_logit=null_logit,
        scale=scale,
        softcap=softcap,
        query_offset=query_offset,
        backend=backend,
        tap=tap,
        want=(),
    )[0]


def attend_with_aux(
    q: Array,
    k: Array,
    v: Array,
    variant: Variant = Softmax(),
    *,
    params: Tree | None = None,
    x: Array | None = None,
    mask: Mask | Array | np.ndarray | None = None,
    bias: Array | Sequence[Array] | None = None,
    null_logit: Array | None = None,
    scale: float | Array | None = None,
    softcap: float | None = None,
    query_offset: QueryOffset = None,
    backend: str = "auto",
    tap: Tap | None = None,
    want: Collection[str],
    keys: Sequence[int] | np.ndarray | None = None,
    groups: Array | np.ndarray | None = None,
) -> tuple[Array, Aux]:
    """Attention as in `attend`, with what was computed on the way.

    The computation of the output does not depend on `want`, and its bits do not either. One exception is up to XLA:
    under jit on a GPU its autotuner may take another matrix product kernel when more arrays are returned,
    which rounds differently; XLA_FLAGS=--xla_gpu_autotune_level=0 keeps the kernels, and so the bits, the same.

    Args:
        q: queries [B, T, N, H].
        k: keys [B, S, K, H].
        v: values [B, S, K, Hv].
        variant: row map or composite.
        params: parameters of the variant.
        x: what q was projected from, see `attend`.
        mask: structured or boolean, see `attend`.
        bias: added to the scores, see `attend`.
        null_logit: logit of a column without a value, see `attend`.
        scale: factor of q.k.
        softcap: c in c * tanh(score / c).
        query_offset: position of the first query.
        backend: a backend by name, or "auto".
        tap: observer and editor, see `attend`. Edited scores move every entry, an edited pattern moves
            `weights`, `row_mass` and `received`.
        want: names of the fields of `Aux` to fill. `lse`, `total` and `null_mass` need a variant with a total,
            `weights` and `scores` a backend with arrays.
        keys: the keys that "on_keys" reports.
        groups: bool [B|1, G, S], the groups of keys that "on_groups" reports; a key may be in several.

    Returns:
        Output [B, T, N, Hv] in the dtype of `v`, and `Aux` with None where nothing was asked for.

    Raises:
        ValueError: if an argument does not fit, the variant does not define an entry of `want`, or the
            backend is absent or cannot take the call.
    """
    checks.check_variant(variant)
    q = checks.floating_array("q", q, "[B, T, N, H]")
    k = checks.floating_array("k", k, "[B, S, K, H]")
    v = checks.floating_array("v", v, "[B, S, K, Hv]")
    checks.check_shapes(q, k, v)
    scores_shape = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    checks.check_scale(scale)
    checks.check_softcap(softcap)
    wanted = checks.checked_want(variant, want)
    inputs = Inputs(
        q=q,
        k=k,
        v=v,
        x=checks.checked_x(variant, x, q),
        mask=checks.checked_mask(mask, scores_shape),
        bias=checks.checked_bias(bias, scores_shape),
        null_logit=checks.checked_null_logit(variant, null_logit, q),
        scale=1.0 / math.sqrt(q.shape[3]) if scale is None else scale,
        softcap=softcap,
        query_offset=query_offset,
        on_keys=checks.checked_keys(keys, wanted, k.shape[1]),
        on_groups=checks.checked_groups(groups, wanted, q.shape[0], k.shape[1]),
    )
    checked = checks.checked_params(variant, params, inputs.dims)

    combined = isinstance(variant, Composite) and Trait.SEVERAL_SCORES in variant.traits

    def evaluate(inputs: Inputs, row_map: RowMap, params: Params, want: frozenset[str]) -> tuple[Array, Aux]:
        call = Call(
            variant=row_map,
            params=params,
            tap=None if combined else tap,
            want=want,
            **{f.name: getattr(inputs, f.name) for f in fields(inputs) if f.name != "x"},
        )
        return select(call, backend).run(call)

    if not isinstance(variant, Composite):
        return evaluate(inputs, variant, checked, wanted)
    if tap is None or not combined:
        return variant.run(inputs, checked, evaluate, wanted)
    out, aux = variant.run(inputs, checked, evaluate, wanted | {"weights"})
    assert aux.weights is not None
    if tap("pattern", aux.weights) is not aux.weights:
        raise ValueError(
            f"tap must return the pattern of {type(variant).__name__} as it is, because its weights come from several "
            "score matrices that no one array could replace; edit its inputs instead"
        )
    return out, aux if "weights" in wanted else aux._replace(weights=None)
