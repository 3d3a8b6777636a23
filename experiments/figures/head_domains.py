"""Sink mass of each head by domain of text, with the heads that differ from the first domain (after 2410.13835)."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.figures.evidence import Arms, leading_run, values
from experiments.figures.style import new_figure, style
from experiments.figures.text import literal
from theory.heads import RATE, compare

_INCHES_A_HEAD = 0.026


def head_domains(runs: Arms) -> Figure:
    """Draws heads by domain: the weight on the first token, its gap to the first domain, and the entropy.

    Args:
        runs: arm name to one run per seed; the first is the domain that others are compared with, and those of a
            model with other heads are left out.

    Returns:
        The figure, means over passages and seeds. A row is a head, a grey line ends a block, a dot marks a gap that
        survives the permutation test in the first seed.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    _, leading = leading_run(runs)
    runs = {arm: each for arm, each in runs.items() if _mass(each[0]).shape[1:] == _mass(leading).shape[1:]}
    masses = {arm: np.stack([_mass(run).mean(0) for run in each]).mean(0) for arm, each in runs.items()}
    entropies = [np.mean([values(run, "entropy_by_head").mean(0) for run in each], axis=0) for each in runs.values()]
    first, *others = runs
    layers, heads = masses[first].shape
    words = {arm: _domain(str(runs[arm][0].manifest["label"])) for arm in runs}
    with style():
        figure = new_figure(5.0 + max(len(runs), 4), 2.2 + _INCHES_A_HEAD * layers * heads)
        left, middle, right = figure.subplots(1, 3, width_ratios=(len(runs), max(len(others), 2), len(runs)))
        shown = {
            left: (list(masses.values()), {"cmap": "viridis", "vmin": 0.0, "vmax": 1.0}, "mean weight"),
            middle: (
                [masses[arm] - masses[first] for arm in others],
                {"cmap": "RdBu_r", "vmin": -0.6, "vmax": 0.6},
                "difference",
            ),
            right: (entropies, {"cmap": "Blues", "vmin": 0.0}, "nats"),
        }
        for axes, (maps, look, unit) in shown.items():
            image = axes.imshow(_rows(maps, layers * heads), aspect="auto", interpolation="nearest", **look)
            axes.hlines(np.arange(heads, layers * heads, heads) - 0.5, -0.5, max(len(maps), 1) - 0.5, "#888888", lw=0.4)
            axes.grid(False)
            axes.set_xlabel("domain")
            figure.colorbar(image, ax=axes, orientation="horizontal", pad=0.02, label=unit)
        for axes, arms in ((left, list(runs)), (middle, others), (right, list(runs))):
            axes.set_xticks(range(len(arms)), [words[arm] for arm in arms], rotation=90)
        for column, arm in enumerate(others):
            _dots(middle, column, compare(*_alike(_mass(runs[arm][0]), _mass(runs[first][0]))).differs().ravel())
        for axes in (middle, right):
            axes.set_yticks([])
        left.set_yticks((np.arange(layers) + 0.5) * heads - 0.5, range(layers))
        left.set_ylabel(f"block, {heads} heads each")
        left.set_title("Weight on the\nfirst token")
        middle.set_title(f"The same, minus\n{words[first]}; dots: false\ndiscoveries < {RATE:.0%}")
        right.set_title("Entropy of\nattention")
    return figure


def _mass(run: object) -> NDArray[np.float64]:
    """[B, L, N]."""
    return values(run, "weight_by_head")[..., 0]  # type: ignore[arg-type]


def _domain(label: str) -> str:
    """What a run is called in the picture: the domain in its label."""
    return literal(label.split(" passages of ")[-1].split(",")[0])


def _rows(maps: list[NDArray[np.float64]], count: int) -> NDArray[np.float64]:
    """[heads, domains]."""
    return np.stack([of.ravel() for of in maps], axis=1) if maps else np.zeros((count, 1))


def _alike(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    count = min(len(one), len(other))
    return one[:count], other[:count]


def _dots(axes: Axes, column: int, found: NDArray[np.bool_]) -> None:
    rows = np.flatnonzero(found)
    axes.plot(np.full(rows.size, column), rows, ".", color="black", ms=1.5, ls="")
