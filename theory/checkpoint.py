"""Evidence from a trained checkpoint: passages of text, and what each layer does at each of their positions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any, Literal, get_args

from jaxsink.checkpoints import identify

Domain = Literal["prose", "plays", "code", "documentation", "random", "repeated"]
Sees = Literal[
    "itself", "itself and the one before", "the one before", "the last five", "all but the first", "the first", "all"
]
Vector = Literal["first", "interior", "interior with the first one's norm", "mean"]
# The first token and one in the midst: keys of which the contribution to the outputs is measured.
COMPARED = (0, 16)


@dataclass(frozen=True)
class MaskControl:
    """What the mask is made to be in some blocks (2407.01601).

    Attributes:
      sees: what the tokens at `rows` still see; "all" gives them even attention, to what comes after them, too.
      rows: 0-based positions. column: the tokens at `rows` are hidden from the others, and see what they saw.
      first_layer, last_layer: 0-based blocks in which it holds, both included; None is the last block.
    """

    sees: Sees = "itself"
    rows: tuple[int, ...] = (64,)
    column: bool = False
    first_layer: int = 0
    last_layer: int | None = None


@dataclass(frozen=True)
class PositionControl:
    """Tokens that get another position's vector; in a model that rotates positions, its number (2407.01601).

    Attributes:
      vector: "first" is position 0, "interior" is `interior`, "mean" the mean of all vectors.
      rows: 0-based positions of the tokens. interior: 0-based position.
    """

    vector: Vector = "first"
    rows: tuple[int, ...] = (64,)
    interior: int = 100


@dataclass(frozen=True)
class Passages:
    """Passages of one kind of text, run through a checkpoint. The seed chooses the passages.

    Attributes:
      model: name in the catalogue of checkpoints, or a folder or file of one.
      domain: the kind of text, see `jaxsink.tasks.text`.
      count: passages. length: tokens of each; special tokens count.
      special: with the special tokens that the model is made for ([CLS] and [SEP]; most decoders have none).
      bos: behind the token that begins a text for the tokenizer, whether or not the model is made for it.
      first_position: of the first token, for a model with learned positions.
      control: what is done to the mask or the positions.
      by_head: measured by head as well: weights on the keys of `COMPARED`, what these give, and how keys stand to them.

    Raises:
      ValueError: there is no such checkpoint or domain, or a number is too small.
    """

    model: str
    domain: Domain
    count: int
    length: int
    special: bool = True
    bos: bool = False
    first_position: int = 0
    control: MaskControl | PositionControl | None = None
    by_head: bool = True

    def __post_init__(self) -> None:
        identify(self.model)
        if self.domain not in get_args(Domain):
            raise ValueError(f"domain must be one of {', '.join(get_args(Domain))}, but {self.domain!r} was given.")
        if self.count < 1 or self.length <= max(COMPARED) + 1 or self.first_position < 0:
            raise ValueError(
                f"count must be at least 1, length at least {max(COMPARED) + 2} and first_position at least 0, but "
                f"they are {self.count}, {self.length} and {self.first_position}; raise them."
            )

        if self.control is not None and not all(0 <= row < self.length for row in self.control.rows):
            raise ValueError(
                f"a control of rows {self.control.rows} was given for passages of {self.length} tokens; "
                f"choose rows from 0 to {self.length - 1}."
            )

    def describe(self) -> dict[str, Any]:
        """The specification as plain JSON data, with the identity of the weights."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.control is not None:
            fields["control"] = {"type": type(self.control).__name__, **asdict(self.control)}
        return {"type": "Passages", "weights": identify(self.model).digest, **fields}


@dataclass(frozen=True)
class FirstToken:
    """First tokens of passages, each attention and each MLP removed in turn; the seed chooses the passages.

    Under a causal mask nothing else reaches the first position, so they are run by themselves.

    Attributes:
      model: name in the catalogue of checkpoints or path, a decoder. domain: the kind of text. count: passages.

    Raises:
      ValueError: there is no such checkpoint or domain, or no passage.
    """

    model: str
    domain: Domain
    count: int

    def __post_init__(self) -> None:
        self.passages()

    def passages(self) -> Passages:
        """Passages that begin with these tokens."""
        return Passages(self.model, self.domain, self.count, max(COMPARED) + 2)

    def describe(self) -> dict[str, Any]:
        """The specification as plain JSON data, with the identity of the weights."""
        return {"type": "FirstToken", "passages": self.passages().describe()}


def on_model(spec: Any, old: str, new: str) -> Any:
    """A specification of any kind with one checkpoint in the place of another, wherever it has a `model` of that name.

    Args:
      spec: a frozen dataclass, perhaps with others in its fields. old, new: names or paths.
    """
    if not is_dataclass(spec) or isinstance(spec, type):
        return spec
    fields = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    changed = {
        name: new if (name, value) == ("model", old) else on_model(value, old, new) for name, value in fields.items()
    }
    return replace(spec, **changed) if changed != fields else spec
