"""What zeroing each head is expected to add to the loss, against its sink mass (after 2410.13835)."""

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.evidence import Arms, leading_run, values
from experiments.figures.style import arm_colours, new_figure, style
from experiments.figures.text import literal

_SHOWN = ("sink_mass", "divergence")


def head_costs(runs: Arms) -> Figure:
    """Draws a dot for each head that was zeroed, in one panel a domain; darker dots are later blocks.

    Args:
        runs: arm name to one run per seed.

    Returns:
        The figure, means over passages and seeds.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    leading_run(runs)
    colours = arm_colours(runs)
    with style():
        figure = new_figure(5.2 * len(runs), 4.4)
        grid = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (arm, each) in zip(grid, runs.items(), strict=True):
            mass, cost = (np.mean([values(run, name).mean(0) for run in each], axis=0) for name in _SHOWN)
            layers = values(each[0], "layers")
            shade = 0.25 + 0.75 * (layers + 1) / (layers.max() + 1)
            for row, alpha in enumerate(shade):
                words = f"block {layers[row]:.0f}" if row in (0, len(shade) - 1) else None
                axes.plot(mass[row], cost[row], "o", ms=4.5, mew=0, color=colours[arm], alpha=alpha, label=words)
            axes.legend()
            axes.set_yscale("log")
            axes.set_xlabel("weight on the first token, mean over later queries")
            axes.set_ylabel("expected cost of zeroing it (nats)")
            axes.set_title(literal(str(each[0].manifest["label"]).split("; ")[0].replace(", ", ",\n", 1)))
    return figure
