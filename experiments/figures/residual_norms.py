"""Residual norms over training and over tokens (after 2410.13835)."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.figures.attention_maps import label_tokens
from experiments.figures.evidence import Arms, arm_label, curve, example, layers
from experiments.figures.style import MUTED, arm_colours, new_figure, style

_POSITIONS = 40
_ROWS = (
    ("resid_norm_start", "<s>", "residual norm"),
    ("resid_norm_content", "most frequent content token", "residual norm"),
    ("resid_norm_other", "mean of other positions", "residual norm"),
    ("peak_ratio", "peak ratio: <s> / mean of others", "ratio"),
)


def residual_norms(runs: Arms) -> Figure:
    """Draws residual norms over training, per block, one colour per arm.

    Args:
        runs: arm name to one run per seed.

    Returns:
        The figure: one column per block; rows for the start token, the most frequent content token and the
        mean over other positions, which share the block's scale, and for the peak ratio. Scales fit the median
        seed of every arm, so that a seed that runs away leaves the others visible.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    depth = layers(runs)
    colours = arm_colours(runs)
    with style():
        figure = new_figure(max(3.4 * depth, 5.5), 10.0)
        grid = figure.subplots(len(_ROWS), depth, squeeze=False, sharex=True)
        tops = np.zeros((2, depth))
        for row, (name, title, unit) in enumerate(_ROWS):
            scale = int(name == "peak_ratio")
            for block, axes in enumerate(grid[row]):
                for arm, arm_runs in runs.items():
                    if block >= arm_runs[0].arrays["attn_start"].shape[1]:
                        continue
                    drawn = curve(arm, arm_runs, name, block)
                    axes.plot(drawn.step, drawn.seeds.T, color=colours[arm], lw=0.7, alpha=0.45)
                    axes.plot(drawn.step, drawn.mean, color=colours[arm], lw=2.2)
                    median = np.nanmax(np.median(drawn.seeds, axis=0))
                    tops[scale, block] = max(tops[scale, block], median)
                axes.set_title(f"Block {block}: {title}")
                axes.set_ylabel(unit)
                axes.set_xlim(left=0)
        for row, (name, _, _) in enumerate(_ROWS):
            for block, axes in enumerate(grid[row]):
                axes.set_ylim(0, 1.2 * tops[int(name == "peak_ratio"), block])
        for axes in grid[-1]:
            axes.set_xlabel("training step")
        marks = [Line2D([], [], color=colour, lw=2.2, label=arm_label(runs, arm)) for arm, colour in colours.items()]
        marks.append(Line2D([], [], color=MUTED, lw=0.7, label="single seeds"))
        # As many columns as the longest label leaves room for, at a tenth of an inch a letter.
        longest = 0.7 + 0.1 * max(len(str(mark.get_label())) for mark in marks)
        columns = int(np.clip(figure.get_figwidth() // longest, 1, len(marks)))
        figure.legend(handles=marks, loc="outside lower center", ncols=columns)
    return figure


def residual_by_token(runs: Arms) -> Figure:
    """Draws the residual norms of a trained model at each token of the trigger-rich sequence, per block.

    Args:
        runs: arm name to one run per seed; the first seed of each arm is drawn.

    Returns:
        The figure: bars per token, one row per arm and block, the start token black.

    Raises:
        ValueError: there is no run, or a run lacks an example.
    """
    layers(runs)
    colours = arm_colours(runs)
    panels = [
        (arm, arm_runs[0], block)
        for arm, arm_runs in runs.items()
        for block in range(arm_runs[0].arrays["example_resid_norm"].shape[1])
    ]
    with style():
        figure = new_figure(9.0, 0.4 + 1.7 * len(panels))
        grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axes, (arm, run, block) in zip(grid, panels, strict=True):
            shown = example(run, 0, _POSITIONS)
            norms = np.asarray(shown.resid_norm[block], dtype=np.float64)
            bars = axes.bar(range(len(norms)), norms, color=colours[arm], alpha=0.75, width=0.8)
            bars[0].set(facecolor="black", alpha=1.0)
            label_tokens(axes.xaxis, shown, 7.5)
            axes.grid(False, axis="x")
            axes.set_xlim(-0.8, len(norms) - 0.2)
            axes.set_title(f"{arm_label(runs, arm)}, seed {run.seed}, output of block {block}", color=colours[arm])
            axes.set_xlabel("token (position)")
            axes.set_ylabel("residual norm")
    return figure
