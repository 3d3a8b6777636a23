"""The full description of one training run: what it depends on, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxsink.models import Transformer, TransformerConfig
from jaxsink.tasks import BigramBackcopy, BigramChain, dirichlet, from_text, shakespeare
from jaxsink.training.interventions import Intervention, require_fitting
from jaxsink.training.optimisers import AdamW, Optimiser


@dataclass(frozen=True)
class ShakespeareChain:
    """The bundled character bigrams of Shakespeare."""

    def build(self) -> BigramChain:
        return shakespeare()


@dataclass(frozen=True)
class TextChain:
    """The character bigrams of a UTF-8 text file."""

    path: Path

    def build(self) -> BigramChain:
        return from_text(self.path)


@dataclass(frozen=True)
class DirichletChain:
    """A random chain: every row drawn from a symmetric Dirichlet distribution."""

    size: int
    concentration: float
    seed: int

    def build(self) -> BigramChain:
        return dirichlet(self.size, self.concentration, self.seed)


@dataclass(frozen=True)
class TaskConfig:
    """The Bigram-Backcopy task by its parameters (claims of 2410.13835; see `tasks.BigramBackcopy`)."""

    chain: ShakespeareChain | TextChain | DirichletChain = ShakespeareChain()
    n_triggers: int = 3
    starts: int = 1
    copy_probability: float = 1.0
    rule: Literal["backcopy", "backward"] = "backcopy"

    def build(self) -> BigramBackcopy:
        return BigramBackcopy.make(
            self.chain.build(),
            k=self.n_triggers,
            starts=self.starts,
            copy_probability=self.copy_probability,
            rule=self.rule,
        )


@dataclass(frozen=True)
class TrainConfig:
    """One training run up to its seed. Defaults are 2410.13835's one-layer run.

    Attributes:
      task, model, optimiser: the three parts.
      length: T, inputs per sequence. batch: B, fresh sequences per step. steps: length of the run.
      loss_on: positions whose loss is trained: "all", or "triggers" for the copy positions only.
      chunk_steps: steps in one compiled program; the spacing of log points is a multiple of it.
      probe_batch: sequences on which a log point is measured.
      interventions: what is held or forced in training, and from which step on; measured is the network with them.

    Raises:
      ValueError: a field is out of range, or an intervention does not fit the task or the length of the run.
    """

    task: TaskConfig = TaskConfig()
    model: TransformerConfig = TransformerConfig()
    optimiser: Optimiser = field(default_factory=AdamW)
    length: int = 256
    batch: int = 512
    steps: int = 10_000
    loss_on: Literal["all", "triggers"] = "all"
    chunk_steps: int = 10
    probe_batch: int = 256
    interventions: tuple[Intervention, ...] = ()

    def __post_init__(self) -> None:
        if self.loss_on not in ("all", "triggers"):
            raise ValueError(f"loss_on must be 'all' or 'triggers', but {self.loss_on!r} was given; choose one.")
        for name in ("length", "batch", "steps", "chunk_steps", "probe_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but {getattr(self, name)} was given; raise it.")
        require_fitting(self.interventions, self.task.starts, self.steps)

    def transformer(self, task: BigramBackcopy) -> Transformer:
        return Transformer(vocab_size=task.vocab_size, max_length=self.length, config=self.model)

    def describe(self) -> dict[str, Any]:
        """The run as plain JSON data; equal descriptions mean equal runs. The chain stands by its digest."""
        described = plain(self)
        chain = {"type": type(self.task.chain).__name__, "digest": self.task.chain.build().digest}
        described["task"]["chain"] = chain
        return dict(described)


def plain(value: Any) -> Any:
    """A frozen dataclass, with those inside it, as plain JSON data that begins with its type's name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def digest(description: Mapping[str, Any]) -> str:
    """A short name for a description: the first 16 hex digits of its SHA-256 as canonical JSON."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
