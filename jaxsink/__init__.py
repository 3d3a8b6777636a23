"""Attention sinks in JAX: attention variants, instrumented transformers, and the tools to measure them.

Nothing is imported here, so that each part costs only what it needs: `from jaxsink import attention`.
"""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("jaxsink")
except PackageNotFoundError:  # a source tree on the path that was never installed
    __version__ = "0+uninstalled"
