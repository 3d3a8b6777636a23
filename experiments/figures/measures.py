"""The measures of one claim against their tolerances, for every kind of claim."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiments.figures.style import INK, MUTED, OUTCOME, new_figure, style
from experiments.figures.text import interval, literal, number, tolerance

_BAND = "#CFE3D4"
_BAND_EDGE = "#3F7F55"
_LOWER, _UPPER = 0.28, 0.68  # heights of the seeds and of the mean within a row
_ROW = 1.15  # inches, like the two below
_HEADING = 0.35
_LEGEND = 0.6
_CONTROL_HEADING = "control: must come out the other way"


def measures(claim: Mapping[str, Any]) -> Figure:
    """Draws each measure of a claim on an axis of its own: mean, 95% interval, seeds, tolerance and outcome.

    Args:
        claim: one entry of claims.json; the measures of its control stand below in a muted colour.

    Returns:
        The figure. A claim that was not run gives a figure that says so.
    """
    own = list(claim.get("measures") or [])
    control = claim.get("control") or {}
    opposite = list(control.get("measures") or [])
    with style():
        if not own and not opposite:
            return _nothing(claim)
        parts = [(f"{claim['id']}: {claim.get('status', 'not run')}", own, False)] if own else []
        if opposite:
            setting = control.get("setting")
            parts.append((_CONTROL_HEADING + (f" ({setting})" if setting else ""), opposite, True))
        wrapped = [(textwrap.wrap(heading, 95), rows, muted) for heading, rows, muted in parts]
        heights = [_HEADING * len(heading) + _ROW * len(rows) for heading, rows, _ in wrapped]
        figure = new_figure(8.5, sum(heights) + _LEGEND)
        blocks = figure.subfigures(len(wrapped), 1, height_ratios=heights, squeeze=False)[:, 0]
        for block, (heading, rows, muted) in zip(blocks, wrapped, strict=True):
            _block(block, "\n".join(heading), rows, muted)
        figure.legend(
            handles=_marks(),
            loc="outside lower center",
            ncols=6,
            title="marker: mean; line: 95% interval",
            title_fontsize=8.5,
        )
    return figure


def _block(block: SubFigure, heading: str, rows: Sequence[Mapping[str, Any]], muted: bool) -> None:
    colour = MUTED if muted else INK
    block.suptitle(literal(heading), x=0.005, ha="left", size=10.5, weight="normal" if muted else "bold", color=colour)
    for axes, measure in zip(block.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        _row(axes, measure, muted)


def _row(axes: Axes, measure: Mapping[str, Any], muted: bool) -> None:
    outcome = OUTCOME[measure.get("inside")]
    colour, marker = (MUTED if muted else outcome.colour), outcome.marker
    low, high = _bounds(measure)
    left, right = _extent(measure)
    axes.axvspan(max(low, left), min(high, right), color=_BAND, lw=0, zorder=0, alpha=0.5 if muted else 1.0)
    for bound in (low, high):
        if math.isfinite(bound):
            axes.axvline(bound, color=_BAND_EDGE, lw=1.0, alpha=0.6 if muted else 1.0, zorder=1)
    seeds = _finite(measure.get("values") or [])
    if seeds:  # An empty unclipped line has an infinite extent, which the layout cannot place.
        axes.plot(seeds, [_LOWER] * len(seeds), "|", ms=9, mew=1.3, color=colour, alpha=0.8, clip_on=False)
    ends = _finite(measure.get("ci95") or [])
    if len(ends) == 2:
        axes.plot(ends, [_UPPER] * 2, color=colour, lw=2.0, solid_capstyle="butt")
    mean: Any = measure.get("measured")
    if _finite([mean]):
        axes.plot(mean, _UPPER, marker, ms=8, color=colour, mec="white", mew=0.8, zorder=4, clip_on=False)
    else:
        place, side = (0.01, "left") if mean == -math.inf else (0.99, "right")
        text = f"mean: {number(mean)}"
        axes.text(place, _UPPER, text, transform=axes.transAxes, va="center", ha=side, color=colour)
    axes.set(xlim=(left, right), ylim=(0, 1), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.grid(False, axis="y")
    _label(axes, measure, muted)


def _label(axes: Axes, measure: Mapping[str, Any], muted: bool) -> None:
    unit = measure.get("unit")
    axes.set_xlabel("measured" + (f", {literal(str(unit))}" if unit else " value"), size=8, labelpad=1)
    # Lengths at which the left and the right title cannot meet; the report has the full texts in its tables.
    name = textwrap.shorten(str(measure["name"]), 85, placeholder="…")
    predicted = textwrap.shorten(number(measure.get("predicted")), 45, placeholder="…")
    left = f"{name}\npredicted {predicted}; tolerance {tolerance(measure.get('tolerance'))}"
    axes.set_title(literal(left), size=8.5, color=MUTED if muted else INK)
    outcome = OUTCOME[measure.get("inside")]
    right = f"{outcome.word}\n{number(measure.get('measured'))}"
    if measure.get("ci95"):
        right += f" {interval(measure['ci95'])}"
    colour, weight = (MUTED, "normal") if muted else (outcome.colour, "bold")
    axes.set_title(right, loc="right", size=8.5, color=colour, weight=weight)


def _extent(measure: Mapping[str, Any]) -> tuple[float, float]:
    points = [*(measure.get("values") or []), *(measure.get("ci95") or []), measure.get("measured")]
    finite = _finite([*points, *_bounds(measure)])
    if not finite:
        return 0.0, 1.0
    left, right = min(finite), max(finite)
    # A tenth on each side; a single point gets a window of its own size, so that its ticks stay readable.
    margin = 0.1 * (right - left) or 0.5 * abs(right) or 0.5
    return left - margin, right + margin


def _bounds(measure: Mapping[str, Any]) -> tuple[float, float]:
    low, high = measure.get("tolerance") or (None, None)
    return (-math.inf if low is None else float(low)), (math.inf if high is None else float(high))


def _finite(values: Iterable[object]) -> list[float]:
    return [float(value) for value in values if isinstance(value, (int, float)) and math.isfinite(value)]


def _marks() -> list[Line2D | Patch]:
    outcomes = [*OUTCOME.values(), ("control", MUTED, "o")]
    return [
        *(
            Line2D([], [], ls="-", lw=2, marker=marker, ms=8, mec="white", color=colour, label=word)
            for word, colour, marker in outcomes
        ),
        Line2D([], [], ls="", marker="|", ms=9, mew=1.3, color=INK, label="single seeds"),
        Patch(facecolor=_BAND, edgecolor=_BAND_EDGE, label="tolerance"),
    ]


def _nothing(claim: Mapping[str, Any]) -> Figure:
    figure = new_figure(8.5, 1.0)
    figure.text(
        0.5,
        0.5,
        literal(f"{claim['id']}: no measures ({claim.get('status', 'not run')})"),
        ha="center",
        va="center",
    )
    return figure
