"""What gradient flow does on restricted models: drain of the value state, its freezing, concentration."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.figures.evidence import Arms, Run
from experiments.figures.style import INK, MUTED, arm_colours, style
from experiments.figures.text import literal, number
from experiments.figures.theory_evidence import (
    PREDICTED,
    Array,
    freezing,
    headline,
    held,
    instance,
    legend,
    log_scale,
    panels,
    parts,
    read,
)
from theory import predictions
from theory.restricted import RestrictedModel

_INSTANCES = 4
_TRAJECTORIES = 8
_DECAY_TIMES = 30.0  # of 1 / rate; rounding is all that is left then
_FLOOR = 1e-12  # below it there is rounding
_THIN = 40  # lines of single instances
_SOLVED = 1e-9  # below it the solver's error shows
# Distance from the end over which only the slowest mode, and no rounding, is left: that of claim TH2b.
_LATE = 1e-8, 1e-5


# Value convergence ----------------------------------------------------------------------------------------------
def value_convergence(runs: Arms) -> Figure:
    """Draws how the value state reaches its limit, and how far it drains.

    Args:
        runs: arm name to one run per seed; the first seed is drawn, in the panels of convergence four instances.

    Returns:
        The figure: a panel per arm with the distance from the predicted limit over time in units of the predicted
        rate, whose slope is dashed; then the drain against the frozen logit with the curve e^-a.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    with style():
        frozen = [arm for arm, arm_runs in runs.items() if arm_runs and _drains_only(arm_runs[0])]
        figure, places = panels(runs, len(runs) + bool(frozen))
        colours = arm_colours(runs)
        for axes, (arm, arm_runs) in zip(places, runs.items(), strict=False):
            _convergence(axes, runs, arm, arm_runs[0], colours[arm])
        if frozen:
            _drain(places[-1], {arm: runs[arm] for arm in frozen}, colours)
        legend(
            figure,
            Line2D([], [], color=MUTED, lw=2.4, label="measured, a line for each instance"),
            Line2D([], [], **PREDICTED, label="predicted"),
        )
    return figure


def _drains_only(run: Run) -> bool:
    return held(read(run, "alpha"), read(run, "start_alpha")[:, None])


def _convergence(axes: Axes, runs: Arms, arm: str, run: Run, colour: str) -> None:
    times, alpha, beta = np.append(0.0, read(run, "times")), read(run, "start_alpha"), read(run, "start_beta")
    ratios = []
    for i, path in enumerate(read(run, "beta")):
        model, logit = instance(run, i), float(alpha[i].mean())
        limit, rate = predictions.value_limit(model, logit, beta[i]), predictions.value_rate(model, logit)
        ratios.append(_fitted_rate(times[1:], path) / rate)
        way = np.linalg.norm(beta[i] - limit)
        if i >= _INSTANCES or way < _FLOOR:
            continue
        away = np.linalg.norm(np.vstack([beta[i], path]) - limit, axis=1) / way
        x = rate * times
        shown = (x < _DECAY_TIMES) & (away > _FLOOR)
        axes.plot(x[shown], away[shown], color=colour, lw=2.4, alpha=0.6)
        if _drains_only(run) and (shown & (away > _SOLVED)).any():
            last = np.flatnonzero(shown & (away > _SOLVED))[-1]
            ends = np.array([0, min(_DECAY_TIMES, x[last] + np.log(away[last] / _FLOOR))])
            axes.plot(ends, away[last] * np.exp(x[last] - ends), **PREDICTED)
    log_scale(axes, "y")
    axes.set_xlabel("predicted rate × time t")
    axes.set_ylabel("‖β − β*‖ / ‖β(0) − β*‖")
    found = np.asarray(ratios)[np.isfinite(ratios)]
    if not _drains_only(run):
        headline(axes, runs, arm, "β*: the limit if the sink logits had stayed where they started")
    elif found.size:
        middle, low, high = (number(float(each)) for each in (np.median(found), found.min(), found.max()))
        words = f"{middle} (median; {low} to {high})" if found.size > 1 else middle
        headline(axes, runs, arm, f"fitted over predicted rate: {words}")
    else:
        headline(axes, runs, arm, "too few points for a fitted rate")


