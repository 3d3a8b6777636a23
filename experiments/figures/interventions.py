"""Runs in which one arrow of mutual reinforcement is cut, each beside the free run: what was cut, what followed."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiments.figures.evidence import Arms, Run, curve, leading_run
from experiments.figures.style import BASELINE, INK, MUTED, new_figure, step_axis, style

_CUT = "#C04000"
_FREE = MUTED
_SHADE = "#FBE9E1"
# What is drawn: array, title, unit, and where its box stands in the diagram.
_ATTENTION = ("attn_start", "Attention to <s>", "weight, non-trigger queries")
_VALUE = ("value_norm_start", "Value norm of <s>", "norm of W_O v")
_HELD = {"attention": "held", "value": "v held, W_O free"}
_BOXES = {"attention": (0.5, 0.74, "attention\nto <s>"), "value": (0.5, 0.2, "value\nof <s>")}


class Cut(NamedTuple):
    """An intervention as the picture tells it."""

    held: str
    """"attention" or "value": which of the two nothing can move any more; "" where it is neither."""
    words: str
    from_step: int
    block: int


def read_cut(spec: Mapping[str, Any]) -> Cut | None:
    """What a run's description says was held or forced, or None if nothing was.

    Args:
        spec: the description of a run. Of several interventions the first is told.
    """
    given = spec.get("interventions") or []
    if not given:
        return None
    one = given[0]
    when = "from the start" if one["from_step"] == 0 else f"from step {one['from_step']:,} on"
    if one["type"] == "UniformAttention":
        key = "<s>" if one["key"] == 0 else f"position {one['key']}"
        held = "attention" if one["key"] == 0 else ""
        return Cut(held, f"Attention to {key} forced even, {when}", one["from_step"], one["layer"])
    block = re.match(r"blocks\.(\d+)\.(\w+)$", one["site"])
    of_value = block is not None and block[2] == "v" and one["position"] == 0
    if of_value:
        what = "Norm of the value of <s>" if one["type"] == "HoldNorm" else "Value of <s>"
    else:
        what = ("norm of " if one["type"] == "HoldNorm" else "") + f"{one['site']} at position {one['position']}"
    return Cut("value" if of_value else "", f"{what} held, {when}", one["from_step"], int(block[1]) if block else 0)


def interventions(runs: Arms) -> Figure:
    """Draws every run with an intervention beside the free run, a row each.

    Args:
        runs: arm name to one run per seed; the free run is the first arm without an intervention.

    Returns:
        The figure. Left, which of the two quantities was held, so that the arrow to it is cut; then both of them over
        the training steps, the held one shaded from the step on at which the cut begins.

    Raises:
        ValueError: there is no run, no run has an intervention, or a run lacks an array.
    """
    leading_run(runs)
    found = {arm: read_cut(each[0].manifest.get("spec", {})) for arm, each in runs.items()}
    cuts = {arm: cut for arm, cut in found.items() if cut is not None}
    free = next((arm for arm, cut in found.items() if cut is None), None)
    if not cuts:
        raise ValueError(
            "runs: expected at least one arm with an intervention, got "
            f"{', '.join(runs)}; pass the evidence of a claim on causes."
        )
    with style():
        figure = new_figure(11.0, 2.25 * len(cuts) + 1.1)
        grid = figure.subplots(len(cuts), 3, squeeze=False, sharey="col", sharex="col", width_ratios=(1.15, 2, 2))
        for places, (arm, cut) in zip(grid, cuts.items(), strict=True):
            _diagram(places[0], cut)
            for axes, (name, title, unit), which in zip(
                places[1:], (_ATTENTION, _VALUE), ("attention", "value"), strict=True
            ):
                if free is not None:
                    _curves(axes, free, runs[free], name, cut.block, _FREE)
                _curves(axes, arm, runs[arm], name, cut.block, _CUT)
                held = which == cut.held
                axes.axvline(cut.from_step, color=_CUT, lw=1.4, ls=":")
                if held:
                    axes.axvspan(cut.from_step, _last_step(runs, cuts), color=_SHADE, zorder=0)
                axes.set_title(f"{title}: {_HELD[which] if held else 'what followed'}" if cut.held else title)
                axes.set_ylabel(unit)
        _finish(grid, runs, cuts, free)
        marks = [
            Line2D([], [], color=_CUT, lw=2.2, label="with the cut"),
            Line2D([], [], color=_FREE, lw=2.2, label="free run"),
            Line2D([], [], color=INK, lw=0.7, label="single seeds"),
            Line2D([], [], color=_CUT, lw=1.4, ls=":", label="the cut begins"),
            Patch(color=_SHADE, label="held from there on"),
            Line2D([], [], color=BASELINE, lw=1.2, ls="--", label="even attention"),
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    return figure


def _last_step(runs: Arms, arms: Mapping[str, Any]) -> float:
    return max(float(run.arrays["step"][-1]) for arm in arms for run in runs[arm])


def _finish(grid: Any, runs: Arms, cuts: Mapping[str, Cut], free: str | None) -> None:
    shown = [*cuts, *([free] if free else [])]
    first = min(float(step) for arm in shown for run in runs[arm] for step in run.arrays["step"] if step > 0)
    level = float(runs[next(iter(cuts))][0].arrays["baseline"])
    for number, row in enumerate(grid):
        row[1].axhline(level, color=BASELINE, lw=1.2, ls="--")
        for axes in row[1:]:
            step_axis(axes, first)
            axes.set_xlim(right=_last_step(runs, cuts))
            if number < len(grid) - 1:
                axes.set_xlabel("")
    grid[0][1].set_ylim(0, 1.03)
    grid[0][2].set_ylim(bottom=0)


def _curves(axes: Axes, arm: str, runs: Sequence[Run], name: str, block: int, colour: str) -> None:
    drawn = curve(arm, runs, name, block)
    axes.plot(drawn.step, drawn.seeds.T, color=colour, lw=0.7, alpha=0.45)
    axes.plot(drawn.step, drawn.mean, color=colour, lw=2.2)


def _diagram(axes: Axes, cut: Cut) -> None:
    """Two boxes and the two arrows between them; the arrow to the one that is held is cut."""
    axes.set_axis_off()
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_title(cut.words.replace(", ", ",\n"), fontweight="bold")
    for which, (x, y, words) in _BOXES.items():
        held = which == cut.held
        look = {"boxstyle": "round,pad=0.35", "fc": _SHADE if held else "white", "ec": _CUT if held else INK, "lw": 1.4}
        axes.text(x, y, words + (" (held)" if held else ""), ha="center", va="center", size=8.5, bbox=look)
    for to, x, start, end, words in (
        ("value", 0.36, 0.58, 0.36, "drains"),
        ("attention", 0.64, 0.36, 0.58, "draws"),
    ):
        gone = to == cut.held
        colour = _CUT if gone else INK
        axes.annotate(
            "",
            (x, end),
            (x, start),
            arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.8, "ls": ":" if gone else "-"},
        )
        if gone:
            axes.plot(x, (start + end) / 2, "X", color=_CUT, ms=9, mec="white")
        side = "right" if x < 0.5 else "left"
        axes.text(
            x + (-0.06 if x < 0.5 else 0.06),
            (start + end) / 2,
            "cut" if gone else words,
            ha=side,
            va="center",
            size=8,
            color=colour,
        )
