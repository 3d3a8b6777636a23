"""The survey of attention variants: what it trains, what it keeps, and what a killed one loses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experiments.studies import producer_of, survey
from jaxsink.attention import VARIANTS
from jaxsink.models import TransformerConfig
from jaxsink.training import DirichletChain, TaskConfig, TrainConfig, log_points, seed_keys, train
from jaxsink.training.runs import build
from theory.claims.oq6 import EXPECTED
from theory.survey import Survey

BASE = TrainConfig(
    task=TaskConfig(chain=DirichletChain(6, 0.7, 1), n_triggers=2),
    model=TransformerConfig(d_model=8),
    length=8,
    batch=4,
    steps=4,
    chunk_steps=2,
    probe_batch=8,
)
SPEC = Survey(BASE, ("softmax", "g1-headwise"))


@pytest.fixture
def trainer() -> survey.Trainer:
    return survey.Trainer(SPEC, 1)


def test_a_survey_is_the_runs_of_its_variants(trainer: survey.Trainer, tmp_path: Any) -> None:
    assert producer_of(SPEC) is survey
    shares: list[float] = []
    (product,) = trainer.run([3], tmp_path, shares.append)
    assert shares == [0.5, 0.5]
    assert product.manifest["variants"] == ["softmax", "g1-headwise"]
    for i, (_, run) in enumerate(SPEC.runs()):
        program, _, _ = build(run)
        keys = seed_keys(3)
        *_, last = train(program, program.init(keys.init), keys, log_points(run.steps, run.chunk_steps))
        for name in survey.MEASURED:
            # Compiled in other pieces: float32 rounding, amplified by four steps.
            np.testing.assert_allclose(product.arrays[name][i], last.measured[name], rtol=1e-4, atol=1e-5)


def test_a_killed_survey_keeps_its_variants(trainer: survey.Trainer, tmp_path: Any) -> None:
    (first,) = trainer.run([0], tmp_path, lambda share: None)
    (tmp_path / "softmax-0.safetensors").unlink()
    trainer.programs["g1-headwise"] = lambda keys: pytest.fail("was trained again")
    (again,) = trainer.run([0], tmp_path, lambda share: None)
    for name in survey.MEASURED:
        np.testing.assert_array_equal(first.arrays[name], again.arrays[name])


def test_descriptions_tell_surveys_apart() -> None:
    others = (Survey(BASE, ("softmax",)), Survey(replace(BASE, steps=6), SPEC.variants))
    assert all(other.describe() != SPEC.describe() for other in others)
    assert Survey(BASE, SPEC.variants).describe() == SPEC.describe()


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(ValueError, match="'softmix' is none"):
        Survey(BASE, ("softmix",))


def test_something_is_expected_of_every_variant() -> None:
    assert set(EXPECTED) == set(VARIANTS)