def _fitted_rate(times: Array, path: Array) -> float:
    """Decay rate of the distance from the end over its last stretch above rounding, or NaN."""
    distance = np.linalg.norm(path - path[-1], axis=1)
    late = (distance > _LATE[0]) & (distance < _LATE[1])
    return float(-np.polyfit(times[late], np.log(distance[late]), 1)[0]) if late.sum() > 2 else float("nan")


def _drain(axes: Axes, runs: Arms, colours: dict[str, str]) -> None:
    logits = []
    for arm, arm_runs in runs.items():
        run = arm_runs[0]
        end, alpha = read(run, "beta")[:, -1], read(run, "start_alpha").mean(1)
        points = [(a, drain) for i, a in enumerate(alpha) for drain in _drains(instance(run, i), end[i])]
        logits += [a for a, _ in points]
        axes.plot(*np.reshape(points, (-1, 2)).T, "o", ms=5, color=colours[arm], alpha=0.75, label=literal(arm))
    if logits:
        a = np.linspace(min(logits) - 0.2, max(logits) + 0.2, 100)
        axes.plot(a, np.exp(-a), **PREDICTED, label="$e^{-a}$")
    log_scale(axes, "y")
    axes.set_title("Drain of the value state, predicted: $e^{-a}$", size=8)
    axes.set_xlabel("frozen sink logit a (logits)")
    axes.set_ylabel("‖β* − mean‖ / ‖B − mean‖")
    axes.legend(loc="best")


def _drains(model: RestrictedModel, beta: Array) -> list[float]:
    """Spread of beta over that of B in each component of a model in which B varies."""
    found = [(np.std(beta[part.tokens]), np.std(part.drained)) for part in parts(model)]
    return [float(of_beta / of_b) for of_beta, of_b in found if of_b]


