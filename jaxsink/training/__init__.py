"""Training: configurations, one compiled program per chunk of steps, checkpoints."""

from jaxsink.training.checkpoint import restore, save
from jaxsink.training.config import (
    DirichletChain,
    ShakespeareChain,
    TaskConfig,
    TextChain,
    TrainConfig,
    digest,
    plain,
)
from jaxsink.training.interventions import (
    EqualValues,
    HoldNorm,
    HoldValue,
    Intervention,
    Interventions,
    UniformAttention,
)
from jaxsink.training.loop import Keys, Point, Program, TrainState, make_program, seed_keys, train
from jaxsink.training.optimisers import SGD, Adam, AdamW, Muon, Optimiser, SignSGD
from jaxsink.training.runs import build
from jaxsink.training.schedule import log_points

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "DirichletChain",
    "EqualValues",
    "HoldNorm",
    "HoldValue",
    "Intervention",
    "Interventions",
    "Keys",
    "Muon",
    "Optimiser",
    "Point",
    "Program",
    "ShakespeareChain",
    "SignSGD",
    "TaskConfig",
    "TextChain",
    "TrainConfig",
    "TrainState",
    "UniformAttention",
    "build",
    "digest",
    "log_points",
    "make_program",
    "plain",
    "restore",
    "save",
    "seed_keys",
    "train",
]
