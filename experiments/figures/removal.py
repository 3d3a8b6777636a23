"""What makes a residual peak: removal of single blocks, and gradients at the start token (after 2410.13835)."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.figures.evidence import Arms, Run, arm_label, curve, leading_run, values
from experiments.figures.style import BASELINE, INK, MUTED, arm_colours, new_figure, step_axis, style
from experiments.figures.text import number
from theory.claims.rp_causes import sink_block

Array = NDArray[np.float64]

_CONTENT = "#767676"
_WINDOWS = 12
# Reading, unit of its axis, and what the source says block 0 does to it: its value without the block as a function of
# that with it.
_PANELS = (
    ("peak_ratio", "Largest peak ratio", "ratio", lambda before: 1.0),
    ("dlogit", "Dlogit where the sink is", "logits", lambda before: before / 5),
    ("value_ratio", "Val ratio of <s> where the sink is", "ratio", lambda before: 5 * before),
    ("attn_start", "Attn_<s> where the sink is", "weight", None),
    ("backcopy", "Backcopy excess risk", "nats", None),
    ("bigram", "Bigram excess risk", "nats", None),
)


def block_removal(runs: Arms) -> Figure:
    """Draws what the removal of each block does to peak, sink, value drain and risks, and a table beside the source.

    Args:
        runs: arm name to one run per seed; the runs of the first arm are drawn.

    Returns:
        The figure: a bar for the mean over seeds, thin lines for the seeds; dashed, what the source predicts.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    arm, _ = leading_run(runs)
    each, colour = runs[arm], arm_colours(runs)[arm]
    with style():
        figure = new_figure(10.0, 8.6)
        grid = figure.subplots(3, 3, gridspec_kw={"height_ratios": (1.0, 1.0, 0.95)})
        found = {name: np.stack([_removals(run, name) for run in each]) for name, *_ in _PANELS}
        for axes, (name, title, unit, predicted) in zip(grid.flat, _PANELS, strict=False):
            _bars(axes, found[name], colour)
            axes.set_title(title)
            axes.set_ylabel(unit)
            if predicted is not None:
                level = predicted(found[name][:, 0].mean())
                axes.plot([0.55, 1.45], [level, level], color=INK, lw=1.6, ls="--")
        below = grid[2, 0].get_gridspec()
        for axes in grid[2]:
            axes.remove()
        _table(figure.add_subplot(below[2, :]), _rows(each, found))
        figure.suptitle(
            f"Removal of single blocks, {arm_label(runs, arm)} (bars: mean, lines: seeds, dashed: the source)",
            x=0.01,
            ha="left",
            size=11,
        )
    return figure


def _removals(run: Run, name: str) -> Array:
    """[1 + R] values of the whole network, then without each block: of the sink's block, or the largest of a block."""
    cut, whole = values(run, f"removed_{name}"), values(run, name)[-1]
    if name == "peak_ratio":
        cut, whole = cut.max(axis=1), whole.max()
    elif cut.ndim == 2:
        cut, whole = cut[:, sink_block(run)], whole[sink_block(run)]
    return np.concatenate([[whole], cut])


def _bars(axes: Axes, found: Array, colour: str) -> None:
    places = np.arange(found.shape[1])
    axes.bar(places, found.mean(axis=0), width=0.55, color=[INK] + [colour] * (len(places) - 1), alpha=0.35)
    axes.plot(places, found.T, "o-", color=colour, lw=0.7, ms=3.5)
    axes.axhline(0, color=BASELINE, lw=0.8)
    axes.set_xticks(places, ["whole", *(f"− block {block}" for block in places[1:] - 1)])
    axes.grid(False, axis="x")
    axes.set_xlabel("network")


def _rows(each: Any, found: dict[str, Array]) -> list[tuple[str, str, str, str, str]]:
    """Reading, whole network, what is cut, cut network, and the source's words; means over the seeds."""

    def mean(name: str) -> float:
        return float(np.mean([values(run, name).ravel()[-1] for run in each]))

    rows = []
    sources = {"peak_ratio": "about 1", "dlogit": "falls more than 5 times", "value_ratio": "rises more than 5 times"}
    for name, title, *_ in _PANELS[:3]:
        whole, cut = found[name][:, 0].mean(), found[name][:, 1].mean()
        rows.append((title, number(float(whole)), "block 0", number(float(cut)), sources[name]))
    backcopy, bigram, guess = mean("backcopy"), mean("bigram"), mean("uniform_bigram")
    rows += [
        (
            "Backcopy excess risk (nats)",
            number(backcopy),
            "all attention",
            number(mean("no_attention_backcopy")),
            "above 4 (one layer)",
        ),
        (
            "Bigram excess risk (nats)",
            number(bigram),
            "all attention",
            number(mean("no_attention_bigram")),
            "moves less than 0.01 (one layer)",
        ),
        (
            "Bigram risk over a uniform guess",
            number(bigram / guess),
            "all MLPs",
            number(mean("no_mlp_bigram") / guess),
            "0.9 to 1.1 (one layer)",
        ),
    ]
    return rows


