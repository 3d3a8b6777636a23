"""Make the evidence that claims need, judge each claim as soon as its evidence is complete."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType

import jax

from experiments.evidence import EvidenceStore, StoredRun, evidence_key
from experiments.results import Result
from experiments.studies import producer_of
from experiments.studies.product import Product
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


def _side_by_side(producer: ModuleType, groups: Sequence[tuple[int, ...]]) -> int:
    """How many groups run at once."""
    cores = os.cpu_count() or 1
    return min(len(groups), cores) if producer.SIDE_BY_SIDE and jax.default_backend() == "cpu" else 1


class _Stopped(Exception):
    """Another run of the same job has failed or been interrupted."""


def _make(job: Job, store: EvidenceStore, reporter: Reporter) -> None:
    producer, groups = producer_of(job.spec), _groups(job.seeds)
    each = job.cost / len(job.seeds)
    trainers = {size: producer.Trainer(job.spec, size) for size in {len(group) for group in groups}}
    stop, lock = threading.Event(), threading.Lock()

    def run(group: tuple[int, ...]) -> None:
        def advance(share: float) -> None:
            if stop.is_set():
                raise _Stopped
            with lock:
                reporter.advance(share * each * len(group))

        with lock:
            reporter.working(producer.label(job.spec), group)
        partial = store.partial(_key(job.spec, group[0]))
        products: list[Product] = trainers[len(group)].run(group, partial, advance)
        with lock:
            for seed, product in zip(group, products, strict=True):
                about = {"producer": producer.NAME, "producer_version": producer.VERSION, "seed": seed}
                spec = {"spec": job.spec.describe()}
                key = _key(job.spec, seed)
                store.commit(key, product.arrays, product.params, {**about, **spec, **product.manifest})

    workers = _side_by_side(producer, groups)
    if workers == 1:
        for group in groups:
            run(group)
        return
    with ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(run, group) for group in groups]
        try:
            for future in running:
                future.result()
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
        for job in jobs:
            if force:
                for seed in job.seeds:
                    store.discard_partial(_key(job.spec, seed))
            _make(job, store, reporter)
            pending.discard(_name(job.spec))
            settle(when_complete)
    except KeyboardInterrupt:
        why = f"interrupted before its evidence was finished; the same command {'without --force ' * force}continues"
    settle(lambda claim: Result(claim, tier, Verdict("not run", note=why), {}, failed=True))
    return [results[claim.id] for claim in claims]
