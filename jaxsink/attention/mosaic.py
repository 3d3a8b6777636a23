"""Backend "mosaic": fused kernels for Hopper GPUs, for the row maps that cuDNN does not have.

What is elementwise takes one sweep over the keys, and so does what needs sums of its row alone (softpick, normalised
weights). Where the sums must be known first (clipped and elastic softmax) a sweep without values goes ahead. Written in
Pallas for Mosaic GPU; see `mosaic_rules` for the row maps, `mosaic_sweep` and `mosaic_gradients` for the kernels.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention import cudnn, mosaic_rules
from jaxsink.attention.call import Aux, Call
from jaxsink.attention.masks import AllOf, Causal, Mask, Window
from jaxsink.attention.mosaic_plan import Plan, padded

# Of warpgroup matrix instructions, which later generations lack.
CAPABILITY = "9.0"
LARGEST_HEAD = 256


def refuses(call: Call) -> str | None:
    """Why it cannot take a call, or None."""
    if jax.default_backend() == "gpu" and getattr(jax.devices()[0], "compute_capability", None) != CAPABILITY:
        return f"its kernels are for GPUs of compute capability {CAPABILITY}"
    if type(call.variant) in cudnn.VARIANTS:
        reason = "it adds nothing to cuDNN here" if "received" not in call.want else cudnn.refuses(_of_cudnn(call))
    else:
        reason = mosaic_rules.refuses(call.variant) or _refuses_own(call)
    if reason is None and max(call.q.shape[3], call.v.shape[3]) > LARGEST_HEAD:
        return f"head sizes must be at most {LARGEST_HEAD}"
    return reason


def _refuses_own(call: Call) -> str | None:
    if str(call.q.dtype) not in ("bfloat16", "float16") or not call.q.dtype == call.k.dtype == call.v.dtype:
        return "q, k and v must all be bfloat16 or all float16"
    if others := sorted(call.want - {"received"}):
        return f"it does not return {others[0]}"
    if call.bias or call.softcap is not None:
        return "it takes no bias or softcap"
    if not isinstance(call.scale, float):
        return "its scale must be a Python number"
    if call.mask is not None and window_of(call.mask) is None:
        return "its mask must be None, Causal() or Causal() & Window(size)"
    if call.query_offset is not None:
        return "it takes no query_offset"
    if 0 in (*call.q.shape, *call.k.shape, *call.v.shape):
        return "no axis may have size 0"
    return None


def window_of(mask: Mask | Array) -> int | None:
    """How many keys up to its own a causal mask shows a query, 0 for all; None for another mask."""
    if type(mask) is Causal:
        return 0
    parts = mask.parts if type(mask) is AllOf else ()
    if {type(part) for part in parts} != {Causal, Window}:
        return None
    return min(part.size for part in parts if isinstance(part, Window))


def _of_cudnn(call: Call) -> Call:
    """What cuDNN is asked for, where the weights that keys receive are wanted."""
    return replace(call, want=(call.want - {"received"}) | {"total"})


def run(call: Call) -> tuple[Array, Aux]:
    """Evaluate a call that is not refused; on a CPU in the interpreter of Pallas, for tests."""
    from jaxsink.attention.mosaic_vjp import attended, received  # Pallas takes long to import

    plan = _plan(call)
    q, k, v = (_padded(x, plan.width) for x in (call.q, call.k, call.v))
    if type(call.variant) in cudnn.VARIANTS:
        out, aux = cudnn.run(_of_cudnn(call))
        assert aux.total is not None
        found = received(plan, mosaic_rules.softmax_share, call, q, k, (_padded_rows(plan, aux.total),))
        return out, aux._replace(received=found, total=aux.total if "total" in call.want else None)
    positions = jnp.arange(plan.queries, dtype=jnp.float32) + float(plan.offset)
    seen = jnp.minimum(positions + 1.0, float(plan.keys)) if plan.causal else jnp.full_like(positions, plan.keys)
    if plan.window:
        seen = seen - jnp.minimum(jnp.maximum(positions - float(plan.window - 1), 0.0), float(plan.keys))
    rows = mosaic_rules.given_rows(call.variant, call.params, positions, seen, call.dims.head_size)
    shape = (plan.batch, plan.query_heads, plan.queries)
    given = tuple(_padded_rows(plan, jnp.broadcast_to(row[None], shape)) for row in rows)
    out, sums = attended(plan, call.variant, q, k, v, given)
    aux = Aux()
    if "received" in call.want:
        weight = mosaic_rules.rule_of(call.variant).weight
        aux = Aux(received=received(plan, weight, call, q, k, jax.lax.stop_gradient((*sums, *given))))
    return out[:, : plan.queries, :, : call.v.shape[3]], aux


def _plan(call: Call) -> Plan:
    assert isinstance(call.scale, float)
    window = None if call.mask is None else window_of(call.mask)
    return Plan(
        batch=call.q.shape[0],
        query_heads=call.dims.query_heads,
        key_heads=call.dims.key_heads,
        width=next(width for width in (64, 128, LARGEST_HEAD) if max(call.q.shape[3], call.v.shape[3]) <= width),
        queries=call.queries,
        keys=call.keys,
        scale=call.scale,
        causal=call.mask is not None,
        window=window or 0,
        offset=max(call.keys - call.queries, 0),
        dtype=str(call.q.dtype),
        interpreted=jax.default_backend() == "cpu",
    )


def _padded(x: Array, width: int) -> Array:
    _, length, _, size = x.shape
    return jnp.pad(x, ((0, 0), (0, padded(length) - length), (0, 0), (0, width - size)))


def _padded_rows(plan: Plan, rows: Array) -> Array:
    """[B, N, T], padded."""
    return jnp.pad(rows, ((0, 0), (0, 0), (0, plan.query_rows - plan.queries)))
