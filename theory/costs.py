"""Evidence on what a trained network pays for rounding, eviction from a cache, longer texts and other texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxsink.tasks import BigramBackcopy, BigramChain
from jaxsink.training import TrainConfig
from theory.claim import Run

# What is done to a trained network, and in words. Of the residual stream every block's output is rounded.
CONDITIONS: Mapping[str, str] = MappingProxyType(
    {
        "free": "nothing",
        "weights_8": "8-bit weights",
        "weights_4": "4-bit weights",
        "residual_8": "8-bit residual stream",
        "residual_4": "4-bit residual stream",
        "residual_4_token": "4-bit residual stream, a scale a token",
        "residual_4_channel": "4-bit residual stream, a scale a channel",
        "residual_4_rest": "4-bit residual stream but for <s>",
        "evicted_0": "key 0 evicted",
        "evicted_1": "key 1 evicted",
        "evicted_previous": "the key before each query evicted",
        "other_text": "text of another chain",
    }
)
# Texts of so many times the length of training.
LONGER = (2, 4)


@dataclass(frozen=True)
class Costs:
    """One network trained on Bigram-Backcopy to a loss, and its risk under each of `CONDITIONS` and on longer texts.

    Attributes:
      run: task, network, optimiser and sizes; its steps are the most that are made.
      target: excess risk (nats a token, over all positions but that of `<s>`) at which training stops, so that networks
        are compared at equal loss. It is looked at after every chunk.
      shuffle: seed of the permutation that makes the other text.

    Raises:
      ValueError: the target is not positive, the text has not exactly one start token, positions do not reach beyond
        the length of training, or the run has what hides part of the loss (another loss, interventions).
    """

    run: TrainConfig
    target: float
    shuffle: int = 0

    def __post_init__(self) -> None:
        if not self.target > 0:
            raise ValueError(f"target must be positive, but {self.target} was given; .05 nats a token is usual.")
        if self.run.task.starts != 1:
            raise ValueError(f"costs need one start token, but the task has {self.run.task.starts}; give starts=1.")
        if self.run.loss_on != "all" or self.run.interventions:
            raise ValueError("costs are of a network trained freely on all; leave out loss_on and interventions.")
        model = self.run.model
        if model.positions == "learned" or model.registers:
            raise ValueError(
                "costs need positions for longer texts than those of training and no registers, but were given "
                f"{model.positions!r} and {model.registers} registers; 'rope' is usual."
            )

    def describe(self) -> dict[str, Any]:
        """The specification as plain JSON data."""
        fields = {"target": self.target, "shuffle": self.shuffle}
        return {"type": "Costs", "run": self.run.describe(), **fields}


def other_text(task: BigramBackcopy, seed: int) -> BigramBackcopy:
    """The task over another chain: ordinary characters exchange their parts by a permutation, triggers keep theirs.

    So triggers are as frequent as before and copy as before, and what stands around them is not what it was.
    """
    size = task.chain.size
    ordinary = np.setdiff1d(np.arange(size), task.triggers)
    part = np.arange(size)
    part[ordinary] = np.random.default_rng(seed).permutation(ordinary)
    chain = BigramChain(task.chain.characters, task.chain.counts[part][:, part])
    return BigramBackcopy(chain, task.triggers, task.starts, task.copy_probability, task.rule)


def risk(run: Run, condition: str, of: str = "all") -> float:
    """Excess risk (nats) under a condition.

    Args:
      run: evidence of a `Costs`. condition: of `CONDITIONS`.
      of: "all" positions but that of `<s>`, the "late" half of the text, copies ("backcopy") or others ("bigram").
    """
    return float(np.asarray(run.arrays[of], np.float64)[list(CONDITIONS).index(condition)])


def cost(run: Run, condition: str, of: str = "all") -> float:
    """What a condition adds to the excess risk (nats)."""
    return risk(run, condition, of) - risk(run, "free", of)


def longer_cost(run: Run, times: int) -> float:
    """What the late half of a longer text has of excess risk (nats) above the late half of a text as in training."""
    return float(np.asarray(run.arrays["longer"], np.float64)[LONGER.index(times)]) - risk(run, "free", "late")


def sink(run: Run) -> float:
    """Attention on `<s>` over even attention (`metrics.sink_strength`), in the block where it is largest."""
    strength, even = (np.asarray(run.arrays[name], np.float64)[0] for name in ("sink_strength", "baseline"))
    return float(strength.max() / even)


def peak(run: Run) -> float:
    """Residual norm of `<s>` over the mean of the others', after the block where it is largest."""
    return float(np.asarray(run.arrays["peak_ratio"], np.float64)[0].max())
