"""Every wrapped row map of the catalogue obeys the laws and is what its formula says, in float64 loops; mistakes."""

from dataclasses import replace
from typing import Any

import beside
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import composites as oracle

from jaxsink.attention import (
    VARIANTS,
    AttentionDims,
    Aux,
    Causal,
    CosineQK,
    ElementwiseGate,
    ForgetGate,
    HeadRMSNorm,
    HeadwiseGate,
    InputGate,
    KeyBias,
    KeyValueBias,
    PerHeadGate,
    PerTokenGate,
    QKNorm,
    Sigmoid,
    Softmax,
    Trait,
    UnconditionalGate,
    ValueBias,
    ValueGate,
    ValueStateOutputGate,
    Wrapped,
    attend,
    attend_with_aux,
    decay_bias,
)
from theory import laws

judges: Any = beside.load(__file__, "composite_judges")

CASES: dict[str, oracle.Oracle] = {
    "key-bias": oracle.key_bias,
    "key-value-bias": oracle.key_value_bias,
    "value-bias": oracle.value_bias,
    "qk-norm": oracle.qk_norm,
    "cosine": oracle.cosine(10.0),
    "elu-kernel": oracle.elu_kernel,
    "mlp-kernel": oracle.mlp_kernel,
    "forget-gate": oracle.forget_gate,
    "gate-unconditional": oracle.gate_unconditional,
    "gate-per-head": oracle.gate_per_head,
    "gate-per-token": oracle.gate_per_token,
    "g1-headwise": oracle.g1_headwise,
    "g1-elementwise": oracle.g1_elementwise,
    "g2-value-gate": oracle.g2_value_gate,
    "input-gate": oracle.input_gate,
    "value-state-gate-source": oracle.value_state_gate_source,
    "value-state-gate-output": oracle.value_state_gate_output,
    "head-rms-norm": oracle.head_rms_norm,
    "rela": oracle.rela,
    "cosine-threshold": oracle.cosine_threshold,
}
SEEDS = st.integers(0, 2**32 - 1)
B, T, N, K, H, HV, D = 2, 3, 4, 2, 6, 5, 8
DIMS = AttentionDims(N, K, H, value_size=HV, model_size=D)


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


Q, KEYS, V, X = normal(0, B, T, N, H), normal(1, B, T, K, H), normal(2, B, T, K, HV), normal(3, B, T, D)


def test_every_wrapped_row_map_has_a_case() -> None:
    assert {name for name, entry in VARIANTS.items() if isinstance(entry.variant, Wrapped)} == set(CASES)


@laws.parametrize(VARIANTS[name].variant for name in CASES)
def test_law(law: laws.Law, variant: Any) -> None:
    assert law.verify(variant, examples=2).status == "holds"  # two examples: both shapes


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("judge", judges.JUDGES, ids=lambda judge: judge.__name__)
def test_variant(judge: Any, name: str) -> None:
    variant = VARIANTS[name].variant

    @settings(max_examples=3)
    @given(shape=st.sampled_from(laws.shapes(variant)), seed=SEEDS)
    def check(shape: tuple[int, ...], seed: int) -> None:
        judge(CASES[name], laws.draw(variant, shape, seed))

    check()


@pytest.mark.parametrize("name", CASES)
def test_values_may_have_a_size_of_their_own(name: str) -> None:
    variant = VARIANTS[name].variant
    params = jax.tree.map(lambda a: a + 0.3, variant.init(jax.random.key(4), DIMS))
    visible = np.asarray(Causal().materialise(T, T))
    out = attend(Q, KEYS, V, variant, params=params, x=X, mask=visible)
    expected = CASES[name](oracle.given(Q, KEYS, V, X, params, visible))
    np.testing.assert_allclose(out, expected.out, **laws.F32)


def test_a_second_slot_gets_its_own_share() -> None:
    """Each value counts by the weight of its own slot; a null logit of the caller takes its part as well."""
    both = Wrapped(Softmax(), (KeyBias(), KeyValueBias()))
    params = jax.tree.map(lambda a: 30.0 * a, both.init(jax.random.key(5), DIMS))
    null = normal(6, 1, N, T)
    out, aux = attend_with_aux(
        Q, KEYS, V, both, params=params, null_logit=null, mask=Causal(), want=("null_mass", "row_mass", "lse", "total")
    )
    group = N // K
    logits = {
        name: np.einsum("btnh,nh->bnt", Q, np.repeat(params[name]["k"], group, 0)) / np.sqrt(H)
        for name in ("key_bias", "key_value_bias")
    }
    lse = np.asarray(aux.lse)
    total = np.log(np.exp(lse) + np.exp(null) + sum(np.exp(a) for a in logits.values()))
    np.testing.assert_allclose(aux.total, total, **laws.F32)
    np.testing.assert_allclose(aux.row_mass, np.exp(lse - total), **laws.F32)
    np.testing.assert_allclose(aux.null_mass, 1.0 - np.exp(lse - total), **laws.F32)
    share = np.exp(logits["key_value_bias"] - total)
    value = np.repeat(params["key_value_bias"]["v"], group, 0)
    real = np.moveaxis(np.exp(lse - total), 1, 2)[..., None] * attend(Q, KEYS, V, mask=Causal())
    np.testing.assert_allclose(out, real + np.einsum("bnt,nh->btnh", share, value), **laws.F32)


