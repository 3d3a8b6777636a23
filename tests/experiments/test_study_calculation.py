"""The study that computes: it runs whatever a calculation describes, in float64, and its evidence is stored."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evidence import EvidenceStore
from experiments.runner import Reporter, plan, verify
from experiments.studies import calculation, producer_of
from jaxsink.training import digest
from theory.calculations import Calculation
from theory.claim import Claim, Control, Measure


@dataclass(frozen=True)
class Third(Calculation):
    numerator: int = 1
    seconds: ClassVar[float] = 2.0

    @property
    def label(self):
        return f"{self.numerator} / 3"

    def arrays(self, seed):
        return {"third": jnp.asarray(self.numerator) / 3, "seed": np.array(seed)}


@dataclass(frozen=True)
class LaterThird(Third):
    version: ClassVar[int] = 2


CLAIM = Claim(
    id="X1",
    source="here",
    statement="A third is a third.",
    kind="theory",
    evidence={"quick": {"third": Third(), "two_thirds": Third(2)}},
    measures={"quick": (Measure("third", lambda a: float(a["third"].arrays["third"]), "1/3", (0.33, 0.34)),)},
    expected={"quick": "supported"},
    control=Control("two thirds", {"third": "two_thirds"}),
)


def test_a_calculation_is_made_in_float64_for_every_seed(tmp_path):
    assert producer_of(Third()) is calculation
    shares = []
    products = calculation.Trainer(Third(2), 2).run([3, 4], tmp_path, shares.append)
    assert [float(p.arrays["third"]) for p in products] == [2 / 3, 2 / 3]
    assert [int(p.arrays["seed"]) for p in products] == [3, 4]
    assert sum(shares) == pytest.approx(1.0)
    assert products[0].manifest["label"] == "2 / 3"


def test_it_costs_what_it_says():
    assert calculation.cost(Third()) == 2.0 * calculation.cost(type("Short", (Third,), {"seconds": 1.0})())


def test_description_tells_fields_and_version():
    specs = (Third(), Third(2), LaterThird())
    assert len({digest(spec.describe()) for spec in specs}) == 3
    assert Third().describe() == {"type": "Third", "numerator": 1, "version": 1}


def test_its_evidence_is_stored_judged_and_found_again(tmp_path):
    store = EvidenceStore(tmp_path)
    (result,) = verify([CLAIM], "quick", (0, 1, 2), store, Reporter())
    assert (result.verdict.status, result.verdict.control_status) == ("supported", "refuted")
    assert plan([CLAIM], "quick", (0, 1, 2), store, force=False) == []
