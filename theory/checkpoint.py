"""Evidence from a trained checkpoint: passages of text, and what each layer does at each of their positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxsink.checkpoints import find_asset

Domain = Literal["prose", "plays", "code", "documentation"]


@dataclass(frozen=True)
class Passages:
    """Passages of one kind of text, run through a checkpoint. The seed chooses the passages.

    Attributes:
      model: name in the catalogue of checkpoints. domain: the kind of text, see `jaxsink.tasks.text`.
      count: passages. length: tokens of each; special tokens count.
      special: with the special tokens that the model is made for ([CLS] and [SEP]; most decoders have none).
      first_position: of the first token, for a model with learned positions.

    Raises:
      ValueError: there is no such checkpoint or domain, or a number is too small.
    """

    model: str
    domain: Domain
    count: int
    length: int
    special: bool = True
    first_position: int = 0

    def __post_init__(self) -> None:
        find_asset(self.model)
        if self.domain not in get_args(Domain):
            raise ValueError(f"domain must be one of {', '.join(get_args(Domain))}, but {self.domain!r} was given.")
        if self.count < 1 or self.length < 4 or self.first_position < 0:
            raise ValueError(
                "count must be at least 1, length at least 4 and first_position at least 0, but they are "
                f"{self.count}, {self.length} and {self.first_position}; raise them."
            )

    def describe(self) -> dict[str, Any]:
        """The specification as plain JSON data, with the identity of the weights."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"type": "Passages", "weights": find_asset(self.model).digest, **fields}
