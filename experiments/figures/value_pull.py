"""What a longer value of `<s>` does to the growth of its sink logit in training, beside what the theory says."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from experiments.figures.evidence import Arms, leading_run
from experiments.figures.style import BASELINE, INK, MUTED, new_figure, step_axis, style
from experiments.figures.theory_evidence import Array, read
from theory.claims.wv_attribution import predicted_pull

_MEASURED = "#0072B2"
_READ = {"": "values read through the MLP", "_mlp_held": "MLP held (restricted model)"}
_LOOKS: Mapping[str, Any] = {
    "own": {"color": _MEASURED, "lw": 2.0, "marker": "o"},
    "other": {"color": MUTED, "lw": 1.4, "marker": "s"},
    "velocity": {"color": BASELINE, "lw": 1.4, "marker": "^", "mfc": "white"},
}
_LINES: Mapping[str, Any] = {"": (0, (4, 2.5)), "_mlp_held": (0, (1, 1.5))}


def value_pull(runs: Arms) -> Figure:
    """Draws the derivative of the sink logit's velocity in the norm of a value, measured and predicted.

    Args:
        runs: arm name to one run per seed, evidence of `theory.calculations.attribution.TrainedPulls`; the first arm
            is drawn.

    Returns:
        The figure. Left, for all dormant queries together, over the training steps: the velocity, its derivative in
        log |v_<s>| with both predictions, and that in the norm of another token's value, means over the seeds. Then
        measured against predicted, a dot for each character, step and seed, with values read through the MLP and with
        the MLP held; a dashed line where both are equal.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    arm, _ = leading_run(runs)
    measured = {name: np.stack([read(run, name) for run in runs[arm]]) for name in ("velocity", "own", "other")}
    predicted = {mlp: np.stack([predicted_pull(run, "own", mlp) for run in runs[arm]]) for mlp in _READ}
    with style():
        figure = new_figure(12.0, 4.1)
        left, *others = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
        _over_steps(left, read(runs[arm][0], "step"), measured, predicted)
        for axes, (mlp, words) in zip(others, _READ.items(), strict=True):
            _against(axes, predicted[mlp], measured["own"])
            axes.set_title(f"By character: {words}", size=8.5)
        marks = [
            Line2D([], [], ms=4, label="derivative in log |v_<s>|, measured", **_LOOKS["own"]),
            *(Line2D([], [], color=INK, lw=1.2, ls=_LINES[mlp], label=f"predicted, {_READ[mlp]}") for mlp in _READ),
            Line2D([], [], ms=4, label="derivative in log |v_k|, another token", **_LOOKS["other"]),
            Line2D([], [], ms=4, label="velocity itself", **_LOOKS["velocity"]),
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=3)
    return figure


def _over_steps(axes: Axes, step: Array, measured: dict[str, Array], predicted: dict[str, Array]) -> None:
    """All queries together, [seeds, P, V + 1] each."""
    for name, look in _LOOKS.items():
        axes.plot(step, measured[name].sum(-1).mean(0), ms=4, **look)
    for mlp, values in predicted.items():
        axes.plot(step, values.sum(-1).mean(0), color=INK, lw=1.2, ls=_LINES[mlp])
    axes.axhline(0, color=INK, lw=0.6)
    step_axis(axes, float(step[step > 0].min()))
    axes.set_xlim(left=0.8 * float(step[step > 0].min()))
    axes.set_xticks(step, [f"{at:,.0f}" for at in step])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("nats per logit")
    axes.set_title("Velocity dα/dt of the sink logit, and derivatives")


def _against(axes: Axes, predicted: Array, measured: Array) -> None:
    axes.plot(predicted.ravel(), measured.ravel(), ".", color=_MEASURED, ms=4, alpha=0.5, mec="none")
    ends = np.array([min(predicted.min(), measured.min()), max(predicted.max(), measured.max())])
    axes.plot(ends, ends, color=INK, lw=1.0, ls=(0, (4, 2.5)))
    axes.set_xlabel("predicted d(dα/dt)/d log |v_<s>|")
    axes.set_ylabel("measured")
