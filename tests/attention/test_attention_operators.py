"""The operators obey the laws and are what their formulas say, in float64 loops; what they do not define; mistakes."""

import math
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
    Composite,
    CosineQK,
    Differential,
    HeadRMSNorm,
    ThresholdDifferential,
    ThresholdRectified,
    Wrapped,
    attend,
    attend_with_aux,
)
from theory import laws

judges: Any = beside.load(__file__, "composite_judges")

CASES: tuple[tuple[Composite, oracle.Oracle], ...] = (
    (Differential(), oracle.differential(0)),
    (Differential(depth=3), oracle.differential(3)),
    (ThresholdDifferential(), oracle.threshold_differential),
)
B, T, N, K, H, HV = 2, 4, 4, 2, 6, 5
DIMS = AttentionDims(N, K, H, value_size=HV)
DEFINED = ("weights", "row_mass", "received", "on_keys", "on_groups", "entropy")
UNDEFINED = tuple(name for name in Aux._fields if name not in DEFINED)
GROUPS = np.array([[[True, False, True, False], [False, True, True, True]]])


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


Q, KEYS, V = normal(0, B, T, N, H), normal(1, B, T, K, H), normal(2, B, T, K, HV)


def fresh(variant: Composite) -> Any:
    """Parameters away from their initial values."""
    return jax.tree.map(lambda a: a + 0.3, variant.init(jax.random.key(3), DIMS))


def test_every_operator_has_a_case() -> None:
    operators = {e.variant for e in VARIANTS.values() if isinstance(e.variant, Composite)}
    assert {v for v in operators if not isinstance(v, Wrapped)} <= {variant for variant, _ in CASES}


@laws.parametrize(variant for variant, _ in CASES)
def test_law(law: laws.Law, variant: Any) -> None:
    assert law.verify(variant, examples=2).status == "holds"  # two examples: both shapes


@pytest.mark.parametrize(("variant", "formula"), CASES)
@pytest.mark.parametrize("judge", judges.JUDGES, ids=lambda judge: judge.__name__)
def test_variant(judge: Any, variant: Composite, formula: oracle.Oracle) -> None:
    @settings(max_examples=5)
    @given(shape=st.sampled_from(laws.SHAPES), seed=st.integers(0, 2**32 - 1))
    def check(shape: tuple[int, ...], seed: int) -> None:
        judge(formula, laws.draw(variant, shape, seed))

    check()


@pytest.mark.parametrize(("variant", "formula"), CASES)
def test_entries_are_those_of_the_combined_weights(variant: Composite, formula: oracle.Oracle) -> None:
    params, visible = fresh(variant), np.asarray(Causal().materialise(T, T))
    out, aux = attend_with_aux(
        Q, KEYS, V, variant, params=params, mask=visible, want=DEFINED, keys=(0, 2), groups=GROUPS
    )
    expected = formula(oracle.given(Q, KEYS, V, None, params, visible))
    size = np.abs(expected.weights)
    # A row of zeros has no entropy to speak of, 0 by convention.
    p = size / np.where(size.sum(-1, keepdims=True) > 0.0, size.sum(-1, keepdims=True), 1.0)
    entropy = -(p * np.log(np.where(p > 0.0, p, 1.0))).sum(-1)
    groups = np.stack([expected.weights[..., [0, 2]].sum(-1), expected.weights[..., 1:].sum(-1)], -1)
    found = {
        "weights": expected.weights,
        "row_mass": expected.weights.sum(-1),
        "received": expected.weights.sum(-2),
        "on_keys": expected.weights[..., [0, 2]],
        "on_groups": groups,
        "entropy": entropy,
    }
    np.testing.assert_allclose(out, expected.out, **laws.F32)
    for name in Aux._fields:
        entry = getattr(aux, name)
        if name in found:
            np.testing.assert_allclose(entry, found[name], **laws.F32, err_msg=name)
        else:
            assert entry is None


@pytest.mark.parametrize("variant", [Differential(), ThresholdDifferential()])
@pytest.mark.parametrize("name", UNDEFINED)
def test_entries_of_one_score_matrix_are_refused(variant: Composite, name: str) -> None:
    with pytest.raises(ValueError, match=f"want asks for {name}, which "):
        attend_with_aux(Q, KEYS, V, variant, params=fresh(variant), want=(name, "weights"))


def test_the_scale_is_that_of_the_whole_head() -> None:
    """Twice the default scale is twice the scores of each half, which are q.k / sqrt(H / 2) by default."""
    variant = Differential()
    params = fresh(variant)
    found = attend(Q, KEYS, V, variant, params=params, scale=2.0 / math.sqrt(H))
    expected = oracle.differential(0)(oracle.given(Q, KEYS, V, None, params, True, scale=2.0 / math.sqrt(H / 2)))
    np.testing.assert_allclose(found, expected.out, **laws.F32)


def test_bias_and_softcap_reach_both_score_matrices() -> None:
    variant = Differential(depth=1)
    params, bias = fresh(variant), normal(4, B, N, T, T)
    found = attend(Q, KEYS, V, variant, params=params, bias=bias, softcap=1.5)
    expected = oracle.differential(1)(
        oracle.given(Q, KEYS, V, None, params, True, bias=np.asarray(bias, np.float64), softcap=1.5)
    )
    np.testing.assert_allclose(found, expected.out, **laws.F32)


