"""What `jaxsink scan` reads: texts of a file or of domains, cut to samples of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from experiments import texts
from jaxsink.checkpoints import Tokenizer
from jaxsink.tasks import text

# One seed: a scan of the same model, domains and sizes reads the same samples.
SEED = 0
# No tokenizer of a catalogue's or a larger model needs so many characters for a token of these texts.
_CHARACTERS = 6
# Name on the command line to that of the texts.
_TEXTS = {"prose": "prose", "code": "code", "docs": "documentation"}
_TOKENS: Mapping[str, Callable[[Sequence[int], int, int], NDArray[np.int32]]] = MappingProxyType(
    {
        "random": lambda choices, length, count: text.random_tokens(choices, length, count, SEED),
        "repeated": lambda choices, length, count: text.repeated_tokens(choices, length, count, SEED),
    }
)
DOMAINS = (*_TEXTS, *_TOKENS)


@dataclass(frozen=True)
class Ends:
    """Tokens that are put around each sample."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def around(self, body: Sequence[int] | NDArray[np.int32]) -> NDArray[np.int32]:
        """The sample with its ends."""
        return np.array([*self.before, *body, *self.after], np.int32)

    def room(self, length: int) -> int:
        """How many tokens of text fit into a sample.

        Raises:
          ValueError: none.
        """
        left = length - len(self.before) - len(self.after)
        if left < 1:
            raise ValueError(f"--max-tokens {length} leaves no room for a token of text; give a larger number.")
        return left


def ends(tokenizer: Tokenizer | None, bos: str, vocab_size: int) -> Ends:
    """What --bos asks for.

    Args:
      tokenizer: of the model, if it has one.
      bos: "default", what the tokenizer puts around a text; "none"; or the id of the token to begin with.
      vocab_size: V of the model.

    Raises:
      ValueError: it is none of these.
    """
    if bos == "none":
        return Ends()
    if bos == "default":
        if tokenizer is None:
            return Ends()
        word = "a"
        whole, bare = (tokenizer.encode(word, special).tolist() for special in (True, False))
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return Ends(tuple(whole[:start]), tuple(whole[start + len(bare) :]))
    if not bos.isdecimal() or int(bos) >= vocab_size:
        raise ValueError(f"--bos must be default, none, or a token from 0 to {vocab_size - 1}, but is {bos!r}.")
    return Ends((int(bos),))


def of_file(path: Path, tokenizer: Tokenizer | None, around: Ends, length: int, count: int) -> list[NDArray[np.int32]]:
    """The first samples of a text, one after another; the last may be shorter.

    Raises:
      ValueError: the file cannot be read, or is empty, or there is no tokenizer.
    """
    if tokenizer is None:
        raise ValueError("--text needs a tokenizer, but this model comes without one; use --domains random.")
    try:
        # No more than could be needed of a large file.
        with path.open(encoding="utf-8") as file:
            words = file.read(64 * length * count)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--text {path} cannot be read as UTF-8 ({error}); name a file of text.") from error
    tokens, room = tokenizer.encode(words, special=False), around.room(length)
    if not len(tokens):
        raise ValueError(f"--text {path} is empty; name a file of text.")
    return [around.around(tokens[start : start + room]) for start in range(0, len(tokens), room)][:count]


def of_domain(
    domain: str, tokenizer: Tokenizer | None, around: Ends, vocab_size: int, length: int, count: int
) -> list[NDArray[np.int32]]:
    """Samples of a domain of text, of random tokens, or of one token each that is repeated.

    Raises:
      ValueError: there is no such domain, no tokenizer where one is needed, or not enough text.
    """
    room = around.room(length)
    if domain in _TOKENS:
        choices = texts.ordinary_tokens(tokenizer, vocab_size)
        return [around.around(row) for row in _TOKENS[domain](choices, room, count)]
    if domain not in _TEXTS:
        raise ValueError(f"--domains knows {', '.join(DOMAINS)}, but {domain!r} was given; choose of those.")
    if tokenizer is None:
        raise ValueError(
            f"--domains {domain} needs a tokenizer, but this model comes without one; use --domains random."
        )
    passages = texts.DOMAINS[_TEXTS[domain]](_CHARACTERS * room, count, SEED)
    return [around.around(tokenizer.encode(passage, special=False)[:room]) for passage in passages]


def batches(samples: Sequence[NDArray[np.int32]], most: int) -> list[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
    """Tokens [B, T] and which of them are real, all batches of one shape, so that one compilation serves them.

    Args:
      samples: at least one.
      most: the largest B; its largest divisor of the number of samples is taken.
    """
    size = max(b for b in range(1, min(most, len(samples)) + 1) if len(samples) % b == 0)
    longest = max(map(len, samples))
    tokens = np.zeros((len(samples), longest), np.int32)
    for row, sample in zip(tokens, samples, strict=True):
        row[: len(sample)] = sample
    real = np.arange(longest)[None, :] < np.array([len(sample) for sample in samples])[:, None]
    return [(tokens[i : i + size], real[i : i + size]) for i in range(0, len(samples), size)]
