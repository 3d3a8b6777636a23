"""Claims TH4a-c: a real network in which every query sees the same key counts is the restricted model of 2410.13835."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxsink.training import Adam
from theory import flow, restricted
from theory.calculations.networks import EqualCounts, Size, Trajectories
from theory.claim import TIERS, Claim, Control, Measure, Run, Spec, Tier

INF = math.inf
SOURCE = "2410.13835, section 2.2"
# Not small against the gradients, so that the limit flow of Adam is smooth.
EPS = 1e-2

_WIDER = Size(instances=16, characters=12, queries=8, extra=12)
_ADAM = Adam(rate=8e-3, b1=0.9, b2=0.9, eps=EPS)
Flow = Callable[..., flow.State]


def _specs(tier: Tier) -> dict[str, Spec]:
    if tier == "quick":
        return {
            "counts_equal": EqualCounts(),
            "counts_own": EqualCounts(size=Size(instances=32, own_counts=True)),
        }
    return {"counts_equal": EqualCounts(size=_WIDER), "counts_own": EqualCounts(size=Size(16, 12, 8, 12, True))}


def _trajectories(tier: Tier) -> dict[str, Spec]:
    halvings = 3 if tier == "quick" else 5
    return {
        "path_descent": Trajectories(halvings=halvings),
        "path_adam": Trajectories(optimiser=_ADAM, steps=250, halvings=halvings),
    }


def _models(run: Run) -> restricted.RestrictedModel:
    """The restricted models of all instances, stacked."""
    each = [
        restricted.restricted_model(*parts)
        for parts in zip(*(run.arrays[name] for name in ("p", "pi", "counts", "xi")), strict=True)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def _start(run: Run) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(run.arrays["alpha"]), jnp.asarray(run.arrays["beta"])


# TH4a -----------------------------------------------------------------------------------------------------------
def _loss_error(run: Run) -> float:
    """Largest relative error of the network's loss against R."""
    with jax.enable_x64(True):
        expected = np.asarray(jax.vmap(restricted.risk)(_models(run), *_start(run)))
    return float(np.abs(run.arrays["loss"] / expected - 1).max())


def _gradient_error(run: Run, index: int) -> float:
    """Largest error of the network's gradient against that of R, relative to the largest entry of an instance."""
    with jax.enable_x64(True):
        expected = np.asarray(jax.vmap(restricted.gradient)(_models(run), *_start(run))[index])
    found = run.arrays[("d_alpha", "d_beta")[index]]
    return float((np.abs(found - expected).max(1) / np.abs(expected).max(1)).max())


# Sums of some hundred terms of order ten in float64, over losses and gradients that are rarely below 1e-4.
_ROUNDING = (-INF, 1e-10)

TH4A = Claim(
    id="TH4a",
    source=SOURCE,
    statement="Where all queries see the same key counts, a network's loss and gradient are the restricted model's.",
    kind="identity",
    evidence={tier: _specs(tier) for tier in TIERS},
    measures=dict.fromkeys(
        TIERS,
        (
            Measure(
                "largest relative error of the loss",
                lambda a: _loss_error(a["counts_equal"]),
                "rounding",
                _ROUNDING,
                "log",
            ),
            Measure(
                "largest relative error of its gradient in alpha",
                lambda a: _gradient_error(a["counts_equal"], 0),
                "rounding",
                _ROUNDING,
                "log",
            ),
            Measure(
                "largest relative error of its gradient in beta",
                lambda a: _gradient_error(a["counts_equal"], 1),
                "rounding",
                _ROUNDING,
                "log",
            ),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("key counts of its own for every query, against R with their mean", {"counts_equal": "counts_own"}),
)


# TH4b, TH4c -----------------------------------------------------------------------------------------------------
@partial(jax.jit, static_argnums=(0, 1))
def _integrated(
    of: Flow, settings: tuple[float, ...], models: restricted.RestrictedModel, start: flow.State, times: jax.Array
) -> flow.State:
    # The flow is an argument, so that another one in its place is compiled anew.
    return jax.vmap(lambda model, alpha, beta: of(model, alpha, beta, times, *settings, stiff=False))(models, *start)


def _deviations(run: Run, of: Flow, settings: tuple[float, ...]) -> np.ndarray:
    """[I, S] largest distance of the iterates from the flow, over time and entries, by instance and rate."""
    with jax.enable_x64(True):
        there = _integrated(of, settings, _models(run), _start(run), jnp.asarray(run.arrays["time"]))
    pairs = zip((run.arrays["alphas"], run.arrays["betas"]), there, strict=True)
    return np.maximum(*(np.abs(found - np.asarray(at)[:, None]).max((2, 3)) for found, at in pairs))


def _path_measures(
    arm: str, flow_of: Callable[[], Flow], settings: tuple[float, ...], share: float
) -> tuple[Measure, ...]:
    def deviations(run: Run) -> np.ndarray:
        return _deviations(run, flow_of(), settings)

    def relative(run: Run) -> float:
        """Mean over instances of the deviation at the smallest rate, over how far alpha or beta moved in all."""
        ends = ((run.arrays["alphas"], run.arrays["alpha"]), (run.arrays["betas"], run.arrays["beta"]))
        moved = np.maximum(*(np.abs(path[:, -1, -1] - start).max(1) for path, start in ends))
        return float((deviations(run)[:, -1] / moved).mean())

    def order(run: Run) -> float:
        """Mean over instances of log2 of the deviation at the second smallest rate over that at the smallest."""
        found = deviations(run)
        return float(np.log2(found[:, -2] / found[:, -1]).mean())

    return (
        Measure(
            "deviation from the flow at the smallest rate, over the way", lambda a: relative(a[arm]), "0", (-INF, share)
        ),
        # At these rates the next order changes the fitted one by a few hundredths.
        Measure("order of convergence in the rate", lambda a: order(a[arm]), "1", (0.9, 1.1)),
    )


TH4B = Claim(
    id="TH4b",
    source=SOURCE,
    statement="Gradient descent on that network follows the gradient flow of R, to first order in its rate.",
    kind="theory",
    evidence={tier: _trajectories(tier) for tier in TIERS},
    # Half the smallest rate times the largest curvature, which is below 1/2.
    measures=dict.fromkeys(TIERS, _path_measures("path_descent", lambda: flow.gradient_flow, (), 0.03)),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("Adam, whose limit is another flow", {"path_descent": "path_adam"}),
)

TH4C = Claim(
    id="TH4c",
    source="1412.6980; its limit new",
    statement="Adam on that network follows d theta/d(rate x step) = -g/(|g| + eps), to first order in its rate.",
    kind="theory",
    evidence={tier: _trajectories(tier) for tier in TIERS},
    # The averages lag ten steps behind: .01 of the way of about one, where g changes by a few times eps.
    measures=dict.fromkeys(TIERS, _path_measures("path_adam", lambda: flow.adam_flow, (EPS,), 0.03)),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("gradient descent, whose limit is another flow", {"path_adam": "path_descent"}),
    note=f"With eps = {EPS:g}, large enough for the flow to be smooth, and betas of .9.",
)

CLAIMS = (TH4A, TH4B, TH4C)
