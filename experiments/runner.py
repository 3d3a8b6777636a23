"""Make the evidence that claims need, judge each claim as soon as its evidence is complete."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import groupby

import jax

from experiments.evidence import EvidenceStore, StoredRun, evidence_key
from experiments.results import Result
from experiments.studies import producer_of
from experiments.studies.product import Trainer
from jaxsink.training import digest
from theory.claim import Claim, Spec, Tier
from theory.judge import Verdict, judge


class Reporter:
    """What a run tells while it works. This one is silent."""

    def begin(self, cost: float) -> None:
        """Work is about to start; `cost` is all of it, in the unit of `advance`."""

    def working(self, label: str, seeds: Sequence[int]) -> None:
        """A run starts."""

    def advance(self, cost: float) -> None:
        """Part of the work is done."""

    def verdict(self, result: Result) -> None:
        """A claim has been judged."""


@dataclass(frozen=True)
class Job:
    """One specification and the seeds of it that are still to be made."""

    spec: Spec
    seeds: tuple[int, ...]

    @property
    def cost(self) -> float:
        return float(producer_of(self.spec).cost(self.spec)) * len(self.seeds)


def _name(spec: Spec) -> str:
    return digest(spec.describe())


def _key(spec: Spec, seed: int) -> str:
    producer = producer_of(spec)
    return evidence_key(producer.NAME, producer.VERSION, spec.describe(), seed)


def plan(claims: Sequence[Claim], tier: Tier, seeds: Sequence[int], store: EvidenceStore, force: bool) -> list[Job]:
    """The runs that are missing, every specification once, in the order in which claims want them.

    Raises:
      ValueError: a stored one cannot be read. It shows here, before any work is done.
    """
    specs = {_name(s): s for c in claims if tier in c.evidence for s in c.evidence[tier].values()}
    jobs = [Job(spec, tuple(s for s in seeds if force or store.find(_key(spec, s)) is None)) for spec in specs.values()]
    return [job for job in jobs if job.seeds]


def _groups(seeds: Sequence[int]) -> list[tuple[int, ...]]:
    # On an accelerator small runs cost together little more than one, and at the paper's size no more than one after
    # the other (H100: 30.6 ms a step for three, 9.9 for one); on two CPU cores together gains nothing.
    return [(seed,) for seed in seeds] if jax.default_backend() == "cpu" else [tuple(seeds)]


class _Stopped(Exception):
    """Another run has failed or been interrupted."""


class _Work:
    """One job under way: its groups may run in several threads, and the first of them compiles for all."""

    def __init__(self, job: Job, store: EvidenceStore, reporter: Reporter, stop: threading.Event) -> None:
        self.job, self.store, self.reporter, self.stop = job, store, reporter, stop
        self.producer, self.groups = producer_of(job.spec), _groups(job.seeds)
        self._compiling = threading.Lock()
        self._trainer: Trainer | None = None

    @property
    def workers(self) -> int:
        """How many groups of such jobs run at once."""
        alone = not self.producer.SIDE_BY_SIDE or jax.default_backend() != "cpu"
        return 1 if alone else os.cpu_count() or 1

    def trainer(self) -> Trainer:
        with self._compiling:
            if self._trainer is None:
                trainer: Trainer = self.producer.Trainer(self.job.spec, len(self.groups[0]))
                self._trainer = trainer
            return self._trainer

    def run(self, group: tuple[int, ...]) -> None:
        """Make the evidence of one group of seeds."""
        job, producer = self.job, self.producer
        cost = job.cost * len(group) / len(job.seeds)

        def advance(share: float) -> None:
            if self.stop.is_set():
                raise _Stopped
            self.reporter.advance(share * cost)

        advance(0.0)
        self.reporter.working(producer.label(job.spec), group)
        products = self.trainer().run(group, self.store.partial(_key(job.spec, group[0])), advance)
        for seed, product in zip(group, products, strict=True):
            about = {"producer": producer.NAME, "producer_version": producer.VERSION, "seed": seed}
            spec = {"spec": job.spec.describe()}
            key = _key(job.spec, seed)
            self.store.commit(key, product.arrays, product.params, {**about, **spec, **product.manifest})


class _InTurn(Reporter):
    """A reporter that several threads may tell."""

    def __init__(self, inner: Reporter) -> None:
        self.inner, self.lock = inner, threading.Lock()

    def working(self, label: str, seeds: Sequence[int]) -> None:
        with self.lock:
            self.inner.working(label, seeds)

    def advance(self, cost: float) -> None:
        with self.lock:
            self.inner.advance(cost)


def _long_first(works: Sequence[_Work]) -> list[_Work]:
    """Jobs in their order, but first those of which a single run is more than a hundredth of all work, longest first.

    One of them that came last would leave the other cores without work.
    """
    least = sum(work.job.cost for work in works) / 100
    return sorted(works, key=lambda work: -cost if (cost := work.job.cost / len(work.groups)) > least else 0.0)


def _dealt(works: Sequence[_Work], workers: int) -> list[tuple[_Work, tuple[int, ...]]]:
    """The groups of as many jobs as there are workers by turns: they compile at once, and none waits for another."""
    dealt = []
    for first in range(0, len(works), workers):
        some = works[first : first + workers]
        for turn in range(max(len(work.groups) for work in some)):
            dealt += [(work, work.groups[turn]) for work in some if turn < len(work.groups)]
    return dealt


def _make(jobs: Sequence[Job], store: EvidenceStore, reporter: Reporter) -> Iterator[Job]:
    """Make what is missing, and yield each job once the evidence of all its seeds stands.

    Runs that may stand side by side are handed out across the jobs, so that no core waits for a job's last seed.
    """
    stop, told = threading.Event(), _InTurn(reporter)
    works = [_Work(job, store, told, stop) for job in jobs]
    for workers, alike in ((workers, list(some)) for workers, some in groupby(works, key=lambda work: work.workers)):
        if workers == 1:
            for work in alike:
                for group in work.groups:
                    work.run(group)
                yield work.job
            continue
        with ThreadPoolExecutor(workers) as pool:
            running = {pool.submit(work.run, group): work for work, group in _dealt(_long_first(alike), workers)}
            try:
                for future in as_completed(list(running)):
                    future.result()
                    work = running.pop(future)
                    if work not in running.values():
                        yield work.job
            except BaseException:
                # Ctrl-C included: the others stop where they are next heard of, and what waits is not begun.
                stop.set()
                for future in running:
                    future.cancel()
                raise


def collect(
    claim: Claim, tier: Tier, seeds: Sequence[int], store: EvidenceStore, anywhere: bool
) -> Mapping[str, list[StoredRun]] | None:
    """The stored runs of a claim by arm, all of one environment; None while any is missing.

    Args:
      anywhere: whether another environment's complete evidence will do where this one's is not there.
    """

    def find(key: str) -> Mapping[str, StoredRun]:
        if anywhere:
            return store.find_all(key)
        run = store.find(key)
        return {} if run is None else {run.folder.name: run}

    found = {(arm, seed): find(_key(spec, seed)) for arm, spec in claim.evidence[tier].items() for seed in seeds}
    for name in dict.fromkeys(name for runs in found.values() for name in runs):
        if all(name in runs for runs in found.values()):
            return {arm: [found[arm, seed][name] for seed in seeds] for arm in claim.evidence[tier]}
    return None


def _judged(claim: Claim, tier: Tier, seeds: Sequence[int], runs: Mapping[str, list[StoredRun]]) -> Result:
    per_seed = [{arm: runs[arm][i] for arm in runs} for i in range(len(seeds))]
    try:
        return Result(claim, tier, judge(claim, tier, per_seed), runs)
    except Exception as error:
        # A fault in one claim, a user's own perhaps, must not take the verdicts of all others with it.
        note = f"judging it raised {type(error).__name__}: {error}"
        return Result(claim, tier, Verdict("not run", note=note), runs, failed=True)


def verify(
    claims: Sequence[Claim],
    tier: Tier,
    seeds: Sequence[int],
    store: EvidenceStore,
    reporter: Reporter,
    *,
    from_results: bool = False,
    force: bool = False,
) -> list[Result]:
    """Judge claims, making what evidence is missing.

    Args:
      claims: in the order of the report. tier, seeds: which runs.
      store: where evidence stands and goes. reporter: told of progress and of each verdict as it comes.
      from_results: judge what is stored and make nothing. force: make everything anew.

    Returns:
      One result a claim, in order. After Ctrl-C, claims without complete evidence are "not run" and `failed`.
    """
    results: dict[str, Result] = {}

    def settle(judge_of: Callable[[Claim], Result | None]) -> None:
        for claim in claims:
            if claim.id not in results and (result := judge_of(claim)) is not None:
                results[claim.id] = result
                reporter.verdict(result)

    def when_complete(claim: Claim) -> Result | None:
        if tier not in claim.evidence:
            return Result(claim, tier, judge(claim, tier, []), {})
        if any(_name(spec) in pending for spec in claim.evidence[tier].values()):
            return None
        runs = collect(claim, tier, seeds, store, anywhere=from_results)
        return None if runs is None else _judged(claim, tier, seeds, runs)

    jobs = [] if from_results else plan(claims, tier, seeds, store, force)
    pending = {_name(job.spec) for job in jobs}
    why = "its evidence is not stored" if from_results else "its evidence was not finished"
    settle(when_complete)
    reporter.begin(sum(job.cost for job in jobs))
    try:
        for job in jobs if force else ():
            for seed in job.seeds:
                store.discard_partial(_key(job.spec, seed))
        for job in _make(jobs, store, reporter):
            pending.discard(_name(job.spec))
            settle(when_complete)
    except KeyboardInterrupt:
        why = f"interrupted before its evidence was finished; the same command {'without --force ' * force}continues"
    settle(lambda claim: Result(claim, tier, Verdict("not run", note=why), {}, failed=True))
    return [results[claim.id] for claim in claims]