# Phase portrait -------------------------------------------------------------------------------------------------
def phase_portrait(runs: Arms) -> Figure:
    """Draws flows in the plane of the mean sink logit and the drain of the value state.

    Args:
        runs: arm name to one run per seed; eight instances of the first seed are drawn, each component of their
            rows as a trajectory of its own.

    Returns:
        The figure: a panel per arm with trajectories, their starts and ends, the curve e^-a on which a flow of one
        context can rest, and the points at which it is predicted to freeze.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    with style():
        figure, places = panels(runs, len(runs))
        colours = arm_colours(runs)
        for axes, (arm, arm_runs) in zip(places, runs.items(), strict=True):
            _portrait(axes, arm_runs[0], colours[arm])
            headline(axes, runs, arm)
        legend(
            figure,
            Line2D([], [], color=MUTED, lw=1.4, marker="o", mfc="white", ms=6, label="measured, from its start"),
            Line2D([], [], color=MUTED, lw=1.4, marker="s", ms=6, label="to its end"),
            Line2D([], [], **PREDICTED, label="$e^{-a}$ (stationary)"),
            Line2D([], [], ls="", color=INK, marker="x", ms=8, mew=1.6, label="predicted to freeze"),
        )
    return figure


def _portrait(axes: Axes, run: Run, colour: str) -> None:
    start_alpha, start_beta = read(run, "start_alpha"), read(run, "start_beta")
    alphas, betas = read(run, "alpha"), read(run, "beta")
    seen = []
    for i in range(min(_TRAJECTORIES, len(alphas))):
        alpha, beta = np.vstack([start_alpha[i], alphas[i]]), np.vstack([start_beta[i], betas[i]])
        joint = not held(alpha, alpha[0]) and not held(beta, beta[0])
        for part in parts(instance(run, i)):
            if not (of_b := np.std(part.drained)):
                continue
            logit, drain = alpha[:, part.queries].mean(1), beta[:, part.tokens].std(1) / of_b
            if not (drain > _FLOOR).any():
                continue
            axes.plot(logit, drain, color=colour, lw=1.4, alpha=0.75)
            axes.plot(logit[0], drain[0], "o", color=colour, mfc="white", ms=6, zorder=4)
            axes.plot(logit[-1], drain[-1], "s", color=colour, ms=6, zorder=4)
            seen.append(logit)
            at = freezing(part, start_alpha[i], start_beta[i])
            if joint and np.isfinite(at):
                axes.plot(at, np.exp(-at), "x", color=INK, ms=8, mew=1.6, zorder=5)
    axes.set_xlabel("mean sink logit a (logits)")
    axes.set_ylabel("drain: std of β / std of B")
    log_scale(axes, "y")
    every = np.concatenate(seen) if seen else np.empty(0)
    every = every[np.isfinite(every)]
    if every.size:
        a = np.linspace(every.min(), every.max(), 200)
        axes.plot(a, np.exp(-a), **PREDICTED)
    else:
        axes.text(0.5, 0.5, "β or B is constant: there is no drain", transform=axes.transAxes, ha="center")


# Concentration --------------------------------------------------------------------------------------------------
def concentration(runs: Arms) -> Figure:
    """Draws the spread of the sink logits over the queries, under gradient flow and under optimisers.

    Args:
        runs: arm name to one run per seed; flows have "times", optimisers "step".

    Returns:
        The figure: a panel for flows and one for optimisers, as far as there are some. Thin lines are the instances
        of the first seed, thick ones their median; predicted is that they fall to 0.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    with style():
        flows = {arm: each for arm, each in runs.items() if each and "times" in each[0].arrays}
        steps = {arm: each for arm, each in runs.items() if arm not in flows}
        groups = [(name, group) for name, group in (("times", flows), ("step", steps)) if group]
        figure, places = panels(runs, max(1, len(groups)))
        colours = arm_colours(runs)
        ends: list[tuple[str, str]] = []
        for axes, (name, group) in zip(places, groups, strict=True):
            for arm, arm_runs in group.items():
                ends.append((arm, number(_spread(axes, arm_runs[0], name, colours[arm]))))
            axes.axhline(0, **PREDICTED)
            axes.set_ylabel("spread of α over queries (logits)")
            axes.set_xlabel("time t of the flow" if name == "times" else "step")
            if name == "times":
                log_scale(axes, "x")
            axes.set_title("Gradient flow" if name == "times" else "Optimisers")
        legend(
            figure,
            *(
                Line2D([], [], color=colours[arm], lw=2.2, label=f"{literal(arm)}, at the end {end}")
                for arm, end in ends
            ),
            Line2D([], [], color=MUTED, lw=0.7, label="single instances"),
            Line2D([], [], color=MUTED, lw=2.2, label="their median"),
            Line2D([], [], **PREDICTED, label="predicted end, B not constant"),
        )
    return figure


def _spread(axes: Axes, run: Run, x: str, colour: str) -> float:
    """The median over the instances at the end."""
    spread = np.stack([_weighted_spread(instance(run, i), alpha) for i, alpha in enumerate(read(run, "alpha"))])
    median = np.median(spread, axis=0)
    axes.plot(read(run, x), spread[:_THIN].T, color=colour, lw=0.7, alpha=0.45)
    axes.plot(read(run, x), median, color=colour, lw=2.2)
    return float(median[-1])


def _weighted_spread(model: RestrictedModel, alpha: Array) -> Array:
    """[P] standard deviation of the sink logits [P, n] about the means of their components, weighted by pi."""
    variance = np.zeros(len(alpha))
    for part in parts(model):
        weight, own = np.asarray(part.model.pi), alpha[:, part.queries]
        mean = own @ weight / weight.sum()
        variance += (own - mean[:, None]) ** 2 @ weight
    return np.sqrt(variance / np.sum(model.pi))
