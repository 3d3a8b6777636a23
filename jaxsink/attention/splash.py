"""Backend "splash": JAX's block-sparse flash attention for TPUs, for plain softmax in bfloat16.

The kernels are those of `jax.experimental.pallas.ops.tpu.splash_attention`; they multiply in 16 bits, add in float32
and leave out blocks that a causal mask or a window hides.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention import mosaic
from jaxsink.attention.call import Aux, Call
from jaxsink.attention.variants import Softmax

# Lanes of a vector unit: lengths of blocks are multiples of it.
_LANES = 128
# Longer blocks need more of the memory on the chip than small models of TPUs have, backward.
_LONGEST_BLOCK = 512


def refuses(call: Call) -> str | None:
    """Why it cannot take a call, or None."""
    if type(call.variant) is not Softmax:
        return f"it has no {type(call.variant).__name__}"
    if {str(x.dtype) for x in (call.q, call.k, call.v)} != {"bfloat16"}:
        return "q, k and v must be bfloat16"
    if call.want:
        return f"it does not return {sorted(call.want)[0]}"
    if call.bias or call.null_logit is not None:
        return "it takes no bias or null column"
    if not isinstance(call.scale, float):
        return "its scale must be a Python number"
    if call.mask is not None and mosaic.window_of(call.mask) is None:
        return "its mask must be None, Causal() or Causal() & Window(size)"
    if call.query_offset is not None:
        return "it takes no query_offset"
    if call.queries % _LANES or call.keys % _LANES or not 0 < call.queries <= call.keys:
        return f"T and S must be multiples of {_LANES}, and T at most S"
    if call.q.shape[3] != call.v.shape[3] or call.q.shape[3] % 64:
        return "head sizes must be equal and multiples of 64"
    return None


def run(call: Call) -> tuple[Array, Aux]:
    """Evaluate a call that is not refused; on a CPU in the interpreter of Pallas, for tests."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash  # Pallas takes long to import

    assert isinstance(call.scale, float)
    shape, offset = (call.queries, call.keys), call.keys - call.queries
    window = None if call.mask is None else mosaic.window_of(call.mask)
    mask: Any = splash.FullMask(shape)
    if window:
        mask = splash.LocalMask(shape, window_size=(window - 1, 0), offset=offset)
    elif window == 0:
        mask = splash.CausalMask(shape, offset=offset)
    key_heads = call.dims.key_heads
    group = call.dims.query_heads // key_heads
    of_queries, of_keys = (_block(length) for length in shape)
    kernel = splash.make_splash_mqa_single_device(
        splash.MultiHeadMask([mask] * group),
        block_sizes=splash.BlockSizes(
            block_q=of_queries,
            block_kv=of_keys,
            block_kv_compute=of_keys,
            block_q_dkv=of_queries,
            block_kv_dkv=of_keys,
            block_kv_dkv_compute=of_keys,
            block_q_dq=of_queries,
            block_kv_dq=of_keys,
        ),
        attn_logits_soft_cap=call.softcap,
        interpret=_interpreted(),
    )
    batch, queries, _, size = call.q.shape
    q = (call.q.astype(jnp.float32) * call.scale).astype(call.q.dtype).reshape(batch, queries, key_heads, group, size)
    # [B, K, N / K, T, H] with keys and values [B, K, S, H]: one kernel for the queries that share keys.
    out = jax.vmap(jax.vmap(kernel))(q.transpose(0, 2, 3, 1, 4), *(x.swapaxes(1, 2) for x in (call.k, call.v)))
    return out.transpose(0, 3, 1, 2, 4).reshape(call.q.shape), Aux()


def _block(length: int) -> int:
    return max(block for block in range(_LANES, _LONGEST_BLOCK + 1, _LANES) if length % block == 0)


def _interpreted() -> bool:
    return jax.default_backend() == "cpu"