@pytest.mark.parametrize("wrapper", [KeyBias(), KeyValueBias()])
def test_a_slot_keeps_finite_gradients_at_huge_logits(wrapper: KeyBias) -> None:
    variant = Wrapped(Softmax(), (wrapper,))
    for factor in (1e6, -1e6):
        params = jax.tree.map(lambda a, f=factor: f * jnp.abs(a), variant.init(jax.random.key(7), DIMS))

        def loss(q: Any, params: Any) -> jax.Array:
            return attend(jnp.abs(q), KEYS, V, variant, params=params, mask=Causal()).sum()

        gradients = jax.grad(loss, argnums=(0, 1))(Q, params)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_rows_that_see_no_key_give_what_is_added_to_them() -> None:
    nothing = jnp.zeros((1, 1, 1, 1), bool)
    for wrapper, expected in ((KeyBias(), 0.0), (KeyValueBias(), None), (ValueBias(), None)):
        variant = Wrapped(Softmax(), (wrapper,))
        params = variant.init(jax.random.key(8), DIMS)
        out = attend(Q, KEYS, V, variant, params=params, mask=nothing)
        value = np.repeat(params[wrapper.name]["v"], N // K, 0) if expected is None else np.zeros((N, HV))
        np.testing.assert_allclose(out, np.broadcast_to(value, out.shape), rtol=1e-6)  # float32


def test_initial_values() -> None:
    def fresh(wrapper: Any, many: AttentionDims) -> Any:
        return wrapper.init(jax.random.key(9), many)

    wide = AttentionDims(8, 8, 128, model_size=512)
    for wrapper in (KeyBias(), KeyValueBias(), ValueBias(), HeadwiseGate(), ElementwiseGate(), ValueGate()):
        for leaf in jax.tree.leaves(fresh(wrapper, wide)):
            # 1000 numbers or more: their deviation is off by 2 % or so.
            np.testing.assert_allclose(np.std(leaf), 0.02, rtol=0.1)
    for wrapper, bound in ((PerTokenGate(), 64**-0.5), (ForgetGate(), 512**-0.5), (InputGate(), 512**-0.5)):
        largest = float(np.abs(fresh(wrapper, wide)["w"]).max())
        assert 0.9 * bound < largest <= bound
    for gate in (UnconditionalGate(0.25), PerTokenGate(0.25), PerHeadGate(0.25)):
        np.testing.assert_allclose(jax.nn.sigmoid(fresh(gate, wide)["b"]), 0.25, rtol=1e-6)
    np.testing.assert_array_equal(fresh(ForgetGate(2.0), wide)["b"], 2.0)
    for norm in (QKNorm(), HeadRMSNorm()):
        assert all((leaf == 1.0).all() for leaf in jax.tree.leaves(fresh(norm, wide)))


def test_decay_is_the_sum_of_the_gates_in_between() -> None:
    log_forget = -jnp.abs(normal(10, B, 5, N))
    np.testing.assert_allclose(sum(decay_bias(log_forget)), oracle.decay(np.asarray(log_forget)), **laws.F32)


def test_the_scale_of_cosines_counts_relative_to_the_default() -> None:
    variant = Wrapped(Softmax(), (CosineQK(),))
    want = ("scores",)
    _, default = attend_with_aux(Q, KEYS, V, variant, want=want)
    _, tripled = attend_with_aux(Q, KEYS, V, variant, scale=3.0 / np.sqrt(H).item(), want=want)
    assert np.abs(default.scores).max() <= 1.0 + 1e-6
    np.testing.assert_allclose(tripled.scores, 3.0 * default.scores, **laws.F32)


def test_only_the_output_is_rounded() -> None:
    """Two gates and a norm on bfloat16: as good as float32 on the same numbers, rounded once."""
    variant = Wrapped(Softmax(), (HeadwiseGate(), HeadRMSNorm(), UnconditionalGate()))
    params = variant.init(jax.random.key(11), DIMS)
    low = [a.astype(jnp.bfloat16) for a in (Q, KEYS, V, X)]
    high = [a.astype(jnp.float32) for a in low]
    out = attend(*low[:3], variant, params=params, x=low[3], mask=Causal())
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        out, attend(*high[:3], variant, params=params, x=high[3], mask=Causal()).astype(jnp.bfloat16)
    )


