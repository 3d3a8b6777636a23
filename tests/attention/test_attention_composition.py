"""Identities between composites, everything composed against one loop, backends, and the catalogue."""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import attention as plain
from oracles import composites as oracle

from jaxsink.attention import (
    BACKENDS,
    CATALOGUE,
    VARIANTS,
    AttentionDims,
    Causal,
    Composite,
    CosineQK,
    Differential,
    ForgetGate,
    HeadwiseGate,
    KeyBias,
    KeyValueBias,
    Lengths,
    QKNorm,
    SinkLogit,
    Softmax,
    SoftmaxN,
    Trait,
    UnconditionalGate,
    Window,
    Wrapped,
    alibi_bias,
    alibi_slopes,
    attend,
    attend_with_aux,
)
from jaxsink.training.config import digest
from jaxsink.training.config import plain as described
from theory.laws import F32

B, T, N, K, H, D = 2, 4, 4, 2, 6, 8
DIMS = AttentionDims(N, K, H, model_size=D)
seeds = given(seed=st.integers(0, 2**32 - 1))
few = settings(max_examples=5)


def draw(seed: int) -> tuple[jax.Array, ...]:
    """Queries, keys, values, x, and a key and a value per key head."""
    rng = np.random.default_rng(seed)
    shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, D), (K, H), (K, H))
    q, *others = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
    return (2.0 * q, *others)


def close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **F32), a, b)


def gradients(function: Any, arguments: tuple[Any, ...]) -> Any:
    return jax.grad(lambda inputs: jnp.sum(jnp.sin(function(*inputs))))(arguments)


@few
@seeds
def test_a_key_value_bias_is_one_more_key_that_all_see(seed: int) -> None:
    """In value and gradient, a row without a key included."""
    q, k, v, _, key, value = draw(seed)
    mask = Causal().materialise(T, T).at[0, 0, 2].set(False)

    def biased(q: Any, k: Any, v: Any, key: Any, value: Any) -> jax.Array:
        params = {"key_value_bias": {"k": key, "v": value}}
        return attend(q, k, v, Wrapped(Softmax(), (KeyValueBias(),)), params=params, mask=mask, softcap=3.0)

    def widened(q: Any, k: Any, v: Any, key: Any, value: Any) -> jax.Array:
        def with_slot(array: Any, slot: Any) -> jax.Array:
            return jnp.concatenate([jnp.broadcast_to(slot[None, None], (B, 1, K, H)), array], axis=1)

        visible = jnp.concatenate([jnp.ones((1, 1, T, 1), bool), mask], axis=-1)
        return attend(q, with_slot(k, key), with_slot(v, value), mask=visible, softcap=3.0)

    close(biased(q, k, v, key, value), widened(q, k, v, key, value))
    close(gradients(biased, (q, k, v, key, value)), gradients(widened, (q, k, v, key, value)))


@few
@seeds
def test_a_key_bias_of_zero_is_softmax1(seed: int) -> None:
    q, k, v, *_ = draw(seed)
    params = {"key_bias": {"k": jnp.zeros((K, H))}}
    want = ("weights", "lse", "total", "null_mass", "row_mass")
    close(
        attend_with_aux(q, k, v, Wrapped(Softmax(), (KeyBias(),)), params=params, mask=Causal(), want=want),
        attend_with_aux(q, k, v, SoftmaxN(1.0), mask=Causal(), want=want),
    )


@few
@seeds
def test_a_key_bias_is_a_key_value_bias_whose_value_is_zero(seed: int) -> None:
    q, k, v, _, key, _ = draw(seed)
    both = {"key_value_bias": {"k": key, "v": jnp.zeros((K, H))}}
    close(
        attend(q, k, v, Wrapped(SinkLogit(), (KeyBias(),)), params={"key_bias": {"k": key}} | sink(), mask=Causal()),
        attend(q, k, v, Wrapped(SinkLogit(), (KeyValueBias(),)), params=both | sink(), mask=Causal()),
    )


def sink() -> dict[str, Any]:
    return {"row_map": {"sink_logit": jnp.linspace(-1.0, 2.0, N)}}


