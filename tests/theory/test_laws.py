"""Every law catches a fault; reports, parametrised tests, mistakes. tests/attention tries the laws on the variants."""

import doctest
import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink import attention
from jaxsink.attention import Trait, masked_softmax
from theory import laws

ROOT = Path(__file__).parents[2]
BY_NAME = {law.name: law for law in laws.LAWS}
SOFTMAX = attention.Softmax.properties
RELU = attention.ReLU.properties


@dataclass(frozen=True)
class Mine:
    """A row map that is one function, declared as softmax unless said."""

    function: Callable[..., jax.Array]
    properties: attention.Properties = SOFTMAX

    def init(self, key: Any, dims: Any) -> dict[str, Any]:
        return {}

    def weights(self, scores: Any, context: attention.RowContext, params: Any) -> jax.Array:
        return self.function(scores, context)


def sees_hidden_keys(s, context):
    return jax.nn.softmax(s, axis=-1)


def no_maximum(s, context):
    exp = jnp.where(context.visible, jnp.exp(s), 0.0)
    total = exp.sum(-1, keepdims=True)
    return exp / jnp.where(total > 0.0, total, 1.0)


def constant_denominator(s, context):
    top = jnp.max(s, axis=-1, keepdims=True, initial=-1e9, where=context.visible)
    exp = jnp.where(context.visible, jnp.exp(s - jax.lax.stop_gradient(jnp.minimum(top, 1e5))), 0.0)
    total = jax.lax.stop_gradient(exp.sum(-1, keepdims=True))
    return exp / jnp.where(total > 0.0, total, 1.0)


def low_precision(s, context):
    return masked_softmax(s.astype(jnp.bfloat16), context.visible).astype(s.dtype)


def returns_bfloat16(s, context):
    return masked_softmax(s, context.visible).astype(jnp.bfloat16)


def always_float32(s, context):
    return masked_softmax(s.astype(jnp.float32), context.visible)


def far_from_zero(s, context):
    """Near 1e4, where float32 keeps three digits behind the point."""
    return masked_softmax(s + 1e4, context.visible)


def reads_later_queries(s, context):
    return masked_softmax(s + 0.1 * s.sum(axis=-2, keepdims=True), context.visible)


def reads_earlier_queries(s, context):
    return masked_softmax(jnp.cumsum(s, axis=-2), context.visible)


def prefers_late_keys(s, context):
    return masked_softmax(s + 0.1 * jnp.arange(s.shape[-1], dtype=s.dtype)[None, None, None], context.visible)


def loses_mass(s, context):
    return masked_softmax(s, context.visible, jnp.zeros((1, 1, 1), s.dtype))


def goes_below_zero(s, context):
    return 2.0 * masked_softmax(s, context.visible) - masked_softmax(0.0 * s, context.visible)


def other_shape_of_weights(s, context):
    return masked_softmax(2.0 * s, context.visible)


def repels(s, context):
    return masked_softmax(-s, context.visible)


def sigmoid(s, context):
    return jax.nn.sigmoid(s)


def softmax(s, context):
    return masked_softmax(s, context.visible)


def other_below_groups(s, context):
    return masked_softmax(s * float(context.dims.key_heads), context.visible)


def other_when_traced(s, context):
    return masked_softmax(s * (1.1 if isinstance(s, jax.core.Tracer) else 1.0), context.visible)


@jax.custom_batching.custom_vmap
def wrong_rule(s, visible):
    return masked_softmax(s, visible)


@wrong_rule.def_vmap
def _(axis_size, in_batched, s, visible):
    return masked_softmax(s, visible)[::-1], True


def reversed_when_mapped(s, context):
    return wrong_rule(s, context.visible)


@dataclass(frozen=True)
class Remembers(Mine):
    """Each call is a little warmer than the one before."""

    calls: Any = field(default_factory=itertools.count)

    def weights(self, scores, context, params):
        return masked_softmax(scores / (1.0 + next(self.calls)), context.visible)


