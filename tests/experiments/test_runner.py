"""The runner: what is made and when, what is judged and when, and what survives a fault or a Ctrl-C."""

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from experiments import runner
from experiments.evidence import EvidenceStore, evidence_key
from experiments.results import Result
from experiments.runner import Reporter, verify
from theory.claim import Claim, Measure

SEEDS = range(3)
Elsewhere = Callable[[], AbstractContextManager[None]]


class Recorder(Reporter):
    """Everything that is told, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.total = self.done = 0.0

    def begin(self, cost: float) -> None:
        self.total = cost

    def working(self, label: str, seeds: Sequence[int]) -> None:
        self.events.append(f"{label} {list(seeds)}")

    def advance(self, cost: float) -> None:
        self.done += cost

    def verdict(self, result: Result) -> None:
        self.events.append(f"{result.claim.id} {result.verdict.status}")


def statuses(results: Sequence[Result]) -> dict[str, str]:
    return {result.claim.id: result.verdict.status for result in results}


def interrupt_at(name: str, seed: int) -> Callable[[str, int], None]:
    def before(at: str, number: int) -> None:
        if (at, number) == (name, seed):
            raise KeyboardInterrupt

    return before


def test_each_claim_is_judged_as_soon_as_its_evidence_is_complete(
    numbers: ModuleType, study: Any, store: EvidenceStore
) -> None:
    recorder = Recorder()
    results = verify(numbers.three(), "quick", SEEDS, store, recorder)
    assert recorder.events == [
        *(f"number left [{seed}]" for seed in SEEDS),
        "NB1 supported",
        *(f"number right [{seed}]" for seed in SEEDS),
        "NA1 supported",
        *(f"number other [{seed}]" for seed in SEEDS),
        "NB2 refuted",
    ]
    # The results keep the order of the claims.
    assert [(r.claim.id, r.failed) for r in results] == [("NA1", False), ("NB1", False), ("NB2", False)]
    assert recorder.done == pytest.approx(recorder.total) == 3 * 3 * 2.0  # specifications, seeds, cost of each
    assert results[0].verdict.measures[1].values == (1.5, 1.51, 1.52)
    assert results[0].seconds == 2 * 3 * 0.5


def test_shared_evidence_is_made_once_and_nothing_is_made_twice(
    numbers: ModuleType, study: Any, store: EvidenceStore
) -> None:
    claims = numbers.three()
    first = verify(claims, "quick", SEEDS, store, Reporter())
    assert study.made == [(name, seed) for name in ("left", "right", "other") for seed in SEEDS]
    recorder = Recorder()
    again = verify(claims, "quick", SEEDS, store, recorder)
    assert len(study.made) == 9
    assert recorder.events == ["NA1 supported", "NB1 supported", "NB2 refuted"]
    assert recorder.total == 0
    assert [r.verdict for r in again] == [r.verdict for r in first]
    verify(claims, "quick", range(4), store, Reporter())
    assert study.made[9:] == [("left", 3), ("right", 3), ("other", 3)]


def test_force_makes_all_of_it_anew(numbers: ModuleType, study: Any, store: EvidenceStore) -> None:
    claims = numbers.three()[:2]
    verify(claims, "quick", SEEDS, store, Reporter())
    study.shift = 0.25
    (result, _) = verify(claims, "quick", SEEDS, store, Reporter(), force=True)
    assert len(study.made) == 12
    assert result.verdict.measures[0].values == (1.25, 1.26, 1.27)
    assert [folder.suffix for folder, _, _ in store.entries()] == [""] * 6


def test_a_forced_run_that_is_interrupted_keeps_the_old_evidence(
    numbers: ModuleType, study: Any, store: EvidenceStore
) -> None:
    claims = numbers.three()[:2]
    verify(claims, "quick", SEEDS, store, Reporter())
    study.shift, study.before = 0.25, interrupt_at("left", 1)
    verify(claims, "quick", SEEDS, store, Reporter(), force=True)
    results = verify(claims, "quick", SEEDS, store, Reporter(), from_results=True)
    assert results[0].verdict.measures[0].values == (1.25, 1.01, 1.02)


def test_stored_results_are_judged_and_nothing_is_made(numbers: ModuleType, study: Any, store: EvidenceStore) -> None:
    left, right, other = numbers.three()
    nothing = verify([left], "quick", SEEDS, store, Reporter(), from_results=True)
    assert statuses(nothing) == {"NA1": "not run"}
    assert not store.root.exists()
    verify([right], "quick", SEEDS, store, Reporter())
    recorder = Recorder()
    results = verify([left, right, other], "quick", SEEDS, store, recorder, from_results=True)
    assert len(study.made) == 3
    assert statuses(results) == {"NA1": "not run", "NB1": "supported", "NB2": "not run"}
    assert [r.failed for r in results] == [True, False, True]
    assert results[0].verdict.note == "its evidence is not stored"
    assert recorder.events[0] == "NB1 supported"
    # A seed too many is evidence that is missing.
    assert verify([right], "quick", range(4), store, Reporter(), from_results=True)[0].failed


def test_after_an_interrupt_finished_claims_are_judged_and_the_rest_continues_later(
    numbers: ModuleType, study: Any, store: EvidenceStore
) -> None:
    claims = numbers.three()
    study.before = interrupt_at("right", 1)
    recorder = Recorder()
    results = verify(claims, "quick", SEEDS, store, recorder)
    assert statuses(results) == {"NA1": "not run", "NB1": "supported", "NB2": "not run"}
    assert [r.failed for r in results] == [True, False, True]
    assert "the same command continues" in results[0].verdict.note
    assert recorder.events[-2:] == ["NA1 not run", "NB2 not run"]
    finished = [("left", 0), ("left", 1), ("left", 2), ("right", 0)]
    assert study.made == finished
    assert sorted(folder.suffix for folder, _, _ in store.entries()) == [""] * 4 + [".partial"]
    study.before = lambda name, seed: None
    results = verify(claims, "quick", SEEDS, store, Reporter())
    assert statuses(results) == {"NA1": "supported", "NB1": "supported", "NB2": "refuted"}
    assert study.made[4:] == [("right", 1), ("right", 2), ("other", 0), ("other", 1), ("other", 2)]


def test_a_reporter_may_interrupt(numbers: ModuleType, study: Any, store: EvidenceStore) -> None:
    class Impatient(Recorder):
        def advance(self, cost: float) -> None:
            super().advance(cost)
            if self.done > 7:
                raise KeyboardInterrupt

    results = verify(numbers.three(), "quick", SEEDS, store, Impatient())
    assert statuses(results) == {"NA1": "not run", "NB1": "supported", "NB2": "not run"}


def test_a_claim_that_cannot_be_judged_fails_alone(numbers: ModuleType, study: Any, store: EvidenceStore) -> None:
    def raises(arms: Any) -> float:
        raise ZeroDivisionError("no number")

    left = numbers.Number("left")
    broken = numbers.claim("NX1", left, measures={"quick": (Measure("none", raises, "any", (0.0, 1.0)),)})
    absent = numbers.claim("NX2", left, measures={"quick": (numbers.reading("gone", 0.0, 1.0),)})
    results = verify([broken, absent, *numbers.three()], "quick", SEEDS, store, Reporter())
    assert statuses(results) == {
        "NX1": "not run",
        "NX2": "not run",
        "NA1": "supported",
        "NB1": "supported",
        "NB2": "refuted",
    }
    assert [r.failed for r in results] == [True, True, False, False, False]
    assert results[0].verdict.note == "judging it raised ZeroDivisionError: no number"
    assert "KeyError" in results[1].verdict.note


def test_a_claim_without_this_tier_is_no_failure(numbers: ModuleType, study: Any, store: EvidenceStore) -> None:
    (result,) = verify(numbers.three()[:1], "paper", SEEDS, store, Reporter())
    assert (result.verdict.status, result.failed) == ("not run", False)
    assert result.verdict.note == "this claim has no paper tier; it needs --profile quick"
    assert study.made == []


def test_one_seed_is_inconclusive(numbers: ModuleType, study: Any, store: EvidenceStore) -> None:
    (result,) = verify(numbers.three()[1:2], "quick", range(1), store, Reporter())
    assert (result.verdict.status, result.failed) == ("inconclusive", False)
    assert "at least two" in result.verdict.note


def test_a_control_that_holds_breaks_the_check(numbers: ModuleType, study: Any, store: EvidenceStore) -> None:
    left, right = numbers.Number("left"), numbers.Number("right", 9.0)
    for swap, status in (({"left": "right"}, "supported"), ({"left": "left"}, "check broken")):
        control = numbers.Control("the other arm", swap)
        claim = numbers.claim(
            "NA1", left, right, measures={"quick": (numbers.reading("left", 0.0, 2.0),)}, control=control
        )
        (result,) = verify([claim], "quick", SEEDS, store, Reporter())
        assert result.verdict.status == status


def environments(result: Result) -> set[str]:
    return {run.folder.name for runs in result.runs.values() for run in runs}


def test_complete_evidence_of_another_environment_is_judged_only_on_request(
    numbers: ModuleType, study: Any, store: EvidenceStore, elsewhere: Elsewhere
) -> None:
    claims: Sequence[Claim] = numbers.three()[:1]
    study.shift = 0.25
    with elsewhere():
        (theirs,) = verify(claims, "quick", SEEDS, store, Reporter())
    (judged,) = verify(claims, "quick", SEEDS, store, Reporter(), from_results=True)
    assert judged.verdict == theirs.verdict
    assert environments(judged) == environments(theirs)
    # Where evidence may be made, this environment makes its own.
    study.shift = 0.0
    (ours,) = verify(claims, "quick", SEEDS, store, Reporter())
    assert len(study.made) == 12
    assert environments(ours).isdisjoint(environments(theirs))
    # Where both are complete, this environment's is taken.
    (judged,) = verify(claims, "quick", SEEDS, store, Reporter(), from_results=True)
    assert judged.verdict == ours.verdict != theirs.verdict


@pytest.mark.parametrize("whole_here", [False, True])
def test_evidence_of_two_environments_is_never_put_together(
    numbers: ModuleType, study: Any, store: EvidenceStore, elsewhere: Elsewhere, whole_here: bool
) -> None:
    both, one, _ = numbers.three()
    with elsewhere():
        verify([one], "quick", SEEDS, store, Reporter())
    right = numbers.claim("NC1", numbers.Number("right", 1.5))
    verify([right, *([one] if whole_here else [])], "quick", SEEDS, store, Reporter())
    (result,) = verify([both], "quick", SEEDS, store, Reporter(), from_results=True)
    assert result.failed is not whole_here
    assert len(environments(result)) == whole_here


def test_seeds_are_trained_together_on_an_accelerator(
    numbers: ModuleType, study: Any, store: EvidenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.jax, "default_backend", lambda: "gpu")
    recorder = Recorder()
    (result,) = verify(numbers.three()[1:2], "quick", SEEDS, store, recorder)
    assert study.groups == [(0, 1, 2)]
    assert recorder.events == ["number left [0, 1, 2]", "NB1 supported"]
    assert recorder.done == pytest.approx(recorder.total) == 6.0
    assert [run.manifest["grouped_seeds"] for run in result.runs["left"]] == [[0, 1, 2]] * 3
    assert [folder.suffix for folder, _, _ in store.entries()] == [""] * 3


@pytest.fixture
def two_cores(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    study.SIDE_BY_SIDE = True
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 2)


@pytest.mark.usefixtures("two_cores")
def test_seeds_are_trained_side_by_side_on_cores(numbers: ModuleType, study: Any, store: EvidenceStore) -> None:
    meeting = threading.Barrier(2)
    # Nobody passes alone: seeds 0 and 1 must be on their way at the same time.
    study.before = lambda name, seed: seed < 2 and meeting.wait(timeout=30)
    recorder = Recorder()
    (result,) = verify(numbers.three()[1:2], "quick", SEEDS, store, recorder)
    assert sorted(study.groups) == [(0,), (1,), (2,)]
    assert recorder.events[-1] == "NB1 supported"
    assert recorder.done == pytest.approx(recorder.total)
    assert [run.arrays["value"] for run in result.runs["left"]] == pytest.approx([1.0, 1.01, 1.02])
    assert [folder.suffix for folder, _, _ in store.entries()] == [""] * 3


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("fault", [KeyboardInterrupt, RuntimeError("no")])
def test_a_fault_stops_the_runs_beside_it_and_keeps_the_finished(
    numbers: ModuleType, study: Any, store: EvidenceStore, fault: Any
) -> None:
    first_done = threading.Event()

    def before(name: str, seed: int) -> None:
        if seed == 1:
            assert first_done.wait(30)
            raise fault

    committed = store.commit

    def commit(*args: Any) -> None:
        committed(*args)
        first_done.set()

    study.before, store.commit = before, commit  # type: ignore[method-assign]
    claims = numbers.three()[1:2]
    if fault is KeyboardInterrupt:
        (result,) = verify(claims, "quick", SEEDS, store, Reporter())
        assert result.verdict.status == "not run"
    else:
        with pytest.raises(RuntimeError, match="no"):
            verify(claims, "quick", SEEDS, store, Reporter())
    kept = set(study.made)
    assert ("left", 0) in kept
    assert ("left", 1) not in kept
    study.before, study.made = (lambda name, seed: None), []
    (result,) = verify(claims, "quick", SEEDS, store, Reporter())
    assert result.verdict.status == "supported"
    assert ("left", 0) not in study.made
    assert ("left", 1) in study.made


def test_evidence_says_what_it_is(numbers: ModuleType, study: Any, store: EvidenceStore) -> None:
    spec = numbers.Number("left")
    verify([numbers.claim("NA1", spec)], "quick", SEEDS, store, Reporter())
    for seed in SEEDS:
        run = store.find(evidence_key("number", 1, spec.describe(), seed))
        assert run is not None
        wanted = {"producer": "number", "producer_version": 1, "spec": spec.describe(), "seed": seed}
        assert {name: run.manifest[name] for name in wanted} == wanted


def test_another_version_of_the_producer_makes_evidence_anew(
    numbers: ModuleType, study: Any, store: EvidenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = numbers.three()[1:2]
    verify(claims, "quick", SEEDS, store, Reporter())
    monkeypatch.setattr(study, "VERSION", 2)
    verify(claims, "quick", SEEDS, store, Reporter())
    assert len(study.made) == 6


def test_unreadable_evidence_is_found_before_anything_is_made(
    numbers: ModuleType, study: Any, store: EvidenceStore
) -> None:
    both, one, _ = numbers.three()
    verify([one], "quick", SEEDS, store, Reporter())
    folder = store.folder(evidence_key("number", 1, numbers.Number("left").describe(), 0))
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="another version"):
        verify([both], "quick", SEEDS, store, Reporter())
    assert len(study.made) == 3


def test_unreadable_evidence_of_another_environment_does_not_matter_here(
    numbers: ModuleType, study: Any, store: EvidenceStore, elsewhere: Elsewhere
) -> None:
    one = numbers.three()[1]
    with elsewhere():
        (theirs,) = verify([one], "quick", SEEDS, store, Reporter())
    (theirs.runs["left"][0].folder / "manifest.json").write_text("{}")
    (result,) = verify([one], "quick", SEEDS, store, Reporter())
    assert result.verdict.status == "supported"
    assert math.isfinite(result.seconds)


def test_evidence_of_an_unknown_kind_is_named(numbers: ModuleType, store: EvidenceStore) -> None:
    with pytest.raises(ValueError, match="type Number has no study that makes it; known types: TrainConfig"):
        verify(numbers.three(), "quick", SEEDS, store, Reporter())


def test_long_runs_go_first_and_the_others_keep_their_order() -> None:
    def work(name: str, cost: float, seeds: int = 1) -> Any:
        return SimpleNamespace(name=name, job=SimpleNamespace(cost=cost), groups=[(seed,) for seed in range(seeds)])

    works = [work("a", 0.5), work("b", 0.9), work("long", 30), work("c", 0.1), work("longest", 40)]
    works.append(work("many", 99, 99))
    order = ["longest", "long", "a", "b", "c", "many"]
    assert [each.name for each in runner._long_first(works)] == order


@pytest.mark.usefixtures("two_cores")
def test_what_takes_long_is_begun_before_what_claims_want_first(
    numbers: ModuleType, study: Any, store: EvidenceStore
) -> None:
    study.cost = lambda spec: 90.0 if spec.name == "other" else 0.1
    recorder = Recorder()
    verify(numbers.three(), "quick", SEEDS, store, recorder)
    begun = [event.split()[1] for event in recorder.events if event.startswith("number ")]
    assert begun.index("other") < begun.index("right")
