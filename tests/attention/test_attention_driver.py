"""`attend` itself: taps, dtypes, backends, and mistakes that users make."""

import doctest
import importlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.attention import (
    BACKENDS,
    AttentionDims,
    Aux,
    Backend,
    Causal,
    Lengths,
    ReLU,
    Segments,
    Sigmoid,
    SinkLogit,
    Softmax,
    SoftmaxN,
    attend,
    attend_with_aux,
)
from jaxsink.attention.backends import select

EVERYTHING = tuple(set(Aux._fields) - {"on_keys", "on_groups"})
B, T, S, N, K, H = 2, 3, 4, 4, 2, 3
Q = jax.random.normal(jax.random.key(0), (B, T, N, H))
KEYS, V = jax.random.normal(jax.random.key(1), (2, B, S, K, H))


def test_a_tap_sees_scores_before_the_mask_and_weights_after_it() -> None:
    seen: dict[str, Any] = {}

    def tap(name: str, array: jax.Array) -> jax.Array:
        seen[name] = array
        return array

    _, aux = attend_with_aux(
        Q, KEYS, V, mask=Causal(), bias=jnp.ones((1, 1, 1, 1)), tap=tap, want=("scores", "weights")
    )
    assert list(seen) == ["attn_scores", "pattern"]
    np.testing.assert_array_equal(seen["attn_scores"], aux.scores)
    np.testing.assert_array_equal(seen["pattern"], aux.weights)
    assert np.all(seen["attn_scores"][:, :, 0, -1] != 0.0)
    assert np.all(seen["pattern"][:, :, 0, -1] == 0.0)