@dataclass(frozen=True)
class OutputGate(attention.SinkLogit):
    """The output gate form of the sink logit, whose gradient is 0 * inf where the log-sum-exp is -inf."""

    def weights(self, scores, context, params):
        lse = jax.nn.logsumexp(jnp.where(context.visible, scores, -jnp.inf), axis=-1, keepdims=True)
        return jnp.exp(scores - lse) * jax.nn.sigmoid(lse - params["sink_logit"][None, :, None, None])


FAULTS = (
    (Mine(sees_hidden_keys), "masked-is-deleted"),
    (Mine(reads_later_queries), "causal"),
    (Mine(reads_earlier_queries), "causal"),
    (Mine(prefers_late_keys), "keys-permute"),
    (OutputGate(), "empty-rows"),
    (Mine(other_below_groups), "grouped-heads"),
    (Mine(loses_mass), "shift"),
    (Mine(softmax, replace(SOFTMAX, shift_invariant=False)), "shift"),
    (Mine(loses_mass), "row-mass"),
    (Mine(softmax, replace(SOFTMAX, mass=attention.Mass.AT_MOST_ONE)), "row-mass"),
    (Mine(sigmoid, replace(RELU, mass=attention.Mass.AT_MOST_ONE)), "row-mass"),
    (Mine(goes_below_zero), "non-negative"),
    (Mine(loses_mass), "total"),
    (Mine(other_shape_of_weights), "total"),
    (Mine(repels), "monotone"),
    (Mine(sigmoid), "elementwise"),
    (Mine(softmax, RELU), "elementwise"),
    (Mine(constant_denominator), "gradients"),
    (Mine(low_precision), "gradients"),
    (Mine(no_maximum), "finite"),
    (Mine(returns_bfloat16), "dtypes"),
    (Mine(always_float32), "dtypes"),
    (Mine(far_from_zero), "dtypes"),
    (Mine(other_when_traced), "jit"),
    (Mine(reversed_when_mapped), "vmap"),
    (Remembers(softmax), "observation"),
)


@dataclass(frozen=True)
class Faulty(attention.Wrapper):
    """A wrapper that changes the output by one function of it, x, and its inputs."""

    function: Callable[..., jax.Array]
    name = "faulty"
    reads_x = True

    def after(self, out: Any, inputs: attention.Inputs, aux: Any, params: Any) -> jax.Array:
        return self.function(out, inputs.x.astype(out.dtype), inputs)


def leaks_later_tokens(out, x, inputs):
    return out * jax.nn.sigmoid(x.mean((1, 2), keepdims=True))[..., None]


def adds_to_empty_rows(out, x, inputs):
    return out + x.mean(2)[:, :, None, None]


def reads_hidden_values(out, x, inputs):
    return out + inputs.v.mean((1, 2, 3), keepdims=True)


def depends_on_key_heads(out, x, inputs):
    return out * (1.0 + 0.1 * inputs.k.shape[2])


def prefers_its_last_key(out, x, inputs):
    return out * jax.nn.sigmoid(inputs.k[:, -1:, :1, :1]).astype(out.dtype)


def detached_gate(out, x, inputs):
    return out * jax.nn.sigmoid(jax.lax.stop_gradient(x.mean(2)))[:, :, None, None]


def gate_in_the_dtype_of_x(out, x, inputs):
    return out * jnp.exp(4.0 * inputs.x.mean(2)).astype(out.dtype)[:, :, None, None]


def overflows(out, x, inputs):
    return out * jnp.tanh(jnp.exp(jnp.abs(inputs.q).max()) / jnp.exp(jnp.abs(inputs.q).max())).astype(out.dtype)


@dataclass(frozen=True)
class UndeclaredDifference(attention.Differential):
    """Differential attention that declares the weights of softmax."""

    @property
    def properties(self):
        return replace(SOFTMAX, has_total=False)


@dataclass(frozen=True)
class UncheckedKeyBias(attention.KeyBias):
    """A key bias whose wrapper forgets to declare the null column."""

    def changed(self, properties):
        return properties


def wrapped(function):
    return attention.Wrapped(attention.Softmax(), (Faulty(function),))


