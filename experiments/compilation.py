"""Compiled programs outlive their process, so that a run repeated, or continued after a kill, does not compile anew."""

from __future__ import annotations

import os

import jax

from jaxsink.checkpoints import cache_folder


def keep_compiled() -> None:
    """Let JAX keep what it compiles in `cache_folder()`/compiled; to be called before anything compiles.

    What took a second or more is kept, as is JAX's default, and so is compiled once where several specifications share
    it. A folder that the user has chosen for JAX ($JAX_COMPILATION_CACHE_DIR) stands,
    $JAX_ENABLE_COMPILATION_CACHE=false turns all of it off, and where the folder cannot be made nothing is kept.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
