"""The climate of all tests: no implicit promotion, a CPU unless told otherwise, reproducible examples."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read when jax is first imported

import jax
from hypothesis import settings

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# The first example of a test compiles, which no deadline can foresee.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")
