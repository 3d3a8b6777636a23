"""The residual norm of a first token, and what is left of its peak without each layer (after 2410.13835)."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.figures.evidence import Arms, leading_run, values
from experiments.figures.style import BASELINE, arm_colours, new_figure, style
from experiments.figures.text import literal
from theory.claims.lm_peak import PARTS, share_left

_DASHES = {"attention": "--", "mlp": "-"}
_WORDS = {"attention": "its attention removed", "mlp": "its MLP removed"}


def removed_layers(runs: Arms) -> Figure:
    """Draws the residual norm at the first position by block, and the share of its peak that is left without a layer.

    Args:
        runs: arm name to one run per seed.

    Returns:
        The figure, a row for each arm: geometric means over tokens and seeds.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    leading_run(runs)
    colours = arm_colours(runs)
    with style():
        figure = new_figure(10.0, 3.4 * len(runs))
        for (arm, each), (norms, left) in zip(
            runs.items(), figure.subplots(len(runs), 2, squeeze=False, sharey="col"), strict=True
        ):
            mean = np.mean([np.log(values(run, "resid_norm")).mean(0) for run in each], axis=0)
            norms.plot(np.exp(mean), color=colours[arm], marker=".")
            norms.set_ylabel("residual norm, first token")
            norms.set_title(literal(str(each[0].manifest["label"]).split(" on ")[0]))
            shares = np.exp(np.mean([np.log(share_left(run)) for run in each], axis=0))
            for part, share in zip(PARTS, shares, strict=True):
                left.plot(share, color=colours[arm], marker=".", ls=_DASHES[part], label=_WORDS[part])
            left.axhline(1.0, color=BASELINE, lw=0.8, zorder=0)
            left.set_ylabel("peak left / peak")
            left.set_title("Without a part of the block")
            left.legend(loc="lower right")
            for axes in (norms, left):
                axes.set_yscale("log")
                axes.set_xlabel("block")
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
