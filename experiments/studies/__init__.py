"""Studies: the producers of evidence, one file and one row each."""

from __future__ import annotations

from types import ModuleType

from experiments.studies import (
    bigram_backcopy,
    calculation,
    checkpoint,
    costs,
    first_token,
    head_zeroing,
    small_models,
    survey,
    trajectory,
)
from jaxsink.training import TrainConfig
from theory.calculations import Calculation
from theory.checkpoint import FirstToken, Passages
from theory.claim import Spec
from theory.costs import Costs
from theory.heads import HeadZeroing
from theory.small_language import SmallLanguage
from theory.small_models import SmallModel
from theory.survey import Survey

PRODUCERS: dict[type, ModuleType] = {
    TrainConfig: bigram_backcopy,
    Calculation: calculation,
    Survey: survey,
    Passages: checkpoint,
    FirstToken: first_token,
    HeadZeroing: head_zeroing,
    SmallModel: small_models,
    Costs: costs,
    SmallLanguage: trajectory,
}


def producer_of(spec: Spec) -> ModuleType:
    """The module that makes evidence of this kind: NAME, VERSION, cost(spec), label(spec) and `Trainer`.

    SIDE_BY_SIDE says whether several of its runs at once, each in a thread, are faster on the cores of a CPU.

    Raises:
      ValueError: no study makes such evidence.
    """
    for kind in type(spec).__mro__:
        if kind in PRODUCERS:
            return PRODUCERS[kind]
    known = ", ".join(kind.__name__ for kind in PRODUCERS)
    raise ValueError(f"evidence of type {type(spec).__name__} has no study that makes it; known types: {known}.")
