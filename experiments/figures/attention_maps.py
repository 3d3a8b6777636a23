"""Attention maps of the two probing sequences (after 2410.13835)."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from experiments.figures.evidence import Arms, Example, arm_label, example, layers, leading_run
from experiments.figures.style import MUTED, new_figure, style
from experiments.figures.text import literal

_POSITIONS = 40
_TRIGGER = "#C04000"


def attention_maps(runs: Arms) -> Figure:
    """Draws the attention maps of one run: the trigger-rich sequence above, the trigger-free one below.

    Args:
        runs: arm name to one run per seed; the first seed of the first arm is drawn.

    Returns:
        The figure, one column per layer, with the tokens on both axes and triggers in a colour of their own.

    Raises:
        ValueError: there is no run, or the run lacks an example.
    """
    arm, run = leading_run(runs)
    depth = layers({arm: [run]})
    with style():
        # One layer: the two sequences side by side, because a page is wider than it is high.
        figure = new_figure(9.7, 5.0) if depth == 1 else new_figure(0.9 + 4.4 * depth, 9.8)
        grid = figure.subplots(*((1, 2) if depth == 1 else (2, depth)), squeeze=False).reshape(2, depth)
        for index in range(2):
            shown = example(run, index, _POSITIONS)
            for layer, axes in enumerate(grid[index]):
                image = _map(axes, shown, layer)
        bar = figure.colorbar(image, ax=grid, shrink=0.7, aspect=35, pad=0.02)
        bar.set_label("attention weight")
        bar.outline.set_visible(False)
        figure.suptitle(
            f"Attention, {arm_label(runs, arm)}, seed {run.seed} (trigger tokens in red)",
            x=0.01,
            ha="left",
            size=11,
        )
    return figure


def label_tokens(axis: Axis, shown: Example, size: float) -> None:
    """Puts the tokens of a sequence on an axis, triggers and the start token set apart.

    Args:
        axis: the x or y axis; position i is at coordinate i.
        shown: the sequence.
        size: font size in points.
    """
    axis.set_ticks(range(len(shown.labels)), [literal(label) for label in shown.labels])
    axis.set_tick_params(length=0, labelsize=size)
    if isinstance(axis, XAxis):
        axis.set_tick_params(labelrotation=90 if any(len(label) > 1 for label in shown.labels[1:]) else 0)
    for position, text in enumerate(axis.get_ticklabels()):
        if shown.triggers[position]:
            text.set_color(_TRIGGER)
            text.set_fontweight("bold")


def _map(axes: Axes, shown: Example, layer: int) -> AxesImage:
    weights = np.asarray(shown.attention[layer], dtype=np.float64)
    # A key that the query may not see is grey, so that it cannot be read as a weight of 0.
    unseen = np.triu(np.ones_like(weights, dtype=np.bool_), 1) & (weights == 0)
    image = axes.imshow(np.ma.masked_array(weights, unseen), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_facecolor("#E9E9E9")
    size = 6.5 if len(shown.labels) <= 34 else 5.5
    label_tokens(axes.xaxis, shown, size)
    label_tokens(axes.yaxis, shown, size)
    # The start token is wider than a cell: it grows to the left, where nothing stands.
    axes.get_xticklabels()[0].set_horizontalalignment("right")
    axes.grid(False)
    axes.spines[:].set_color(MUTED)
    axes.set_title(f"{shown.title}, layer {layer}")
    axes.set_xlabel("key token (position)")
    axes.set_ylabel("query token (position)")
    return image
