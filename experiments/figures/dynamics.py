"""Training dynamics of the sink: risks, attention to <s>, its logit and its value (after 2410.13835)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from experiments.figures.evidence import Arms, Run, arm_label, curve, layers
from experiments.figures.style import BASELINE, INK, MUTED, arm_colours, new_figure, step_axis, style
from experiments.figures.text import literal, number
from jaxsink.metrics import LineFit, line_fit


class _Quantity(NamedTuple):
    array: str
    title: str
    unit: str


_RISKS = (
    _Quantity("backcopy", "Backcopy excess risk", "nats, log scale"),
    _Quantity("bigram", "Bigram excess risk", "nats, log scale"),
)
_PER_LAYER = (
    _Quantity("attn_start", "Attention to <s>", "weight, non-trigger queries"),
    _Quantity("dlogit", "Sink logit gap (Dlogit)", "logits"),
    _Quantity("value_norm_start", "Value norm of <s>", "norm of W_O v"),
    _Quantity("value_ratio", "Value norm ratio, <s> to others", "ratio to their median"),
)

# The end of the fast phase: BB2's upper threshold on the Backcopy risk.
_FAST_PHASE_RISK = 0.1


class LogFit(NamedTuple):
    """A line fitted to a curve over the natural logarithm of the training step."""

    line: LineFit
    start: float
    """First step of the fit."""


def log_fit(step: NDArray[np.float64], values: NDArray[np.float64], risk: NDArray[np.float64]) -> LogFit | None:
    """Fits a + b ln(step) to what follows the fast phase.

    Args:
        step: [P] training steps.
        values: [P] the curve.
        risk: [P] Backcopy excess risk in nats; the fit starts where it first falls below 0.1, or covers the
            last decade of steps where it never does.

    Returns:
        The fit, or None where fewer than three finite points are left.
    """
    below = np.flatnonzero((risk < _FAST_PHASE_RISK) & (step > 0))
    start = float(step[below[0]]) if below.size else float(step[-1]) / 10.0
    used = (step >= start) & (step > 0) & np.isfinite(values)
    if used.sum() < 3:
        return None
    return LogFit(line_fit(np.log(step[used]), values[used]), float(step[used][0]))


def dynamics(runs: Arms) -> Figure:
    """Draws the training dynamics of one or several arms, each quantity in its own panel.

    Args:
        runs: arm name to one run per seed.

    Returns:
        The figure: the two risks, then attention, logit gap, value norm and value ratio per layer, over a
        shared logarithmic axis of training steps.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    depth = layers(runs)
    colours = arm_colours(runs)
    with style():
        figure, panels = _panels(depth, len(runs))
        for (quantity, layer), axes in panels.items():
            shown = {arm: arm_runs for arm, arm_runs in runs.items() if layer is None or layer < _depth(arm_runs)}
            for arm, arm_runs in shown.items():
                _curves(axes, arm, arm_runs, quantity, layer, colours[arm])
            axes.set_title(quantity.title + ("" if layer is None or depth == 1 else f", layer {layer}"))
            axes.set_ylabel(quantity.unit)
            if quantity in _RISKS:
                axes.set_yscale("log")
            if quantity.array == "attn_start":
                _baselines(axes, shown)
            if quantity.array == "dlogit":
                _fits(axes, shown, layer)
            if quantity.array in ("value_norm_start", "value_ratio"):
                axes.set_ylim(bottom=0)
            step_axis(axes, _first_step(runs))
        marks = [Line2D([], [], color=colour, lw=2.2, label=arm_label(runs, arm)) for arm, colour in colours.items()]
        marks += [
            Line2D([], [], color=MUTED, lw=0.7, label="single seeds"),
            Line2D([], [], color=BASELINE, lw=1.2, ls="--", label="uniform attention"),
            Line2D([], [], color=INK, lw=1.4, ls=":", label="fit a + b ln(step)"),
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=3)
    return figure