FAULTY_COMPOSITES = (
    (wrapped(leaks_later_tokens), "causal"),
    (wrapped(adds_to_empty_rows), "empty-rows"),
    (wrapped(reads_hidden_values), "masked-is-deleted"),
    (wrapped(depends_on_key_heads), "grouped-heads"),
    (wrapped(prefers_its_last_key), "keys-permute"),
    (wrapped(detached_gate), "gradients"),
    (wrapped(gate_in_the_dtype_of_x), "dtypes"),
    (wrapped(overflows), "finite"),
    (UndeclaredDifference(), "row-mass"),
    (UndeclaredDifference(), "non-negative"),
    (attention.Wrapped(attention.Softmax(), (UncheckedKeyBias(),)), "shift"),
    (attention.Wrapped(attention.Softmax(), (UncheckedKeyBias(),)), "row-mass"),
    (attention.Wrapped(attention.Softmax(), (UncheckedKeyBias(),)), "empty-rows"),
)


def fault_name(value: Any) -> str:
    return (
        value if isinstance(value, str) else getattr(getattr(value, "function", None), "__name__", type(value).__name__)
    )


def test_every_law_has_a_fault() -> None:
    assert {name for _, name in FAULTS} == set(BY_NAME)
    assert len(BY_NAME) == len(laws.LAWS)


@pytest.mark.parametrize(("variant", "name"), FAULTS, ids=fault_name)
def test_a_law_catches_its_fault(variant: Any, name: str) -> None:
    with pytest.raises(laws.LawBroken, match=f"breaks the law {name}") as broken:
        BY_NAME[name].verify(variant, examples=6)
    outcome = broken.value.outcome
    assert (outcome.law, outcome.status) == (name, "BROKEN")
    assert not outcome.finding.holds
    assert outcome.finding.used > 1.0


@pytest.mark.parametrize(("variant", "name"), FAULTY_COMPOSITES)
def test_a_law_catches_its_fault_in_a_composite(variant: Any, name: str) -> None:
    with pytest.raises(laws.LawBroken, match=f"breaks the law {name}"):
        BY_NAME[name].verify(variant, examples=6)


def test_a_report_of_a_composite_says_which_laws_do_not_apply(capsys: pytest.CaptureFixture[str]) -> None:
    report = laws.check(attention.Wrapped(attention.Softmax(), (attention.ForgetGate(),)), examples=1)
    assert report.broken == ()
    idle = {name: outcome.text for name, outcome in report.items() if outcome.status == "not applicable"}
    assert idle == {"keys-permute": "not where the variant reads the keys as the tokens of x, in their places"}
    assert "reads the keys as the tokens of x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("trait", "idle"),
    [
        (Trait.SAME_TOKENS, {"keys-permute"}),
        (Trait.OWN_VALUE, {"masked-is-deleted", "keys-permute", "grouped-heads"}),
        (Trait.ALL_TOKENS, {"causal"}),
        (Trait.SLOT_VALUE, set()),
        (Trait.SEVERAL_SCORES, set()),
    ],
)
def test_a_trait_exempts_from_these_laws_and_no_others(trait: Trait, idle: set[str]) -> None:
    assert {law.name for law in laws.LAWS if trait in law.unless} == idle


def test_an_example_has_x_where_the_variant_reads_it_and_nested_parameters() -> None:
    gate = attention.Wrapped(attention.SinkLogit(), (attention.PerTokenGate(),))
    example = laws.draw(gate, laws.SHAPES[0], 1)
    batch, queries, _, heads, *_ = laws.SHAPES[0]
    assert example.x.shape == (batch, queries, 2 * heads)
    assert set(example.params) == {"row_map", "per_token_gate"}
    assert example.params["per_token_gate"]["w"].shape == (heads, 2)
    assert {"q", "k", "v", "params", "x"} == set(example.gradients(np.ones_like(example.q)))
    assert {leaf.dtype for leaf in jax.tree.leaves(example.wide().moving)} == {np.dtype(np.float64)}
    assert laws.draw(attention.Softmax(), laws.SHAPES[0], 1).x is None


def test_keys_are_as_many_as_queries_where_they_are_the_same_tokens() -> None:
    tied = attention.Wrapped(attention.Softmax(), (attention.ForgetGate(),))
    assert all(queries == keys for _, queries, keys, *_ in laws.shapes(tied))
    assert laws.shapes(attention.Softmax()) == laws.SHAPES


