"""What the norm of a value does to the weight on `<s>`: in the pass that uses it, through a step, and in training.

Everything here is automatic differentiation through real networks; `theory.attribution` predicts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsink.models import Transformer, TransformerConfig
from jaxsink.probing import Add, Scale, Set, at, run, sites
from jaxsink.tasks import BigramBackcopy, dirichlet
from jaxsink.training import Program, TrainConfig, build, seed_keys
from jaxsink.training.loop import initial
from theory.calculations.base import Calculation
from theory.calculations.minimal import Minimal
from theory.construction import construct, log_law, log_rows, with_free

Params = Any
Free = tuple[jax.Array, jax.Array]


# Random networks: in the pass and through a step -----------------------------------------------------------------
@partial(jax.jit, static_argnums=(0, 1))
def _derivatives(
    model: Transformer, task: BigramBackcopy, params: Params, tokens: jax.Array, rate: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """[L, L] each, see `WeightDerivatives`; the second not yet over the rate."""
    layers = range(model.config.n_layers)
    table = sites(model, *tokens.shape)
    patterns, values = ([f"blocks.{i}.{site}" for i in layers] for site in ("pattern", "v"))
    first: dict[str, Any] = {table[values[0]].axes[1]: 0}
    nothing = jnp.zeros(len(layers))

    def longer(log_factors: jax.Array) -> dict[str, Scale]:
        """The edits that multiply the value of the first token in each block."""
        return {name: Scale(jnp.exp(log_factors[i]), at(table[name], **first)) for i, name in enumerate(values)}

    def weights(params: Params, log_factors: jax.Array) -> jax.Array:
        found = run(model, params, tokens, capture=patterns, edits=longer(log_factors))[1]
        return jnp.stack([found[name][..., 1:, 0] for name in patterns])

    def loss(params: Params, log_factors: jax.Array) -> jax.Array:
        """Mean cross-entropy (nats) against the task's law, over the positions after `<s>`."""
        log_q = jax.nn.log_softmax(run(model, params, tokens, edits=longer(log_factors))[0])
        return -(task.law(tokens) * log_q).sum(-1)[:, 1:].mean()

    def after_a_step(log_factors: jax.Array) -> jax.Array:
        gradient = jax.grad(loss)(params, log_factors)
        return weights(jax.tree.map(lambda x, g: x - rate * g, params, gradient), nothing)

    def largest(moved: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """[L, L] from weights [L, B, N, T - 1] and a factor for each block."""
        return jnp.abs(jax.jacfwd(moved)(nothing)).max((1, 2, 3)).T

    return largest(partial(weights, params)), largest(after_a_step)


@dataclass(frozen=True)
class WeightDerivatives(Calculation):
    """Derivatives of the attention weights on `<s>` in log |v_<s>| of one block, in random networks.

    Arrays, the largest over queries, heads and sequences: in_the_pass [I, L, L], of the weights of the pass that uses
    the value; after_a_step [I, L, L], of the weights after one step of gradient descent on a loss that used it, over
    the rate. The first L is the block of the value, the second that of the weights.

    Attributes:
      instances: I. layers: L. heads, width: of the network. characters, length, batch: of the task.
    """

    instances: int = 4
    layers: int = 2
    heads: int = 2
    width: int = 16
    characters: int = 6
    length: int = 8
    batch: int = 4
    seconds: ClassVar[float] = 1.0

    @property
    def label(self) -> str:
        return (
            f"derivatives of weights in the norm of a value, {self.instances} random networks of {self.layers} layers"
        )

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        task = BigramBackcopy.make(dirichlet(self.characters, 1.0, 0), k=1)
        config = TransformerConfig(n_layers=self.layers, n_heads=self.heads, d_model=self.width, dtype="float64")
        model = Transformer(task.vocab_size, self.length, config)
        # The step is taken to first order: what moves the weights is as large as the rate, which is divided out.
        rate = 1e-3
        found = []
        for i in range(self.instances):
            of_params, of_tokens = jax.random.split(jax.random.fold_in(jax.random.key(seed), i))
            tokens = task.sample(of_tokens, self.batch, self.length)[:, :-1]
            found.append(_derivatives(model, task, initial(model, of_params), tokens, jnp.asarray(rate)))
        in_the_pass, after_a_step = (np.stack([np.asarray(x) for x in each]) for each in zip(*found, strict=True))
        return {"in_the_pass": in_the_pass, "after_a_step": after_a_step / rate}


# The minimal network ---------------------------------------------------------------------------------------------
class Pulls(NamedTuple):
    """[n] velocities of the sink logits, and their derivatives in log |v_<s>| and in log |v_k| of another token."""

    velocity: jax.Array
    own: jax.Array
    other: jax.Array


def _with_derivatives(velocity: Callable[[jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
    """A function of the logarithms of two factors, [2] -> [n], where both are one: its value and derivatives [2, n]."""
    moving, moved = jax.vmap(lambda direction: jax.jvp(velocity, (jnp.zeros(2),), (direction,)))(jnp.eye(2))
    return moving[0], moved


@partial(jax.jit, static_argnums=0)
def _minimal_pulls(minimal: Minimal, token: jax.Array, start: Free, tokens: jax.Array, weight: jax.Array) -> Pulls:
    size, p = minimal.characters, minimal.task.chain.transition
    law = jnp.pad(jnp.asarray(p), ((0, 1), (0, 0)))[tokens]
    log_p, none = jnp.asarray(log_rows(p, minimal.task.triggers)), jnp.zeros(())

    def velocity(log_factors: jax.Array) -> jax.Array:
        own, other = jnp.exp(log_factors)
        xi = jnp.full(size, minimal.xi).at[token].multiply(other)

        def loss(alpha: jax.Array) -> jax.Array:
            params = construct(minimal.model, log_p, jnp.zeros(size), none, xi, jnp.zeros(size))
            params = with_free(params, minimal.queries, alpha, own * start[1])
            return -(weight[..., None] * law * log_law(minimal.model, params, tokens)[..., :size]).sum()

        return -jax.grad(loss)(start[0])

    moving, (own, other) = _with_derivatives(velocity)
    return Pulls(moving, own, other)


@dataclass(frozen=True)
class MinimalPulls(Calculation):
    """The minimal network of theorem 1 at random sink logits and values of `<s>`, by differentiation through it.

    Arrays: velocity, own, other [I, n], see `Pulls`; alpha [I, n], beta [I, V]; p [n, V]; query, weight, total [I, S]
    and b, part [I, S, V]: every term of the loss, with W and B of its context and the other token's part of B.

    Attributes:
      instances: I. batch: sequences each. token: the other token.
    """

    minimal: Minimal = Minimal()
    instances: int = 8
    batch: int = 4
    token: int = 1
    seconds: ClassVar[float] = 1.0

    @property
    def label(self) -> str:
        return f"velocities of sink logits and norms of values, minimal network, {self.instances} instances"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        minimal, rng = self.minimal, np.random.default_rng(seed)
        size, shape = minimal.characters, (self.batch, minimal.length)
        found: list[dict[str, Any]] = []
        for i in range(self.instances):
            tokens = minimal.task.sample(jax.random.fold_in(jax.random.key(seed), i), *shape)[:, :-1]
            alpha, beta = rng.normal(0, 1, minimal.queries.size), rng.normal(0, 1, size)
            # One weight for every position but `<s>` and triggers', as random as the rest.
            weight = rng.uniform(0.5, 1.5, shape) * np.asarray(minimal.dormant(tokens))
            pulls = _minimal_pulls(minimal, jnp.asarray(self.token), (alpha, beta), tokens, jnp.asarray(weight))
            counts = np.cumsum(np.eye(size + 1)[np.asarray(tokens)][..., :size], axis=1)
            terms = {
                "query": np.searchsorted(minimal.queries, np.minimum(tokens, size - 1)),
                "weight": weight,
                "total": np.maximum(counts.sum(-1), 1),
                "b": minimal.xi * counts,
                "part": minimal.xi * counts * (np.arange(size) == self.token),
            }
            terms = {name: x.reshape(weight.size, *x.shape[2:]) for name, x in terms.items()}
            found.append(pulls._asdict() | terms | {"alpha": alpha, "beta": beta})
        stacked = {name: np.stack([np.asarray(each[name]) for each in found]) for name in found[0]}
        return stacked | {"p": minimal.task.chain.transition[minimal.queries]}


# A network in training -------------------------------------------------------------------------------------------
@lru_cache
def _program(run_of: TrainConfig) -> tuple[Program, Transformer, BigramBackcopy]:
    return build(run_of)


@partial(jax.jit, static_argnums=(0, 1))
def _trained_pulls(model: Transformer, task: BigramBackcopy, params: Params, tokens: jax.Array) -> dict[str, jax.Array]:
    """See `TrainedPulls`, at one set of parameters."""
    names = {s: f"blocks.0.{s}" for s in ("attn_scores", "pattern", "v", "attn_out", "mlp_out")}
    law, position = task.law(tokens), jnp.arange(tokens.shape[1])
    dormant = (~task.is_trigger(tokens) & (position > 0)[None]).astype(law.dtype)
    weight = dormant / dormant.sum()
    content = int(np.argmax(np.where(np.isin(np.arange(task.chain.size), task.triggers), 0, task.chain.marginal)))
    first, other = position == 0, tokens == content

    def velocity(log_factors: jax.Array) -> jax.Array:
        own, others = jnp.exp(log_factors)
        scale = jnp.where(first[None], own, jnp.where(other, others, 1.0))

        def loss(shift: jax.Array) -> jax.Array:
            moved = jnp.where(first[None, None, None], shift[tokens][:, None, :, None], 0.0)
            edits = {names["attn_scores"]: Add(moved), names["v"]: Scale(scale[:, :, None, None])}
            log_q = jax.nn.log_softmax(run(model, params, tokens, edits=edits)[0])
            return -(weight[..., None] * law * log_q).sum()

        return -jax.grad(loss)(jnp.zeros(task.vocab_size))

    moving, (own, others) = _with_derivatives(velocity)
    logits, captured = run(model, params, tokens, capture=list(names.values()))
    pattern = captured[names["pattern"]][:, 0]
    values = captured[names["v"]][:, :, 0] @ params["blocks_0"]["W_O"]
    off = pattern[:, :, 1:].sum(-1).at[:, 0].set(1.0)[..., None]
    # What attention adds: the value of <s>, the mean value of the other keys, and the most frequent character's part.
    added = jnp.stack(
        [
            jnp.broadcast_to(values[:, :1], values.shape),
            pattern[:, :, 1:] @ values[:, 1:] / off,
            jnp.where(other[:, None, :], pattern, 0.0) @ values / off,
        ]
    )

    def in_logits(held: dict[str, Set]) -> jax.Array:
        """[3, B, T, V + 1] what follows for the logits, to first order at each query."""

        def read(shift: jax.Array) -> jax.Array:
            return run(model, params, tokens, edits=held | {names["attn_out"]: Add(shift)})[0]

        return jax.vmap(lambda x: jax.jvp(read, (jnp.zeros_like(x),), (x,))[1])(added)

    parts = ("value", "other_mean", "part")
    mlp_held = in_logits({names["mlp_out"]: Set(captured[names["mlp_out"]])})
    return {
        "velocity": moving,
        "own": own,
        "other": others,
        "weight": weight,
        "a": pattern[:, :, 0],
        "p": law,
        "q": jax.nn.softmax(logits),
        **dict(zip(parts, in_logits({}), strict=True)),
        **dict(zip((f"{name}_mlp_held" for name in parts), mlp_held, strict=True)),
    }


@dataclass(frozen=True)
class TrainedPulls(Calculation):
    """A network of one layer and one head in training, stopped at some steps and differentiated in float64.

    Arrays, V + 1 tokens with `<s>` last, P steps:
      step [P]; velocity, own, other [P, V + 1]: minus the gradient of the expected loss of the dormant queries in the
      logit on `<s>` of the queries that are each character, and its derivatives in log |v_<s>| and in log |v_k| of the
      most frequent character k that is no trigger. tokens int [B, T] and weight [P, B, T]: the queries, and their
      weights in that loss. a [P, B, T], p, q, value, other_mean, part [P, B, T, V + 1] (float32): what
      `theory.attribution` takes, with values as what they add to the logits to first order, through the MLP as well.
      value_mlp_held, other_mean_mlp_held, part_mlp_held: the same with what the MLP adds held, as the restricted model
      of 2410.13835 has it.

    Attributes:
      run: the training. stops: its steps at which it is read, multiples of its `chunk_steps`. batch: B.
    """

    run: TrainConfig
    stops: tuple[int, ...]
    batch: int = 8
    seconds: ClassVar[float] = 8.0

    @property
    def label(self) -> str:
        return f"velocities of sink logits and norms of values in training, to step {self.stops[-1]}"

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        with jax.enable_x64(False):
            program, model, task = _program(self.run)
            keys = seed_keys(seed)
            state, step, params = program.init(keys.init), 0, []
            for stop in self.stops:
                while step < stop:
                    state, _ = program.chunk(state, keys.data)
                    step += program.chunk_steps
                params.append(jax.device_get(state.params))
            tokens = np.asarray(task.sample(keys.probe, self.batch, self.run.length)[:, :-1])
        wide = model.clone(config=replace(self.run.model, dtype="float64"))
        read = []
        for at_stop in params:
            doubled = jax.tree.map(partial(jnp.asarray, dtype=jnp.float64), at_stop)
            found_there = jax.device_get(_trained_pulls(wide, task, doubled, tokens))
            read.append({k: x.astype(np.float32) if x.ndim == 3 else x for k, x in found_there.items()})
        stacked = {name: np.stack([at_stop[name] for at_stop in read]) for name in read[0]}
        return stacked | {"step": np.array(self.stops), "tokens": tokens}
