"""From a `TrainConfig` to the compiled program that runs it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsink.models import Transformer
from jaxsink.probing import Edits, run
from jaxsink.tasks import BigramBackcopy
from jaxsink.training.config import TrainConfig
from jaxsink.training.interventions import Interventions
from jaxsink.training.loop import Program, TrainState, initial, make_program
from jaxsink.training.observe import Measured, observe
from jaxsink.training.residual_gradients import residual_gradients


def next_token_loss(
    model: Transformer,
    task: BigramBackcopy,
    params: Any,
    batch: jax.Array,
    loss_on: str,
    edits: Edits | None = None,
) -> jax.Array:
    """Mean cross-entropy (nats) of the next token over all positions, or over the copy positions only.

    Args:
      model, task, params: the network and its task.
      batch: int [B, T + 1]: inputs and, one to the right, targets.
      loss_on: "all" or "triggers".
      edits: as for `probing.run`: the loss is that of the network with them.
    """
    inputs, targets = batch[:, :-1], batch[:, 1:]
    logits, _ = run(model, params, inputs, edits=edits)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if loss_on == "all":
        return losses.mean()
    weight = task.is_trigger(inputs).astype(losses.dtype)
    # A batch without a single trigger trains nothing, instead of dividing by zero.
    return (losses * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def build(config: TrainConfig, *, ensemble: bool = False) -> tuple[Program, Transformer, BigramBackcopy]:
    """The program, network and task of a configuration.

    Whatever the compute dtype of the training, the network that is returned and measured is that of the parameters
    in their own dtype: norms and attention are not read off rounded activations.

    Args:
      config: the run. ensemble: whether every argument and result carries a leading seed axis.

    Raises:
      ValueError: the chain cannot be built, or the task does not fit it, or an intervention not the network.
    """
    task = config.task.build()
    trained = config.transformer(task)
    model = trained.clone(config=replace(config.model, compute_dtype=None))
    interventions = Interventions(model, task, config.interventions)

    def measure(state: TrainState, key: jax.Array) -> Measured:
        tokens = task.sample(key, config.probe_batch, config.length)[:, :-1]
        edits = interventions.edits(state)
        found = observe(model, task, state.params, tokens, edits)
        if config.model.n_layers > 1:
            found |= residual_gradients(model, task, state.params, tokens, config.loss_on, edits)
        return found

    program = make_program(
        init_params=partial(initial, model),
        loss=lambda state, batch: next_token_loss(
            trained, task, state.params, batch, config.loss_on, interventions.edits(state)
        ),
        sample_many=lambda keys: task.sample_many(keys, config.batch, config.length),
        optimiser=config.optimiser.build(),
        measure=measure,
        chunk_steps=config.chunk_steps,
        held=interventions.held,
        ensemble=ensemble,
    )
    return program, model, task
