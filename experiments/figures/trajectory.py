"""A model followed over its checkpoints: sink, value drain and residual peak, and its heads by domain at the end."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from experiments.figures.evidence import Arms, Run, arm_label, curve, leading_run
from experiments.figures.style import BASELINE, arm_colours, new_figure, step_axis, style
from experiments.figures.text import literal
from theory.claims.lm_trajectory import FACTOR, dependent, leading, masses
from theory.claims.readings import uniform

# Array, what it is called, and the array whose largest last value chooses the block.
_CURVES = (
    ("attn_start", "attention to the first position,\nover even attention", "attn_start"),
    ("dlogit", "Dlogit", "attn_start"),
    ("value_ratio", "value norm of the first position\nover the median", "attn_start"),
    ("resid_norm_start", "residual norm of\nthe first position", "peak_ratio"),
)


def trajectory(runs: Arms) -> Figure:
    """Draws four curves over training, and the weight of each head on the first position in each domain at the end.

    Args:
        runs: arm name to one run per seed, of small language models ("sink_mass" by domain) or of Bigram-Backcopy,
            which has no domains and no part in the lower row.

    Returns:
        The figure. A thin line is a seed in its block of most attention to the first position, or of the largest peak
        for residual norms; a thick one is the mean. In the maps a column is a head and a dot marks one that depends on
        the domain in the first seed; numbers are means over passages and seeds.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    leading_run(runs)
    colours = arm_colours(runs)
    mapped = [arm for arm, each in runs.items() if "sink_mass" in each[0].arrays]
    with style():
        figure = new_figure(10.5, 6.4 if mapped else 3.4)
        # The lower row holds maps, where there are any.
        parts = figure.subfigures(2 if mapped else 1, 1, squeeze=False, height_ratios=(3, 3.2)[: 2 if mapped else 1])
        for axes, (name, words, chosen) in zip(parts[0, 0].subplots(1, len(_CURVES)), _CURVES, strict=True):
            first_step = np.inf
            for arm, each in runs.items():
                steps = curve(arm, each, "step").step
                lines = np.stack([_of_block(arm, run, name, chosen) for run in each])
                for line in lines:
                    axes.plot(steps, line, color=colours[arm], lw=0.7, alpha=0.45)
                axes.plot(steps, lines.mean(0), color=colours[arm], lw=2.0)
                first_step = min(first_step, steps[steps > 0].min())
            if name == "attn_start":
                axes.axhline(1.0, color=BASELINE, lw=1.2, ls="--")
            if name == "resid_norm_start":
                axes.set_yscale("log")
            step_axis(axes, first_step)
            axes.set_ylabel(words)
        task = {arm: "" if arm in mapped else ", on Bigram-Backcopy" for arm in runs}
        handles = [Line2D([], [], color=colours[arm], lw=2.0, label=arm_label(runs, arm) + task[arm]) for arm in runs]
        figure.legend(handles=handles, loc="outside upper center", ncols=1)
        if mapped:
            _maps(parts[1, 0], {arm: runs[arm] for arm in mapped})
    return figure


def _of_block(arm: str, run: Run, name: str, chosen: str) -> np.ndarray:
    """[P], the curve of the block that is chosen, attention over what even attention gives."""
    values = curve(arm, [run], name, leading(run, chosen)).seeds[0]
    return values / uniform(run) if name == "attn_start" else values


def _maps(figure: SubFigure, runs: Arms) -> None:
    """A map of heads and domains for each arm."""
    means = {arm: np.mean([np.stack(masses(run, -1)).mean(1) for run in each], axis=0) for arm, each in runs.items()}
    largest = max(float(mean.max()) for mean in means.values())
    every = figure.subplots(1, len(runs), squeeze=False)[0]
    for axes, (arm, each) in zip(every, runs.items(), strict=True):
        _, layers, heads = means[arm].shape
        rows = means[arm].reshape(2, -1)
        image = axes.imshow(rows, cmap="viridis", vmin=0.0, vmax=largest, aspect="auto", interpolation="nearest")
        axes.vlines(np.arange(heads, layers * heads, heads) - 0.5, -0.5, 1.5, "white", lw=1.2)
        found = np.flatnonzero(dependent(*masses(each[0], -1)))
        axes.plot(found, np.full(found.size, 0.5), "o", color="white", mec="black", ms=4, ls="")
        axes.set_yticks((0, 1), [literal(str(domain)) for domain in _domains(each)])
        axes.set_xticks((np.arange(layers) + 0.5) * heads - 0.5, [str(layer) for layer in range(layers)])
        axes.set_xlabel(f"block, {heads} heads each (dot: differs {FACTOR:g} times or more in the first seed)")
        axes.set_ylabel("domain")
        axes.set_title(f"{arm_label(runs, arm)}: heads at the end")
        axes.grid(False)
        axes.tick_params(length=0)
    figure.colorbar(image, ax=list(every), label="mean weight on\nthe first position")


def _domains(runs: Sequence[Run]) -> Sequence[str]:
    return list(runs[0].manifest["domains"])[:2]