def test_wrappers_apply_from_the_innermost_to_the_outermost() -> None:
    gate, bias = UnconditionalGate(), ValueBias()
    params = Wrapped(Softmax(), (gate, bias)).init(jax.random.key(12), DIMS)
    plain, half = attend(Q, KEYS, V), 0.5
    value = np.repeat(np.asarray(params["value_bias"]["v"]), N // K, 0)
    gated_first = attend(Q, KEYS, V, Wrapped(Softmax(), (gate, bias)), params=params)
    biased_first = attend(Q, KEYS, V, Wrapped(Softmax(), (bias, gate)), params=params)
    np.testing.assert_allclose(gated_first, half * np.asarray(plain) + value, **laws.F32)
    np.testing.assert_allclose(biased_first, half * (np.asarray(plain) + value), **laws.F32)


def test_only_what_is_wanted_comes_back() -> None:
    variant = Wrapped(Softmax(), (KeyValueBias(),))
    params = variant.init(jax.random.key(13), DIMS)
    _, aux = attend_with_aux(Q, KEYS, V, variant, params=params, want=("row_mass",))
    assert {name for name, entry in zip(Aux._fields, aux, strict=True) if entry is not None} == {"row_mass"}


def test_queries_may_be_fewer_than_keys_where_the_value_of_their_own_token_is_read() -> None:
    variant = Wrapped(Softmax(), (ValueStateOutputGate(),))
    params = variant.init(jax.random.key(14), DIMS)
    full = attend(Q, KEYS, V, variant, params=params, mask=Causal())
    last = attend(Q[:, -1:], KEYS, V, variant, params=params, mask=Causal())
    np.testing.assert_allclose(last, full[:, -1:], **laws.F32)
    with pytest.raises(ValueError, match="T must be at most S, but T=3 and S=2"):
        attend(Q, KEYS[:, :2], V[:, :2], variant, params=params)


@pytest.mark.parametrize("wrapper", [ForgetGate(), ValueGate(), InputGate()])
def test_queries_must_be_the_tokens_of_the_keys_where_x_of_the_keys_is_read(wrapper: Any) -> None:
    variant = Wrapped(Softmax(), (wrapper,))
    assert variant.traits == {Trait.SAME_TOKENS}
    params = variant.init(jax.random.key(15), DIMS)
    with pytest.raises(ValueError, match=f"{type(wrapper).__name__} reads x at the keys, .* but T=1 and S=3"):
        attend(Q[:, :1], KEYS, V, variant, params=params, x=X[:, :1])


READS_X = (
    ForgetGate(),
    HeadwiseGate(),
    ElementwiseGate(),
    ValueGate(),
    InputGate(),
    PerHeadGate(),
    PerTokenGate(),
)


@pytest.mark.parametrize("wrapper", READS_X, ids=lambda wrapper: wrapper.name)
def test_a_missing_x_is_named(wrapper: Any) -> None:
    variant = Wrapped(Softmax(), (wrapper,))
    params = variant.init(jax.random.key(16), DIMS)
    with pytest.raises(ValueError, match="because Wrapped reads it, but is None; pass x="):
        attend(Q, KEYS, V, variant, params=params)
    with pytest.raises(ValueError, match=rf"width D of x, which {type(wrapper).__name__} projects, but is None"):
        variant.init(jax.random.key(16), replace(DIMS, model_size=None))


@pytest.mark.parametrize("gate", [PerHeadGate(), PerTokenGate()])
def test_heads_must_divide_the_width_where_each_has_its_slice(gate: Any) -> None:
    with pytest.raises(ValueError, match=rf"{type(gate).__name__} gives each query head its slice .* N=4 and D=9"):
        gate.init(jax.random.key(0), replace(DIMS, model_size=9))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Wrapped(Softmax(), ()), "wrappers must be one or more"),
        (lambda: Wrapped(Softmax(), (ValueBias(), ValueBias())), r"of different names, but are \['value_bias', 'value"),
        (lambda: Wrapped(Softmax(), HeadwiseGate()), "wrappers must be a tuple of wrapper instances"),
        (lambda: Wrapped(Softmax(), (HeadwiseGate,)), "wrappers must be a tuple of wrapper instances"),
        (lambda: Wrapped(Softmax, (HeadwiseGate(),)), "row_map must be an instance of a row map"),
        (
            lambda: Wrapped(Wrapped(Softmax(), (HeadwiseGate(),)), (ValueBias(),)),
            "row_map must be an instance of a row map",
        ),
        (lambda: Wrapped(Sigmoid(), (KeyBias(),)), "KeyBias must be put around a row map with a total"),
        (lambda: Wrapped(Sigmoid(), (KeyValueBias(),)), "KeyValueBias must be put around a row map with a total"),
        (lambda: QKNorm(0.0), "eps must be a positive finite number, but is 0.0"),
        (lambda: CosineQK(-1.0), "factor must be a positive finite number, but is -1.0"),
        (lambda: HeadRMSNorm(float("inf")), "eps must be a positive finite number, but is inf"),
        (lambda: ForgetGate(float("nan")), "init_value must be a finite number, but is nan"),
        (lambda: UnconditionalGate(1.0), "probability must lie between 0 and 1, but is 1.0"),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
