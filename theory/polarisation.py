"""Gradient flow polarises softmax: the value-softmax model of 2603.06248, its flow, and what the flow must do.

The loss is log(1 + exp(-z)) of the margin z = beta . (V w), with w = softmax(a), label +1 and a fixed direction beta of
length 1; the value matrix V [d, n] and the logits a [n] learn. Only u = V^T beta matters. Statements marked new are
this project's; m = n - 1 is the number of losers, and D = u_winner - mean of the others, which grows like log t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
State = tuple[jax.Array, jax.Array]

# 1e-10 a step keeps conserved quantities to about 1e-8 over the some hundred steps to t = 1e100.
TOLERANCE = 1e-10
MAX_STEPS = 20_000


def _linear(logits: jax.Array) -> jax.Array:
    return logits


# What stands in the place of softmax; "linear" is the plain sum of values, "sigmoid" is not normalised.
WEIGHTS: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {"softmax": jax.nn.softmax, "linear": _linear, "sigmoid": jax.nn.sigmoid}
)


def weights(kind: jax.Array, logits: jax.Array) -> jax.Array:
    """The weights w [..., n] of logits.

    Args:
      kind: index into `WEIGHTS`; an array, so that all kinds share one program. logits: [..., n].
    """
    return jax.lax.switch(kind, list(WEIGHTS.values()), logits)


def flow_velocity(kind: jax.Array, direction: jax.Array, state: State, log_time: jax.Array) -> State:
    """-(1 + t) grad of the loss in (V, a), by automatic differentiation: the velocity in log(1 + t).

    Args:
      kind: index into `WEIGHTS`. direction: [N, d], beta. state: (V [N, d, n], a [N, n]). log_time: log(1 + t).
    """

    def loss(state: State) -> jax.Array:
        value, logits = state
        margin = jnp.einsum("id,idn,in->i", direction, value, weights(kind, logits))
        return jax.nn.softplus(-margin).sum()

    return jax.tree.map(lambda gradient: -jnp.exp(log_time) * gradient, jax.grad(loss)(state))


def gradient_flow(
    kind: jax.Array, direction: jax.Array, value: jax.Array, logits: jax.Array, times: jax.Array
) -> State:
    """Gradient flow of N instances from t = 0, in the time log(1 + t), in which it is not stiff. Works under jit.

    Args:
      kind: index into `WEIGHTS`. direction: [N, d]. value: [N, d, n], V(0). logits: [N, n], a(0).
      times: [P] increasing log(1 + t) at which it is read; 230, that is t = 1e100, is within reach.

    Returns:
      (V [P, N, d, n], a [P, N, n]).

    Raises:
      ValueError: JAX computes in float32.
    """
    if jnp.result_type(float) != jnp.float64:
        raise ValueError("gradient_flow needs float64, but JAX has it off; call it inside jax.enable_x64(True).")

    def velocity(time: Any, state: State, _: Any) -> State:
        return flow_velocity(kind, direction, state, time)

    def largest(error: State) -> jax.Array:
        # Of all instances: a mean over them would let one go astray.
        return jnp.maximum(*(jnp.abs(part).max() for part in error))

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Tsit5(),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=(jnp.asarray(value), jnp.asarray(logits)),
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE, norm=largest),
        max_steps=MAX_STEPS,
    )
    values, all_logits = solution.ys
    return values, all_logits


# Predictions for softmax ----------------------------------------------------------------------------------------
def velocity(u: Array, logits: Array) -> tuple[Array, Array]:
    """(du/dt, da/dt) under softmax: s w and s w (u - w.u), with s = 1 / (1 + e^z) the slope of the loss (section 3).

    Args:
      u: [..., n]. logits: [..., n].
    """
    w = np.exp(logits - logits.max(-1, keepdims=True))
    w = w / w.sum(-1, keepdims=True)
    margin = (w * u).sum(-1, keepdims=True)
    slope = 1 / (1 + np.exp(margin))
    return slope * w, slope * w * (u - margin)


def ranking(u: Array) -> NDArray[np.int64]:
    """Order that the flow from equal logits keeps, in u and in the weights, the winner last (section 3).

    Args:
      u: [..., n], u(0).

    Returns:
      [..., n] indices, from the smallest u to the largest.
    """
    return np.argsort(u, -1)


def weight_lost(u: Array, w: Array) -> Array:
    """1 - w_winner late in the flow, to its next orders in T = D^2/2 (new).

    With D_i = u_winner - u_i every loser obeys d(1/w_i)/dT = D_i/D + (1/w_i) sum_k (D_k/D) w_k. For D_i = D this has
    the closed solution 1/w_i = G (c_i + S), G = K prod_k (c_k + S), dT = G dS. From it, and with D_i to first order,

      2 m / (n D^2) [1 - C^2 / (m - 1) + 2 m n cov / (n - 2)^2 + ...],

    C the coefficient of variation of 1/w_i over the losers, which falls like T^{-1/n}, so that all losers end equal;
    cov the mean of (D_i/D - 1) (1/w_i / mean - 1). (Spreads x_i of 1/w_i and y_i of D_i obey n T dx_i/dT = y_i - x_i,
    y_i falling like T^{-1/2}, and d mean(1/w)/dT = n + sum x_i^2 - sum x_i y_i.) Left out is the order 2 C^3 / (m - 2).

    Args:
      u: [..., n]. w: [..., n] softmax weights, of which the losers' are used, for C and cov alone. n at least 4.
    """
    n = u.shape[-1]
    m = n - 1
    best = w == w.max(-1, keepdims=True)
    losers = (*u.shape[:-1], m)
    gap = u[best].reshape(*u.shape[:-1], 1) - u[~best].reshape(losers)
    inverse = 1 / w[~best].reshape(losers)
    mean = gap.mean(-1)
    ahead, slower = gap / mean[..., None] - 1, inverse / inverse.mean(-1, keepdims=True) - 1
    orders = 1 - (slower**2).mean(-1) / (m - 1) + 2 * m * n / (n - 2) ** 2 * (ahead * slower).mean(-1)
    return 2 * m / (n * mean**2) * orders


def entropy(log_time: Array, n: int) -> Array:
    """Entropy of the weights late in the flow, with D = log t and equal losers w = 2 / (n D^2) (new).

    m w (1 - log w) to leading order: it falls like log(log^2 t) / log^2 t, a little slower than the 1/log^2 t of the
    weight lost.

    Args:
      log_time: [...] log t, large. n: number of weights.
    """
    w = 2 / (n * log_time**2)
    return (n - 1) * w * (1 - np.log(w))


def entropy_slope(log_time: Array, n: int) -> Array:
    """d log entropy / d log log t of `entropy`, -2 + 2 / (1 - log w); it is -1.78 at t = 1e15 for n = 8, not yet -2.

    Args:
      log_time: [...] log t. n: number of weights.
    """
    return -2 + 2 / (1 - np.log(2 / (n * log_time**2)))


# Predictions for what does not polarise -------------------------------------------------------------------------
def linear_logits(u: Array, logits: Array, margin: Array) -> Array:
    """Logits, which are the weights, of the linear model when it has come to a margin (exact, new).

    In the time tau with dtau = s dt, du = a dtau and da = u dtau, so that a = cosh(tau) a(0) + sinh(tau) u(0) and
    z = 1/2 sinh(2 tau) (|a(0)|^2 + |u(0)|^2) + cosh(2 tau) a(0).u(0): the direction tends to a(0) + u(0).

    Args:
      u: [..., n], u(0). logits: [..., n], a(0). margin: [...] z, at least its start a(0).u(0).
    """
    size, start = ((u**2 + logits**2).sum(-1) / 2, (u * logits).sum(-1))
    # z = A e^{2 tau} - B e^{-2 tau}, A = (size + start)/2 and B = (size - start)/2, both positive.
    up, down = (size + start) / 2, (size - start) / 2
    tau = 0.5 * np.log((margin + np.sqrt(margin**2 + 4 * up * down)) / (2 * up))
    return np.cosh(tau)[..., None] * logits + np.sinh(tau)[..., None] * u


def sigmoid_conserved(u: Array, logits: Array) -> Array:
    """What every coordinate of the sigmoid model conserves: u^2/2 - a - e^a, from du = w and da = w (1 - w) u (new).

    Hence a falls to no less than about -u(0)^2/2 and then grows: all weights tend to 1, equal shares.

    Args:
      u: [..., n]. logits: [..., n].
    """
    return u**2 / 2 - logits - np.exp(logits)


def share_entropy(w: Array) -> Array:
    """Entropy of the shares |w| / sum |w|, in nats.

    Args:
      w: [..., n] weights of either sign, not all zero.
    """
    share = np.abs(w) / np.abs(w).sum(-1, keepdims=True)
    return -(share * np.log(np.maximum(share, np.finfo(np.float64).tiny))).sum(-1)
