"""A suite that can fail: every prediction is made wrong in one place after the other, and the claims must notice.

The evidence is that of the quick profile, made here once; so this is also where each theoretical claim is judged.
"""

import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace

import beside
import jax
import numpy as np
import pytest

from jaxsink.training import digest
from theory.calculations import Calculation
from theory.claims import BUILT_IN
from theory.judge import judge

mutation = beside.load(__file__, "mutation")
MUTANTS = [
    mutant
    for path in sorted(Path(__file__).parent.glob("mutants_*.py"))
    for mutant in beside.load(__file__, path.stem).MUTANTS
]
THEORY = {
    c.id: c for c in BUILT_IN if all(isinstance(s, Calculation) for arms in c.evidence.values() for s in arms.values())
}
# Claims whose prediction is a number or a sign in a tolerance, and no function that could be rewritten: that these bite
# is shown by their controls.
WITHOUT_FUNCTION = {"TH2f", "TH3b", "TH6d", "BB14", "WV10", "WV10c"}
# Public functions beside the predictions that build or compute what is judged.
NO_PREDICTIONS = {
    "theory.construction.construct",
    "theory.construction.free",
    "theory.construction.log_law",
    "theory.construction.log_rows",
    "theory.construction.network",
    "theory.construction.with_free",
    "theory.flow.integrate",
    "theory.necessity.draw",
    "theory.necessity.relu_construction",
    "theory.necessity.softmax_construction",
    "theory.polarisation.flow_velocity",
    "theory.polarisation.gradient_flow",
    "theory.polarisation.weights",
    "theory.restricted.restricted_model",
}
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def evidence():
    """From a claim to its quick evidence, each calculation made once."""
    made = {}

    def run(spec, seed):
        key = digest(spec.describe()), seed
        if key not in made:
            with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                arrays = {name: np.asarray(values) for name, values in spec.arrays(seed).items()}
            made[key] = SimpleNamespace(arrays=arrays, manifest={"environment": "this one"})
        return made[key]

    def of(claim):
        return [{arm: run(spec, seed) for arm, spec in claim.evidence["quick"].items()} for seed in SEEDS]

    return of


@pytest.mark.parametrize("claim", THEORY.values(), ids=THEORY)
def test_a_claim_comes_out_as_recorded(claim, evidence):
    verdict = judge(claim, "quick", evidence(claim))
    assert verdict.control_status == claim.control.expected, verdict.control_measures
    assert verdict.status == claim.expected["quick"], verdict.measures


def test_all_mutants_are_killed(evidence, request):
    runs = {name: evidence(claim) for name, claim in THEORY.items()}  # before anything is rewritten
    survivors = []
    for target, old, new, claims in MUTANTS:
        with mutation.mutated(target, old, new), np.errstate(all="ignore"):
            for name in claims:
                status = judge(THEORY[name], "quick", runs[name]).status
                if status != "refuted":
                    survivors.append((target, old, new, name, status))
    total = sum(len(claims) for *_, claims in MUTANTS)
    killed = f"{total - len(survivors)} of {total} judgements by {len(MUTANTS)} mutants of predictions came out refuted"
    request.config.pluginmanager.register(mutation.Summary(killed))
    assert survivors == []


def test_every_claim_has_a_mutant():
    assert {name for *_, claims in MUTANTS for name in claims} == set(THEORY) - WITHOUT_FUNCTION


def public_functions(module_name):
    module = importlib.import_module(module_name)
    functions = inspect.getmembers(module, inspect.isfunction)
    return {f"{module_name}.{n}" for n, f in functions if f.__module__ == module_name and not n.startswith("_")}


def test_every_prediction_has_a_mutant():
    targets = {target for target, *_ in MUTANTS}
    modules = {target.rsplit(".", 1)[0] for target in targets}
    assert set().union(*map(public_functions, modules)) - targets == NO_PREDICTIONS


def test_a_mutant_that_changes_nothing_survives(evidence):
    runs = evidence(THEORY["TH3"])
    with mutation.mutated("theory.peak.sgd_peak", "** 0.25", "** (1 / 4)"):
        assert judge(THEORY["TH3"], "quick", runs).status == "supported"
