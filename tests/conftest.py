"""The climate of all tests: no implicit promotion, a CPU unless told otherwise, reproducible examples."""

import atexit
import gc
import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read when jax is first imported
if os.environ["JAX_PLATFORMS"] == "cpu":
    # Most of the suite's time goes into compiling programs that run once, which LLVM's level 0 does in half the time.
    # Two programs of the same operations may round differently there: what is compared to the last bit names a level.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # What commands keep of their compilations never lands among the user's; processes that tests start share it.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxsink-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# The first example of a test compiles, which no deadline can foresee.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Forget what a file's tests have compiled.

    Each program keeps memory mapped, and Linux ends a process that has more than 65,530 mappings: one file of laws
    alone makes 17,000.
    """
    if nextitem is None or nextitem.path != item.path:
        jax.clear_caches()
        gc.collect()
