"""`verify --compute bfloat16`: only the arithmetic of training runs changes."""

from dataclasses import replace

from experiments.commands.verify import in_bfloat16
from jaxsink.training import TrainConfig
from theory.claims import all_claims


def test_only_the_arithmetic_of_training_runs_changes() -> None:
    claims = list(all_claims().values())
    seen = set()
    for given, changed in zip(claims, in_bfloat16(claims), strict=True):
        assert replace(changed, evidence=given.evidence) == given
        for tier, arms in given.evidence.items():
            for arm, spec in arms.items():
                other = changed.evidence[tier][arm]
                seen.add(type(spec))
                if isinstance(spec, TrainConfig):
                    assert other.model.compute_dtype == "bfloat16"
                    assert other.describe() != spec.describe()
                    other = replace(other, model=replace(other.model, compute_dtype=None))
                assert other == spec
    assert len(seen) > 1
    assert TrainConfig in seen
