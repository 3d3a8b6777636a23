"""The training runs that claims share, by tier. Sizes are chosen once, here; nothing is tuned per claim.

The paper tier is the setting of 2410.13835. The quick tier shrinks width, context, batch and number of steps
and raises the rate of Adam tenfold, so that all of it fits a laptop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxsink.attention import ReLU
from jaxsink.models import TransformerConfig
from jaxsink.training import SGD, AdamW, HoldNorm, HoldValue, Intervention, TrainConfig, UniformAttention
from theory.claim import TIERS, Tier

_QUICK = TrainConfig(
    model=TransformerConfig(d_model=64),
    optimiser=AdamW(rate=3e-3),
    length=32,
    batch=32,
    steps=1200,
    probe_batch=256,
)
_PAPER = TrainConfig(steps=10_000)


def _relu(spec: TrainConfig) -> TrainConfig:
    """The same run with ReLU attention; its rate stays (the source raised it tenfold)."""
    return replace(spec, model=replace(spec.model, attention=ReLU()))


SOFTMAX: Mapping[Tier, TrainConfig] = {"quick": replace(_QUICK, steps=6000), "paper": _PAPER}
RELU: Mapping[Tier, TrainConfig] = {
    "quick": _relu(_QUICK),
    "paper": _relu(_PAPER),
}
# Nothing outside the copy positions is trained, so nothing asks for a sink: the control of most claims below.
TRIGGERS_ONLY: Mapping[Tier, TrainConfig] = {
    "quick": replace(_QUICK, loss_on="triggers"),
    "paper": replace(_PAPER, loss_on="triggers"),
}


def _task(spec: TrainConfig, **changes: Any) -> TrainConfig:
    return replace(spec, task=replace(spec.task, **changes))


# No <s>: the first position holds a character. The sink of the quick run with <s> takes over a thousand steps.
WITHOUT_START: Mapping[Tier, TrainConfig] = {
    "quick": _task(replace(_QUICK, steps=2400), starts=0),
    "paper": _task(_PAPER, starts=0),
}
# A trigger copies never, so that the task is a Markov chain, or half of the time.
MARKOV: Mapping[Tier, TrainConfig] = {
    "quick": _task(_QUICK, copy_probability=0.0),
    "paper": _task(_PAPER, copy_probability=0.0),
}
HALF_COPIED: Mapping[Tier, TrainConfig] = {
    "quick": _task(_QUICK, copy_probability=0.5),
    "paper": _task(_PAPER, copy_probability=0.5),
}

# Three layers. The rate of SGD is the paper's in both tiers.
_PAPER_SGD = SGD(rate=0.03, momentum=0.9, weight_decay=1e-4)
# With 16 sequences a step seeds differ less; with 8, and fewer for measurements, a run takes half the time.
THREE_BLOCKS = replace(_QUICK, model=replace(_QUICK.model, n_layers=3), batch=16, steps=3000)
_QUICK_DEEP = replace(THREE_BLOCKS, batch=8, probe_batch=128)
_PAPER_DEEP = replace(_PAPER, model=replace(_PAPER.model, n_layers=3))

DEEP_ADAM: Mapping[Tier, TrainConfig] = {"quick": _QUICK_DEEP, "paper": _PAPER_DEEP}
DEEP_SGD: Mapping[Tier, TrainConfig] = {
    "quick": replace(_QUICK_DEEP, optimiser=_PAPER_SGD),
    "paper": replace(_PAPER_DEEP, optimiser=_PAPER_SGD),
}
DEEP_RELU: Mapping[Tier, TrainConfig] = {
    "quick": replace(_relu(_QUICK_DEEP), steps=1500),
    "paper": _relu(_PAPER_DEEP),
}


def _cut(quick: Intervention, paper: Intervention) -> dict[Tier, TrainConfig]:
    """The one-layer softmax run with an intervention."""
    return {
        "quick": replace(_QUICK, interventions=(quick,)),
        "paper": replace(_PAPER, interventions=(paper,)),
    }


def _norm_held(quick: int, paper: int) -> dict[Tier, TrainConfig]:
    return _cut(HoldNorm("blocks.0.v", from_step=quick), HoldNorm("blocks.0.v", from_step=paper))


# One arrow of mutual reinforcement is cut at a time. The value of <s> is that before W_O, which stays free.
VALUE_FROZEN: Mapping[Tier, TrainConfig] = _cut(HoldValue("blocks.0.v"), HoldValue("blocks.0.v"))
ATTENTION_UNIFORM: Mapping[Tier, TrainConfig] = _cut(UniformAttention(), UniformAttention())
# Small, as it is at first; at its largest (in the quick tier Adam is ten times as fast); and after the drain.
NORM_HELD_START: Mapping[Tier, TrainConfig] = _norm_held(0, 0)
NORM_HELD_PEAK: Mapping[Tier, TrainConfig] = _norm_held(30, 200)
_HELD_LATE = _norm_held(1000, 1000)
NORM_HELD_LATE: Mapping[Tier, TrainConfig] = {**_HELD_LATE, "quick": replace(_HELD_LATE["quick"], steps=2000)}


def by_tier(**arms: Mapping[Tier, TrainConfig]) -> dict[Tier, dict[str, TrainConfig]]:
    """{arm: {tier: run}} turned into the {tier: {arm: run}} of `Claim.evidence`."""
    return {tier: {name: arm[tier] for name, arm in arms.items()} for tier in TIERS}