def test_edited_scores_and_patterns_are_used() -> None:
    def to_key_0(name: str, array: jax.Array) -> jax.Array:
        return array.at[..., 0].set(1e4) if name == "attn_scores" else array

    def silence_head_1(name: str, array: jax.Array) -> jax.Array:
        return array.at[:, 1].set(0.0) if name == "pattern" else array

    first_values = jnp.repeat(V[:, :1], N // K, axis=2)
    out = attend(Q, KEYS, V, mask=Causal(), tap=to_key_0)
    np.testing.assert_allclose(out, jnp.broadcast_to(first_values, out.shape), rtol=1e-6)  # float32
    out, aux = attend_with_aux(Q, KEYS, V, tap=silence_head_1, want=("row_mass",))
    assert not np.any(out[:, :, 1])
    assert not np.any(aux.row_mass[:, 1])
    np.testing.assert_array_equal(out[:, :, 2:], attend(Q, KEYS, V)[:, :, 2:])


def test_an_edit_cannot_reveal_a_hidden_key_through_its_score() -> None:
    out = attend(Q, KEYS, V, mask=Causal(), tap=lambda name, x: x.at[..., -1].set(1e4) if name == "attn_scores" else x)
    np.testing.assert_array_equal(out[:, :2], attend(Q, KEYS, V, mask=Causal())[:, :2])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_scores_are_float32_and_the_output_has_the_dtype_of_the_values(dtype: Any) -> None:
    out, aux = attend_with_aux(Q.astype(jnp.bfloat16), KEYS, V.astype(dtype), want=EVERYTHING)
    assert out.dtype == dtype
    assert {x.dtype for x in aux if x is not None} == {jnp.dtype(jnp.float32)}


def test_float64_stays_float64() -> None:
    with jax.enable_x64(True):
        q, k, v = (jnp.asarray(np.asarray(x, np.float64)) for x in (Q, KEYS, V))
        params = SinkLogit().init(jax.random.key(0), AttentionDims(N, K, H))
        out, aux = attend_with_aux(q, k, v, SinkLogit(), params=params, mask=Causal(), want=EVERYTHING)
        assert {x.dtype for x in (out, *aux) if x is not None} == {jnp.dtype(jnp.float64)}


def test_only_wanted_aux_is_returned() -> None:
    _, aux = attend_with_aux(Q, KEYS, V, want=("lse",))
    assert [name for name, value in aux._asdict().items() if value is not None] == ["lse"]


def test_log_sum_exp_survives_a_dominant_null_column() -> None:
    params = {"sink_logit": jnp.full(N, 1e4)}
    _, aux = attend_with_aux(Q, KEYS, V, SinkLogit(), params=params, want=("lse", "null_mass"))
    assert np.all(np.isfinite(aux.lse))
    assert np.all(aux.null_mass == 1.0)


def test_initial_parameters() -> None:
    dims = AttentionDims(N, K, H)
    np.testing.assert_array_equal(SinkLogit(0.5).init(jax.random.key(0), dims)["sink_logit"], np.full(N, 0.5))
    assert all(not v.init(jax.random.key(0), dims) for v in (Softmax(), SoftmaxN(), ReLU(), Sigmoid()))


def test_new_arguments_of_the_same_shape_do_not_compile_again() -> None:
    traces = []

    @jax.jit
    def run(q: jax.Array, offset: jax.Array, lengths: jax.Array, sink: jax.Array) -> jax.Array:
        traces.append(1)
        mask = Causal() & Lengths(lengths)
        return attend(q, KEYS, V, SinkLogit(), params={"sink_logit": sink}, mask=mask, query_offset=offset)

    for i in range(3):
        run(Q + i, jnp.asarray(i), jnp.array([i, 2]), jnp.full(N, float(i)))
    assert len(traces) == 1


def other_backend(refusal: str | None, has_arrays: bool = False) -> dict[str, Backend]:
    def run(call: Any) -> tuple[jax.Array, Aux]:
        raise NotImplementedError

    return {
        "other": Backend(run=run, refuses=lambda call: refusal, has_arrays=has_arrays),
        "reference": BACKENDS["reference"],
    }


@dataclass(frozen=True)
class TapOnly:
    """The part of a call that the choice of a backend reads."""

    tap: Any = None


def test_auto_takes_the_first_backend_that_does_not_refuse() -> None:
    call: Any = TapOnly()
    taking, refusing = other_backend(None), other_backend("it is slow")
    assert select(call, "auto", taking) is taking["other"]
    assert select(call, "reference", taking) is BACKENDS["reference"]
    assert select(call, "auto", refusing) is BACKENDS["reference"]
    with pytest.raises(ValueError, match="'other' cannot take this call because it is slow; use auto or reference"):
        select(call, "other", refusing)


def test_a_tap_needs_a_backend_with_arrays() -> None:
    call: Any = TapOnly(tap=lambda name, x: x)
    table = other_backend(None)
    assert select(call, "auto", table) is BACKENDS["reference"]
    with pytest.raises(ValueError, match="no score and weight arrays for a tap"):
        select(call, "other", table)


class NoNullLogit:
    properties = SinkLogit.properties

    def init(self, key: Any, dims: Any) -> dict[str, Any]:
        return {}

    def weights(self, scores: Any, context: Any, params: Any) -> Any:
        return scores


SINK = {"sink_logit": jnp.zeros(N)}
MISTAKES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"q": Q[0]}, r"q must have shape \[B, T, N, H\]"),
    ({"q": Q[:, :0]}, "without empty axes"),
    ({"k": KEYS.astype(jnp.int32)}, "k must be floating, but has dtype int32"),
    ({"v": [1.0]}, "v must be an array .* but is a list"),
    ({"v": V[:, :3]}, r"must agree in batch, keys and key heads, .* \(2, 4, 2, 3\) and \(2, 3, 2, 3\)"),
    ({"q": Q[:1]}, "agree in their batch B"),
    ({"q": Q[..., :2]}, "agree in their head size H"),
    ({"q": Q[:, :, :3]}, "N=3 and K=2"),
    ({"variant": Softmax}, r"variant must be an instance of a row map or composite such as Softmax\(\)"),
    ({"variant": "softmax"}, "variant must be an instance of a row map"),
    ({"variant": NoNullLogit()}, "NoNullLogit declares a null column"),
    ({"variant": SinkLogit()}, r"params of SinkLogit must have the entries \['sink_logit'\], but has \[\]"),
    ({"params": SINK}, r"params of Softmax must have the entries \[\], but has \['sink_logit'\]"),
    (
        {"variant": SinkLogit(), "params": {"sink_logit": jnp.zeros(K)}},
        r"must have shape \(4,\), but has \(2,\)",
    ),
    ({"variant": SinkLogit(), "params": jnp.zeros(N)}, "params of SinkLogit must be a dict"),
    ({"mask": jnp.zeros((1, 1, T, S))}, "mask must be boolean .* float32; .* pass additive terms as bias"),
    ({"mask": jnp.ones((T, S), bool)}, r"mask must have four axes, .* mask\[None, None\]"),
    ({"mask": jnp.ones((1, 1, T, S + 1), bool)}, r"\[2, 4, 3, 4\], but has shape \[1, 1, 3, 5\]"),
    ({"mask": "causal"}, "mask must be a structured mask such as Causal()"),
    ({"mask": Lengths(jnp.array([1, 2, 3]))}, "mask has 3 sequences but q has B=2"),
    (
        {"mask": Segments(jnp.ones((2, S), int), jnp.ones((2, S), int))},
        r"one id per query and per key \(T=3, S=4\)",
    ),
    ({"query_offset": jnp.array([1, 2, 3])}, "3 sequences but q has B=2"),
    ({"query_offset": -2}, "query_offset must not be negative"),
    ({"bias": jnp.zeros((T, S))}, "bias must have shape"),
    ({"bias": jnp.zeros((1, 3, T, S))}, "bias must have four axes"),
    ({"bias": (jnp.zeros((1, 1, 1, S)), jnp.zeros((T, S)))}, "bias must have shape"),
    ({"bias": jnp.ones((1, 1, T, S), bool)}, "bias must be floating, but has dtype bool"),
    ({"scale": jnp.ones(N)}, "scale must be one number"),
    ({"softcap": 0.0}, "softcap must be a positive number, but is 0.0"),
    ({"softcap": "50"}, "softcap must be a positive number"),
    ({"backend": "flash"}, "backend must be auto or one of cudnn, mosaic, splash, chunked, reference, but is 'flash'"),
    ({"tap": lambda name, x: x[:, :1]}, "tap must return attn_scores with shape"),
    ({"tap": lambda name, x: x.astype(jnp.bfloat16)}, "but returned .* bfloat16"),
    ({"want": ("entropies",)}, r"want has unknown entries \['entropies'\]; choose from weights, scores"),
    ({"want": "weights"}, "want must be a tuple of names"),
    ({"want": ("on_keys",)}, 'keys and the entry "on_keys" of want go together'),
    ({"keys": (0,)}, 'keys and the entry "on_keys" of want go together'),
    ({"want": ("on_keys",), "keys": (0, S)}, r"keys must be from 0 to S - 1 = 3, but are \[0, 4\]"),
    ({"want": ("on_keys",), "keys": (0.5,)}, r"keys must be whole numbers \[P\]"),
    ({"want": ("on_groups",)}, 'groups and the entry "on_groups" of want go together'),
    ({"want": ("on_groups",), "groups": jnp.ones((1, 2, S))}, r"groups must be a boolean array \[B\|1, G, S\]"),
    ({"want": ("on_groups",), "groups": jnp.ones((1, 2, S - 1), bool)}, r"with B=2 and S=4"),
    ({"null_logit": jnp.zeros(N)}, r"null_logit must have three axes, each of size 1 or as in \[B, N, T\]"),
    ({"variant": Sigmoid(), "null_logit": jnp.zeros((1, N, 1))}, "null_logit must be None for Sigmoid"),
    ({"x": jnp.zeros((B, T + 1, 5))}, r"x must be an array \[B, T, D\] with B and T as in q \(2, 3\)"),
    ({"variant": ReLU(), "want": ("null_mass",)}, "asks for null_mass, which ReLU does not define"),
    ({"variant": Sigmoid(), "want": ("weights", "lse")}, "asks for lse, which Sigmoid does not define"),
)


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    arguments = {"q": Q, "k": KEYS, "v": V, "want": ()} | change
    with pytest.raises(ValueError, match=message):
        attend_with_aux(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftmaxN(-1.0), "n must be a finite number > 0, but is -1.0"),
        (lambda: SinkLogit(float("nan")), "init_value must be a finite number"),
        (lambda: Sigmoid(float("inf")), "bias must be a finite number"),
        (lambda: Sigmoid.for_length(0), "length must be at least 1"),
    ],
)
def test_constants_of_variants_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_example_in_the_docstring_runs() -> None:
    result = doctest.testmod(importlib.import_module("jaxsink.attention.driver"))
    assert (result.attempted > 0, result.failed) == (True, 0)
