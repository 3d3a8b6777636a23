"""What optimisers make of a vanishing gradient, and how fast their paths near the flow that they follow."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.figures.evidence import Arms, Run
from experiments.figures.style import INK, MUTED, arm_colours, style
from experiments.figures.text import literal, number
from experiments.figures.theory_evidence import PREDICTED, Array, headline, legend, log_scale, optimiser, panels, read
from jaxsink.training import Adam
from theory import flow, peak
from theory.calculations.peaks import RATE, START
from theory.restricted import RestrictedModel, restricted_model


# Peak mechanism -------------------------------------------------------------------------------------------------
def peak_mechanism(runs: Arms) -> Figure:
    """Draws the residual scale of <s> under optimisers, with the predicted curves of Adam and gradient descent.

    Args:
        runs: arm name to one run per seed; of the first seed the first start is drawn. An arm of final values over
            Adam's settings has a panel of its own.

    Returns:
        The figure: the curves on linear and on logarithmic axes, the step at which one turns convex marked, and
        final values by setting.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    with style():
        curves = {arm: each for arm, each in runs.items() if each and "settings" not in each[0].arrays}
        sweeps = {arm: each for arm, each in runs.items() if each and arm not in curves}
        figure, places = panels(runs, 2 * bool(curves) + len(sweeps))
        colours = arm_colours(runs)
        if curves:
            for axes, scale in zip(places, ("linear", "log"), strict=False):
                _curves(axes, curves, colours)
                if scale == "linear":
                    axes.set_ylim(0, 1.15 * _top(curves))
                else:
                    log_scale(axes, "x", "y")
                axes.set_title(f"Residual scale of <s>, {scale} axes")
        for axes, (arm, arm_runs) in zip(places[2 * bool(curves) :], sweeps.items(), strict=True):
            _sweep(axes, arm_runs[0], colours[arm])
            headline(axes, runs, arm)
        marks = [
            Line2D([], [], color=colours[arm], lw=2.4, alpha=0.75, label=literal(arm)) for arm, each in curves.items()
        ]
        legend(
            figure,
            *marks,
            Line2D([], [], **PREDICTED, label="predicted"),
            *([Line2D([], [], ls="", marker="D", color=INK, mfc="white", label="turns convex")] if curves else []),
        )
    return figure


def _curves(axes: Axes, runs: Arms, colours: Mapping[str, str]) -> None:
    for arm, arm_runs in runs.items():
        measured, start = read(arm_runs[0], "peak")[0], float(read(arm_runs[0], "start")[0])
        step = np.arange(1, measured.size + 1)
        axes.plot(step, measured, color=colours[arm], lw=2.4, alpha=0.75)
        predicted = _predicted_peak(arm_runs[0], start, measured.size)
        if predicted is None:
            continue
        axes.plot(step, predicted, **PREDICTED)
        # Where the prediction is straight, only rounding would make the measured curve turn.
        if peak.turning_step(predicted) and (turn := peak.turning_step(measured)):
            axes.plot(turn, measured[turn - 1], "D", color=INK, mfc="white", ms=6, zorder=5)
            at = turn, measured[turn - 1]
            axes.annotate(f"step {turn:,}", at, (-5, 6), textcoords="offset points", ha="right", size=8)
    axes.set_xlabel("step")
    axes.set_ylabel("residual scale m of <s>")


def _top(runs: Arms) -> float:
    """The largest value of all curves but those of steps of one size, which would flatten the others."""
    tops = {arm: float(np.nanmax(read(each[0], "peak")[0], initial=1.0)) for arm, each in runs.items()}
    others = [top for arm, top in tops.items() if optimiser(runs[arm][0]).get("type") != "SignSGD"]
    return max(others or tops.values())


def _predicted_peak(run: Run, start: float, steps: int) -> Array | None:
    """The predicted curve, where there is one: of Adam and of gradient descent on m alone."""
    settings = optimiser(run)
    if run.manifest.get("spec", {}).get("coupled"):
        return None
    if settings.get("type") == "Adam":
        return peak.adam_peak(settings["rate"], start, steps, settings["b1"], settings["b2"], settings["eps"])
    if settings.get("type") == "SGD":
        return peak.sgd_peak(settings["rate"], start, steps)
    return None


def _sweep(axes: Axes, run: Run, colour: str) -> None:
    settings, final = read(run, "settings"), read(run, "final")
    place = np.arange(len(final))
    axes.bar(place, final, color=colour, alpha=0.6, width=0.7)
    steps = run.manifest.get("spec", {}).get("steps")
    if steps:
        adam = Adam(RATE)
        ends = [peak.adam_peak(RATE, START, steps, adam.b1, b2, eps)[-1] for b2, eps in settings]
        axes.hlines(ends, place - 0.45, place + 0.45, **PREDICTED)
    axes.set_xticks(place, [f"{b2:g}\n{eps:.0e}" for b2, eps in settings])
    axes.grid(False, axis="x")
    axes.set_xlabel("β₂ of Adam, and below it ε")
    axes.set_ylabel("final m of <s>")


