"""The one look of all figures: rc parameters, and one colour per arm."""

import contextlib
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from jaxsink.files import whole

INK = "#222222"
MUTED = "#767676"
BASELINE = "#555555"

# Okabe and Ito (2008), "Color Universal Design", without its yellow (too pale for a line on white), then
# three of Paul Tol's "muted" scheme that stay apart from them.
_PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#882255",
    "#999933",
    "#332288",
)
# The arms that most figures show, so that they never depend on what stands beside them.
_RESERVED = {"softmax": 0, "deep_adam": 0, "deep_sgd": 1, "triggers_only": 1, "relu": 2, "deep_relu": 2}
# In figures of theory black is for what is predicted.
_RESERVED |= {"flow_joint": 0, "flow_contexts": 1, "flow_growth": 2, "flow_joint_flat": 1, "flow_joint_sparse": 7}
_RESERVED |= {"shakespeare_joint": 5, "shakespeare_contexts": 4, "shakespeare_growth": 8, "shakespeare_drain": 9}
_RESERVED |= {"flow_drain": 3, "flow_drain_sparse": 2, "descent_adam": 3, "descent_sgd": 8}
_RESERVED |= {"peak_adam": 0, "peak_sgd": 1, "peak_sign": 2, "peak_coupled": 3, "path_adam": 0, "path_descent": 1}
_RESERVED |= {"minimal_one_context": 0, "minimal_many_contexts": 1, "minimal_constant": 2}
_RESERVED |= {"without_start": 3, "half_copied": 5, "markov": 4}
_RESERVED |= {"flow_bent": 7, "flow_flat_growth": 4, "minimal_adam": 3, "minimal_sgd": 8, "minimal_frozen": 7}


class Outcome(NamedTuple):
    """How a measure's outcome looks: the word and the marker say it without the colour."""

    word: str
    colour: str
    marker: str


OUTCOME = {
    True: Outcome("inside", "#0072B2", "o"),
    False: Outcome("outside", "#C04000", "X"),
    None: Outcome("undecided", "#7A5C00", "D"),
}

_STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.solid_capstyle": "round",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Sets the look of the figures inside a `with` block, and restores the caller's on leaving it."""
    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Makes an empty figure that no global figure manager knows of.

    Args:
        width: inches.
        height: inches.

    Returns:
        The figure, with an Agg canvas.
    """
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def arm_colours(arms: Iterable[str]) -> dict[str, str]:
    """Gives each arm its colour, which depends on its name and moves only if two names want the same one.

    Args:
        arms: names of the arms of one figure.

    Returns:
        Arm name to hexadecimal colour, in the order given. More arms than colours share colours.
    """
    names = list(dict.fromkeys(arms))
    taken: dict[str, int] = {}
    # Names with a reserved colour choose first, so that no other arm can push them off it.
    for name in sorted(names, key=lambda name: (name.casefold() not in _RESERVED, name)):
        slot = _RESERVED.get(name.casefold(), zlib.crc32(name.encode()) % len(_PALETTE))
        free = [(slot + shift) % len(_PALETTE) for shift in range(len(_PALETTE))]
        taken[name] = next((index for index in free if index not in taken.values()), slot)
    return {name: _PALETTE[taken[name]] for name in names}


def step_axis(axes: Axes, first_step: float) -> None:
    """Makes the x axis logarithmic in training steps, with step 0 as a mark of its own at the left.

    Args:
        axes: the axes to change.
        first_step: the first logged step after 0; the axis is linear from 0 to it.
    """
    axes.set_xscale("symlog", linthresh=first_step, linscale=0.4)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.set_xlim(left=0)
    axes.set_xlabel("training step")


def save(figure: Figure, path_without_suffix: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Writes a figure as PNG (150 dots per inch) and SVG, each whole or not at all.

    Args:
        figure: the figure.
        path_without_suffix: where to write; `.png` and `.svg` are appended. Missing folders are made.

    Returns:
        Paths of the PNG and of the SVG.
    """
    stem = Path(path_without_suffix)
    stem.parent.mkdir(parents=True, exist_ok=True)
    targets = (stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".svg"))
    layout = figure.get_layout_engine()
    # The layout is found once: that takes as long as the drawing, and would come out the same. A figure that has any
    # engine, "none" included, is drawn once more by savefig for it.
    with style(), matplotlib.rc_context({"figure.constrained_layout.use": False}):
        if layout is not None and figure.axes:
            layout.execute(figure)
        figure.set_layout_engine(None)
        for target in targets:
            with whole(target) as temporary:
                figure.savefig(temporary, format=target.suffix[1:], dpi=150)
    figure.set_layout_engine(layout)
    return targets
