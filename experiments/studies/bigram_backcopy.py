"""Producer of evidence: a transformer trained on Bigram-Backcopy, measured at its log points."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors

from experiments.studies.product import Advance, Product
from jaxsink.files import whole
from jaxsink.training import Interventions, TrainConfig, log_points, restore, save, seed_keys, train
from jaxsink.training.by_token import by_token
from jaxsink.training.loop import TrainState, ahead, compiled
from jaxsink.training.observe import ablations, examples
from jaxsink.training.removal import block_removals
from jaxsink.training.runs import build
from theory.extraction import extract, extractable

NAME = "bigram_backcopy"
VERSION = 6
# The steps are small: alone, a run leaves the second core idle half of the time. On 2 cores a step takes 5.6 ms for
# one run and 8.4 for each of two at once.
SIDE_BY_SIDE = True
# Seconds between checkpoints: what a killed run loses at most.
CHECKPOINT_SECONDS = 20.0

Curves = dict[str, np.ndarray]


def label(spec: TrainConfig) -> str:
    """A run in words."""
    model = spec.model
    layers = "1 layer" if model.n_layers == 1 else f"{model.n_layers} layers"
    for part, without in (("attention", model.layers_without_attention), ("MLP", model.layers_without_mlp)):
        if without:
            layers += f", block{'s' * (len(without) > 1)} {' and '.join(map(str, without))} without {part}"
    optimiser = f"{type(spec.optimiser).__name__} {spec.optimiser.rate:g}"
    loss = "" if spec.loss_on == "all" else f", loss on {spec.loss_on}"
    other = "".join(f", {one.words}" for one in spec.interventions)
    other += {0: ", no <s>", 1: "", 2: ", two <s>"}[spec.task.starts]
    other += "" if spec.task.copy_probability == 1 else f", copies with probability {spec.task.copy_probability:g}"
    other += "" if model.compute_dtype is None else f", in {model.compute_dtype}"
    size = f"d {model.d_model}, T {spec.length}, batch {spec.batch}, {spec.steps} steps"
    return f"{layers}, {type(model.attention).__name__}, {optimiser}{loss}{other}; {size}"


def cost(spec: TrainConfig) -> float:
    """Work of one seed's run in multiplications, for the time left: six per parameter and token, and T x T maps."""
    model, tokens = spec.model, spec.batch * spec.length
    weights = model.n_layers * (4 * model.d_model**2 + 2 * model.d_model * model.mlp_width)
    maps = model.n_layers * 2 * spec.length * model.d_model
    read_out = 2 * 66 * model.d_model
    return 6.0 * spec.steps * tokens * (weights + maps + read_out)