def _panels(depth: int, arms: int) -> tuple[Figure, dict[tuple[_Quantity, int | None], Axes]]:
    panels: dict[tuple[_Quantity, int | None], Axes] = {}
    places: list[tuple[tuple[_Quantity, int | None], SubplotSpec]] = []
    shared: Axes | None = None
    fit_lines = 0.15 * arms  # inches for one line of text per arm above the panel with the fits
    if depth == 1:
        figure = new_figure(9.0, 8.0 + fit_lines)
        grid = figure.add_gridspec(3, 2)
        places += [((quantity, None), grid[0, index]) for index, quantity in enumerate(_RISKS)]
        places += [((quantity, 0), grid[1 + i // 2, i % 2]) for i, quantity in enumerate(_PER_LAYER)]
    else:
        figure = new_figure(3.6 * max(depth, 2), 12.0 + fit_lines)
        # Twice as many columns as layers, so that the two risks can split the first row.
        grid = figure.add_gridspec(1 + len(_PER_LAYER), 2 * depth)
        places += [((q, None), grid[0, i * depth : (i + 1) * depth]) for i, q in enumerate(_RISKS)]
        places += [
            ((quantity, layer), grid[1 + row, 2 * layer : 2 * layer + 2])
            for row, quantity in enumerate(_PER_LAYER)
            for layer in range(depth)
        ]
    for (quantity, layer), place in places:
        # The two risks share a scale, and so do the layers of one quantity.
        beside = panels.get((_RISKS[0], None) if layer is None else (quantity, 0))
        panels[quantity, layer] = figure.add_subplot(place, sharex=shared, sharey=beside)
        shared = shared or panels[quantity, layer]
    return figure, panels


def _curves(axes: Axes, arm: str, runs: Sequence[Run], quantity: _Quantity, layer: int | None, colour: str) -> None:
    drawn = curve(arm, runs, quantity.array, layer)
    seeds, mean = drawn.seeds, drawn.mean
    if quantity in _RISKS:
        # A logarithmic axis has no place for a risk that rounds to 0 or below.
        seeds, mean = (np.where(values > 0, values, np.nan) for values in (seeds, mean))
    for values in seeds:
        axes.plot(drawn.step, values, color=colour, lw=0.7, alpha=0.45)
    axes.plot(drawn.step, mean, color=colour, lw=2.2)


def _baselines(axes: Axes, runs: Arms) -> None:
    levels = {
        round(float(run.arrays["baseline"]), 4) for arm in runs.values() for run in arm if "baseline" in run.arrays
    }
    for level in sorted(levels):
        axes.axhline(level, color=BASELINE, lw=1.2, ls="--")
    axes.set_ylim(0, 1)


def _fits(axes: Axes, runs: Arms, layer: int | None) -> None:
    lines = []
    for arm, arm_runs in runs.items():
        gap = curve(arm, arm_runs, "dlogit", layer)
        fit = log_fit(gap.step, gap.mean, curve(arm, arm_runs, "backcopy").mean)
        if fit is None:
            continue
        step = np.geomspace(fit.start, gap.step[-1], 50)
        axes.plot(step, fit.line.intercept + fit.line.slope * np.log(step), color=INK, lw=1.4, ls=":", zorder=3)
        name = literal(arm) if len(runs) > 1 else "fit"
        slope, share = number(fit.line.slope), number(fit.line.r_squared)
        lines.append(f"{name}: b = {slope}, R² = {share}, from step {number(fit.start)}")
    if lines:
        # Above the panel, where it cannot cover a curve.
        axes.annotate(
            "\n".join(lines),
            (0, 1),
            (0, 2),
            xycoords="axes fraction",
            textcoords="offset points",
            size=7.5,
            va="bottom",
        )
        axes.set_title(axes.get_title("left"), pad=4 + 10.5 * len(lines))


def _depth(runs: Sequence[Run]) -> int:
    return int(runs[0].arrays["attn_start"].shape[1])


def _first_step(runs: Arms) -> float:
    steps = np.concatenate([np.asarray(run.arrays["step"], dtype=np.float64) for arm in runs.values() for run in arm])
    positive = steps[steps > 0]
    return float(positive.min()) if positive.size else 1.0
