"""Attention received, value norm and residual norm by layer and position of a passage (after 2410.13835)."""

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.figures.evidence import Arms, arm_label, leading_run, values
from experiments.figures.style import new_figure, style
from experiments.figures.text import token_label

_POSITIONS = 24


def profiles(runs: Arms) -> Figure:
    """Draws the profiles of the first passage of each model's first seed.

    Args:
        runs: arm name to one run per seed.

    Returns:
        The figure: one row per arm; attention received, and value norm and residual norm over the median of the
        passage, which share a logarithmic scale in which white is the median.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    leading_run(runs)
    with style():
        figure = new_figure(11.0, 3.9 * len(runs))
        grid = figure.subplots(len(runs), 3, squeeze=False)
        for row, (arm, arm_runs) in zip(grid, runs.items(), strict=True):
            run = arm_runs[0]
            labels = [token_label(str(word)) for word in run.manifest["tokens"][:_POSITIONS]]
            panels = {"attention received": values(run, "received")[0]}
            for name, title in (("value_norm", "value norm / median"), ("resid_norm", "residual norm / median")):
                norms = values(run, name)[0]
                panels[title] = norms / np.median(norms, axis=-1, keepdims=True)
            for axes, (title, whole) in zip(row, panels.items(), strict=True):
                shown = whole[:, : len(labels)]
                if title == "attention received":
                    image = axes.imshow(shown, aspect="auto", cmap="viridis", vmin=0, vmax=max(0.5, shown.max()))
                else:
                    # A hundredth to a hundred times the median: what lies beyond is as dark as the scale goes.
                    image = axes.imshow(shown, aspect="auto", cmap="RdBu_r", norm=LogNorm(0.01, 100.0))
                axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7.0)
                axes.yaxis.set_major_locator(MaxNLocator(integer=True))
                axes.grid(False)
                axes.set_xlabel("token")
                axes.set_ylabel("block")
                axes.set_title(title)
                unit = "mean weight" if title == "attention received" else "times the median"
                figure.colorbar(image, ax=axes, pad=0.02, label=unit)
            row[0].set_title(f"{arm_label(runs, arm)}\n{row[0].get_title('left')}")
    return figure
