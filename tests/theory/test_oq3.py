"""OQ3 on made-up evidence: supported where costs are as stated, refuted where some are not; and the other text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from jaxsink.models import TransformerConfig
from jaxsink.tasks import BigramBackcopy, dirichlet
from jaxsink.training import HoldNorm, TaskConfig, TrainConfig
from theory.claims.oq3 import CLAIMS, SOFTMAX, WITHOUT
from theory.costs import CONDITIONS, LONGER, Costs, cost, longer_cost, other_text, peak, risk, sink
from theory.judge import Verdict, judge

BY_ID = {claim.id: claim for claim in CLAIMS}
# What a condition adds in nats where all that is claimed holds, and besides it "copies" of other text and "longer".
ADDED = {"weights_4": 0.02, "residual_4": 1.0, "residual_4_token": 0.04, "residual_4_rest": 0.1, "other_text": 0.1}
ADDED |= {"residual_4_channel": 0.1, "evicted_previous": 0.5, "copies": 0.6, "longer": 0.1}
# OQ3f's control is that what OQ3b says does not hold.
OF_CLAIM = {"OQ3f": {"residual_4_rest": 0.9}}
OF_ARM = {SOFTMAX: {"evicted_0": 0.02}, "costs_sigmoid": {"longer": 1.0}}
Change = Callable[[str], dict[str, float]]


class Run(NamedTuple):
    arrays: Mapping[str, np.ndarray]
    manifest: Mapping[str, Any]


def made_up(added: Mapping[str, float], rng: np.random.Generator) -> Run:
    """Evidence in which conditions add so much, to all positions alike but for copies of other text."""
    noise = rng.uniform(0.95, 1.05, len(CONDITIONS))
    each = 0.045 + np.array([added.get(name, 0.0) for name in CONDITIONS]) * noise
    copies = each.copy()
    copies[list(CONDITIONS).index("other_text")] = 0.045 + added["copies"]
    arrays = {"all": each, "late": each, "bigram": each, "backcopy": copies}
    longer = 0.045 + added["longer"] * noise[0] * np.array([1.0, 3.0])
    about = {"sink_strength": np.array([[0.3, 0.6]]), "baseline": np.array([0.1]), "peak_ratio": np.array([[2.0, 1.0]])}
    return Run({**arrays, **about, "longer": longer}, {"environment": "made up"})


def judged(name: str, change: Change = lambda arm: {}) -> Verdict:
    """The verdict on three seeds in which `change` says what an arm pays that is not as claimed."""
    claim, seeds = BY_ID[name], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        arms = claim.evidence["quick"]
        seeds.append(
            {arm: made_up(ADDED | OF_CLAIM.get(name, {}) | OF_ARM.get(arm, {}) | change(arm), rng) for arm in arms}
        )
    return judge(claim, "quick", seeds)


@pytest.mark.parametrize("name", BY_ID)
def test_it_is_supported_where_costs_are_as_claimed(name: str) -> None:
    verdict = judged(name)
    assert (verdict.status, verdict.control_status) == ("supported", BY_ID[name].control.expected)


# Changes that make measures false, and the measures that notice.
FALSE: list[tuple[str, dict[str, float], tuple[str, ...], set[int]]] = [
    ("OQ3a", {"evicted_0": 0.0}, (SOFTMAX,), {0, 1}),
    ("OQ3a", {"evicted_1": 0.04}, (SOFTMAX,), {1}),
    ("OQ3b", {"residual_4_rest": 0.9}, (SOFTMAX,), {0}),
    ("OQ3f", {"residual_4_channel": 0.9}, (SOFTMAX,), {0}),
    *(("OQ3c", {"residual_4": 0.2}, (arm,), {i}) for i, arm in enumerate(WITHOUT)),
    ("OQ3d", {"longer": 0.1}, ("costs_sigmoid",), {0}),
    ("OQ3d", {"longer": 1.0}, (SOFTMAX,), {0}),
    *(("OQ3e", {"copies": 0.1}, (arm,), {i}) for i, arm in enumerate((SOFTMAX, *WITHOUT))),
]


@pytest.mark.parametrize(("name", "added", "arms", "noticed"), FALSE)
def test_each_measure_can_refute_it(
    name: str, added: dict[str, float], arms: tuple[str, ...], noticed: set[int]
) -> None:
    verdict = judged(name, lambda arm: added if arm in arms else {})
    assert {i for i, m in enumerate(verdict.measures) if m.inside is False} == noticed
    others = [m.inside for i, m in enumerate(verdict.measures) if i not in noticed]
    assert all(others)
    # Where networks are alike, the control that exchanges them must not pass either.
    assert verdict.status in ("refuted", "check broken")


def test_every_measure_is_made_false_somewhere() -> None:
    for name, claim in BY_ID.items():
        assert set().union(*(noticed for of, *_, noticed in FALSE if of == name)) == set(
            range(len(claim.measures["quick"]))
        )


def test_readings() -> None:
    run = made_up(ADDED | {"weights_4": 0.02}, np.random.default_rng(0))
    assert risk(run, "free") == pytest.approx(0.045)
    assert cost(run, "weights_4") == pytest.approx(0.02, rel=0.06)
    assert cost(run, "other_text", "backcopy") == pytest.approx(0.6)
    assert longer_cost(run, LONGER[1]) == pytest.approx(3 * longer_cost(run, LONGER[0]))
    assert (sink(run), peak(run)) == (pytest.approx(6.0), 2.0)


def test_other_text_has_the_same_triggers_and_other_neighbours() -> None:
    task = BigramBackcopy.make(dirichlet(7, 0.7, 1), 2)
    other = other_text(task, 0)
    assert (other.triggers, other.chain.characters) == (task.triggers, task.chain.characters)
    triggers = list(task.triggers)
    np.testing.assert_allclose(other.chain.marginal[triggers], task.chain.marginal[triggers])
    # One and the same permutation of rows and columns: each transition is there, and most stand elsewhere.
    before, after = task.chain.transition, other.chain.transition
    np.testing.assert_allclose(np.sort(after, axis=None), np.sort(before, axis=None))
    np.testing.assert_allclose(after[np.ix_(triggers, triggers)], before[np.ix_(triggers, triggers)])
    assert np.abs(after - before).max() > 0.1
    assert np.abs(other_text(task, 1).chain.transition - after).max() > 0.1


RUN = TrainConfig(model=TransformerConfig(n_layers=2, positions="rope"))


@pytest.mark.parametrize(
    ("run", "target", "message"),
    [
        (RUN, 0.0, "target must be positive, but 0.0"),
        (replace(RUN, task=TaskConfig(starts=0)), 0.1, "costs need one start token, but the task has 0"),
        (replace(RUN, loss_on="triggers"), 0.1, "leave out loss_on and interventions"),
        (replace(RUN, interventions=(HoldNorm("blocks.0.v"),)), 0.1, "leave out loss_on and interventions"),
        (replace(RUN, model=TransformerConfig(n_layers=2)), 0.1, "were given 'learned' and 0 registers"),
        (replace(RUN, model=replace(RUN.model, registers=1)), 0.1, "were given 'rope' and 1 registers"),
    ],
)
def test_networks_that_cannot_be_compared_are_refused(run: TrainConfig, target: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Costs(run, target)


def test_descriptions_tell_networks_apart() -> None:
    specs = [Costs(RUN, 0.1), Costs(RUN, 0.2), Costs(RUN, 0.1, shuffle=1), Costs(replace(RUN, steps=20), 0.1)]
    assert len({str(spec.describe()) for spec in specs}) == len(specs)
    assert Costs(RUN, 0.1).describe() == specs[0].describe()
