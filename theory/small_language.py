"""Evidence from a small language model trained here, on characters of several kinds of text, and how it develops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxsink.models import DecoderConfig
from jaxsink.training import AdamW, plain
from jaxsink.training.optimisers import Optimiser
from jaxsink.trajectory import SHORTEST
from theory.checkpoint import Domain

# Characters are ASCII codes, and all others are "?". The code that no text has stands for the start of a sequence.
VOCABULARY = 128
START = 0
# The domains of text that can be trained on: a text of so many characters, not tokens without sense.
TEXTS: tuple[Domain, ...] = ("prose", "plays", "code", "documentation")
# One part in so many of each text, its end, is kept for measurements.
HELD_OUT = 10


@dataclass(frozen=True)
class SmallLanguage:
    """A decoder trained to predict the next character, and what its first position is to it on the way.

    A sequence is a piece of one domain that begins at any character, and every batch has as many of each.

    Attributes:
      model: of `VOCABULARY` tokens. optimiser: its rate is constant.
      domains: kinds of text, see `jaxsink.tasks.text`; `experiments.texts.DOMAINS` has them.
      start: a start token stands before the characters; without it the first position has a character.
      length: T, inputs of a sequence. batch: sequences of a step. steps: of the run.
      chunk_steps: steps in one compiled program; log points are multiples of it.
      characters: of each domain; the last part of `HELD_OUT` is measured on, and the rest is trained on.
      passages: of each domain that are measured, which do not overlap.

    Raises:
      ValueError: there are not two domains or more, one is unknown or twice there, or a size does not fit.
    """

    model: DecoderConfig
    optimiser: Optimiser = field(default_factory=AdamW)
    domains: tuple[Domain, ...] = ("prose", "code")
    start: bool = True
    length: int = 64
    batch: int = 16
    steps: int = 2000
    chunk_steps: int = 20
    characters: int = 200_000
    passages: int = 64

    def __post_init__(self) -> None:
        if len(set(self.domains)) != len(self.domains) or len(self.domains) < 2 or set(self.domains) - set(TEXTS):
            raise ValueError(
                f"domains must be two or more of {', '.join(TEXTS)}, but {', '.join(self.domains)} were given."
            )
        if self.model.vocab_size != VOCABULARY:
            raise ValueError(
                f"model.vocab_size must be the {VOCABULARY} characters of ASCII, but it is {self.model.vocab_size}."
            )
        if self.length < SHORTEST or min(self.batch, self.passages, self.steps, self.chunk_steps) < 1:
            raise ValueError(f"length must be at least {SHORTEST} and all other numbers at least 1; raise them.")
        if self.batch % len(self.domains):
            raise ValueError(f"batch must be a multiple of the {len(self.domains)} domains, but is {self.batch}.")
        if self.steps % self.chunk_steps:
            raise ValueError(f"steps must be a multiple of chunk_steps={self.chunk_steps}, but {self.steps} was given.")
        if self.held_out < self.passages * self.length or self.characters - self.held_out <= self.length + 1:
            raise ValueError(
                f"{self.passages} passages of {self.length} characters need {self.passages * self.length * HELD_OUT} "
                f"characters, of which one in {HELD_OUT} is held out, but {self.characters} were given; raise them."
            )

    @property
    def held_out(self) -> int:
        """Characters of each domain that are not trained on."""
        return self.characters // HELD_OUT

    def describe(self) -> dict[str, Any]:
        """The specification as plain JSON data."""
        return dict(plain(self))
