"""Row maps beside other projects' implementations of them, in value and gradient."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink import attention
from jaxsink.attention import Causal, Entmax, Entmax15, Sigmoid, SinkLogit, Softmax, SoftmaxN, Sparsemax

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they warn of on import is not ours to mend
    torch = pytest.importorskip("torch")
    entmax = pytest.importorskip("entmax")
    softmax_n = pytest.importorskip("flash_attention_softmax_n.core.functional")
    x_transformers = pytest.importorskip("x_transformers.attend")

B, T, N, H = 2, 7, 3, 5
SEEDS = pytest.mark.parametrize("seed", range(5))
# float64: sums of tens of terms of order one.
F64 = {"rtol": 1e-12, "atol": 1e-12}
# Theirs takes softmax in float32, whatever comes in.
F32 = {"rtol": 1e-5, "atol": 1e-6}
# Of their search: down to the last digit of a float64, as ours goes.
HALVINGS = 60


def differs(found: Any, expected: Any, rtol: float, atol: float) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, expected)


Run = Callable[..., Any]


def theirs(f: Run, arrays: dict[str, np.ndarray], cotangent: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Value and gradients in torch."""
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items()}
    value = f(**tensors)
    value.backward(torch.tensor(cotangent, dtype=value.dtype))
    return value.detach().numpy(), {name: tensor.grad.numpy() for name, tensor in tensors.items()}


def ours(f: Run, arrays: dict[str, np.ndarray], cotangent: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Value and gradients in JAX, float64."""
    with jax.enable_x64(True):
        value, pull = jax.vjp(lambda x: f(**x), {name: jnp.asarray(array) for name, array in arrays.items()})
        return jax.tree.map(np.asarray, (value, pull(jnp.asarray(cotangent))[0]))


@SEEDS
@pytest.mark.parametrize("size", [0.3, 3.0, 100.0])
@pytest.mark.parametrize(
    ("variant", "their"),
    [
        (Sparsemax(), lambda s: entmax.sparsemax(s, dim=-1)),
        (Entmax15(), lambda s: entmax.entmax15(s, dim=-1)),
        (Entmax(1.25), lambda s: entmax.entmax_bisect(s, 1.25, dim=-1, n_iter=HALVINGS)),
        (Entmax(1.5), lambda s: entmax.entmax15(s, dim=-1)),
        (Entmax(1.7), lambda s: entmax.entmax_bisect(s, 1.7, dim=-1, n_iter=HALVINGS)),
        (Entmax(2.0), lambda s: entmax.sparsemax(s, dim=-1)),
    ],
    ids=["sparsemax", "entmax15", "bisect-1.25", "entmax-1.5", "bisect-1.7", "entmax-2"],
)
def test_entmax(variant: attention.RowMap, their: Run, size: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (B, N, T, 11)
    scores, cotangent = size * rng.normal(size=shape), rng.normal(size=shape)

    def weights(s: jax.Array) -> jax.Array:
        visible, positions = jnp.ones((1, 1, *shape[2:]), bool), jnp.arange(T, dtype=jnp.int32)[None]
        return variant.weights(s, attention.RowContext(visible, positions, attention.AttentionDims(N, N, H)), {})

    expected = theirs(lambda s: their(s), {"s": scores}, cotangent)
    # A threshold of order one loses the digits that scores of 100 have before the point.
    differs(ours(weights, {"s": scores}, cotangent), expected, rtol=1e-12, atol=1e-12 * max(1.0, size))


def drawn(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """q, k, v [B, T, N, H] with scores of standard deviation two, and a cotangent of the output."""
    rng = np.random.default_rng(seed)
    q, k, v, cotangent = rng.normal(size=(4, B, T, N, H))
    return {"q": 2.0 * q, "k": k, "v": v}, cotangent


def heads_first(f: Run) -> Run:
    """Their [B, N, T, H] for our [B, T, N, H]."""
    return lambda q, k, v, **more: f(*(x.transpose(1, 2) for x in (q, k, v)), **more).transpose(1, 2)


@SEEDS
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [0.0, 0.5, 1.0, 8.0])
def test_softmax_n(n: float, causal: bool, seed: int) -> None:
    arrays, cotangent = drawn(seed)
    variant = SoftmaxN(n) if n else Softmax()
    found = ours(
        lambda q, k, v: attention.attend(q, k, v, variant, mask=Causal() if causal else None), arrays, cotangent
    )
    their = heads_first(lambda q, k, v: softmax_n.slow_attention_n(q, k, v, is_causal=causal, softmax_n_param=n))
    differs(found, theirs(their, arrays, cotangent), **F64)


@SEEDS
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("variant", "options", "their_options", "tolerance"),
    [
        (Softmax(), {}, {}, F32),
        (Softmax(), {"softcap": 2.0}, {"softclamp_logits": True, "logit_softclamp_value": 2.0}, F32),
        (SoftmaxN(1.0), {}, {"add_zero_kv": True}, F32),
        (Sigmoid(), {}, {"sigmoid": True}, F64),
    ],
    ids=["softmax", "softcap", "zero-kv", "sigmoid"],
)
def test_x_transformers(
    variant: attention.RowMap, options: Any, their_options: Any, tolerance: Any, causal: bool, seed: int
) -> None:
    arrays, cotangent = drawn(seed)
    attend = x_transformers.Attend(causal=causal, heads=N, scale=1.0 / math.sqrt(H), **their_options)
    found = ours(
        lambda q, k, v: attention.attend(q, k, v, variant, mask=Causal() if causal else None, **options),
        arrays,
        cotangent,
    )
    differs(found, theirs(heads_first(lambda q, k, v: attend(q, k, v)[0]), arrays, cotangent), **tolerance)


@SEEDS
@pytest.mark.parametrize("causal", [False, True])
def test_x_transformers_learned_sink(causal: bool, seed: int) -> None:
    arrays, cotangent = drawn(seed)
    sink = np.random.default_rng(seed + 100).normal(size=N)
    attend = x_transformers.Attend(causal=causal, heads=N, scale=1.0 / math.sqrt(H), head_learned_sink=True).double()
    attend.head_attn_sink.data = torch.tensor(sink)
    value, slopes = theirs(heads_first(lambda q, k, v: attend(q, k, v)[0]), arrays, cotangent)
    slopes["sink"] = attend.head_attn_sink.grad.numpy()

    def run(q: Any, k: Any, v: Any, sink: Any) -> jax.Array:
        mask = Causal() if causal else None
        return attention.attend(q, k, v, SinkLogit(), params={"sink_logit": sink}, mask=mask)

    differs(ours(run, {**arrays, "sink": sink}, cotangent), (value, slopes), **F32)
