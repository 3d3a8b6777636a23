"""Evidence from small models trained here: a decoder or an encoder, looked at under the controls of 2407.01601."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from jaxsink.models.config import Positions
from jaxsink.training import TrainConfig

Kind = Literal["decoder", "encoder"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# How a trained model is looked at, and in words what is done to one of its tokens.
LOOKS: Mapping[str, str] = MappingProxyType(
    {
        "free": "without control",
        "mask": "seeing itself alone",
        "position": "with the first position's number",
        "last_five": "seeing itself and the four before it",
        "interior": "with an interior position's number",
    }
)
# Schemes of positions: vectors that are added, a rotation, a bias of the scores, or nothing.
SCHEMES: tuple[Positions, ...] = ("learned", "sinusoidal", "rope", "alibi", "none")


@dataclass(frozen=True)
class SmallModel:
    """A model trained on the text of a task, and what its tokens receive with and without control (2407.01601).

    A decoder is trained to predict the next token. An encoder sees the whole text, some tokens of which are replaced by
    a mask token, and is trained to predict those. Start tokens are never replaced.

    Attributes:
      kind: "decoder" or "encoder".
      run: task, network (its scheme of positions among the rest), optimiser and sizes of the training.
      masked: share of the tokens that an encoder has to predict; a decoder takes no notice of it.
      row: 0-based position of the token that is controlled. interior: 0-based position whose number it gets where that
        of the first one is compared with another.

    Raises:
      ValueError: the kind is unknown, the share leaves nothing to predict or to see, a position is not in the text, or
        the run has what only next-token prediction knows (another loss, interventions), registers, biases of T5, or a
        single block.
    """

    kind: Kind
    run: TrainConfig
    masked: float = 0.15
    row: int = 16
    interior: int = 8

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, but {self.kind!r} was given.")
        if not 0 < self.masked < 1:
            raise ValueError(f"masked must be above 0 and below 1, but {self.masked} was given; .15 is usual.")
        for name in ("row", "interior"):
            if not 0 < getattr(self, name) < self.run.length - 1:
                raise ValueError(
                    f"{name} must lie between the first and the last of {self.run.length} positions, but "
                    f"{getattr(self, name)} was given."
                )
        if self.run.loss_on != "all" or self.run.interventions:
            raise ValueError("a small model trains freely on all it predicts; leave out loss_on and interventions.")
        model = self.run.model
        if model.registers or model.positions not in SCHEMES:
            raise ValueError(
                f"a small model has no registers and one of the positions {', '.join(SCHEMES)}, but was given "
                f"{model.registers} registers and {model.positions!r}."
            )
        if model.n_layers < 2:
            raise ValueError(
                f"a small model needs at least 2 blocks, but {model.n_layers} was given: no mask changes what keys "
                "receive in the first."
            )

    @property
    def scheme(self) -> Positions:
        """How positions enter."""
        return self.run.model.positions

    def describe(self) -> dict[str, Any]:
        """The specification as plain JSON data."""
        fields = {name: getattr(self, name) for name in ("kind", "masked", "row", "interior")}
        return {"type": "SmallModel", "run": self.run.describe(), **fields}
