"""Backend "cudnn": NVIDIA's fused attention through `jax.nn.dot_product_attention`, for plain softmax in 16 bits."""

import jax
from jax import Array

from jaxsink.attention.call import Aux, Call
from jaxsink.attention.masks import Causal
from jaxsink.attention.variants import Softmax

# Head sizes that the kernels have, forward and backward: twice as large from compute capability 9.0 on.
LARGEST_HEAD, LARGEST_HEAD_HOPPER = 128, 256


def _largest_head() -> int:
    capability = str(getattr(jax.devices()[0], "compute_capability", "0.0"))
    return LARGEST_HEAD_HOPPER if float(capability) >= 9.0 else LARGEST_HEAD


def refuses(call: Call) -> str | None:
    """Why it cannot take a call, or None."""
    if type(call.variant) is not Softmax:
        return f"it has no {type(call.variant).__name__}"
    if {str(x.dtype) for x in (call.q, call.k, call.v)} not in ({"bfloat16"}, {"float16"}):
        return "q, k and v must all be bfloat16 or all float16"
    if call.want:
        return "it returns the output alone"
    if call.bias or call.null_logit is not None or call.softcap is not None:
        return "it takes no bias, null_logit or softcap"
    if not isinstance(call.scale, float):
        return "its scale must be a Python number"
    if call.mask is not None and not (type(call.mask) is Causal and call.queries == call.keys):
        return "its mask must be None or Causal() with as many queries as keys"
    if call.query_offset is not None:
        return "it takes no query_offset"
    sizes = call.q.shape[3], call.v.shape[3]
    if sizes[0] != sizes[1] or sizes[0] % 8 or sizes[0] > _largest_head():
        return f"head sizes must be equal, multiples of 8 and at most {_largest_head()} on this GPU"
    return None


def run(call: Call) -> tuple[Array, Aux]:
    """Evaluate a call that is not refused."""
    assert isinstance(call.scale, float)
    out = jax.nn.dot_product_attention(
        call.q, call.k, call.v, scale=call.scale, is_causal=call.mask is not None, implementation="cudnn"
    )
    return out, Aux()