@few
@seeds
def test_a_sink_logit_is_an_output_gate_that_reads_the_log_sum_exp(seed: int) -> None:
    """I1 within wrappers: o_sink = sigmoid(lse - a) o_softmax, also behind QK-norm."""
    q, k, v, *_ = draw(seed)
    norm = {"qk_norm": QKNorm().init(jax.random.key(0), DIMS)["q_gain"]}
    gains = {"qk_norm": {"q_gain": 2.0 * norm["qk_norm"], "k_gain": 1.5 * norm["qk_norm"]}}

    def direct(q: Any, k: Any, v: Any) -> jax.Array:
        return attend(q, k, v, Wrapped(SinkLogit(), (QKNorm(),)), params=gains | sink(), mask=Causal())

    def gate(q: Any, k: Any, v: Any) -> jax.Array:
        variant = Wrapped(Softmax(), (QKNorm(),))
        out, aux = attend_with_aux(q, k, v, variant, params=gains, mask=Causal(), want=("lse",))
        logit = jnp.moveaxis(aux.lse, 1, 2) - sink()["row_map"]["sink_logit"][None, None]
        return out * jax.nn.sigmoid(logit)[..., None]

    close(direct(q, k, v), gate(q, k, v))
    close(gradients(direct, (q, k, v)), gradients(gate, (q, k, v)))


@few
@seeds
def test_a_forget_gate_that_never_forgets_is_softmax(seed: int) -> None:
    """sigmoid(b) = 1 in float32 from b = 20 on."""
    q, k, v, x, *_ = draw(seed)
    params = {"forget_gate": {"w": jnp.zeros((D, N)), "b": jnp.full(N, 40.0)}}
    variant = Wrapped(Softmax(), (ForgetGate(),))
    close(attend(q, k, v, variant, params=params, x=x, mask=Causal()), attend(q, k, v, mask=Causal()))


@few
@seeds
def test_a_constant_forget_gate_is_alibi(seed: int) -> None:
    """The slope is -log f: those of ALiBi with f = exp(-slope)."""
    q, k, v, x, *_ = draw(seed)
    slopes = alibi_slopes(N)
    forget = jnp.exp(-slopes)
    params = {"forget_gate": {"w": jnp.zeros((D, N)), "b": jnp.log(forget / (1.0 - forget))}}
    gated = attend(q, k, v, Wrapped(Softmax(), (ForgetGate(),)), params=params, x=x, mask=Causal())
    close(gated, attend(q, k, v, mask=Causal(), bias=alibi_bias(slopes, T, T)))


@few
@seeds
def test_bounded_scores_bound_the_largest_weight(seed: int) -> None:
    """I10: |s| <= c gives w <= 1 / (1 + (n - 1) exp(-2 c)), for a soft-cap, cosines, and QK-norm."""
    q, k, v, *_ = draw(seed)
    rounding = 1.0 + 1e-6

    def largest(variant: Any, params: Any = None, **options: Any) -> np.ndarray:
        _, aux = attend_with_aux(100.0 * q, k, v, variant, params=params, want=("weights",), **options)
        return np.asarray(aux.weights).max()

    def bound(c: float) -> float:
        return rounding / (1.0 + (T - 1) * math.exp(-2.0 * c))

    assert largest(Softmax(), softcap=0.7) <= bound(0.7)
    assert largest(Wrapped(Softmax(), (CosineQK(1.3),))) <= bound(1.3)
    gains = {"qk_norm": {"q_gain": jnp.full(H, 0.5), "k_gain": jnp.full(H, 0.8)}}
    assert largest(Wrapped(Softmax(), (QKNorm(),)), gains) <= bound(math.sqrt(H) * 0.5 * 0.8)
    assert largest(Softmax()) > bound(0.7)  # the bound says something here


@few
@seeds
def test_everything_composes(seed: int) -> None:
    """Sink logit, key and value bias, soft-cap, bias, window, lengths, grouped heads and a gate, against one loop."""
    q, k, v, x, key, value = draw(seed)
    rng = np.random.default_rng(seed + 1)
    bias = rng.normal(size=(B, N, T, T)).astype(np.float32)
    variant = Wrapped(SinkLogit(), (KeyValueBias(), HeadwiseGate()))
    params = sink() | {
        "key_value_bias": {"k": key, "v": value},
        "headwise_gate": {"w": jnp.asarray(rng.normal(size=(D, N)), jnp.float32)},
    }
    mask = Causal() & Window(3) & Lengths(jnp.array([2, 5]))
    options = {"softcap": 1.5, "scale": 0.9}
    out, aux = attend_with_aux(
        q, k, v, variant, params=params, x=x, mask=mask, bias=jnp.asarray(bias), want=("weights",), **options
    )
    rule = lambda b, i, j: i - 3 < j <= i and j < (2, 5)[b]  # noqa: E731
    visible = plain.masked_pairs(rule, B, T, T)[:, None]
    asked = oracle.given(q, k, v, x, params, visible, bias=bias.astype(np.float64), **options)
    slotted = oracle.key_value_bias(asked, plain.sink_logit, asked.params["row_map"]["sink_logit"])
    expected = oracle.g1_headwise(asked, slotted)
    close((out, aux.weights), (expected.out, expected.weights))


