"""The sink in other settings: by the token of the key, and against the probability of a copy."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from experiments.figures.evidence import Arms, Run, arm_label, curve, leading_run
from experiments.figures.style import BASELINE, INK, arm_colours, new_figure, style
from experiments.figures.text import token_label
from experiments.figures.theory_evidence import read
from theory.claims.readings import attention_cost

_TOKENS = 14
# Characters of a title that fit into the width of a column.
_TITLE = 62
_TRIGGER = "#C04000"
_OTHER = "#8C8C8C"

Array = NDArray[np.float64]


def key_types(runs: Arms) -> Figure:
    """Draws which tokens the dormant queries of a first block attend to, and how large the values of these are.

    Args:
        runs: arm name to one run per seed.

    Returns:
        The figure, a column for each arm: above the share of attention on the keys of each token, below their mean
        norm of W_O v, for the tokens that get most. Bars are means over the seeds, dots single seeds; a dash is the
        share under even attention.

    Raises:
        ValueError: there is no run, a run lacks an array, or a token has no label.
    """
    leading_run(runs)
    with style():
        figure = new_figure(max(5.2 * len(runs), 7.0), 5.4)
        grid = figure.subplots(2, len(runs), squeeze=False, sharex="col", sharey="row")
        for column, (arm, arm_runs) in enumerate(runs.items()):
            _tokens(grid[:, column], arm_runs)
            grid[0, column].set_title(textwrap.fill(arm_label(runs, arm), _TITLE))
        grid[0, 0].set_ylim(0, 1.03)
        grid[1, 0].set_ylim(bottom=0)
        for row, words in zip(grid, ("share of dormant attention", "norm of W_O v"), strict=True):
            for axes in row:
                axes.set_ylabel(words)
        marks = [
            Patch(color="black", label="<s>"),
            Patch(facecolor=_TRIGGER, hatch="///", edgecolor="white", label="trigger"),
            Patch(color=_OTHER, label="other character"),
            Line2D([], [], color=INK, marker=".", ls="", ms=5, label="single seeds"),
            Line2D([], [], color=BASELINE, lw=1.6, label="even attention"),
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    return figure


def _tokens(places: NDArray[Any], runs: Any) -> None:
    share = np.stack([read(run, "attention_by_token")[0] for run in runs])
    norm = np.stack([read(run, "value_norm_by_token")[0] for run in runs])
    even = np.mean([read(run, "uniform_by_token") for run in runs], axis=0)
    names, triggers = _names(runs[0], share.shape[1]), set(runs[0].manifest.get("triggers", ()))
    shown = np.argsort(-np.nan_to_num(share.mean(0)), kind="stable")[:_TOKENS]
    for axes, values in zip(places, (share, norm), strict=True):
        bars = axes.bar(range(len(shown)), values.mean(0)[shown], color=_OTHER, width=0.75)
        for bar, token in zip(bars, shown, strict=True):
            if token in triggers:
                bar.set(facecolor=_TRIGGER, hatch="///", edgecolor="white")
            elif names[token] == "<s>":
                bar.set(facecolor="black")
        for row in values:
            axes.plot(range(len(shown)), row[shown], ".", color=INK, ms=4, mec="white", mew=0.4)
        axes.set_xticks(range(len(shown)), [token_label(names[token]) for token in shown])
        axes.grid(False, axis="x")
    places[0].hlines(even[shown], np.arange(len(shown)) - 0.4, np.arange(len(shown)) + 0.4, color=BASELINE, lw=1.6)
    places[1].set_xlabel("token of the key, most attended first")


def _names(run: Run, count: int) -> list[str]:
    names = [str(name) for name in run.manifest.get("tokens", [])]
    if len(names) != count:
        raise ValueError(
            f"manifest['tokens']: expected a label for each of {count} tokens, got {len(names)} labels; "
            "write one label per token id, the start token last."
        )
    return names


def copy_probability(runs: Arms) -> Figure:
    """Draws the sink and what attention is worth against the probability of a copy.

    Args:
        runs: arm name to one run per seed, each trained with its own copy probability.

    Returns:
        The figure: at the left Attn_<s> of the first block after as many steps as every run has, at the right what
        cutting the attention at the end of a run adds to the risk. Dots are seeds, the line joins their means.

    Raises:
        ValueError: there is no run, or a run lacks an array or its copy probability.
    """
    leading_run(runs)
    points = sorted((_probability(each[0]), arm) for arm, each in runs.items())
    p = np.array([probability for probability, _ in points])
    last = min(float(read(run, "step")[-1]) for each in runs.values() for run in each)
    sink, even, cost = ([] for _ in range(3))
    for _, arm in points:
        drawn = curve(arm, runs[arm], "attn_start", 0)
        sink.append(drawn.seeds[:, int(np.abs(drawn.step - last).argmin())])
        even.append(np.mean([read(run, "baseline") for run in runs[arm]]))
        cost.append(np.array([attention_cost(run) for run in runs[arm]]))
    colours = arm_colours(runs)
    with style():
        figure = new_figure(9.0, 3.9)
        left, right = figure.subplots(1, 2)
        left.plot(p, even, color=BASELINE, lw=1.2, ls="--")
        for axes, values in ((left, sink), (right, cost)):
            _against(axes, p, values, [colours[arm] for _, arm in points])
        left.set_ylabel(f"weight on <s>, non-trigger queries, step {last:,.0f}")
        left.set_title("Attention to <s>")
        left.set_ylim(0, 1.03)
        right.set_ylabel("nats, all positions, end of the run")
        right.set_title("Risk added by cutting attention")
        marks = [
            Line2D([], [], color=INK, marker="_", lw=1.4, ms=12, mew=2.4, label="mean over seeds"),
            Line2D([], [], color=INK, marker=".", ls="", ms=5, alpha=0.6, label="single seeds"),
            Line2D([], [], color=BASELINE, lw=1.2, ls="--", label="uniform attention"),
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    return figure


def _against(axes: Axes, p: Array, values: list[Array], colours: list[str]) -> None:
    axes.plot(p, [each.mean() for each in values], color=INK, lw=1.4)
    for x, each, colour in zip(p, values, colours, strict=True):
        # Side by side, so that equal values and the mean cover none of them.
        beside = x + 0.018 * (np.arange(each.size) - (each.size - 1) / 2)
        axes.plot(beside, each, ".", color=colour, ms=7, alpha=0.6)
        axes.plot(x, each.mean(), "_", color=colour, ms=22, mew=2.4, zorder=3)
    axes.set_xlabel("probability p of a copy at a trigger")
    axes.set_xticks(p)
    axes.set_xlim(min(0.0, float(p.min())) - 0.05, max(1.0, float(p.max())) + 0.05)


def _probability(run: Run) -> float:
    task = run.manifest.get("spec", {}).get("task", {})
    if "copy_probability" not in task:
        raise ValueError(
            f"run of seed {run.seed}: expected manifest['spec']['task']['copy_probability'], got none; "
            "give this figure runs trained on Bigram-Backcopy."
        )
    return float(task["copy_probability"])
