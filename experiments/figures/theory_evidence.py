"""What the figures of theory read of calculated evidence, and the parts of their look that they share."""

import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from experiments.figures.evidence import Arms, Run, arm_label, leading_run
from experiments.figures.style import INK, new_figure
from experiments.figures.text import literal
from theory import predictions
from theory.restricted import RestrictedModel

Array = NDArray[np.float64]

# What is measured is a solid line in its arm's colour, what is predicted a dashed black one above it.
PREDICTED: Mapping[str, Any] = {"color": INK, "lw": 1.0, "ls": (0, (4, 2.5)), "zorder": 3}
_PANEL = 5.0, 3.2  # inches
_WRAP = 74  # characters of a title's second line that fit into the width of a panel


class Part(NamedTuple):
    """One component of a restricted model: queries and tokens that hang together, apart from all others."""

    model: RestrictedModel
    queries: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @property
    def drained(self) -> Array:
        """[its V] B, the mean over the contexts."""
        return np.asarray((self.model.total[:, None] * self.model.mean_value).mean(0))


def read(run: Run, name: str) -> Array:
    """An array of the evidence in float64, with NaN where it is not finite.

    Args:
        run: the run.
        name: of the array.

    Raises:
        ValueError: the run lacks it.
    """
    if name not in run.arrays:
        raise ValueError(
            f"run of seed {run.seed}: expected an array {name!r} in its evidence, got none; remake the evidence."
        )
    values = np.asarray(run.arrays[name], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def optimiser(run: Run) -> Mapping[str, Any]:
    """The settings of the optimiser behind a run, its type among them; empty where its manifest names none."""
    found = run.manifest.get("spec", {}).get("optimiser", {})
    return found if isinstance(found, Mapping) else {}


def instance(run: Run, index: int) -> RestrictedModel:
    """The restricted model of one instance of a run."""
    p, pi, total, mean_value = (read(run, name)[index] for name in ("p", "pi", "total", "mean_value"))
    # Its fields may be numpy arrays, which keep float64 whatever JAX is set to.
    return RestrictedModel(p, pi, total, mean_value)


def parts(model: RestrictedModel) -> list[Part]:
    """The components of a model that have queries, each as a model of its own."""
    p, pi, total, mean_value = (np.asarray(x) for x in (model.p, model.pi, model.total, model.mean_value))
    of_token = predictions.components(model)
    of_query = of_token[p.argmax(1)]
    found = []
    for label in np.unique(of_query):
        queries, tokens = np.flatnonzero(of_query == label), np.flatnonzero(of_token == label)
        own: Any = (p[np.ix_(queries, tokens)], pi[queries], total, mean_value[:, tokens])
        found.append(Part(RestrictedModel(*own), queries, tokens))
    return found


def freezing(part: Part, alpha: Array, beta: Array) -> float:
    """The logit at which the joint flow freezes a component.

    Args:
        part: the component.
        alpha: [n] sink logits of all queries at the start.
        beta: [V] value state of all tokens at the start.

    Returns:
        The logit, or NaN where nothing is predicted: with several contexts it never freezes, and where B is
        constant nothing ties the logits together.
    """
    if part.model.total.shape[0] > 1 or not np.ptp(part.drained):
        return float("nan")
    return predictions.freezing_logit(part.model, alpha[part.queries], beta[part.tokens])


def held(path: Array, start: Array) -> bool:
    """Whether a path stayed where it started: what is frozen moves by the rounding of its interpolation only."""
    return bool(np.allclose(path, start, rtol=1e-12, atol=1e-12))


def panels(runs: Arms, count: int, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """An empty figure of equal panels, row by row.

    Args:
        runs: what will be drawn.
        count: of panels.
        columns: at most so many stand side by side.

    Raises:
        ValueError: there is no arm, or an arm without a run.
    """
    leading_run(runs)
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(_PANEL[0] * columns + (0.9 if columns == 1 else 0), 0.5 + _PANEL[1] * rows)
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in places[count:]:
        unused.remove()
    return figure, places[:count]


def headline(axes: Axes, runs: Arms, arm: str, *lines: str) -> None:
    """Names the arm of a panel, its run in words, and what else the reader must know of it."""
    words = arm_label(runs, arm)
    below = [] if words == literal(arm) else [words]
    text = [piece for line in [*below, *lines] for piece in textwrap.wrap(line, _WRAP, break_long_words=False)]
    axes.set_title("\n".join([literal(arm), *text]), size=8)


def log_scale(axes: Axes, *names: str) -> None:
    """Makes axes "x", "y" logarithmic, if anything drawn has a place on them."""
    for name in names:
        if np.isfinite(getattr(axes.dataLim, f"minpos{name}")):
            axes.set(**{f"{name}scale": "log"})


def legend(figure: Figure, *marks: Line2D) -> None:
    """The marks below all panels, in as many columns as their words leave room for."""
    longest = max(len(str(mark.get_label())) for mark in marks)
    column = 0.6 + 0.065 * longest  # inches: the mark with its margins, and the width of a character
    columns = min(len(marks), max(1, int(figure.get_figwidth() / column)))
    figure.set_figheight(figure.get_figheight() + 0.2 * (-(-len(marks) // columns) - 1))
    figure.legend(handles=list(marks), loc="outside lower center", ncols=columns)