def test_a_tap_edits_what_the_wrappers_made() -> None:
    q, k, v, *_ = draw(0)
    variant = Wrapped(Softmax(), (QKNorm(), UnconditionalGate()))
    params = variant.init(jax.random.key(0), DIMS)
    seen: dict[str, Any] = {}

    def tap(name: str, array: jax.Array) -> jax.Array:
        seen[name] = array
        return array.at[..., 0].set(1e4) if name == "attn_scores" else array

    out = attend(q, k, v, variant, params=params, mask=Causal(), tap=tap)
    assert np.abs(seen["attn_scores"]).max() <= math.sqrt(H) * (1.0 + 1e-6)
    first = np.broadcast_to(np.repeat(np.asarray(v[:, :1]), N // K, axis=2), out.shape)
    np.testing.assert_allclose(out, 0.5 * first, rtol=1e-6)  # float32


COMPOSITES = {name: entry.variant for name, entry in VARIANTS.items() if isinstance(entry.variant, Composite)}


@pytest.mark.parametrize("name", COMPOSITES)
def test_backends_agree(name: str) -> None:
    """Outputs and gradients of every backend that takes the row map."""
    variant = COMPOSITES[name]
    q, k, v, x, *_ = draw(1)
    params = jax.tree.map(lambda a: a + 0.3, variant.init(jax.random.key(1), DIMS))

    def loss(moving: Any, backend: str) -> tuple[jax.Array, jax.Array]:
        q, k, v, x, params = moving
        out = attend(q, k, v, variant, params=params, x=x, mask=Causal(), backend=backend)
        return jnp.sum(jnp.sin(out)), out

    expected = jax.grad(loss, has_aux=True)((q, k, v, x, params), "reference")
    here = {name for name, row in BACKENDS.items() if "cpu" in row.platforms}
    for backend in here - {"reference"}:
        close(jax.grad(loss, has_aux=True)((q, k, v, x, params), backend), expected)


def test_the_catalogue_has_every_row_map() -> None:
    assert {name: type(VARIANTS[name].variant) for name in CATALOGUE} == dict(CATALOGUE)
    assert set(VARIANTS) == set(CATALOGUE) | set(COMPOSITES)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_entry_of_the_catalogue_can_be_used(name: str) -> None:
    entry = VARIANTS[name]
    q, k, v, x, *_ = draw(2)
    params = entry.variant.init(jax.random.key(2), DIMS)
    out = attend(q, k, v, entry.variant, params=params or None, x=x, mask=Causal())
    assert out.shape == (B, T, N, H)
    assert np.isfinite(out).all()
    assert (entry.parameters == "none") == (not params)
    assert "arXiv" in entry.source
    assert len(entry.equation) > 3


def test_parameters_of_an_entry_are_named_with_their_axes() -> None:
    assert VARIANTS["softmax"].parameters == "none"
    assert VARIANTS["sink-logit"].parameters == "sink_logit [N]"
    assert VARIANTS["key-value-bias"].parameters == "key_value_bias.k [K, H], key_value_bias.v [K, Hv]"
    assert VARIANTS["gate-per-token"].parameters == "per_token_gate.b [N], per_token_gate.w [N, D/N]"
    assert "lambda.q_1 [H/2]" in VARIANTS["differential"].parameters
    assert "lambda.value []" in VARIANTS["threshold-differential"].parameters


def test_entries_have_descriptions_of_their_own_as_json() -> None:
    descriptions = [described(entry.variant) for entry in VARIANTS.values()]
    assert json.loads(json.dumps(descriptions)) == descriptions
    assert len({digest(description) for description in descriptions}) == len(VARIANTS)
    assert len({entry.variant for entry in VARIANTS.values()}) == len(VARIANTS)


def test_traits_say_what_a_composite_reads() -> None:
    assert COMPOSITES["gate-per-head"].traits == {Trait.ALL_TOKENS}
    assert COMPOSITES["value-state-gate-output"].traits == {Trait.OWN_VALUE}
    assert Differential().traits == {Trait.SEVERAL_SCORES}
    assert Wrapped(Softmax(), (KeyValueBias(), ForgetGate())).traits == {Trait.SLOT_VALUE, Trait.SAME_TOKENS}
    assert not COMPOSITES["g1-headwise"].traits
