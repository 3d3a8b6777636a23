"""The strategies keep their promises, reach the cases that matter, and each shows a property of the library."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from jaxsink.attention import attend, attend_with_aux
from jaxsink.tasks import BigramBackcopy, BigramChain, dirichlet
from theory import strategies
from theory.restricted import gradient, risk

few = settings(max_examples=20)
TASKS = (
    BigramBackcopy.make(dirichlet(5, 1.0, 0), 2),
    BigramBackcopy.make(dirichlet(5, 1.0, 0), 2, starts=2, copy_probability=0.5, rule="backward"),
    BigramBackcopy.make(BigramChain(tuple("abcd"), np.eye(4)[[1, 2, 3, 0]] + np.eye(4)), 1, starts=0),
)


def occurs(strategy, condition):
    find(strategy, condition, settings=settings(max_examples=1000, database=None))


@given(strategies.chains())
def test_a_chain_is_its_transition_and_marginal_on_any_scale(chain):
    assert 2 <= chain.size <= 6
    # Rows are sums of at most six rounded terms.
    np.testing.assert_allclose(chain.transition.sum(1), 1.0, rtol=0, atol=1e-15)
    assert chain.marginal.min() > 0
    scaled = BigramChain(chain.characters, chain.counts * 3)
    assert scaled != chain
    # Sums of at most 36 rounded terms.
    np.testing.assert_allclose(scaled.transition, chain.transition, rtol=1e-14)
    np.testing.assert_allclose(scaled.marginal, chain.marginal, rtol=1e-14)


@given(strategies.chains(min_size=3, max_size=3, sparse=True), strategies.chains(sparse=False))
def test_sparse_chains_have_zeros_and_dense_ones_have_none(sparse, dense):
    assert sparse.size == 3
    assert (sparse.transition == 0).any()
    assert (dense.transition > 0).all()


def test_the_chains_that_matter_occur():
    occurs(strategies.chains(), lambda chain: ((chain.transition > 0).sum(1) == 1).any())
    occurs(strategies.chains(), lambda chain: chain.counts.dtype.kind == "i" and (chain.counts > 0).all())
    occurs(strategies.chains(), lambda chain: np.ptp(chain.marginal) < 1e-12)
    # Neither from counts nor from rows: the marginal is stationary.
    occurs(
        strategies.chains(min_size=3),
        lambda chain: np.ptp(chain.marginal) > 0.01 and np.allclose(chain.marginal @ chain.transition, chain.marginal),
    )


@given(strategies.restricted_models(contexts=1))
def test_a_value_state_along_the_mean_value_is_no_force_on_the_logits(case):
    """With beta = B / W and one context, the sink gives what the keys give, and alpha feels no force."""
    with jax.enable_x64(True):
        model = case.model()
        assert model.p.dtype == jnp.float64
        force, _ = gradient(model, jnp.asarray(case.alpha), model.mean_value[0])
        assert not np.any(force)
        assert float(risk(model, jnp.asarray(case.alpha), jnp.asarray(case.beta))) >= 0.0


@given(strategies.restricted_models(contexts=2, sparse=True), strategies.restricted_models(contexts=1, sparse=False))
def test_restricted_models_keep_their_ranges(sparse, dense):
    for case, contexts in ((sparse, 2), (dense, 1)):
        n, size = case.p.shape
        assert case.counts.shape == (contexts, size)
        assert case.alpha.shape == case.pi.shape == (n,)
        assert case.beta.shape == case.values.shape == (size,)
        np.testing.assert_allclose(case.p.sum(1), 1.0, rtol=0, atol=1e-15)  # at most four rounded terms
        assert case.pi.min() >= 0.1
        assert case.counts.sum(1).min() > 0
    assert (sparse.p == 0).any()
    assert (dense.p > 0).all()


def test_the_restricted_models_that_matter_occur():
    occurs(strategies.restricted_models(), lambda case: ((case.p > 0).sum(1) == 1).any())
    occurs(strategies.restricted_models(), lambda case: len(case.counts) == 2)
    occurs(strategies.restricted_models(contexts=1), lambda case: len(case.p) == 3)
    occurs(strategies.restricted_models(), lambda case: (case.p > 0).all() and (case.counts[0] == 0).any())


@given(strategies.attention_inputs())
def test_softmax_is_a_mean_of_visible_values_whatever_the_scores(inputs):
    out, aux = attend_with_aux(**inputs.arguments, want=("weights", "row_mass", "scores"))
    # float32 rounds a dot product of three or four terms, and q itself.
    assert float(jnp.abs(aux.scores).max()) == pytest.approx(inputs.largest, rel=1e-5)
    np.testing.assert_allclose(
        aux.row_mass, np.broadcast_to(~inputs.empty[:, None], aux.row_mass.shape).astype(np.float32), atol=1e-6
    )
    assert not np.any(np.where(inputs.visible, 0.0, aux.weights))
    values = np.repeat(inputs.v, inputs.q.shape[2] // inputs.k.shape[2], 2).transpose(0, 2, 1, 3)[:, :, None]
    seen = inputs.visible[..., None]
    # Bounds in every component; an empty row lies between infinities. Six weights round by 1e-7 each.
    low, high = (f(axis=3) for f in (np.where(seen, values, np.inf).min, np.where(seen, values, -np.inf).max))
    found = np.asarray(out).transpose(0, 2, 1, 3)
    filled = np.broadcast_to(~inputs.empty[:, None, :, None], found.shape)
    assert np.all((found >= low - 1e-5) & (found <= high + 1e-5) | ~filled)
    assert not np.any(found[~filled])


@few
@given(strategies.attention_inputs(masks=("causal", "window", "segments")))
def test_a_structured_mask_is_its_own_writing_out(inputs):
    dense = attend(**(inputs.arguments | {"mask": inputs.visible}))
    np.testing.assert_array_equal(attend(**inputs.arguments), dense)


def test_the_attention_inputs_that_matter_occur():
    every = strategies.attention_inputs()
    occurs(every, lambda inputs: inputs.empty.any() and not inputs.empty.all())
    occurs(every, lambda inputs: inputs.grouped)
    occurs(every, lambda inputs: not inputs.grouped and inputs.kind == "none")
    occurs(every, lambda inputs: inputs.largest > 1e3)
    occurs(every, lambda inputs: inputs.q.shape[1] < inputs.k.shape[1])
    for kind in ("lengths", "segments", "causal-and-lengths"):
        occurs(strategies.attention_inputs(masks=(kind,)), lambda inputs: inputs.empty.any())
    for kind in ("window-with-sinks", "isolated"):
        occurs(strategies.attention_inputs(masks=(kind,)), lambda inputs: not inputs.visible.all())
    with pytest.raises(NoSuchExample):
        occurs(strategies.attention_inputs(masks=("none", "causal", "isolated")), lambda inputs: inputs.empty.any())


def test_an_unknown_mask_is_named():
    with pytest.raises(ValueError, match=r"masks must be among none, dense, .*, but has diagonal; choose from those"):
        occurs(strategies.attention_inputs(masks=("diagonal",)), lambda inputs: True)


@few
@given(st.booleans().flatmap(lambda start: strategies.tokens(6, start=start)))
def test_the_law_of_a_task_is_a_law_after_any_tokens(drawn):
    task = TASKS[0]
    assert drawn.dtype == np.int32
    assert drawn.shape == (2, 8)
    assert drawn[:, 1:].max() < task.start_id
    law = task.law(drawn)
    # float32 sums of six terms.
    np.testing.assert_allclose(law.sum(-1), 1.0, atol=1e-6)
    entropy = -jnp.sum(jnp.where(law > 0, law * jnp.log(jnp.where(law > 0, law, 1.0)), 0.0), axis=-1)
    np.testing.assert_allclose(task.entropy(drawn), entropy, atol=1e-5)


@pytest.mark.parametrize("task", TASKS, ids=("backcopy", "backward", "no-start"))
def test_backcopy_tokens_are_what_their_task_can_emit(task):
    @few
    @given(strategies.backcopy_tokens(task))
    def check(drawn):
        assert drawn.dtype == np.int32
        assert drawn.shape == (2, 8)
        assert np.all((drawn == task.start_id) == (np.arange(8) < task.starts))
        chance = np.take_along_axis(np.asarray(task.law(drawn))[:, :-1], drawn[:, 1:, None], -1)
        assert chance.min() > 0
        if task.rule == "backcopy" and task.copy_probability == 1.0:
            applies = np.asarray(task.is_trigger(drawn))[:, 1:-1]
            assert np.all(~applies | (drawn[:, 2:] == drawn[:, :-2]))

    check()
    occurs(strategies.backcopy_tokens(task), lambda drawn: np.isin(drawn, task.triggers).any())


def test_every_token_can_be_drawn():
    occurs(strategies.tokens(3, start=True), lambda drawn: (drawn[:, 0] == 2).all() and (drawn[:, 1:] == 1).any())
    occurs(strategies.tokens(3, start=False), lambda drawn: (drawn < 2).all())


def test_docstring_example():
    result = doctest.testmod(strategies)
    assert result.attempted > 0
    assert result.failed == 0