# Order of convergence -------------------------------------------------------------------------------------------
def order_of_convergence(runs: Arms) -> Figure:
    """Draws training paths of the restricted model's network beside the flow that they follow.

    Args:
        runs: arm name to one run per seed, each with the paths of an optimiser at rates that halve.

    Returns:
        The figure: a row per arm. Left, sink logits of the first instance of the first seed at the largest and the
        smallest rate, with the flow; right, the largest deviation from the flow over how far the path went, against
        the rate, for every instance, with the slope 1 of first order.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    with style():
        figure, places = panels(runs, 2 * len(runs))
        colours = arm_colours(runs)
        for row, (arm, arm_runs) in enumerate(runs.items()):
            flows = [_limit_flow(run) for run in arm_runs]
            _paths(places[2 * row], arm_runs[0], flows[0][0], colours[arm])
            headline(places[2 * row], runs, arm)
            pairs = zip(arm_runs, flows, strict=True)
            slopes = np.concatenate([_orders(places[2 * row + 1], *each, colours[arm]) for each in pairs])
            fitted = number(float(slopes.mean())) if slopes.size else "none"
            headline(places[2 * row + 1], runs, arm, f"fitted slope {fitted}, mean over instances; predicted 1")
        legend(
            figure,
            Line2D([], [], ls="", color=MUTED, marker="o", ms=4.5, label="measured, smallest rate"),
            Line2D([], [], ls="", color=MUTED, marker="+", ms=8, mew=1.4, label="largest rate"),
            Line2D([], [], ls="", color=MUTED, marker="D", ms=4, label="deviation of an instance"),
            Line2D([], [], **PREDICTED, label="predicted"),
        )
    return figure


@partial(jax.jit, static_argnums=0)
def _flow(eps: float | None, models: RestrictedModel, start: flow.State, times: jax.Array) -> flow.State:
    def one(model: RestrictedModel, alpha: jax.Array, beta: jax.Array) -> flow.State:
        if eps is None:
            return flow.gradient_flow(model, alpha, beta, times, stiff=False)
        return flow.adam_flow(model, alpha, beta, times, eps, stiff=False)

    return jax.vmap(one)(models, *start)


def _limit_flow(run: Run) -> tuple[Array, Array]:
    """Alpha [I, P, n] and beta [I, P, V] of the flow that the run's optimiser follows at small rates."""
    settings = optimiser(run)
    eps = float(settings["eps"]) if settings.get("type") == "Adam" else None
    with jax.enable_x64(True):
        inputs = zip(*(read(run, name) for name in ("p", "pi", "counts", "xi")), strict=True)
        models = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(restricted_model(*each) for each in inputs))
        start = jnp.asarray(read(run, "alpha")), jnp.asarray(read(run, "beta"))
        alpha, beta = _flow(eps, models, start, jnp.asarray(read(run, "time")))
        return np.asarray(alpha), np.asarray(beta)


def _paths(axes: Axes, run: Run, alpha: Array, colour: str) -> None:
    time, paths, start = read(run, "time"), read(run, "alphas")[0], read(run, "alpha")[0]
    axes.plot(time, paths[-1], "o", ms=4.5, color=colour, alpha=0.75)
    axes.plot(time, paths[0], "+", ms=8, mew=1.4, color=colour)
    axes.plot(np.append(0, time), np.vstack([start, alpha[0]]), **PREDICTED)
    axes.set_xlim(left=0)
    axes.set_xlabel("rate × step")
    axes.set_ylabel("sink logit α_v (logits)")


def _orders(axes: Axes, run: Run, there: tuple[Array, Array], colour: str) -> Array:
    """Fitted slopes of the deviations, which are drawn, of the instances in which all are positive."""
    rate = read(run, "rate")
    pairs = [(read(run, "alphas"), there[0], read(run, "alpha")), (read(run, "betas"), there[1], read(run, "beta"))]
    away = np.max([np.abs(path - at[:, None]).max((2, 3)) for path, at, _ in pairs], axis=0)
    moved = np.max([np.abs(path[:, -1, -1] - start).max(1) for path, _, start in pairs], axis=0)
    # Neither a path that does not move nor one without any deviation has a place on logarithmic axes.
    share = np.where((away > 0) & (moved > 0)[:, None], away, np.nan) / np.where(moved > 0, moved, np.nan)[:, None]
    axes.plot(rate, share.T, "D", ms=4, color=colour, alpha=0.75)
    axes.plot(rate, share[:, -1:].T * (rate / rate[-1])[:, None], **PREDICTED)
    log_scale(axes, "x", "y")
    axes.set_xticks(rate, [f"{each:g}" for each in rate])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("rate")
    axes.set_ylabel("largest deviation / way")
    return np.asarray([np.polyfit(np.log(rate), np.log(each), 1)[0] for each in share if np.isfinite(each).all()])
