"""Gradient flow on the restricted model, integrated stiffly in float64 (2410.13835, theorem 2)."""

from __future__ import annotations

from typing import Any, Literal

import diffrax
import jax
import jax.numpy as jnp

from theory.restricted import RestrictedModel, gradient

# 1e-10 relative keeps conserved quantities to about 1e-9 over nine decades of time.
TOLERANCE = 1e-10
MAX_STEPS = 20_000


def gradient_flow(
    model: RestrictedModel,
    alpha: jax.Array,
    beta: jax.Array,
    times: jax.Array,
    freeze: Literal["alpha", "beta", "nothing"] = "nothing",
) -> tuple[jax.Array, jax.Array]:
    """d(alpha, beta)/dt = -grad R from t = 0, with an adaptive implicit solver. Works under jit and vmap.

    Args:
      model: what is fixed. alpha: [n], beta: [V]: where the flow starts.
      times: [P] increasing positive times at which it is read; 1e9 is within reach.
      freeze: what is held at its start.

    Returns:
      (alpha [P, n], beta [P, V]).

    Raises:
      ValueError: JAX computes in float32, or `freeze` is no such choice.
    """
    if jnp.result_type(float) != jnp.float64:
        raise ValueError("gradient_flow needs float64, but JAX has it off; call it inside jax.enable_x64(True).")
    if freeze not in ("alpha", "beta", "nothing"):
        raise ValueError(f"freeze must be 'alpha', 'beta' or 'nothing', but {freeze!r} was given; choose one.")

    def velocity(_: Any, state: tuple[jax.Array, jax.Array], __: Any) -> tuple[jax.Array, jax.Array]:
        d_alpha, d_beta = gradient(model, *state)
        still = jnp.zeros_like
        return still(d_alpha) if freeze == "alpha" else -d_alpha, still(d_beta) if freeze == "beta" else -d_beta

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Kvaerno5(),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=(jnp.asarray(alpha), jnp.asarray(beta)),
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE),
        max_steps=MAX_STEPS,
    )
    alphas, betas = solution.ys
    return alphas, betas
