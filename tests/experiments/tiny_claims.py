"""A claim of a user's own on a network that trains in no time."""

from __future__ import annotations

from jaxsink.models import TransformerConfig
from jaxsink.training import AdamW, DirichletChain, TaskConfig, TrainConfig
from theory.claim import Claim, Control, Measure

TINY = TrainConfig(
    task=TaskConfig(DirichletChain(6, 1.0, 0), n_triggers=2),
    model=TransformerConfig(d_model=8),
    optimiser=AdamW(rate=3e-3),
    length=8,
    batch=4,
    steps=40,
    probe_batch=16,
)


def last_step(low: float, high: float) -> tuple[Measure, ...]:
    return (Measure("last step", lambda arms: float(arms["softmax"].arrays["step"][-1]), "40", (low, high)),)


CLAIMS = (
    Claim(
        id="TINY1",
        source="no paper",
        statement="The run has forty steps.",
        kind="training",
        evidence={"quick": {"softmax": TINY}},
        measures={"quick": last_step(39, 41)},
        expected={"quick": "supported"},
        control=Control("another number", measures={"quick": last_step(0, 1)}),
        figure="dynamics",
    ),
)
