"""What each attention variant of a survey does to sink, drain, peak and risk."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.figures.evidence import Arms, leading_run
from experiments.figures.style import INK, MUTED, new_figure, style
from theory.claims.oq6 import EXPECTED, SINK

# Okabe-Ito colours and a marker each, so that the groups are told apart without colour.
_GROUPS = {
    "keeps": ("#D55E00", "o", "expected to keep the sink"),
    "removes": ("#0072B2", "s", "expected to remove it"),
    "open": (MUTED, "D", "open"),
}
_ROW = 0.19  # inches
_FRAME = 1.5
_SMALLEST = 1e-4  # nats; below it a risk is drawn at the edge

Array = NDArray[np.float64]


def variant_survey(runs: Arms) -> Figure:
    """Draws every variant of a survey as a row: attention on <s>, value norm and residual norm of <s>, both risks.

    Args:
        runs: arm name to one run per seed; the runs of the first arm are drawn.

    Returns:
        The figure: small markers are seeds, large ones their median; rows of a group are sorted by their sink.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    arm, _ = leading_run(runs)
    each = runs[arm]
    names = list(each[0].manifest["variants"])
    baseline = _values(each, "baseline")
    share = _values(each, "sink_strength") / baseline
    columns: tuple[tuple[str, Array, float | None, bool], ...] = (
        ("attention on <s>\nover even attention", share, SINK, False),
        ("value norm of <s>\nover that of others", _values(each, "value_ratio"), 1.0, False),
        ("residual norm of <s>\nover that of others", _values(each, "peak_ratio"), 1.0, False),
        ("Backcopy excess risk\n(nats)", _values(each, "backcopy"), None, True),
        ("Bigram excess risk\n(nats)", _values(each, "bigram"), None, False),
    )
    groups = list(_GROUPS)
    middle = np.nan_to_num(np.median(share, axis=0), nan=-1.0)
    order = sorted(range(len(names)), key=lambda i: (groups.index(EXPECTED[names[i]]), -middle[i]))
    with style():
        figure = new_figure(11.0, _ROW * len(names) + _FRAME)
        places = figure.subplots(1, len(columns))
        for axes, (title, values, line, logarithmic) in zip(places, columns, strict=True):
            _column(axes, title, values[:, order], [EXPECTED[names[i]] for i in order], line, logarithmic)
        places[0].set_yticks(range(len(names)), [names[i] for i in order])
        places[0].set_ylabel("attention variant")
        handles = [
            places[0].plot([], [], marker, color=colour, label=words)[0] for colour, marker, words in _GROUPS.values()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _values(each: Any, name: str) -> Array:
    """[seeds, variants], the largest over the layers."""
    stacked = np.stack([np.asarray(run.arrays[name], np.float64) for run in each])
    return np.asarray(stacked.reshape(*stacked.shape[:2], -1).max(axis=-1))


def _column(axes: Axes, title: str, values: Array, groups: list[str], line: float | None, logarithmic: bool) -> None:
    if logarithmic:
        axes.set_xscale("log")
        values = np.maximum(values, _SMALLEST)
    if line is not None:
        axes.axvline(line, color=INK, linewidth=0.8, linestyle=":")
    for row, group in enumerate(groups):
        colour, marker, _ = _GROUPS[group]
        axes.plot(values[:, row], np.full(len(values), row), marker, color=colour, markersize=2.5, alpha=0.6)
        axes.plot(np.median(values[:, row]), row, marker, color=colour, markersize=5.0)
        if not np.isfinite(values[:, row]).all():
            axes.text(0.5, row, "diverged", color=colour, transform=axes.get_yaxis_transform(), va="center", size=7)
    axes.set_yticks([])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel(title)
