"""Continuous limits of optimisers on the restricted model, integrated stiffly in float64 (2410.13835, theorem 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import diffrax
import jax
import jax.numpy as jnp

from theory.restricted import RestrictedModel, gradient

# 1e-10 relative keeps conserved quantities to about 1e-9 over nine decades of time.
TOLERANCE = 1e-10
MAX_STEPS = 20_000

State = tuple[jax.Array, jax.Array]


def gradient_flow(
    model: RestrictedModel,
    alpha: jax.Array,
    beta: jax.Array,
    times: jax.Array,
    freeze: Literal["alpha", "beta", "nothing"] = "nothing",
    stop_below: float | jax.Array | None = None,
    stiff: bool = True,
) -> State:
    """d(alpha, beta)/dt = -grad R from t = 0, with an adaptive solver. Works under jit and vmap.

    Args:
      model: what is fixed. alpha: [n], beta: [V]: where the flow starts.
      times: [P] increasing positive times at which it is read; 1e9 is within reach.
      freeze: what is held at its start.
      stop_below: norm of the velocity below which the flow counts as arrived: it ends there, and later times read
        the state at its end. Where rounding is all that is left of the gradient, a solver would follow that. With
        None, or at 0, the flow always runs to the last time.
      stiff: see `integrate`.

    Returns:
      (alpha [P, n], beta [P, V]).

    Raises:
      ValueError: JAX computes in float32, or `freeze` is no such choice.
    """
    if freeze not in ("alpha", "beta", "nothing"):
        raise ValueError(f"freeze must be 'alpha', 'beta' or 'nothing', but {freeze!r} was given; choose one.")

    def velocity(state: State) -> State:
        d_alpha, d_beta = gradient(model, *state)
        still = jnp.zeros_like
        return still(d_alpha) if freeze == "alpha" else -d_alpha, still(d_beta) if freeze == "beta" else -d_beta

    return integrate(velocity, (jnp.asarray(alpha), jnp.asarray(beta)), times, stop_below=stop_below, stiff=stiff)


def adam_flow(
    model: RestrictedModel, alpha: jax.Array, beta: jax.Array, times: jax.Array, eps: float, stiff: bool = True
) -> State:
    """What Adam (1412.6980) does on R as its rate goes to 0 with its other settings held: the limit flow.

    Over any stretch of rate x steps the averages m and v then run over a vanishing part of the way, so m is g and v is
    g^2, and d theta / d(rate x step) = -g / (|g| + eps), entry by entry.

    Args:
      model: what is fixed. alpha: [n], beta: [V]: where the flow starts.
      times: [P] increasing positive values of rate x step at which it is read.
      eps: Adam's eps, positive. The flow turns stiff where entries of the gradient are as small as eps.
      stiff: see `integrate`.

    Returns:
      (alpha [P, n], beta [P, V]).

    Raises:
      ValueError: JAX computes in float32, or eps is not positive.
    """
    if eps <= 0:
        raise ValueError(f"eps must be positive, but {eps} was given; without it the flow jumps where a gradient is 0.")

    def velocity(state: State) -> State:
        d_alpha, d_beta = gradient(model, *state)
        return -d_alpha / (jnp.abs(d_alpha) + eps), -d_beta / (jnp.abs(d_beta) + eps)

    return integrate(velocity, (jnp.asarray(alpha), jnp.asarray(beta)), times, stiff=stiff)


def integrate(
    velocity: Callable[[State], State],
    start: State,
    times: jax.Array,
    *,
    tolerance: float = TOLERANCE,
    stop_below: float | jax.Array | None = None,
    stiff: bool = True,
) -> State:
    """An autonomous flow from t = 0, with an adaptive solver. Works under jit and vmap.

    Args:
      velocity: from a state to its velocity. start: the state at t = 0.
      times: [P] increasing positive times at which it is read.
      tolerance: relative and absolute error allowed in a step.
      stop_below: norm of the velocity at which the flow ends, as in `gradient_flow`.
      stiff: an implicit solver, which late times need. An explicit one compiles in a third of the time.

    Returns:
      The state with a leading axis of P.

    Raises:
      ValueError: JAX computes in float32.
    """
    if jnp.result_type(float) != jnp.float64:
        raise ValueError("a flow needs float64, but JAX has it off; call it inside jax.enable_x64(True).")

    slowest = 0.0 if stop_below is None else stop_below

    def arrived(_: Any, state: State, __: Any, **___: Any) -> jax.Array:
        return jnp.sqrt(sum(jnp.sum(x**2) for x in velocity(state))) < slowest

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda _, state, __: velocity(state)),
        diffrax.Kvaerno5() if stiff else diffrax.Dopri8(),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=start,
        saveat=diffrax.SaveAt(subs=[diffrax.SubSaveAt(ts=times), diffrax.SubSaveAt(t1=True)]),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=MAX_STEPS,
        # Nobody differentiates a flow backwards, and what that would need is slow to compile.
        adjoint=diffrax.ForwardMode(),
        event=diffrax.Event(arrived) if stop_below is not None else None,
    )
    at_times, at_end = solution.ys
    if stop_below is not None:
        # Times that the solver never reached are infinite.
        reached = times <= solution.ts[1]
        at_times = jax.tree.map(lambda x, end: jnp.where(reached[:, None], x, end), at_times, at_end)
    alphas, betas = at_times
    return alphas, betas