def test_a_report_names_the_broken_law_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    """Softmax with a temperature that depends on the number of key heads, whose weights are exp(K score - ...)."""
    report = laws.check(Mine(other_below_groups, replace(SOFTMAX, has_total=False)), examples=1)
    assert report.broken == ("grouped-heads",)
    assert report["grouped-heads"].finding.value > 0.01
    assert {outcome.status for name, outcome in report.items() if name != "grouped-heads"} == {
        "holds",
        "not applicable",
    }
    printed = capsys.readouterr().out
    assert printed.count("BROKEN") == 1
    assert "output with grouped heads less that with repeated keys: " in printed


def test_a_report_of_a_sound_variant(capsys: pytest.CaptureFixture[str]) -> None:
    report = laws.check(attention.ReLU(), examples=1, seed=1)
    assert report.broken == ()
    assert list(report) == [law.name for law in laws.LAWS]
    idle = {"row-mass", "total"}
    assert {name for name, outcome in report.items() if outcome.status == "not applicable"} == idle
    assert all(report[name].finding is None for name in idle)
    assert all(report[name].finding.used <= 1.0 for name in set(report) - idle)
    assert report["total"].text == "only where the variant declares a total"
    assert repr(report) == "Report(ReLU(), broken=())"
    printed = capsys.readouterr().out
    assert all(name in printed for name in report)
    assert printed.count("not applicable") == 2
    with pytest.raises(ValueError, match="no truth value"):
        bool(report)


def test_an_ordered_map_may_depend_on_the_order_of_its_keys() -> None:
    ordered = replace(SOFTMAX, streaming=attention.Streaming.ORDERED)
    assert BY_NAME["keys-permute"].verify(Mine(prefers_late_keys, ordered)).status == "not applicable"


def test_an_error_of_the_variant_is_a_broken_law_in_one_line() -> None:
    def fails(s: Any, context: Any) -> Any:
        raise TypeError("scores are [wrong]\nand more")

    report = laws.check(Mine(fails), laws=laws.LAWS[:2])
    assert report.broken == ("masked-is-deleted", "causal")
    assert report["causal"].text == "TypeError: scores are [wrong]"
    assert report["causal"].finding is None
    with pytest.raises(TypeError):
        laws.LAWS[0].verify(Mine(fails))


def test_a_variant_that_cannot_be_hashed_is_judged_by_identity() -> None:
    @dataclass
    class Loose:
        factor: float = 1.0
        properties = SOFTMAX

        def init(self, key: Any, dims: Any) -> dict[str, Any]:
            return {}

        def weights(self, scores: Any, context: Any, params: Any) -> jax.Array:
            return masked_softmax(scores, context.visible) * self.factor

    row_mass = BY_NAME["row-mass"]
    assert row_mass.verify(Loose(), examples=1).status == "holds"
    with pytest.raises(laws.LawBroken):
        row_mass.verify(Loose(factor=0.9), examples=1)


