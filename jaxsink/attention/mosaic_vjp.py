"""Outputs of the kernels for Hopper GPUs with their derivatives, and the weights that keys receive."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxsink.attention import chunked, mosaic_gradients
from jaxsink.attention.call import Call
from jaxsink.attention.mosaic_plan import Plan
from jaxsink.attention.mosaic_rules import Rows, Weight, rule_of
from jaxsink.attention.mosaic_sweep import sweep
from jaxsink.attention.row_map import RowMap

# q, k, v, the output, row arguments from sums and others.
Kept = tuple[Array, Array, Array, Array, Rows, Rows]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attended(plan: Plan, variant: RowMap, q: Array, k: Array, v: Array, given: Rows) -> tuple[Array, Rows]:
    """The output of a row map, and row arguments that come from sums.

    The output has reverse-mode derivatives in q, k, v and in row arguments that something learned is in.

    Args:
        plan: sizes. variant: has a rule.
        q: [B, T, N, H]. k, v: [B, S, K, H], all padded.
        given: row arguments that do not come from sums, float32 [B, N, T], padded.

    Returns:
        [B, T, N, H] in the dtype of q, padded, and float32 [B, N, T] each, which pass on no derivative.
    """
    found: tuple[Array, Rows] = _forward(plan, variant, q, k, v, given)
    return found


@partial(jax.jit, static_argnums=(0, 1))
def _forward(plan: Plan, variant: RowMap, q: Array, k: Array, v: Array, given: Rows) -> tuple[Array, Rows]:
    """The output, and the row arguments that come from sums."""
    rule = rule_of(variant)
    if rule.sums is None:
        return _weighted(plan, rule.weight, q, k, v, given), ()
    if rule.sums.numerator is not None:
        out, top, total = sweep(plan, None, rule.sums, q, k, v, ())
        assert out is not None
        assert total is not None
        return out, rule.sums.rows(top, total)
    _, top, total = sweep(plan, None, rule.sums, q, k, None, ())
    assert total is not None
    found = rule.sums.rows(top, total)
    return _weighted(plan, rule.weight, q, k, v, (*found, *given)), found


def _weighted(plan: Plan, weight: Weight, q: Array, k: Array, v: Array, rows: Rows) -> Array:
    out = sweep(plan, weight, None, q, k, v, rows)[0]
    assert out is not None
    return out


def _kept(plan: Plan, variant: RowMap, q: Array, k: Array, v: Array, given: Rows) -> tuple[tuple[Array, Rows], Kept]:
    out, found = _forward(plan, variant, q, k, v, given)
    return (out, found), (q, k, v, out, found, given)


@partial(jax.jit, static_argnums=(0, 1))
def _backward(
    plan: Plan, variant: RowMap, kept: Kept, cotangents: tuple[Array, Rows]
) -> tuple[Array, Array, Array, Rows]:
    q, k, v, out, found, given = kept
    d_out, _ = cotangents
    rule, rows = rule_of(variant), (*found, *given)

    def of_row(weight: Weight) -> Array:
        return _products(d_out, _weighted(plan, weight, q, k, v, rows))

    delta = None
    if rule.sums is not None:
        delta = _products(d_out, out) if rule.through is None else of_row(rule.through)
    d_q = mosaic_gradients.of_queries(plan, rule.back, q, k, v, d_out, rows, delta)
    d_k, d_v = mosaic_gradients.of_keys(plan, rule, q, k, v, d_out, rows, delta)
    d_given = tuple(jnp.zeros_like(row) for row in given)
    if rule.of_argument is not None:
        d_given = (*d_given[:-1], of_row(rule.of_argument))
    return d_q, d_k, d_v, d_given


def _products(d_out: Array, out: Array) -> Array:
    """Per row, of [B, T, N, H] each: float32 [B, N, T]."""
    return jnp.swapaxes(jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1), 1, 2)


attended.defvjp(_kept, _backward)


# What keys receive ----------------------------------------------------------------------------------------------
def received(plan: Plan, weight: Weight, call: Call, q: Array, k: Array, rows: Rows) -> Array:
    """Sum over the queries of the weights on each key, float32 [B, N, S].

    It costs one more sweep. Derivatives are those of the chunked backend, whose speed they have, where they are needed.

    Args:
        plan: sizes. weight: given the row arguments. call: what q, k and rows come from.
        q, k: padded. rows: row arguments, float32 [B, N, T], padded; constants.
    """

    @jax.custom_vjp
    def evaluate(moving: dict[str, Any], q: Array, k: Array, rows: Rows) -> Array:
        return mosaic_gradients.received(plan, weight, q, k, rows)[..., : plan.keys]

    def forward(*given: Any) -> tuple[Array, Any]:
        moving, q, k, rows = jax.tree.map(lambda x: x.value, given, is_leaf=lambda x: hasattr(x, "perturbed"))
        return mosaic_gradients.received(plan, weight, q, k, rows)[..., : plan.keys], (moving, q, k, rows)

    def backward(kept: Any, cotangent: Any) -> Any:
        zeros = jax.tree.map(jnp.zeros_like, kept)
        if isinstance(cotangent, SymbolicZero):
            return zeros
        alone = replace(call, want=frozenset({"received"}), on_keys=None, on_groups=None)

        def slow(moving: dict[str, Any]) -> Array:
            # Values do not matter, but those of the call would be from outside this derivative.
            found = chunked.run(replace(alone, **moving, v=jax.lax.stop_gradient(moving["k"])))[1].received
            assert found is not None
            return found

        return (*jax.vjp(slow, kept[0])[1](cotangent), *zeros[1:])

    evaluate.defvjp(forward, backward, symbolic_zeros=True)
    moving = {"q": call.q, "k": call.k, "params": call.params, "null_logit": call.null_logit}
    return evaluate(moving, *jax.lax.stop_gradient((q, k, rows)))