def with_share(params: Any, share: float, start: float) -> Any:
    """Parameters of `Differential` whose lambda is `share`: exp(0) - exp(q_2.k_2) + start = share."""
    size = H // 2
    vectors = {name: jnp.zeros(size) for name in ("q_1", "k_1", "k_2")}
    root = math.log(1.0 + start - share) / size
    return {**params, "lambda": {**vectors, "q_2": jnp.full(size, root), "k_2": jnp.ones(size)}}


@pytest.mark.parametrize("depth", [0, 5])
def test_differential_without_the_second_map_is_normalised_softmax(depth: int) -> None:
    """Lambda = 0: RMSNorm(o_softmax) (1 - lambda_0), of the first halves."""
    variant = Differential(depth)
    params = with_share(fresh(variant), 0.0, variant.lambda_init)
    out, aux = attend_with_aux(Q, KEYS, V, variant, params=params, mask=Causal(), want=("row_mass",))
    plain = np.asarray(attend(Q[..., : H // 2], KEYS[..., : H // 2], V, mask=Causal()))
    normed = plain / np.sqrt((plain**2).mean(-1, keepdims=True) + 1e-5) * np.asarray(params["norm"]["gain"])
    np.testing.assert_allclose(out, normed * (0.6 * math.exp(-0.3 * depth) + 0.2), **laws.F32)
    np.testing.assert_allclose(aux.row_mass, 1.0, rtol=1e-6)  # float32


def test_a_differential_row_adds_up_to_one_less_lambda() -> None:
    variant = Differential(2)
    params = with_share(fresh(variant), 0.7, variant.lambda_init)
    _, aux = attend_with_aux(Q, KEYS, V, variant, params=params, mask=Causal(), want=("row_mass",))
    np.testing.assert_allclose(aux.row_mass, 0.3, rtol=1e-5)  # float32, after a difference


@pytest.mark.parametrize("share", [0.0, -2.0])
def test_threshold_differential_without_the_second_map_is_threshold_rectified(share: float) -> None:
    """Lambda at or below 0, where it is clipped."""
    variant = ThresholdDifferential()
    params = fresh(variant) | {"lambda": {"value": jnp.asarray(share)}}
    alone = Wrapped(ThresholdRectified(), (CosineQK(), HeadRMSNorm()))
    expected = attend(
        Q[..., : H // 2],
        KEYS[..., : H // 2],
        V,
        alone,
        params={"row_map": params["row_map"], "head_rms_norm": params["norm"]},
        mask=Causal(),
    )
    np.testing.assert_allclose(attend(Q, KEYS, V, variant, params=params, mask=Causal()), expected, **laws.F32)


def test_threshold_rectified_without_a_threshold_is_relu_of_cosines() -> None:
    """beta = 0 and p = 1."""
    variant = Wrapped(ThresholdRectified(exponent=1.0), (CosineQK(),))
    out = attend(Q, KEYS, V, variant, params={"row_map": {"beta": jnp.zeros(N)}}, mask=Causal())
    group = N // K
    unit_q, unit_k = (np.asarray(a / jnp.linalg.norm(a, axis=-1, keepdims=True)) for a in (Q, KEYS))
    weights = np.maximum(np.einsum("btnh,bsnh->bnts", unit_q, np.repeat(unit_k, group, 2)), 0.0)
    weights = np.where(np.asarray(Causal().materialise(T, T)), weights, 0.0)
    expected = np.einsum("bnts,bsnh->btnh", weights, np.repeat(np.asarray(V), group, 2))
    np.testing.assert_allclose(out, expected, **laws.F32)


def test_lambda_starts_as_in_the_paper() -> None:
    assert Differential(0).lambda_init == pytest.approx(0.2)
    assert Differential(1).lambda_init == pytest.approx(0.8 - 0.6 * math.exp(-0.3))
    params = Differential().init(jax.random.key(0), AttentionDims(8, 8, 4096))
    assert {name: leaf.shape for name, leaf in params["lambda"].items()} == dict.fromkeys(
        ("q_1", "k_1", "q_2", "k_2"), (2048,)
    )
    for leaf in params["lambda"].values():
        np.testing.assert_allclose(np.std(leaf), 0.1, rtol=0.1)  # of 2048 numbers
    assert ThresholdDifferential().init(jax.random.key(0), DIMS)["lambda"]["value"] == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Differential(-1), "depth must be a whole number of at least 0, but is -1"),
        (lambda: Differential(0.5), "depth must be a whole number of at least 0, but is 0.5"),
        (lambda: ThresholdDifferential(lambda_init=1.5), "lambda_init must lie between 0 and 1, but is 1.5"),
        (
            lambda: Differential().init(jax.random.key(0), AttentionDims(4, 2, 5)),
            "Differential splits each query and key in two halves, so H must be even, but is 5",
        ),
        (
            lambda: attend(Q[..., :5], KEYS[..., :5], V, ThresholdDifferential(), params={}),
            "ThresholdDifferential splits each query and key in two halves, so H must be even, but is 5",
        ),
        (
            lambda: attend(Q, KEYS, V, Differential(), params=fresh(Differential()), null_logit=jnp.zeros((1, N, 1))),
            "null_logit must be None for Differential",
        ),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
