"""Figures of a scan along the layers: the sink by head, where it stands, value drain, residual peak, dimensions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from experiments.figures.style import BASELINE, INK, MUTED, new_figure, style

Scan = Mapping[str, Any]

# Of the positions of a long sample, the first and the last are drawn.
_FIRST, _LAST = 40, 8
_SINK, _OTHERS = "#0072B2", "#767676"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def column(scan: Scan, name: str) -> NDArray[np.float64]:
    """[L] or [L, N] of one entry of the layers; NaN where it is not defined."""
    return np.array([layer[name] for layer in scan["layers"]], np.float64)


def layer_axis(axes: Axes, layers: int, *, along: str = "x") -> None:
    """Whole numbers of layers on an axis."""
    axis = axes.xaxis if along == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(integer=True, nbins=min(layers, 12), min_n_ticks=1))
    axis.set_label_text("layer")


def by_head(axes: Axes, values: NDArray[np.float64], **colours: Any) -> Any:
    """A map of [L, N], layer 0 at the bottom and a column for each head."""
    image = axes.imshow(values, origin="lower", aspect="auto", interpolation="nearest", **colours)
    axes.grid(False)
    axes.set_facecolor("#E9E9E9")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(values.shape[1], 16), min_n_ticks=1))
    axes.set_xlabel("head")
    layer_axis(axes, len(values), along="y")
    return image


def sink_map(scan: Scan) -> Figure:
    """Draws the mass on the sink by layer and head, and beside it the mean over heads, with that on the first token.

    Args:
        scan: the content of scan.json.

    Returns:
        The figure.
    """
    masses, first = column(scan, "sink_mass_by_head"), column(scan, "mass_on_first_by_head")
    layers, heads = masses.shape
    with style():
        figure = new_figure(min(11.0, 5.2 + 0.28 * heads), min(9.0, 1.8 + 0.2 * max(layers, 8)))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(max(heads, 9), 7))
        image = by_head(left, masses, cmap="Blues", vmin=0.0, vmax=1.0)
        bar = figure.colorbar(image, ax=left, shrink=0.8, pad=0.02)
        bar.set_label("mean weight on the sink")
        bar.outline.set_visible(False)
        left.set_title("By head")
        where = np.arange(layers)
        # Below and wider: mostly the two curves are one.
        right.plot(first.mean(axis=1), where, color="#E69F00", lw=4.5, alpha=0.6, label="on position 0")
        right.plot(masses.mean(axis=1), where, color=_SINK, marker="o", ms=3.5, label="on the sink")
        right.set_xlim(0.0, 1.0)
        right.set_xlabel("mean weight, mean over heads")
        right.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2)
        layer_axis(right, layers, along="y")
        right.set_ylabel("")
    return figure


def sink_places(scan: Scan, received: NDArray[np.floating[Any]]) -> Figure:
    """Draws how much attention each position receives in each layer, and where the sink stands.

    Args:
        scan: the content of scan.json.
        received: [L, T] mean weight that a position receives from the queries that see it, averaged over heads.

    Returns:
        The figure: of long samples the first and last positions.
    """
    profile = np.asarray(received, np.float64)
    layers, length = profile.shape
    short = length <= _FIRST + _LAST
    shown = np.arange(length) if short else np.r_[:_FIRST, length - _LAST : length]
    places = column(scan, "sink_position")
    with style():
        figure = new_figure(9.7, min(8.0, 2.0 + 0.18 * max(layers, 8)))
        axes = figure.subplots()
        values = np.full((layers, len(shown) + (not short)), np.nan)
        cells = np.arange(len(shown)) + (0 if short else (shown >= _FIRST))
        values[:, cells] = profile[:, shown]
        image = axes.imshow(
            values,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap="Blues",
            norm=LogNorm(1e-3, 1.0, clip=True),
        )
        axes.set_facecolor("white")
        cell = {int(position): int(c) for position, c in zip(shown, cells, strict=True)}
        for layer, place in enumerate(places):
            if place in cell:
                axes.plot(cell[int(place)], layer, marker="D", ms=4.5, mfc="white", mec="#C04000", mew=1.4)
            else:
                axes.annotate(f"{place:.0f}", (values.shape[1] - 0.3, layer), size=7, va="center", color="#C04000")
        ticks = [c for position, c in cell.items() if position % 5 == 0 or position == length - 1]
        names = [position for position in cell if position % 5 == 0 or position == length - 1]
        axes.set_xticks(ticks, [str(name) for name in names])
        axes.grid(False)
        layer_axis(axes, layers, along="y")
        axes.set_xlabel("position" if short else f"position (the first {_FIRST} and the last {_LAST} of {length})")
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, extend="min")
        bar.set_label("mean weight received")
        bar.outline.set_visible(False)
        axes.set_title(
            "Attention received by position, mean over heads; red diamonds: where the sink stands most often"
        )
    return figure


def drain_and_peak(scan: Scan) -> Figure:
    """Draws the value norm at the sink over that of the other tokens, and the residual norms of both, by layer.

    Args:
        scan: the content of scan.json.

    Returns:
        The figure.
    """
    ratio = column(scan, "value_ratio")
    sink, median = column(scan, "resid_norm_sink"), column(scan, "resid_norm_median")
    layers = np.arange(len(ratio))
    with style():
        figure = new_figure(9.7, 3.4)
        left, right = figure.subplots(1, 2)
        left.axhline(1.0, color=BASELINE, lw=1.0, ls="--")
        left.plot(layers, ratio, color=_SINK, marker="o", ms=3.5)
        left.set_title("Value norm at the sink / median of the others")
        left.set_ylabel("ratio")
        right.plot(layers, sink, color=_SINK, marker="o", ms=3.5, label="at the sink")
        right.plot(layers, median, color=_OTHERS, marker="x", ms=4, lw=1.0, ls="--", label="median of the others")
        right.set_title("Norm of the residual stream after each block")
        right.set_ylabel("norm")
        right.legend()
        for axes, values in ((left, ratio), (right, np.r_[sink, median])):
            found = values[np.isfinite(values) & (values > 0)]
            # Ratios within a factor of ten are read more easily on a plain axis.
            if found.size and found.max() / found.min() > 10:
                axes.set_yscale("log")
            else:
                axes.set_ylim(bottom=0.0)
            layer_axis(axes, len(layers))
    return figure


def massive_dimensions(scan: Scan) -> Figure:
    """Draws the dimensions of the residual stream that are largest at the sink, by layer, beside the largest others.

    Args:
        scan: the content of scan.json.

    Returns:
        The figure: left the magnitudes at the sink, right the largest over the median magnitude of all tokens.
    """
    chosen = scan["dimensions"]
    others = column(scan, "largest_other_dimension")
    layers = np.arange(len(others))
    with style():
        figure = new_figure(9.7, 3.6)
        left, right = figure.subplots(1, 2)
        for colour, entry in zip(_COLOURS, chosen, strict=False):
            sizes = np.array(entry["magnitude_by_layer"], np.float64)
            left.plot(layers, sizes, color=colour, marker="o", ms=3.5, label=f"{entry['dimension']}")
        left.plot(layers, others, color=MUTED, lw=1.0, ls="--", label="largest other")
        left.set_title("Largest dimensions of the residual stream at the sink")
        left.set_ylabel("mean magnitude")
        left.set_yscale("log")
        left.legend(title="dimension", ncols=2)
        right.plot(layers, column(scan, "max_median_ratio"), color=INK, marker="o", ms=3.5)
        right.axhline(1000.0, color=BASELINE, lw=1.0, ls="--", label="1000: massive (2402.17762)")
        right.legend()
        right.set_yscale("log")
        right.set_title("Largest / median magnitude over all tokens")
        right.set_ylabel("ratio")
        for axes in (left, right):
            layer_axis(axes, len(layers))
    return figure
