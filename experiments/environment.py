"""What a number may depend on besides its specification: versions, device, precision."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import jax

from jaxsink.training import digest


def environment() -> dict[str, Any]:
    """The environment of this process as plain data; one interval never mixes two of them."""
    device = jax.devices()[0]
    return {
        "jax": version("jax"),
        "jaxlib": version("jaxlib"),
        "flax": version("flax"),
        "optax": version("optax"),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "machine": platform.machine(),
        "platform": device.platform,
        "device": device.device_kind,
        **{name: str(getattr(jax.config, name)) for name in ("jax_enable_x64", "jax_default_matmul_precision")},
    }


def environment_digest() -> str:
    """A short name for this environment."""
    return digest(environment())[:8]
