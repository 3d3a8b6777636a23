"""Figures of a scan by head: inactive heads, costs of zeroing, attention maps of a few."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, PowerNorm, SymLogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.figures.scan_layers import Scan, by_head
from experiments.figures.style import MUTED, new_figure, style
from experiments.figures.text import literal, token_label

_TOKENS = 40
_LONGEST_LABEL = 12


def _of_heads(scan: Scan, values: Sequence[Any]) -> NDArray[np.float64]:
    """[L, N] from what the heads say, in their order."""
    return np.array(values, np.float64).reshape(len(scan["layers"]), -1)


def dormant_heads(scan: Scan) -> Figure:
    """Draws the norm of each head's output over the mean of its layer, and the entropy of its attention.

    Args:
        scan: the content of scan.json.

    Returns:
        The figure; crosses mark the heads that count as inactive.
    """
    heads = scan["heads"]
    share = _of_heads(scan, [head["dormancy"]["output_share"] for head in heads])
    inactive = _of_heads(scan, [head["dormancy"]["inactive"] for head in heads]) > 0
    entropy = _of_heads(scan, [head["entropy"] for head in heads])
    layers, count = share.shape
    with style():
        figure = new_figure(min(11.0, 7.0 + 0.3 * count), min(9.0, 1.8 + 0.2 * max(layers, 8)))
        left, right = figure.subplots(1, 2, sharey=True)
        first = by_head(left, share, cmap="PuOr", norm=LogNorm(0.1, 10.0, clip=True))
        left.plot(*np.nonzero(inactive)[::-1], "x", color="black", ms=6, mew=1.6)
        left.set_title("Norm of the output / mean of the layer")
        second = by_head(right, entropy, cmap="Blues", vmin=0.0)
        right.set_title("Entropy of attention, in nats")
        right.set_ylabel("")
        for image, axes in ((first, left), (second, right)):
            bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
            bar.outline.set_visible(False)
    return figure


def zeroing_costs(scan: Scan) -> Figure:
    """Draws what zeroing each head costs, a map for each domain.

    Args:
        scan: the content of scan.json, with costs.

    Returns:
        The figure, one scale of colours for all domains.
    """
    domains = list(scan["domains"])
    costs = [_of_heads(scan, [head["zeroing_cost_by_domain"][name] for head in scan["heads"]]) for name in domains]
    layers, count = costs[0].shape
    top = max(float(np.nanmax(np.abs(cost))) for cost in costs) or 1.0
    least = min(float(np.nanmin(cost)) for cost in costs)
    signed = least < 0
    norm = SymLogNorm(top / 100, vmin=-top, vmax=top) if signed else LogNorm(max(least, top / 1000), top, clip=True)
    with style():
        width = min(4.5, 2.2 + 0.15 * count)
        figure = new_figure(max(5.0, 1.4 + width * len(domains)), min(9.0, 1.8 + 0.2 * max(layers, 8)))
        grid = figure.subplots(1, len(domains), sharey=True, squeeze=False)[0]
        for axes, name, cost in zip(grid, domains, costs, strict=True):
            image = by_head(axes, cost, cmap="RdBu_r" if signed else "Reds", norm=norm)
            axes.set_title(literal(name))
            if axes is not grid[0]:
                axes.set_ylabel("")
        bar = figure.colorbar(image, ax=grid, shrink=0.8, pad=0.02)
        bar.set_label("increase of the loss (nats)" if scan["zeroing"]["measure"] == "loss" else "relative change")
        bar.outline.set_visible(False)
    return figure


def chosen_heads(scan: Scan) -> list[tuple[int, int, str]]:
    """(layer, head, why) of the heads whose maps are worth a look, each once."""
    heads = [head for head in scan["heads"] if head["sink_mass"] is not None and head["entropy"] is not None]
    if not heads:
        return []
    by_mass = sorted(heads, key=lambda head: -head["sink_mass"])
    wanted = [
        (by_mass[0], "most on the sink"),
        (by_mass[len(by_mass) // 2], "median on the sink"),
        (by_mass[-1], "least on the sink"),
        (min(heads, key=lambda head: head["dormancy"]["output_share"] or 0.0), "smallest output in its layer"),
        (min(heads, key=lambda head: head["entropy"]), "lowest entropy"),
        (max(heads, key=lambda head: head["entropy"]), "highest entropy"),
    ]
    found: dict[tuple[int, int], str] = {}
    for head, why in wanted:
        place = (head["layer"], head["head"])
        found[place] = f"{found[place]}, {why}" if place in found else why
    return [(layer, head, why) for (layer, head), why in found.items()]


def head_maps(scan: Scan, maps: NDArray[np.float16], tokens: Sequence[str]) -> Figure:
    """Draws the attention maps of a few heads over the first tokens of the sample, with the tokens on both axes.

    Args:
        scan: the content of scan.json.
        maps: [L, N, T, T] attention weights.
        tokens: T token strings.

    Returns:
        The figure, two maps in a row; empty if there is no head to show.
    """
    chosen, count = chosen_heads(scan), min(len(tokens), _TOKENS)
    labels = [literal(_short(token_label(token))) for token in tokens[:count]]
    rows = -(-len(chosen) // 2)
    with style():
        figure = new_figure(11.0, 0.3 + 5.4 * max(rows, 1))
        grid = figure.subplots(max(rows, 1), 2, squeeze=False)
        for axes in grid.flat[len(chosen) :]:
            axes.set_axis_off()
        for axes, (layer, head, why) in zip(grid.flat, chosen, strict=False):
            weights = np.asarray(maps[layer, head, :count, :count], np.float64)
            causal = not np.triu(weights, 1).any()
            # A key that the query may not see is grey, so that it cannot be read as a weight of 0.
            unseen = np.triu(np.ones_like(weights, dtype=np.bool_), 1) & causal
            # The square root of a weight as its colour: most weights are small.
            image = axes.imshow(
                np.ma.masked_array(weights, unseen),
                cmap="Blues",
                norm=PowerNorm(0.5, 0.0, 1.0),
                interpolation="nearest",
            )
            axes.set_facecolor("#E9E9E9")
            axes.grid(False)
            axes.spines[:].set_color(MUTED)
            axes.set_xticks(range(count), labels, rotation=90)
            axes.set_yticks(range(count), labels)
            axes.tick_params(length=0, labelsize=6.5)
            axes.set_title(f"layer {layer}, head {head}\n{why}")
        if chosen:
            bar = figure.colorbar(image, ax=grid, shrink=0.5, aspect=40, pad=0.02)
            bar.set_label("attention weight")
            bar.outline.set_visible(False)
    return figure


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"
