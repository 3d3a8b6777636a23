"""What rounding, eviction, longer texts and other texts cost networks with and without sinks."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.figures.evidence import Arms, Run, leading_run
from experiments.figures.style import arm_colours, new_figure, style
from theory.costs import CONDITIONS, LONGER, cost, longer_cost, peak, risk, sink

_SMALLEST = 1e-5  # nats; below it a cost, which may be negative, is drawn at the edge
_MARKERS = "osD^vP"
Read = Callable[[Run], float]


def sink_costs(runs: Arms) -> Figure:
    """Draws what each condition adds to the excess risk of every network, and how much of a sink and peak it has.

    Args:
        runs: arm name to one run per seed.

    Returns:
        The figure: a row a condition, with the networks under each other; small markers are seeds, large ones their
        median. The first row is the risk without any condition, at which networks are compared.

    Raises:
        ValueError: there is no run.
    """
    leading_run(runs)
    rows: dict[str, Read] = {"excess risk,\nnothing done": partial(risk, condition="free")}
    for name, words in list(CONDITIONS.items())[1:]:
        of = "late" if name.startswith("evicted") else "all"
        rows[words.replace(", ", ",\n").replace(" but", "\nbut")] = partial(cost, condition=name, of=of)
    rows |= {f"{times} times as\nlong texts": partial(longer_cost, times=times) for times in LONGER}
    about: dict[str, Read] = {"attention on <s>\nover even": sink, "residual norm of\n<s> over others": peak}
    with style():
        figure = new_figure(10.0, 1.4 + 0.5 * len(rows))
        parts = figure.subplot_mosaic([["costs", "about"], ["costs", "."]], width_ratios=[3, 1], height_ratios=[1, 2])
        _rows(parts["costs"], rows, runs)
        parts["costs"].set_xscale("log")
        parts["costs"].set_xlabel(f"added excess risk (nats a token; {_SMALLEST:g} or less at the edge)")
        _rows(parts["about"], about, runs)
        parts["about"].set_xlabel("ratio")
        handles = [
            parts["about"].plot(
                [], [], _MARKERS[i % len(_MARKERS)], color=colour, label=arm.removeprefix("costs_").replace("_", " ")
            )[0]
            for i, (arm, colour) in enumerate(arm_colours(runs).items())
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _rows(axes: Axes, rows: dict[str, Read], runs: Arms) -> None:
    colours = arm_colours(runs)
    for row, read in enumerate(rows.values()):
        for i, (arm, each) in enumerate(runs.items()):
            values = np.maximum(_values(each, read), _SMALLEST)
            # Networks stand under each other within the row.
            place = row + 0.7 * ((i + 0.5) / len(runs) - 0.5)
            marker = _MARKERS[i % len(_MARKERS)]
            axes.plot(values, np.full(len(values), place), marker, color=colours[arm], markersize=2.5, alpha=0.6)
            axes.plot(np.median(values), place, marker, color=colours[arm], markersize=5.0)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_ylabel("condition" if len(rows) > 2 else "network")


def _values(each: Sequence[Run], read: Read) -> NDArray[np.float64]:
    return np.array([read(run) for run in each])