def test_parameters_of_key_heads_are_repeated_with_them() -> None:
    @dataclass(frozen=True)
    class PerKeyHead(Mine):
        def init(self, key: Any, dims: attention.AttentionDims) -> dict[str, Any]:
            return {"slope": jnp.zeros((dims.key_heads,), jnp.float32)}

        def weights(self, scores: Any, context: Any, params: Any) -> jax.Array:
            slope = jnp.repeat(params["slope"], context.dims.query_heads // context.dims.key_heads)
            return masked_softmax(scores * slope[None, :, None, None], context.visible)

    assert BY_NAME["grouped-heads"].verify(PerKeyHead(softmax), examples=2).status == "holds"


def test_the_examples_are_those_of_the_seed() -> None:
    first, again, other = (laws.draw(attention.SinkLogit(), laws.SHAPES[0], seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.q, again.q)
    np.testing.assert_array_equal(first.params["sink_logit"], again.params["sink_logit"])
    assert np.any(first.q != other.q)
    assert first.visible.any(-1).all()
    assert not first.visible.all()


@pytest.mark.parametrize(
    ("found", "expected", "options", "value", "bound", "holds"),
    [
        ([1.0, 2.0], [1.0, 2.5], {"rtol": 0.1}, 0.5, 0.25, False),
        ([1.0, 2.0], [1.0, 2.5], {"rtol": 0.1, "atol": 0.25}, 0.5, 0.5, True),
        ([100.0, 1.0], [101.0, 1.5], {"rtol": 0.02}, 0.5, 0.03, False),
        ([np.nan], [np.nan], {"atol": 1.0}, np.inf, 1.0, False),
        ([-np.inf], -np.inf, {"rtol": 0.1}, 0.0, 0.0, True),
        ([3.0], -np.inf, {"rtol": 0.1, "atol": 1.0}, np.inf, 1.0, False),
        ([1.0], [1.0, 1.0], {}, np.inf, 0.0, False),
        (np.zeros((0, 3)), 0.0, {}, 0.0, 0.0, True),
    ],
)
def test_close_gives_the_number_that_exceeds_its_tolerance_the_most(
    found: Any, expected: Any, options: Any, value: float, bound: float, holds: bool
) -> None:
    finding = laws.close("x", found, expected, **options)
    assert (finding.value, finding.bound) == pytest.approx((value, bound))
    assert finding.holds == holds
    assert (finding.used <= 1.0) == holds


def test_a_least_value_and_nan() -> None:
    assert laws.Finding("x", 2.0, 1.0, least=True).used == 0.5
    assert laws.Finding("x", 0.0, 1.0, least=True).used == np.inf
    for least in (False, True):
        broken = laws.Finding("x", np.nan, 1.0, least=least)
        assert not broken.holds
        assert broken.used == np.inf
    assert laws.finite("x", {"a": np.array([1.0, np.nan, np.inf])}).value == 2


def test_parametrize_makes_a_test_of_each_law_that_applies() -> None:
    mark = laws.parametrize([attention.ReLU(), attention.SoftmaxN(0.5)]).mark
    names, rows = mark.args
    assert names == ("law", "variant")
    ids = [row.id for row in rows]
    assert len(ids) == len(set(ids)) == 2 * len(laws.LAWS) - 2
    assert "gradients-SoftmaxN(n=0.5)" in ids
    assert "total-SoftmaxN(n=0.5)" in ids
    assert "total-ReLU()" not in ids
    assert all(row.id.startswith(row.values[0].name) for row in rows)


def test_parametrized_tests_fail_where_the_variant_does(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import jax\n"
        "from dataclasses import replace\n"
        "from jaxsink.attention import Softmax\n"
        "from theory import laws\n"
        "class Heavy(Softmax):\n"
        "    def weights(self, scores, context, params):\n"
        "        return 2 * super().weights(scores, context, params)\n"
        "chosen = [law for law in laws.LAWS if law.name in ('row-mass', 'monotone')]\n"
        "@laws.parametrize([Heavy()], laws=chosen)\n"
        "def test_law(law, variant):\n"
        "    law.verify(variant, examples=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "breaks the law row-mass: row mass less one: 1" in done.stdout


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (attention.Softmax, "softmax", object()):
        with pytest.raises(ValueError, match="variant must be an instance of a row map or composite"):
            laws.check(wrong)
        with pytest.raises(ValueError, match="variant must be an instance of a row map or composite"):
            laws.parametrize([wrong])
        with pytest.raises(ValueError, match="variant must be an instance of a row map or composite"):
            laws.LAWS[0].verify(wrong)
    with pytest.raises(ValueError, match="examples must be at least 1, but is 0"):
        laws.check(attention.Softmax(), examples=0)
    with pytest.raises(ValueError, match="examples must be at least 1, but is 0"):
        laws.LAWS[0].verify(attention.Softmax(), examples=0)
    with pytest.raises(ValueError, match="variants must hold at least one variant"):
        laws.parametrize([])
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(ImportError, match=r"laws\.parametrize needs pytest"):
        laws.parametrize([attention.Softmax()])


def test_docstring_example() -> None:
    result = doctest.testmod(laws)
    assert result.attempted > 0
    assert result.failed == 0
