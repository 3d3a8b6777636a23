"""Exact identities between variants, an outside implementation, and compositions against the oracle."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import attention as oracle

from jaxsink.attention import (
    Aux,
    Causal,
    Lengths,
    ReLU,
    Sigmoid,
    SinkLogit,
    Softmax,
    SoftmaxN,
    Window,
    attend,
    attend_with_aux,
)

# float32: 2^-24 per operation, about ten of them in a row on numbers below 10.
F32 = {"rtol": 1e-5, "atol": 1e-5}
B, T, N, K, H = 2, 4, 4, 2, 3
seeds = given(seed=st.integers(0, 2**32 - 1))
few = settings(max_examples=5)


def draw(seed: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, H), (N,))
    q, k, v, sink = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
    return 2.0 * q, k, v, sink


def close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **F32), a, b)


@few
@seeds
def test_sink_logit_is_an_output_gate(seed: int) -> None:
    """I1: o_sink = sigmoid(lse - a) o_softmax, in value and gradient."""

    def direct(q: Any, k: Any, v: Any, sink: Any) -> jax.Array:
        return attend(q, k, v, SinkLogit(), params={"sink_logit": sink}, mask=Causal())

    def gated(q: Any, k: Any, v: Any, sink: Any) -> jax.Array:
        out, aux = attend_with_aux(q, k, v, mask=Causal(), want=("lse",))
        return out * jax.nn.sigmoid(jnp.moveaxis(aux.lse, 1, 2) - sink[None, None, :])[..., None]

    inputs = draw(seed)
    close(direct(*inputs), gated(*inputs))
    slopes = [jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(*x))))(inputs) for f in (direct, gated)]
    close(*slopes)


@few
@seeds
def test_softmax1_is_sink_logit_zero_is_a_zero_key(seed: int) -> None:
    """I2."""
    q, k, v, _ = draw(seed)
    one = attend(q, k, v, SoftmaxN(1.0), mask=Lengths(jnp.array([3, 4])))
    close(
        one,
        attend(q, k, v, SinkLogit(), params={"sink_logit": jnp.zeros(N)}, mask=Lengths(jnp.array([3, 4]))),
    )
    zero = jnp.zeros((B, 1, K, H))
    visible = jnp.concatenate([jnp.ones((B, 1, 1, 1), bool), Lengths(jnp.array([3, 4])).materialise(1, T)], axis=-1)
    widened = attend(q, jnp.concatenate([zero, k], 1), jnp.concatenate([zero, v], 1), mask=visible)
    close(one, widened)


@few
@seeds
def test_softmax_n_is_a_sink_logit_of_log_n(seed: int) -> None:
    q, k, v, _ = draw(seed)
    for n in (0.25, 1.0, 7.0):
        params = {"sink_logit": jnp.full(N, math.log(n))}
        want = tuple(set(Aux._fields) - {"on_keys", "on_groups"})
        close(
            attend_with_aux(q, k, v, SoftmaxN(n), mask=Causal(), want=want),
            attend_with_aux(q, k, v, SinkLogit(), params=params, mask=Causal(), want=want),
        )


@few
@seeds
def test_softmax_n_falls_to_softmax_as_n_falls(seed: int) -> None:
    q, k, v, _ = draw(seed)
    visible = Causal().materialise(T, T).at[0, 0, 2].set(False)
    # Scores above -40 leave n = 1e-30 a share of at most 1e-12. Rows that see no key differ in their null mass.
    want = ("weights", "scores", "lse", "row_mass", "received")
    close(
        attend_with_aux(q, k, v, SoftmaxN(1e-30), mask=visible, want=want),
        attend_with_aux(q, k, v, Softmax(), mask=visible, want=want),
    )


@few
@seeds
def test_softmax_is_that_of_jax(seed: int) -> None:
    """Rows that see no key are left out: jax.nn averages all values there."""
    q, k, v, _ = draw(seed)
    bias = jnp.asarray(np.random.default_rng(seed + 1).normal(size=(B, N, T, T)), jnp.float32)

    def ours(q: Any, k: Any, v: Any) -> jax.Array:
        return attend(q, k, v, mask=Causal() & Window(3), bias=bias, scale=0.3)

    def theirs(q: Any, k: Any, v: Any) -> jax.Array:
        mask = (Causal() & Window(3)).materialise(T, T)
        return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, scale=0.3)

    close(ours(q, k, v), theirs(q, k, v))
    close(*(jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(*x))))((q, k, v)) for f in (ours, theirs)))


@few
@seeds
def test_sink_logit_softcap_window_and_groups_compose(seed: int) -> None:
    q, k, v, sink = draw(seed)
    bias = np.random.default_rng(seed + 1).normal(size=(B, N, T, T)).astype(np.float32)
    mask = Causal() & Window(3) & Lengths(jnp.array([2, 5]))
    want = ("weights", "scores", "lse")
    options = {"softcap": 1.5, "scale": 0.9}
    out, aux = attend_with_aux(
        q,
        k,
        v,
        SinkLogit(),
        params={"sink_logit": sink},
        mask=mask,
        bias=jnp.asarray(bias),
        want=want,
        **options,
    )
    rule = lambda b, i, j: i - 3 < j <= i and j < (2, 5)[b]  # noqa: E731
    visible = np.repeat(oracle.masked_pairs(rule, B, T, T)[:, None], N, axis=1)
    params = {"sink_logit": np.asarray(sink)}
    expected = oracle.attend(q, k, v, oracle.sink_logit, params, visible, bias=bias, **options)
    close(
        (out, *(getattr(aux, name) for name in want)),
        (expected.out, *(getattr(expected, name) for name in want)),
    )


def test_uniform_causal_attention_gives_the_first_key_the_harmonic_mass() -> None:
    """I6: the mean weight on key 0 is H_T / T, here .0741 at T = 64."""
    zero = jnp.zeros((1, 64, 1, 2))
    _, aux = attend_with_aux(zero, zero, zero, mask=Causal(), want=("received",))
    np.testing.assert_allclose(aux.received[0, 0, 0] / 64, sum(1 / i for i in range(1, 65)) / 64, rtol=1e-6)


def test_closed_forms_at_zero_scores() -> None:
    zero = jnp.zeros((1, 8, 1, 2))
    mass = {
        Softmax(): 1.0,
        SoftmaxN(3.0): 8 / 11,
        ReLU(): 0.0,
        Sigmoid(): 4.0,
        Sigmoid.for_length(8): 8 / 9,
    }
    for variant, expected in mass.items():
        _, aux = attend_with_aux(zero, zero, zero, variant, want=("row_mass",))
        np.testing.assert_allclose(aux.row_mass, expected, rtol=1e-6)  # float32


@pytest.mark.parametrize("variant", [Softmax(), ReLU()])
def test_decoding_one_query_is_the_last_row(variant: Any) -> None:
    q, k, v, _ = draw(0)
    full = attend(q, k, v, variant, mask=Causal())
    close(attend(q[:, -1:], k, v, variant, mask=Causal()), full[:, -1:])
    offset = jnp.array([1, 3])
    rows = jnp.stack([q[0, 1:2], q[1, 3:4]])
    close(
        attend(rows, k, v, variant, mask=Causal(), query_offset=offset),
        jnp.stack([full[0, 1:2], full[1, 3:4]]),
    )
