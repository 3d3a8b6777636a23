"""Backend "cudnn": NVIDIA's fused attention through `jax.nn.dot_product_attention`, for softmax and its null columns.

Plain softmax, softmax-n, sink logits and every other null column (key biases are one) in 16 bits, with what `lse` and
named keys say. Softmax alone goes straight to JAX; for the others see `flash`. Values may be float32 beside queries and
keys of 16 bits, as wrappers hand them on: they are rounded to 16 bits, as the weights are that they meet.
"""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention import flash
from jaxsink.attention.call import Aux, Call
from jaxsink.attention.masks import Causal
from jaxsink.attention.probes import null_entries, null_logits
from jaxsink.attention.row_map import RowContext
from jaxsink.attention.variants import SinkLogit, Softmax, SoftmaxN

# Head sizes that the kernels have, forward and backward: twice as large from compute capability 9.0 on.
LARGEST_HEAD, LARGEST_HEAD_HOPPER = 128, 256
VARIANTS = (Softmax, SoftmaxN, SinkLogit)
# Entries of `Aux` that follow from the log-sum-exp, each at most O(T) a key.
ENTRIES = frozenset({"lse", "total", "row_mass", "null_mass", "on_keys"})


def _largest_head() -> int:
    capability = str(getattr(jax.devices()[0], "compute_capability", "0.0"))
    return LARGEST_HEAD_HOPPER if float(capability) >= 9.0 else LARGEST_HEAD


def refuses(call: Call) -> str | None:
    """Why it cannot take a call, or None."""
    if type(call.variant) not in VARIANTS:
        return f"it has no {type(call.variant).__name__}"
    narrow = str(call.q.dtype)
    if narrow not in ("bfloat16", "float16") or str(call.k.dtype) != narrow:
        return "q and k must both be bfloat16 or both float16"
    if str(call.v.dtype) not in (narrow, "float32"):
        return f"v must be {narrow}, as q and k are, or float32"
    if others := sorted(call.want - ENTRIES):
        return f"it does not return {others[0]}"
    if call.bias or call.softcap is not None:
        return "it takes no bias or softcap"
    if not isinstance(call.scale, float):
        return "its scale must be a Python number"
    if call.mask is not None and not (type(call.mask) is Causal and call.queries == call.keys):
        return "its mask must be None or Causal() with as many queries as keys"
    if call.query_offset is not None:
        return "it takes no query_offset"
    sizes = call.q.shape[3], call.v.shape[3]
    if sizes[0] != sizes[1] or sizes[0] % 8 or sizes[0] > _largest_head():
        return f"head sizes must be equal, multiples of 8 and at most {_largest_head()} on this GPU"
    if _more_than_plain(call) and _roles(call.mask is not None, str(call.q.dtype)) is None:
        return f"jax {jax.__version__} keeps the log-sum-exp of cuDNN attention elsewhere than expected"
    return None


def run(call: Call) -> tuple[Array, Aux]:
    """Evaluate a call that is not refused."""
    assert isinstance(call.scale, float)
    kernel = _kernel(call.scale, call.mask is not None)
    v = call.v.astype(call.q.dtype)
    if not _more_than_plain(call):
        return kernel(call.q, call.k, v).astype(call.v.dtype), Aux()
    roles = _roles(call.mask is not None, str(call.q.dtype))
    assert roles is not None  # or the call would have been refused
    batch, heads, queries, _ = call.scores_shape
    # These variants read nothing of it.
    context = RowContext(jnp.ones((1, 1, 1, 1), bool), jnp.zeros((1, queries), jnp.int32), call.dims)
    null = null_logits(call, context, jnp.zeros((), jnp.float32))
    if null is not None:
        null = jnp.broadcast_to(null, (batch, heads, queries))
    out, lse = flash.attended(kernel, roles, call.scale, call.q, call.k, v, null)
    return out.astype(call.v.dtype), _aux(call, context, lse)


def _more_than_plain(call: Call) -> bool:
    return bool(call.want) or type(call.variant) is not Softmax or call.null_logit is not None


@cache
def _kernel(scale: float, causal: bool) -> flash.Kernel:
    return partial(jax.nn.dot_product_attention, scale=scale, is_causal=causal, implementation="cudnn")


@cache
def _roles(causal: bool, dtype: str) -> flash.Roles | None:
    # They are those of every scale and shape: the program is the same.
    return flash.find_roles(_kernel(0.125, causal), 0.125, causal, dtype)


def _aux(call: Call, context: RowContext, lse: Array) -> Aux:
    found = {"lse": lse, **null_entries(call, context, lse)}
    found["row_mass"] = jnp.exp(lse - found["total"])
    if call.on_keys is not None:
        found["on_keys"] = _on_keys(call, found["total"])
    return Aux(**{name: found[name] for name in call.want})


def _on_keys(call: Call, total: Array) -> Array:
    """[B, N, T, P], the weights on the named keys."""
    assert call.on_keys is not None
    batch, heads, queries, _ = call.scores_shape
    grouped = call.q.reshape(batch, queries, call.dims.key_heads, -1, call.q.shape[3])
    named = call.k[:, call.on_keys]
    scores = jnp.einsum("btkgh,bpkh->bkgtp", grouped, named, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, heads, queries, -1) * jnp.float32(call.scale)
    weights = jnp.exp(scores - total[..., None])
    if call.mask is None:
        return weights
    seen = call.on_keys[None, :] <= jnp.arange(queries, dtype=jnp.int32)[:, None]
    return jnp.where(seen[None, None], weights, 0.0)
