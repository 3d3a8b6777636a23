"""From values to verdicts: intervals, their place against a tolerance, and controls that must come out otherwise."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from theory.claim import Claim, Control, Measure
from theory.judge import judge, measured, status_of, t_interval

INF = math.inf
VALUES = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=6)
GAP = st.floats(0.01, 50)


def run(value, environment=None):
    return SimpleNamespace(arrays={"x": np.float64(value)}, manifest={"environment": environment or {"jax": "1"}})


def seeds(**arms):
    """Per seed {arm: run}, from arm=[value of each seed]."""
    return [dict(zip(arms, map(run, row), strict=True)) for row in zip(*arms.values(), strict=True)]


def reading(tolerance, arm="a", scale="linear"):
    return Measure(f"x of {arm}", lambda arms: float(arms[arm].arrays["x"]), "as the tolerance", tolerance, scale)


def claim(*measures, control=None):
    return Claim(
        id="T1",
        source="",
        statement="",
        kind="",
        evidence={"quick": {}},
        measures={"quick": measures},
        expected={"quick": "supported"},
        control=control or Control("b in place of a", {"a": "b"}),
    )


def placed(values, tolerance):
    return measured(reading(tolerance), seeds(a=values)).inside


# Intervals ------------------------------------------------------------------------------------------------------
def test_interval_of_three_values_by_hand():
    # Mean 2, standard deviation 1, and t = 4.302653 at 97.5 % with two degrees of freedom, from the printed tables.
    half = 4.302653 / math.sqrt(3)
    np.testing.assert_allclose(t_interval([1.0, 2.0, 3.0]), (2 - half, 2 + half), rtol=1e-6)


@given(VALUES)
def test_interval_is_student_s(values):
    x = np.array(values)
    assume(x.std() > 1e-3)
    deviation = math.sqrt(sum((v - sum(values) / len(values)) ** 2 for v in values) / (len(values) - 1))
    expected = stats.t.interval(0.95, len(values) - 1, sum(values) / len(values), deviation / math.sqrt(len(values)))
    # float64 sums of six numbers up to 100.
    np.testing.assert_allclose(t_interval(values), expected, rtol=1e-9, atol=1e-9)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 4))
    covered = sum(low <= 3.0 <= high for low, high in map(t_interval, draws))
    # Binomial with p = .95: standard deviation of the share is .0049; four of them.
    assert abs(covered / 2000 - 0.95) < 0.02


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, INF], [1.0, 2.0, -INF]])
def test_no_interval(values):
    assert t_interval(values) is None


# Placement ------------------------------------------------------------------------------------------------------
@given(VALUES, GAP, GAP)
def test_a_tolerance_around_the_interval_holds_it(values, below, above):
    low, high = t_interval(values)
    for tolerance in ((low - below, high + above), (-INF, high + above), (low - below, INF), (-INF, INF)):
        assert placed(values, tolerance) is True


@given(VALUES, GAP, GAP)
def test_a_tolerance_beyond_the_interval_is_missed(values, gap, width):
    low, high = t_interval(values)
    for tolerance in ((high + gap, high + gap + width), (high + gap, INF), (low - gap - width, low - gap)):
        assert placed(values, tolerance) is False


@given(VALUES, st.floats(0.01, 0.99), GAP)
def test_an_end_inside_the_interval_decides_nothing(values, share, width):
    low, high = t_interval(values)
    assume(high - low > 1e-3)
    end = low + share * (high - low)
    for tolerance in ((end, INF), (-INF, end), (end, high + width), (low - width, end)):
        assert placed(values, tolerance) is None
    # ... nor does a tolerance that lies wholly within the interval.
    assert placed(values, (end - 1e-6, end + 1e-6)) is None


@given(VALUES, st.floats(-50, 50), st.floats(0.5, 50))
def test_values_and_tolerance_may_move_together(values, shift, width):
    low, high = t_interval(values)
    ends = {low - width, low + (high - low) / 2, high + width}
    for bottom in ends:
        for top in (t for t in ends if t >= bottom):
            assume(min(abs(e - i) for e in (bottom, top) for i in (low, high)) > 1e-6)
            moved = [v + shift for v in values]
            assert placed(values, (bottom, top)) is placed(moved, (bottom + shift, top + shift))


def test_what_a_measure_reports():
    found = measured(reading((0.0, 5.0)), seeds(a=[1.0, 2.0, 3.0]))
    assert (found.name, found.predicted, found.values) == ("x of a", "as the tolerance", (1.0, 2.0, 3.0))
    assert (found.mean, found.interval, found.tolerance) == (2.0, t_interval([1.0, 2.0, 3.0]), (0.0, 5.0))


# Ratios ---------------------------------------------------------------------------------------------------------
RATIOS = st.lists(st.floats(0.05, 20).map(lambda x: round(x, 3)), min_size=3, max_size=6)


def ratio(values, tolerance):
    return measured(reading(tolerance, scale="log"), seeds(a=values))


def test_a_ratio_by_hand():
    found = ratio([1.0, 2.0, 4.0], (0.5, 5.0))
    # Logarithms 0, 1 and 2 in units of ln 2: the interval above, one to the left, as powers of two.
    half = 4.302653 / math.sqrt(3)
    np.testing.assert_allclose(found.mean, 2.0, rtol=1e-12)
    np.testing.assert_allclose(found.interval, (2 ** (1 - half), 2 ** (1 + half)), rtol=1e-6)
    assert found.values == (1.0, 2.0, 4.0)
    assert found.inside is None


@given(RATIOS, st.floats(0.1, 10), st.floats(1.01, 100))
def test_a_ratio_and_its_reciprocal_are_judged_alike(values, low, factor):
    there, back = ratio(values, (low, low * factor)), ratio([1 / v for v in values], (1 / low / factor, 1 / low))
    # A few float64 roundings, the wide intervals' exponents multiplied by up to 50.
    np.testing.assert_allclose(there.interval, [1 / end for end in reversed(back.interval)], rtol=1e-9)
    assume(min(abs(math.log(e / i)) for e in (low, low * factor) for i in there.interval if i > 0) > 1e-6)
    assert there.inside is back.inside


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, INF])
def test_a_ratio_that_is_no_ratio_decides_nothing(bad):
    found = ratio([1.0, bad, 1.0], (0.5, 2.0))
    assert found.interval is None
    assert found.inside is None


def test_arms_are_paired_by_seed():
    difference = Measure("b - a", lambda arms: float(arms["b"].arrays["x"] - arms["a"].arrays["x"]), "", (0, INF))
    # Between seeds the arms differ by far more than from each other; only the pairs show it.
    assert measured(difference, seeds(a=[1.0, 50.0, 99.0], b=[2.0, 51.1, 100.0])).inside is True


# Statuses -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("inside", "status"),
    [
        ([True], "supported"),
        ([True, True], "supported"),
        ([True, None], "inconclusive"),
        ([None, False], "refuted"),
        ([True, False], "refuted"),
        ([], "inconclusive"),
    ],
)
def test_status(inside, status):
    one = measured(reading((0, 1)), seeds(a=[0.5, 0.5]))
    assert status_of([dataclasses.replace(one, inside=i) for i in inside]) == status


def verdict(a, b, tolerance=(0.0, 1.0), **more):
    return judge(claim(reading(tolerance), **more), "quick", seeds(a=a, b=b))


GOOD, BAD, WIDE = [0.5, 0.5, 0.6], [5.0, 5.0, 5.1], [0.5, 5.0, 0.5]


@pytest.mark.parametrize(
    ("a", "b", "status", "control"),
    [
        (GOOD, BAD, "supported", "refuted"),
        (BAD, BAD, "refuted", "refuted"),
        (WIDE, BAD, "inconclusive", "refuted"),
        (GOOD, GOOD, "check broken", "supported"),
        (BAD, GOOD, "check broken", "supported"),
        (GOOD, WIDE, "check broken", "inconclusive"),
        (GOOD, [5.0, math.nan, 5.0], "check broken", "inconclusive"),
    ],
)
def test_verdict_and_control(a, b, status, control):
    found = verdict(a, b)
    assert (found.status, found.control_status) == (status, control)
    assert (found.note == "") == (status != "check broken")
    if status == "check broken":
        assert found.note == f"the control came out {control} and must come out refuted"


@given(st.permutations([math.nan, 0.5, 0.5, 0.5]), st.sampled_from([(0.0, 1.0), (-INF, INF), (2.0, 3.0)]))
def test_nan_is_never_support(values, tolerance):
    a_control = Control("always outside", measures={"quick": (reading((0.0, 1.0), "b"),)})
    found = verdict(values, [5.0] * 4, tolerance, control=a_control)
    assert (found.status, found.control_status) == ("inconclusive", "refuted")
    assert found.measures[0].interval is None


def test_a_control_may_expect_something_else():
    control = Control("b in place of a", {"a": "b"}, expected="supported")
    assert verdict(GOOD, GOOD, control=control).status == "supported"
    assert verdict(GOOD, BAD, control=control).status == "check broken"


def test_a_control_may_have_measures_of_its_own():
    control = Control("b, by another measure", measures={"quick": (reading((10.0, INF), "b"),)})
    found = verdict(GOOD, BAD, control=control)
    assert found.status == "supported"
    assert [m.values for m in found.control_measures] == [tuple(BAD)]


def test_swap_redirects_what_is_read():
    a, b = reading((0, 1), "a"), reading((0, 1), "b")
    found = judge(claim(a, b), "quick", seeds(a=[0.1, 0.2], b=[7.0, 8.0]))
    assert [m.values for m in found.measures] == [(0.1, 0.2), (7.0, 8.0)]
    # a now reads b, of the same seed; b itself stays.
    assert [m.values for m in found.control_measures] == [(7.0, 8.0), (7.0, 8.0)]
    both = claim(a, b, control=Control("exchanged", {"a": "b", "b": "a"}))
    found = judge(both, "quick", seeds(a=[0.1, 0.2], b=[7.0, 8.0]))
    assert [m.values for m in found.control_measures] == [(7.0, 8.0), (0.1, 0.2)]


@pytest.mark.parametrize("value", [0.5, 5.0])
def test_one_seed_gives_no_verdict(value):
    found = verdict([value], [5.0])
    assert (found.status, found.control_status) == ("inconclusive", "inconclusive")
    assert found.measures[0].interval is None
    assert found.note == "one seed gives no interval; run at least two"


def test_an_absent_tier_is_not_run():
    found = judge(claim(reading((0, 1))), "paper", [])
    assert (found.status, found.measures, found.control_measures) == ("not run", (), ())
    assert found.note == "this claim has no paper tier; it needs --profile quick"


@pytest.mark.parametrize("where", [(0, "a"), (1, "b")])
def test_environments_are_never_mixed(where):
    evidence = seeds(a=GOOD, b=BAD)
    seed, arm = where
    evidence[seed][arm] = run(0.5, {"jax": "2"})
    with pytest.raises(ValueError, match=r"the evidence of T1 comes from 2 environments") as caught:
        judge(claim(reading((0, 1))), "quick", evidence)
    assert str(caught.value).endswith("make the missing runs in one of them.")
