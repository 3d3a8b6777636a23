"""From a `TrainConfig` to the compiled program that runs it."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxsink.models import Transformer, init
from jaxsink.tasks import BigramBackcopy
from jaxsink.training.config import TrainConfig
from jaxsink.training.loop import Program, make_program
from jaxsink.training.observe import observe


def next_token_loss(model: Transformer, task: BigramBackcopy, params: Any, batch: jax.Array, loss_on: str) -> jax.Array:
    """Mean cross-entropy (nats) of the next token over all positions, or over the copy positions only.

    Args:
      model, task, params: the network and its task.
      batch: int [B, T + 1]: inputs and, one to the right, targets.
      loss_on: "all" or "triggers".
    """
    inputs, targets = batch[:, :-1], batch[:, 1:]
    # Flax types `apply` for every way of calling it; without mutable collections it returns the output alone.
    log_probs = jax.nn.log_softmax(cast(jax.Array, model.apply({"params": params}, inputs)))
    losses = -jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    if loss_on == "all":
        return losses.mean()
    weight = task.is_trigger(inputs).astype(losses.dtype)
    # A batch without a single trigger trains nothing, instead of dividing by zero.
    return (losses * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def build(config: TrainConfig, *, ensemble: bool = False) -> tuple[Program, Transformer, BigramBackcopy]:
    """The program, network and task of a configuration.

    Args:
      config: the run. ensemble: whether every argument and result carries a leading seed axis.

    Raises:
      ValueError: the chain cannot be built, or the task does not fit it.
    """
    task = config.task.build()
    model = config.transformer(task)
    program = make_program(
        init_params=lambda key: init(model, key),
        loss=lambda params, batch: next_token_loss(model, task, params, batch, config.loss_on),
        sample_many=lambda keys: task.sample_many(keys, config.batch, config.length),
        optimiser=config.optimiser.build(),
        measure=lambda params, key: observe(
            model, task, params, task.sample(key, config.probe_batch, config.length)[:, :-1]
        ),
        chunk_steps=config.chunk_steps,
        ensemble=ensemble,
    )
    return program, model, task
