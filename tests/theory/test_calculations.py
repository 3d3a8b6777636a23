"""Calculations: descriptions that name their numbers, and numbers that follow from the seed."""

import json

import jax
import numpy as np
import pytest

from jaxsink.training import SGD, Adam, digest
from theory.calculations import Calculation
from theory.calculations.descents import RandomDescents
from theory.calculations.flows import RandomFlows, ShakespeareFlow
from theory.calculations.peaks import Peaks, PeakSweep
from theory.claims import BUILT_IN

SPECS = {
    digest(spec.describe()): spec
    for claim in BUILT_IN
    for by_arm in claim.evidence.values()
    for spec in by_arm.values()
    if isinstance(spec, Calculation)
}
MODELS = {"p", "pi", "total", "mean_value", "start_alpha", "start_beta"}


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: f"{type(spec).__name__}-{digest(spec.describe())}")
def test_a_calculation_says_what_it_is(spec):
    assert json.loads(json.dumps(spec.describe())) == spec.describe()
    assert spec.describe()["type"] == type(spec).__name__
    assert spec.label.strip()
    assert len(spec.label.splitlines()) == 1
    assert 0 < spec.seconds < 600
    assert spec.version >= 1


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (RandomFlows(instances=2), MODELS | {"times", "alpha", "beta", "final_risk"}),
        (RandomFlows("zero", rows="sparse", instances=2), MODELS | {"times", "alpha", "beta", "final_risk"}),
        (RandomDescents(instances=2, optimiser=SGD(0.1), steps=20, every=10), MODELS | {"step", "alpha", "beta"}),
        (Peaks(Adam(0.3), steps=20), {"start", "peak"}),
        (PeakSweep(((0.9, 1e-8),), steps=20), {"settings", "final"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_numbers_follow_from_the_seed(spec, names):
    with jax.enable_x64(True):
        first, again, other = (spec.arrays(seed) for seed in (3, 3, 4))
    assert set(first) == names
    assert all(np.isfinite(values).all() for values in first.values())
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
    drawn = "start_beta" if "start_beta" in names else "start"
    if drawn in names:
        assert not np.array_equal(first[drawn], other[drawn])


def test_random_models_are_what_their_fields_say():
    models, (alpha, beta) = RandomFlows(
        logits="constant", values="constant", rows="sparse", mean_value="constant", instances=3
    ).drawn(0)
    assert np.ptp(alpha, axis=1).max() == np.ptp(beta, axis=1).max() == 0.0
    assert np.ptp(np.asarray(models.mean_value), axis=-1).max() == 0.0
    assert ((np.asarray(models.p) > 0).sum(-1) == [3, 3, 2, 2]).all()
    models, (alpha, beta) = RandomFlows(contexts=4, instances=3).drawn(0)
    assert np.asarray(models.total).shape == (3, 4)
    assert (np.asarray(models.p) > 0).all()
    assert np.ptp(alpha, axis=1).min() > 0.0


def test_shakespeare_s_model_leaves_triggers_and_absent_characters_out():
    spec = ShakespeareFlow("beta", queries=5, length=20)
    assert "beta frozen" in spec.label
    with jax.enable_x64(True):
        run = spec.arrays(0)
    assert run["p"].shape == (1, 5, 65)
    assert run["total"].shape == (1, 1)
    assert run["total"][0, 0] == 20
    assert (np.diff(run["pi"][0]) <= 0).all()
    assert run["pi"].sum() == pytest.approx(1.0)
