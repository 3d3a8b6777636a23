"""Value norms token by token (after 2410.13835)."""

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.attention_maps import label_tokens
from experiments.figures.evidence import Arms, arm_label, example, layers, leading_run
from experiments.figures.style import arm_colours, new_figure, style

_POSITIONS = 64


def value_norms(runs: Arms) -> Figure:
    """Draws the norm of W_O v at each position of the two probing sequences of one run.

    Args:
        runs: arm name to one run per seed; the first seed of the first arm is drawn.

    Returns:
        The figure: bars per token, the start token dark and hatched, one row per layer and sequence.

    Raises:
        ValueError: there is no run, or the run lacks an example.
    """
    arm, run = leading_run(runs)
    depth = layers({arm: [run]})
    colour = arm_colours(runs)[arm]
    with style():
        figure = new_figure(9.0, 0.6 + 1.75 * 2 * depth)
        grid = figure.subplots(2 * depth, 1, squeeze=False)[:, 0]
        for layer in range(depth):
            for index in range(2):
                shown = example(run, index, _POSITIONS)
                axes = grid[2 * layer + index]
                norms = np.asarray(shown.value_norm[layer], dtype=np.float64)
                bars = axes.bar(range(len(norms)), norms, color=colour, alpha=0.6, width=0.8)
                bars[0].set(facecolor="black", alpha=1.0)
                axes.axhline(np.median(norms[1:]), color="black", lw=1.0, ls="--")
                # The start token's bar may be too short to see: its value is written above it.
                axes.annotate(f"{norms[0]:.2g}", (0, norms[0]), (0, 2), textcoords="offset points", ha="center", size=8)
                label_tokens(axes.xaxis, shown, 7.5)
                axes.sharey(grid[2 * layer])
                axes.grid(False, axis="x")
                axes.set_xlim(-0.8, len(norms) - 0.2)
                axes.set_title(f"{shown.title}, layer {layer}")
                axes.set_xlabel("token (position)")
                axes.set_ylabel("norm of W_O v")
        figure.suptitle(
            f"Value norms, {arm_label(runs, arm)}, seed {run.seed} (<s> black, dashed: median of the others)",
            x=0.01,
            ha="left",
            size=11,
        )
    return figure