def _table(axes: Axes, rows: list[tuple[str, str, str, str, str]]) -> None:
    axes.set_axis_off()
    axes.set_xticks([])
    axes.set_yticks([])
    heads = ("reading", "whole network", "cut", "cut network", "source, cut network")
    table = axes.table(
        rows, colLabels=heads, loc="center", cellLoc="left", colLoc="left", colWidths=(0.3, 0.14, 0.14, 0.14, 0.28)
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    table.scale(1.0, 1.35)
    for (row, _), cell in table.get_celld().items():
        cell.visible_edges = "B"
        cell.set_edgecolor(INK if row == 0 else "#E4E4E4")
        if row == 0:
            cell.get_text().set_fontweight("bold")


def residual_gradients(runs: Arms) -> Figure:
    """Draws which direction gradients and growth at <s> have over training, and what upper value maps make of it.

    Args:
        runs: arm name to one run per seed; the runs of the first arm are drawn, the matrices for its first seed.

    Returns:
        The figure: cosines of the gradients of any two log points, cosines of the growth in any two of about
        twelve equal parts of the run, and the images under the value map of the sink's block, for <s> and a content
        token.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    arm, run = leading_run(runs)
    each, colour = runs[arm], arm_colours(runs)[arm]
    with style():
        figure = new_figure(9.7, 8.4)
        grid = figure.subplots(2, 2, gridspec_kw={"height_ratios": (1.25, 1.0)})
        steps = values(run, "step")
        gradients = values(run, "gradient_start")
        ends = np.linspace(steps[0], steps[-1], _WINDOWS + 1)
        nearest = np.unique(np.abs(steps[:, None] - ends[None, :]).argmin(axis=0))
        growth = np.diff(values(run, "residual_start")[nearest], axis=0)
        _matrix(grid[0, 0], gradients, steps, "Cosines of gradients at <s>")
        image = _matrix(grid[0, 1], growth, steps[nearest][1:], "Cosines of growth at <s>")
        bar = figure.colorbar(image, ax=grid[0], shrink=0.8, aspect=30, pad=0.02)
        bar.set_label("cosine")
        bar.outline.set_visible(False)
        for axes, name in zip(grid[1], ("gradient", "residual"), strict=True):
            _images(axes, arm, each, name, colour)
        figure.legend(*grid[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.suptitle(
            f"Direction at <s> after block 0, {arm_label(runs, arm)} (matrices: seed {run.seed})",
            x=0.01,
            ha="left",
            size=11,
        )
    return figure


def _matrix(axes: Axes, vectors: Array, steps: Array, title: str) -> Any:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    image = axes.imshow(unit @ unit.T, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", origin="lower")
    shown = np.unique(np.linspace(0, len(steps) - 1, 6).astype(int))
    names = [f"{steps[i]:,.0f}" for i in shown]
    axes.set_xticks(shown, names)
    axes.set_yticks(shown, names)
    axes.grid(False)
    axes.set_title(title)
    axes.set_xlabel("training step")
    axes.set_ylabel("training step")
    return image


def _images(axes: Axes, arm: str, each: Any, name: str, colour: str) -> None:
    for token, hue, words in (("start", colour, "<s>"), ("content", _CONTENT, "most frequent content token")):
        drawn = [curve(arm, [run], f"{name}_{token}_image", sink_block(run)) for run in each]
        for one in drawn:
            axes.plot(one.step, one.seeds[0], color=hue, lw=0.7, alpha=0.5)
        length = min(len(one.step) for one in drawn)
        mean = np.exp(np.mean([np.log(one.seeds[0][:length]) for one in drawn], axis=0))
        axes.plot(drawn[0].step[:length], mean, color=hue, lw=2.2, label=words)
    axes.axhline(1, color=MUTED, lw=1.0, ls="--", label="a random direction")
    axes.set_ylim(bottom=0)
    step_axis(axes, drawn[0].step[1])
    axes.set_title(f"Image of the {'residual state' if name == 'residual' else name} under the value map")
    axes.set_ylabel("length over that of a random direction's")
