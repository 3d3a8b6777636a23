"""Producer of evidence: a `theory.survey.Survey`, one short training run a variant, measured at its end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import jax
import numpy as np
from safetensors import numpy as safetensors

from experiments.studies import bigram_backcopy
from experiments.studies.product import PER_SECOND, Advance, Product
from jaxsink.files import whole
from jaxsink.training import TrainConfig, seed_keys
from jaxsink.training.loop import Keys, compiler_options
from jaxsink.training.runs import build
from theory.survey import Survey

NAME = "survey"
VERSION = 2
SIDE_BY_SIDE = False
# A run of a variant compiles for some three seconds.
_COMPILING = 3 * PER_SECOND
# What is kept of `observe`, each with an axis of layers or none.
MEASURED = (
    "attn_start",
    "sink_strength",
    "sink_share",
    "row_mass",
    "value_ratio",
    "peak_ratio",
    "backcopy",
    "bigram",
    "baseline",
)

Arrays = dict[str, np.ndarray]


def label(spec: Survey) -> str:
    """A survey in words."""
    return f"{len(spec.variants)} attention variants; {bigram_backcopy.label(spec.base)}"


def cost(spec: Survey) -> float:
    """Work of one seed in multiplications, for the time left."""
    return len(spec.variants) * (bigram_backcopy.cost(spec.base) + _COMPILING)


def _compiled(run: TrainConfig) -> Callable[[Keys], dict[str, jax.Array]]:
    """A run from its keys to what is measured at its end, as one program."""
    program, _, _ = build(run)

    def whole_run(keys: Keys) -> dict[str, jax.Array]:
        state = program.init(keys.init)
        for _ in range(run.steps // run.chunk_steps):
            state, _ = program.chunk(state, keys.data)
        found = program.measure(state, keys.probe)
        return {name: found[name] for name in MEASURED}

    return jax.jit(whole_run, compiler_options=compiler_options())


class Trainer:
    """Trains every variant of one survey, for any seeds, with a compilation a variant.

    Args:
      spec: the survey. group: how many seeds come at once; they are trained one after the other.
    """

    def __init__(self, spec: Survey, group: int) -> None:
        self.spec = spec
        self.programs = {name: _compiled(run) for name, run in spec.runs()}

    def run(self, seeds: Sequence[int], partial: Path, advance: Advance) -> list[Product]:
        """Train the seeds, or continue from the variants that `partial` holds."""
        products = []
        for seed in seeds:
            start = time.monotonic()
            found = self._survey(seed, partial, lambda: advance(1 / len(seeds) / len(self.spec.variants)))
            arrays = {name: np.stack([found[v][name] for v in self.spec.variants]) for name in MEASURED}
            manifest = {"label": label(self.spec), "variants": list(self.spec.variants)}
            products.append(Product(arrays, {}, {**manifest, "seconds": time.monotonic() - start}))
        return products

    def _survey(self, seed: int, partial: Path, advance: Callable[[], None]) -> dict[str, Arrays]:
        def one(name: str) -> Arrays:
            file = partial / f"{name}-{seed}.safetensors"
            if not file.exists():
                arrays = {k: np.asarray(v) for k, v in jax.device_get(self.programs[name](seed_keys(seed))).items()}
                with whole(file) as temporary:
                    temporary.write_bytes(safetensors.save(arrays))
            return safetensors.load_file(file)

        # XLA compiles outside of Python's lock, and half of the time goes there.
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            futures = {pool.submit(one, name): name for name in self.spec.variants}
            found = {}
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                advance()
            return found
        finally:
            pool.shutdown(cancel_futures=True)
