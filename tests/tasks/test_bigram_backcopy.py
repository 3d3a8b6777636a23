"""Bigram-Backcopy: samples obey the law, the law is the oracle's, and every draw is a function of its key."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import tasks as oracle

from jaxsink.tasks import BigramBackcopy, BigramChain, dirichlet, shakespeare

BATCH, LENGTH = 12, 16
# Laws are float64 tables rounded to float32, then mixed in float32: three roundings of numbers up to one.
LAW_TOLERANCE = 3 * 2.0**-24
# Entropies are float64 tables rounded once to float32; they stay below ln 8 < 4.
ENTROPY_TOLERANCE = 4 * 2.0**-24


@st.composite
def tasks(draw) -> BigramBackcopy:
    """A task over a random chain with many impossible transitions, any triggers, starts, coin and rule."""
    size = draw(st.sampled_from([2, 3, 7]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = rng.dirichlet(np.full(size, draw(st.sampled_from([0.1, 1.0, 10.0]))), size)
    counts *= rng.random((size, size)) < 0.6
    counts[np.arange(size), rng.integers(size, size=size)] += 0.3  # every token has a successor
    chain = BigramChain(tuple("abcdefg"[:size]), counts)
    return BigramBackcopy(
        chain,
        tuple(draw(st.permutations(range(size)))[: draw(st.integers(0, size - 1))]),
        starts=draw(st.integers(0, 2)),
        copy_probability=draw(st.sampled_from([0.0, 0.3, 1.0])),
        rule=draw(st.sampled_from(["backcopy", "backward"])),
    )


def oracle_laws(task: BigramBackcopy, tokens: np.ndarray) -> np.ndarray:
    parameters = (task.chain.counts.tolist(), task.triggers, task.starts, task.copy_probability, task.rule)
    return np.array([[oracle.law(*parameters, row[: t + 1]) for t in range(len(row))] for row in tokens.tolist()])


@settings(max_examples=20)
@given(task=tasks(), seed=st.integers(0, 2**31 - 1))
def test_samples_obey_the_law(task, seed):
    with jax.disable_jit():
        sampled = np.asarray(task.sample(jax.random.key(seed), BATCH, LENGTH))
        inputs, targets = sampled[:, :-1], sampled[:, 1:]
        law, entropy, applies = task.law(inputs), task.entropy(inputs), task.is_trigger(inputs)
    assert sampled.shape == (BATCH, LENGTH + 1)
    assert sampled.dtype == np.int32
    assert (sampled[:, : task.starts] == task.start_id).all()
    characters = sampled[:, task.starts :]
    assert ((characters >= 0) & (characters < task.start_id)).all()
    assert not np.isin(sampled[:, task.starts], task.triggers).any()

    laws = oracle_laws(task, inputs)
    assert (np.take_along_axis(laws, targets[..., None], -1) > 0).all()
    np.testing.assert_allclose(law, laws, rtol=0, atol=LAW_TOLERANCE)
    entropies = [[oracle.entropy(p) for p in row] for row in laws]
    np.testing.assert_allclose(entropy, entropies, rtol=0, atol=ENTROPY_TOLERANCE)

    # No sampled trigger lacks a predecessor: the first character is no trigger.
    np.testing.assert_array_equal(applies, np.isin(inputs, task.triggers))
    if task.rule == "backcopy" and task.copy_probability == 1.0:
        middle = np.asarray(applies)[:, 1:]
        assert not (middle[:, 1:] & middle[:, :-1]).any()
        np.testing.assert_array_equal(targets[:, 1:][middle], inputs[:, :-1][middle])


@settings(max_examples=25)
@given(task=tasks(), seed=st.integers(0, 2**31 - 1))
def test_law_of_arbitrary_prefixes(task, seed):
    tokens = np.random.default_rng(seed).integers(0, task.vocab_size, (3, 10))
    with jax.disable_jit():
        law, entropy, is_trigger = task.law(tokens), task.entropy(tokens), task.is_trigger(tokens)
    laws = oracle_laws(task, tokens)
    np.testing.assert_allclose(law, laws, rtol=0, atol=LAW_TOLERANCE)
    entropies = [[oracle.entropy(p) for p in row] for row in laws]
    np.testing.assert_allclose(entropy, entropies, rtol=0, atol=ENTROPY_TOLERANCE)
    before = np.concatenate([np.full((3, 1), task.start_id), tokens[:, :-1]], axis=1)
    applies = np.isin(tokens, task.triggers) & (before != task.start_id)
    np.testing.assert_array_equal(is_trigger, applies)


def test_law_and_entropy_are_exact_in_float64():
    task = BigramBackcopy.make(shakespeare(), copy_probability=0.7)
    tokens = np.asarray(task.sample(jax.random.key(0), 2, 40))
    laws = oracle_laws(task, tokens)
    with jax.enable_x64(True):
        law, entropy = np.asarray(task.law(tokens)), np.asarray(task.entropy(tokens))
    # Rounding of sums over 65 characters in float64.
    np.testing.assert_allclose(law, laws, rtol=0, atol=1e-15)
    np.testing.assert_allclose(entropy, [[oracle.entropy(p) for p in row] for row in laws], rtol=0, atol=1e-13)


def chi_square_z(observed: np.ndarray, laws: np.ndarray) -> float:
    """Standardised chi-square of observed counts [R, V] against laws [R, V]; impossible cells must be empty."""
    assert observed[laws == 0].sum() == 0
    expected = observed.sum(1, keepdims=True) * laws
    used = expected >= 20  # rarer cells would make the tails of the statistic heavy
    statistic = ((observed - expected)[used] ** 2 / expected[used]).sum()
    mean = (1.0 - laws)[used].sum()  # exact; V - 1 per row where every cell is used
    return float((statistic - mean) / np.sqrt(2 * mean))


def pair_counts(before: np.ndarray, after: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(before * size + after, minlength=size * size).reshape(size, size).astype(np.float64)


# The transition counts of a Markov chain, given how often each state is left, are asymptotically those of
# independent multinomials. With hundreds of degrees of freedom the standardised statistic is nearly normal:
# |z| < 4 fails by chance for about one new key in 10,000 (one in 2,000 with the 25 to 60 degrees of the smaller
# tables below, whose chi-square is skewed). The keys are fixed, so a test that passes keeps passing.
Z_BOUND = 4.0


@pytest.mark.parametrize(("starts", "copy_probability"), [(1, 1.0), (0, 0.5), (2, 0.0)])
def test_pairs_at_ordinary_positions_follow_the_chain(starts, copy_probability):
    chain = shakespeare()
    task = BigramBackcopy.make(chain, starts=starts, copy_probability=copy_probability)
    sampled = np.asarray(task.sample(jax.random.key(1), 512, 512))[:, starts:]
    before, after = sampled[:, :-1], sampled[:, 1:]
    ordinary = ~np.isin(before, task.triggers)
    observed = pair_counts(before[ordinary], after[ordinary], chain.size)
    assert abs(chi_square_z(observed, chain.transition)) < Z_BOUND
    # The bound has power: a chain whose odds are off by a fifth is rejected.
    tilted = chain.transition * np.where(np.arange(chain.size) % 2 == 0, 1.2, 1.0)
    assert chi_square_z(observed, tilted / tilted.sum(1, keepdims=True)) > 2 * Z_BOUND

    first = np.bincount(sampled[:, 0], minlength=chain.size)[None].astype(np.float64)
    law_of_first = np.array(oracle.first_law(chain.counts.tolist(), task.triggers))[None]
    assert abs(chi_square_z(first, law_of_first)) < Z_BOUND


def test_the_share_of_copies_is_the_copy_probability():
    # All rows are positive and nearly flat, so what a copy looks like by chance is known: P[trigger, predecessor].
    task = BigramBackcopy.make(dirichlet(8, 20.0, seed=3), k=3, copy_probability=0.3)
    sampled = np.asarray(task.sample(jax.random.key(2), 256, 256))
    two_back, before, after = sampled[:, 1:-2].ravel(), sampled[:, 2:-1].ravel(), sampled[:, 3:].ravel()
    applies = np.isin(before, task.triggers)
    two_back, before, after = two_back[applies], before[applies], after[applies]
    copies = 0.3 + 0.7 * task.chain.transition[before, two_back]
    # Sum of independent coins given the past, in units of its standard deviation: 4 is passed once in 16,000 keys.
    z = ((after == two_back) - copies).sum() / np.sqrt((copies * (1 - copies)).sum())
    assert abs(z) < 4
    assert np.isin(two_back, task.triggers).any()  # below probability one, triggers may be adjacent


def test_backward_draws_from_the_row_one_step_back():
    task = BigramBackcopy.make(dirichlet(8, 1.0, seed=3), k=3, rule="backward")
    many = task.sample_many(jax.random.split(jax.random.key(3), 8), 128, 256)
    sampled = np.asarray(many).reshape(8 * 128, 257)
    two_back, before, after = sampled[:, 1:-2].ravel(), sampled[:, 2:-1].ravel(), sampled[:, 3:].ravel()
    applies = np.isin(before, task.triggers)
    observed = pair_counts(two_back[applies], after[applies], 8)
    assert abs(chi_square_z(observed, task.chain.transition)) < Z_BOUND


@settings(max_examples=12)
@given(task=tasks(), seed=st.integers(0, 2**31 - 1))
def test_trigger_free_sequences_follow_the_restricted_chain(task, seed):
    with jax.disable_jit():
        free = np.asarray(task.trigger_free(jax.random.key(seed), BATCH, LENGTH))
    assert free.shape == (BATCH, LENGTH + 1)
    assert (free[:, : task.starts] == task.start_id).all()
    characters = free[:, task.starts :]
    assert not np.isin(characters, [*task.triggers, task.start_id]).any()
    ordinary = ~np.isin(np.arange(task.chain.size), task.triggers)
    possible = task.chain.transition[characters[:, :-1], characters[:, 1:]] > 0
    stuck = (task.chain.transition * ordinary).sum(1) == 0  # followed by a draw from the law of the first character
    assert (possible | stuck[characters[:, :-1]]).all()


def test_trigger_free_pairs_have_the_renormalised_law():
    chain = shakespeare()
    task = BigramBackcopy.make(chain)
    free = np.asarray(task.trigger_free(jax.random.key(4), 512, 512))[:, 1:]
    observed = pair_counts(free[:, :-1].ravel(), free[:, 1:].ravel(), chain.size)
    restricted = chain.transition * ~np.isin(np.arange(chain.size), task.triggers)
    assert abs(chi_square_z(observed, restricted / restricted.sum(1, keepdims=True))) < Z_BOUND


def test_trigger_free_where_only_triggers_follow():
    # "a" and "b" are only ever followed by the trigger, so the sequence is one of draws of the first character.
    counts = np.array([[0, 0, 3], [0, 0, 1], [3, 1, 5]])
    task = BigramBackcopy.make(BigramChain(("a", "b", " "), counts), k=1)
    free = np.asarray(task.trigger_free(jax.random.key(0), 64, 64))[:, 1:]
    assert task.triggers == (2,)
    # 4,096 independent draws of probability 3/4: the standard deviation is .0068, four of them .027.
    assert abs((free == 0).mean() - 0.75) < 0.027


@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_extreme_random_bits_draw_nothing_impossible(monkeypatch, word):
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 9, (9, 9)) * (rng.random((9, 9)) < 0.4)
    counts[np.arange(9), rng.integers(1, 8, size=9)] += 1
    counts[:, [0, 8]] = 0  # neither the first nor the last outcome is ever possible
    task = BigramBackcopy(BigramChain(tuple("abcdefghi"), counts), (4,), copy_probability=0.5)
    monkeypatch.setattr(jax.random, "bits", lambda key, shape, dtype: jnp.full(shape, word, dtype))
    sampled = np.asarray(task.sample(jax.random.key(0), 2, 40))
    laws = oracle_laws(task, sampled[:, :-1])
    assert (np.take_along_axis(laws, sampled[:, 1:, None], -1) > 0).all()


@pytest.mark.parametrize(
    ("starts", "copy_probability", "make_key"),
    [
        (0, 1.0, jax.random.key),
        (1, 0.5, jax.random.PRNGKey),
        (2, 1.0, partial(jax.random.key, impl="rbg")),
    ],
)
def test_many_keys_are_the_stack_of_each(starts, copy_probability, make_key):
    task = BigramBackcopy.make(dirichlet(6, 1.0, seed=0), k=2, starts=starts, copy_probability=copy_probability)
    keys = jax.random.split(make_key(7), 3)
    many = np.asarray(task.sample_many(keys, 5, 9))
    assert many.shape == (3, 5, 10)
    np.testing.assert_array_equal(many, np.stack([task.sample(key, 5, 9) for key in keys]))
    assert not (many[0] == many[1]).all()
    assert not (many[1] == many[2]).all()
    np.testing.assert_array_equal(many, task.sample_many(keys, 5, 9))


def test_the_same_under_jit_vmap_scan_and_without_any_of_them():
    task = BigramBackcopy.make(shakespeare(), copy_probability=0.5)
    keys = jax.random.split(jax.random.key(0), 3)
    many = np.asarray(task.sample_many(keys, 4, 8))
    inputs = many[0, :, :-1]

    def step(count, key):
        tokens = task.sample(key, 4, 8)
        return count + 1, tokens

    np.testing.assert_array_equal(many[0], jax.jit(lambda key: task.sample(key, 4, 8))(keys[0]))
    np.testing.assert_array_equal(many, jax.vmap(lambda key: task.sample(key, 4, 8))(keys))
    np.testing.assert_array_equal(many, jax.lax.scan(step, 0, keys)[1])
    with jax.disable_jit():
        np.testing.assert_array_equal(many[0], task.sample(keys[0], 4, 8))
        eager = [task.law(inputs), task.entropy(inputs), task.is_trigger(inputs)]
    jitted = jax.jit(lambda tokens: [task.law(tokens), task.entropy(tokens), task.is_trigger(tokens)])(inputs)
    for one, other in zip(eager, jitted, strict=True):
        # A fused multiply-add may round the mixture once less: one unit in the last place of a probability.
        np.testing.assert_allclose(one, other, rtol=2.0**-22, atol=0)


def test_float64_changes_no_sample():
    task = BigramBackcopy.make(shakespeare(), k=3)
    plain = task.sample(jax.random.key(0), 4, 20)
    with jax.enable_x64(True):
        wide = task.sample(jax.random.key(0), 4, 20)
    np.testing.assert_array_equal(plain, wide)


def test_equal_tasks_share_one_trace():
    traces = []

    @jax.jit
    def total(key):
        traces.append(None)
        return BigramBackcopy.make(shakespeare()).sample(key, 2, 4).sum()

    def sample(task, key):
        traces.append(task)
        return task.sample(key, 2, 4)

    sample_jit = jax.jit(sample, static_argnums=0)
    for _ in range(2):
        total(jax.random.key(0))  # the tables are constants, also when the task is made while tracing
        sample_jit(BigramBackcopy.make(shakespeare()), jax.random.key(0))
    assert len(traces) == 2
    assert BigramBackcopy.make(shakespeare()) != BigramBackcopy.make(shakespeare(), k=4)


def test_make_breaks_ties_by_the_earlier_character():
    task = BigramBackcopy.make(BigramChain(("a", "b", "c"), np.ones((3, 3))), k=2)
    assert task.triggers == (0, 1)
    assert (task.vocab_size, task.start_id, task.n_ordinary) == (4, 3, 1)


CHAIN = BigramChain(("a", "b", "c"), np.ones((3, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: BigramBackcopy.make(CHAIN, k=3),
            r"^k must be from 0 to 2, .* but 3 came: choose fewer triggers",
        ),
        (lambda: BigramBackcopy.make(CHAIN, k=-1), r"^k must be from 0 to 2"),
        (lambda: BigramBackcopy(CHAIN, (0, 1, 2)), r"^triggers must leave at least one of the 3 characters"),
        (
            lambda: BigramBackcopy(CHAIN, (0, 0)),
            r"^triggers must be distinct tokens from 0 to 2, but \(0, 0\) came",
        ),
        (
            lambda: BigramBackcopy(CHAIN, (3,)),
            r"^triggers must be distinct tokens from 0 to 2, but \(3,\) came",
        ),
        (lambda: BigramBackcopy(CHAIN, (0,), starts=3), r"^starts must be 0, 1 or 2, but 3 came"),
        (lambda: BigramBackcopy(CHAIN, (0,), starts=-1), r"^starts must be 0, 1 or 2, but -1 came"),
        (
            lambda: BigramBackcopy(CHAIN, (0,), copy_probability=1.5),
            r"^copy_probability must be .*, but 1\.5 came",
        ),
        (
            lambda: BigramBackcopy(CHAIN, (0,), copy_probability=float("nan")),
            r"^copy_probability must be from 0 to 1, but nan came",
        ),
        (
            lambda: BigramBackcopy(CHAIN, (0,), rule="copy"),
            r"^rule must be one of .*, but 'copy' came: choose one",
        ),
        (
            lambda: BigramBackcopy(CHAIN, (0,), starts=2).sample(jax.random.key(0), 2, 1),
            r"^length must be 2 or more with 2 start tokens, but 1 came: ask for longer sequences\.$",
        ),
        (
            lambda: BigramBackcopy(CHAIN, (0,)).trigger_free(jax.random.key(0), 2, 0),
            r"^length must be 1 or more",
        ),
        (
            lambda: BigramBackcopy(CHAIN, (0,)).sample(jax.random.key(0), 0, 4),
            r"^batch must be 1 or more, but 0",
        ),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