class Trainer:
    """Runs one specification for any seeds, with a single compilation.

    Args:
      spec: the run. group: how many seeds are trained together (`jax.vmap`); numbers differ in the last digits
        between groupings, so the manifest records it.
    """

    def __init__(self, spec: TrainConfig, group: int) -> None:
        self.spec, self.group = spec, group
        self.program, self.model, self.task = build(spec, ensemble=group > 1)
        interventions = Interventions(self.model, self.task, spec.interventions)

        def finish(state: TrainState, key: jax.Array) -> dict[str, jax.Array]:
            params, edits = state.params, interventions.edits(state)
            tokens = self.task.sample(key, spec.probe_batch, spec.length)[:, :-1]
            found = ablations(self.model, self.task, params, tokens, edits)
            found |= examples(self.model, self.task, params, key, spec.length, edits)
            found |= by_token(self.model, self.task, params, tokens, edits)
            if spec.model.n_layers > 1:
                found |= block_removals(self.model, self.task, params, tokens, edits)
            if extractable(self.model, self.task):
                found |= extract(self.model, self.task, params, tokens, edits)
            return found

        keys = seed_keys(0)
        if group > 1:
            keys = jax.tree.map(lambda key: jnp.stack([key] * group), keys)
        state = jax.eval_shape(self.program.init, keys.init)
        self.program = compiled(self.program, keys)
        self.finish = ahead(jax.jit(jax.vmap(finish) if group > 1 else finish), state, keys.probe)

    def run(self, seeds: Sequence[int], partial: Path, advance: Advance) -> list[Product]:
        """Train a group of seeds, or continue it from `partial`.

        Args:
          seeds: as many as the group holds. partial: folder for checkpoints.
          advance: called with the share of the run (0 to 1) that has been done since the last call.
        """
        start = time.monotonic()
        each = [seed_keys(seed) for seed in seeds]
        keys = jax.tree.map(lambda *k: jnp.stack(k), *each) if self.group > 1 else each[0]
        state = self.program.init(keys.init)
        state, curves = self._resumed(partial, seeds, state)
        before = float(curves.pop("seconds", np.zeros(1))[0])
        done, saved = int(np.ravel(state.step)[0]), time.monotonic()
        advance(done / self.spec.steps)
        for point in train(self.program, state, keys, log_points(self.spec.steps, self.spec.chunk_steps)):
            state = point.state
            read = jax.device_get({"loss": point.loss, **point.measured})
            row = {"step": np.array([point.step])} | {name: np.asarray(x)[None] for name, x in read.items()}
            curves = {name: np.concatenate([curves[name], row[name]]) if curves else row[name] for name in row}
            advance((point.step - done) / self.spec.steps)
            done = point.step
            # Step 0 is measured again by whoever starts there, so a checkpoint of it would have it twice.
            if time.monotonic() - saved > CHECKPOINT_SECONDS and 0 < done < self.spec.steps:
                so_far = np.array([before + time.monotonic() - start])
                self._checkpoint(partial, seeds, state, {**curves, "seconds": so_far})
                saved = time.monotonic()
        finals = jax.device_get(self.finish(state, keys.probe))
        params = jax.device_get(state.params)
        seconds = (before + time.monotonic() - start) / len(seeds)
        tokens = [*self.task.chain.characters, "<s>"]
        manifest = {"tokens": tokens, "triggers": list(self.task.triggers), "label": label(self.spec)}
        manifest |= {"grouped_seeds": list(seeds), "seconds": seconds}
        return [self._product(i, curves, finals, params, manifest) for i in range(len(seeds))]

    def _product(self, index: int, curves: Curves, finals: Curves, params: Any, manifest: Mapping[str, Any]) -> Product:
        """One seed's part. Curves are [P, seed, ...] and the rest is [seed, ...] where seeds were grouped."""
        step = {"step": curves["step"]}
        rest = {name: value for name, value in curves.items() if name != "step"}
        # The probe batch is one and the same at all log points, and so is what uniform attention gives on it.
        finals = {**finals, "baseline": rest.pop("baseline")[-1]}
        if self.group > 1:
            rest = {name: value[:, index] for name, value in rest.items()}
            finals = {name: value[index] for name, value in finals.items()}
            params = jax.tree.map(lambda leaf: leaf[index], params)
        return Product({**step, **rest, **finals}, params, manifest)

    @staticmethod
    def _files(partial: Path, seeds: Sequence[int]) -> tuple[Path, Path]:
        name = "-".join(map(str, seeds))
        return partial / f"state-{name}.safetensors", partial / f"curves-{name}.safetensors"

    def _checkpoint(self, partial: Path, seeds: Sequence[int], state: TrainState, curves: Curves) -> None:
        # The curves first: a kill between the two leaves curves that reach past the state, which a resume cuts.
        state_file, curves_file = self._files(partial, seeds)
        with whole(curves_file) as temporary:
            temporary.write_bytes(safetensors.save(curves))
        save(state_file, state)

    def _resumed(self, partial: Path, seeds: Sequence[int], fresh: TrainState) -> tuple[TrainState, Curves]:
        state_file, curves_file = self._files(partial, seeds)
        if not state_file.exists():
            return fresh, {}
        state = restore(state_file, fresh)
        curves = safetensors.load_file(curves_file)
        keep = curves["step"] <= int(np.ravel(state.step)[0])
        seconds = curves.pop("seconds")
        return state, {name: values[keep] for name, values in curves.items()} | {"seconds": seconds}
