"""The trigger task, the weights that solve it, and their closed forms against loops in float64."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import necessity as oracle

from theory import necessity
from theory.calculations.necessity import ReluConstruction, SoftmaxConstruction, TriggerTraining

L, N = 7, 6
SEEDS = st.integers(0, 10_000)
FEW = settings(max_examples=15, deadline=None)


def softmax(scores, row):
    return oracle.softmax_row(scores)


def drawn(seed, count=4, length=L, width=N):
    return necessity.draw(np.random.default_rng(seed), (count,), length, width)


def answers(x, trigger):
    return np.array([oracle.answer(s, j) for s, j in zip(x.tolist(), trigger, strict=True)])


def run(weights, x, row_map=softmax):
    """(output [N, L, n], weight off the first key [N, L]) of the head, by loops."""
    lists = {name: matrix.tolist() for name, matrix in weights.items()}
    found = [oracle.head(sequence, lists, row_map) for sequence in x.tolist()]
    off = [[sum(row[1:]) for row in pattern] for _, pattern in found]
    return np.array([output for output, _ in found]), np.array(off)


@given(SEEDS)
@FEW
def test_a_sequence_is_flagged_as_the_task_says(seed):
    x, trigger = drawn(seed)
    assert x.shape == (4, L, N)
    assert ((trigger >= 3) & (trigger <= L)).all()
    flags = np.zeros((4, L, 3))
    flags[:, 0, 0] = 1
    flags[:, 1:, 2] = 1
    flags[np.arange(4), trigger - 1] = [0, 1, 0]
    np.testing.assert_array_equal(x[..., [0, 1, -1]], flags)
    assert (x[:, 0, 2:-1] == 0).all()
    assert (np.abs(x[:, 1:, 2:-1]) < 1).all()
    assert (x[:, 1:, 2:-1] != 0).all()


def test_every_trigger_position_and_both_signs_are_drawn():
    x, trigger = drawn(0, 500)
    assert set(trigger) == set(range(3, L + 1))
    # Means of 500 * 6 * 3 draws of spread .58: four standard errors.
    assert abs(x[:, 1:, 2:-1].mean()) < 0.025


@given(SEEDS)
@FEW
def test_answer(seed):
    x, trigger = drawn(seed)
    # Sums of at most six terms in another order.
    np.testing.assert_allclose(necessity.answer(x, trigger), answers(x, trigger), atol=1e-15)


@pytest.mark.parametrize("every", [False, True])
def test_zero_loss(every):
    x, trigger = drawn(0, 20_000)
    target = necessity.answer(x, trigger)
    if every:
        target = np.cumsum(x[:, 1:], 1) / np.arange(1, L)[:, None]
    norms = (target**2).sum((1, 2)) / L
    # Four standard errors.
    assert necessity.zero_loss(L, N, every) == pytest.approx(norms.mean(), abs=4 * norms.std() / np.sqrt(len(norms)))


@given(SEEDS)
@FEW
def test_relu_construction_is_exact_without_weight_on_the_start(seed):
    x, trigger = drawn(seed)
    weights, target = necessity.relu_construction(N), answers(x, trigger)
    output, _ = run(weights, x, lambda scores, i: oracle.relu_row(scores, max(i - 1, 1)))
    np.testing.assert_allclose(output, target, atol=4e-15)
    by_row, _ = run(weights, x, lambda scores, i: oracle.relu_row(scores, i))
    gain = necessity.row_divisor_gain(trigger)[:, None, None]
    np.testing.assert_allclose(by_row, gain * target, atol=4e-15)


@given(SEEDS, st.floats(2.0, 20.0))
@FEW
def test_softmax_construction(seed, logit):
    x, trigger = drawn(seed)
    target = answers(x, trigger)
    output, off = run(necessity.softmax_construction(N, logit), x)
    error, each = np.abs(output - target), np.arange(len(x))
    # Some tens of roundings of numbers that are e^-20 at least, without cancellation.
    np.testing.assert_allclose(error.max((1, 2)), necessity.largest_error(logit, trigger, L), rtol=1e-12)
    rows = np.arange(2, L + 1)
    dormant = rows[None] != trigger[:, None]
    predicted = np.broadcast_to(necessity.elsewhere(logit, rows), dormant.shape)
    np.testing.assert_allclose(off[:, 1:][dormant], predicted[dormant], rtol=1e-12)
    at_trigger = error[each, trigger - 1].max(1)
    largest = np.abs(target[each, trigger - 1]).max(1)
    # A difference of numbers of size 1.
    np.testing.assert_allclose(at_trigger, necessity.trigger_error(logit, trigger, largest), atol=4e-15)


def test_a_value_map_that_keeps_the_start_leaks_it():
    x, _ = drawn(0)
    output, off = run(necessity.softmax_construction(N, 5.0, keep_start=True), x)
    np.testing.assert_allclose(output[:, :, 0], 1 - off, atol=1e-15)


@pytest.mark.parametrize(
    ("logit", "error", "sink"), [(5.0, 8.6e-2, 0.908), (10.0, 6.4e-4, 0.9993), (20.0, 2.9e-8, 1 - 3.1e-8)]
)
def test_the_numbers_of_sixteen_tokens(logit, error, sink):
    # Rounded to the digits given.
    found = necessity.largest_error(logit, np.array([5, 16]), 16)
    np.testing.assert_allclose(found, error, rtol=0.01)
    assert 1 - float(necessity.elsewhere(logit, np.array(16))) == pytest.approx(sink, abs=5e-4 * (1 - sink) + 5e-4)
    assert found[0] == pytest.approx(14 * np.exp(-logit), rel=15 * np.exp(-logit))


@given(SEEDS, st.floats(0.1, 3.0))
@FEW
def test_the_weight_off_the_start_is_read_off_the_output_of_any_solution(seed, size):
    rng = np.random.default_rng(seed)
    weights = {name: size * rng.normal(size=(N, N)) for name in ("query", "key", "value")}
    x, trigger = drawn(seed)
    output, off = run(weights, x)
    w = necessity.readout(weights["value"])
    condition = np.linalg.cond(weights["value"][1:])
    start = 1 - w @ weights["value"][0]
    # Tens of roundings, magnified by the value map and by a start that lies near the other tokens.
    bound = 1e-14 * condition * max(1.0, 1 / abs(start)) * max(1.0, np.linalg.norm(w) * np.abs(output).max())
    np.testing.assert_allclose(necessity.elsewhere_from_output(weights["value"], output), off, atol=bound)
    loss = ((output - answers(x, trigger)) ** 2).sum(-1).mean()
    dormant = np.arange(2, L + 1)[None] != trigger[:, None]
    share = dormant.mean(0)
    mean = (off[:, 1:] * dormant).mean(0)[share > 0] / share[share > 0]
    assert (mean <= necessity.most_elsewhere(loss, L, share[share > 0], np.linalg.norm(w))).all()


def test_the_readout_of_a_perfect_value_map():
    for scale in (1.0, 2.0):
        w = necessity.readout(scale * np.diag([0.0, *np.ones(N - 1)]))
        np.testing.assert_allclose(w, np.eye(N)[[1, -1]].sum(0) / scale, atol=1e-15)
    # The default norm is the largest that a perfect solution can have, at scale 1.
    assert necessity.most_elsewhere(0.01, L, 1.0) == pytest.approx(np.sqrt(2 * L * 0.02))


@pytest.mark.parametrize(("length", "width"), [(2, N), (L, 3)])
def test_mistakes(length, width):
    with pytest.raises(ValueError, match="the task needs length >= 3 and width >= 4, but"):
        necessity.draw(np.random.default_rng(0), (1,), length, width)


# The calculations -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


SMALL = {"length": L, "width": N}
TRAINING = {"levels": 2, "steps": 3, "batch": 4, "held_out": 8, "rate": 0.1, **SMALL}


@pytest.mark.parametrize(
    ("calculation", "names"),
    [
        (ReluConstruction(sequences=4, **SMALL), {"x", "trigger", "output", "start", "output_by_row"}),
        (
            SoftmaxConstruction(logits=(1.0, 3.0), sequences=4, **SMALL),
            {"x", "trigger", "logits", "output", "elsewhere", "leak", "loss"},
        ),
        (
            TriggerTraining(**TRAINING),
            {"loss", "start", "start_by_row", "value", "output", "start_weight", "trigger", "zero_loss", *SMALL},
        ),
    ],
    ids=lambda x: type(x).__name__,
)
def test_arrays_follow_from_the_seed(calculation, names):
    first, again, other = (calculation.arrays(seed) for seed in (0, 0, 1))
    assert set(first) == names
    for name in names:
        np.testing.assert_array_equal(first[name], again[name])
        assert isinstance(first[name], np.ndarray)
    assert not np.array_equal(first["output"], other["output"])
    assert calculation.label


def test_constructions_are_run_as_the_loops_do():
    found = SoftmaxConstruction(logits=(1.0, 3.0), sequences=4, **SMALL).arrays(0)
    for i, logit in enumerate(found["logits"]):
        output, off = run(necessity.softmax_construction(N, logit), found["x"])
        np.testing.assert_allclose(found["output"][i], output, atol=1e-14)
        np.testing.assert_allclose(found["elsewhere"][i], off, atol=1e-14)
    found = ReluConstruction("softmax", sequences=4, **SMALL).arrays(0)
    np.testing.assert_allclose(found["output"], run(necessity.relu_construction(N), found["x"])[0], atol=1e-14)


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("attention", ["softmax", "relu"])
def test_training_reads_what_it_says(attention, every):
    found = TriggerTraining(attention, every, **TRAINING).arrays(3)
    # All eight held-out sequences are stored, so that the means can be made again. They come after the weights.
    rng = np.random.default_rng(3)
    rng.normal(size=(3, N, N))
    x, trigger = necessity.draw(rng, (8,), L, N)
    np.testing.assert_array_equal(found["trigger"], trigger)
    target = answers(x, trigger)
    if every:
        target[:, 1:] = np.cumsum(x[:, 1:], 1) / np.arange(1, L)[:, None]
    losses = ((found["output"] - target) ** 2).sum(-1).mean((1, 2))
    np.testing.assert_allclose(found["loss"], losses, rtol=1e-12)
    assert found["zero_loss"] == pytest.approx((target**2).sum(-1).mean())
    dormant = np.arange(2, L + 1)[None] != trigger[:, None]
    start = found["start_weight"][:, :, 1:]
    np.testing.assert_allclose(found["start"], start[:, dormant].mean(-1), rtol=1e-12)
    by_row = [np.mean(level, axis=0, where=dormant) for level in start]
    np.testing.assert_allclose(found["start_by_row"], by_row, rtol=1e-12, atol=1e-300)
    if attention == "softmax":
        predicted = [
            necessity.elsewhere_from_output(*level) for level in zip(found["value"], found["output"], strict=True)
        ]
        np.testing.assert_allclose(1 - found["start_weight"], predicted, atol=1e-10)


def test_training_trains():
    found = TriggerTraining(**{**TRAINING, "levels": 40}).arrays(0)
    assert found["loss"][-1] < 0.5 * found["loss"][0]
