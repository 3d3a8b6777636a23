"""Growth of the sink logits against what is predicted: on restricted models, and in the minimal network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.figures.evidence import Arms, Run
from experiments.figures.style import MUTED, arm_colours, style
from experiments.figures.text import number
from experiments.figures.theory_evidence import (
    PREDICTED,
    Array,
    freezing,
    headline,
    held,
    instance,
    legend,
    log_scale,
    optimiser,
    panels,
    parts,
    read,
)
from theory import growth, predictions
from theory.restricted import RestrictedModel

_INSTANCES = 2
_QUERIES = 6  # of one instance; Shakespeare's are sorted, so that these are the most frequent


class _Growth(NamedTuple):
    """Sink logits [P, K] over x [P], measured and predicted; NaN where nothing is predicted."""

    x: Array
    measured: Array
    predicted: Array
    words: str
    x_label: str = "time t of the flow"


def sink_logit_growth(runs: Arms) -> Figure:
    """Draws sink logits of restricted models against log t, with what is predicted for what the run held.

    Args:
        runs: arm name to one run per seed; of the first seed two instances with up to six queries are drawn.

    Returns:
        The figure, one panel per arm. Predicted is 1/2 log t + r_v with its next order where beta is frozen, the
        freezing logit where all is free with one context, and 1/2 log t + r_v with several contexts.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    return _draw(runs, _of_flow, "predicted")


def network_growth(runs: Arms) -> Figure:
    """Draws the sink logits of the minimal network under gradient flow and under optimisers.

    Args:
        runs: arm name to one run per seed; the first seed is drawn.

    Returns:
        The figure, one panel per arm. Predictions are those of `sink_logit_growth`; under an optimiser a guide has
        the slope 1/2 of gradient descent.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    return _draw(
        runs,
        lambda run: _of_training(run) if "step" in run.arrays else _of_minimal_flow(run),
        "predicted, or under an optimiser a guide",
    )


def _draw(runs: Arms, growth_of: Callable[[Run], _Growth], dashed: str) -> Figure:
    with style():
        figure, places = panels(runs, len(runs))
        colours = arm_colours(runs)
        for axes, (arm, arm_runs) in zip(places, runs.items(), strict=True):
            drawn = growth_of(arm_runs[0])
            _panel(axes, drawn, colours[arm])
            headline(axes, runs, arm, drawn.words)
        legend(
            figure,
            Line2D([], [], color=MUTED, lw=2.4, label="measured, a line for each query"),
            Line2D([], [], **PREDICTED, label=dashed),
        )
    return figure


def _panel(axes: Axes, drawn: _Growth, colour: str) -> None:
    axes.plot(drawn.x, drawn.measured, color=colour, lw=2.4, alpha=0.6)
    log_scale(axes, "x")
    axes.set_xlabel(drawn.x_label)
    axes.set_ylabel("sink logit α_v (logits)")
    seen = drawn.measured[np.isfinite(drawn.measured)]
    if seen.size:
        # Predictions are for late times and may run off to any place before them.
        margin = 0.08 * np.ptp(seen) or 0.5
        axes.set_ylim(seen.min() - margin, seen.max() + margin)
    if np.isfinite(drawn.predicted).any():
        axes.plot(drawn.x, drawn.predicted, **PREDICTED)


def _with_error(words: str, measured: Array, predicted: Array) -> str:
    """The words of a prediction and how far the drawn curves end from it."""
    error = np.abs(measured[-1] - predicted[-1])
    error = error[np.isfinite(error)]
    if not error.size:
        return "nothing is predicted"
    return f"predicted: {words}; largest error at the end {number(float(error.max()))}"


# Restricted models ----------------------------------------------------------------------------------------------
def _of_flow(run: Run) -> _Growth:
    times, alpha = read(run, "times"), read(run, "alpha")
    shown = range(min(_INSTANCES, len(alpha)))
    models = [instance(run, i) for i in shown]
    contexts = models[0].total.shape[0]
    starts = read(run, "start_alpha"), read(run, "start_beta")
    frozen_alpha, frozen_beta = held(alpha, starts[0][:, None]), held(read(run, "beta"), starts[1][:, None])
    if frozen_beta and not any(np.ptp(model.mean_value) for model in models):
        words, predicted = "no force, as B is constant", [np.broadcast_to(starts[0][i], alpha[i].shape) for i in shown]
    elif frozen_alpha or (frozen_beta and contexts > 1):
        words, predicted = "nothing", [np.full_like(alpha[i], np.nan) for i in shown]
    elif frozen_beta:
        words, predicted = "½ log t + r_v, next order", [predictions.sink_logit(model, times) for model in models]
    elif contexts > 1:
        words = "½ log t + r_v"
        predicted = [0.5 * np.log(times)[:, None] + predictions.growing_constant(model)[None] for model in models]
    else:
        words = "freezing logit"
        predicted = [
            np.broadcast_to(_freezing_logits(models[i], starts[0][i], starts[1][i]), alpha[i].shape) for i in shown
        ]
    measured = np.concatenate([alpha[i][:, :_QUERIES] for i in shown], axis=1)
    expected = np.concatenate([each[:, :_QUERIES] for each in predicted], axis=1)
    return _Growth(times, measured, expected, _with_error(words, measured, expected))


def _freezing_logits(model: RestrictedModel, alpha: Array, beta: Array) -> Array:
    """[n] the logit at which each query's component freezes."""
    found = np.full(alpha.size, np.nan)
    for part in parts(model):
        found[part.queries] = freezing(part, alpha, beta)
    return found


# The minimal network --------------------------------------------------------------------------------------------
def _of_minimal_flow(run: Run) -> _Growth:
    time, measured = read(run, "time"), read(run, "alphas")
    p, weight, total, b = (read(run, name) for name in ("p", "weight", "total", "b"))
    query = run.arrays["query"]
    seen = growth.contexts(p, query, weight, total, b)
    if held(read(run, "betas"), read(run, "beta")[None]):
        words, predicted = "½ log t + r_v, next order", growth.frozen_logit(seen, time)
    elif np.ptp(b, axis=0).any():
        words = "½ log t + r_v"
        predicted = 0.5 * np.log(time)[:, None] + growth.joint_constant(seen)[None]
    else:
        words = "freezing logit"
        parts_of: Any = (p, np.bincount(query, weight), total[:1], b[:1] / total[0])
        one = RestrictedModel(*parts_of)
        at = _freezing_logits(one, read(run, "alpha"), read(run, "beta"))
        predicted = np.broadcast_to(at, measured.shape)
    return _Growth(time, measured, predicted, _with_error(words, measured, predicted))


def _of_training(run: Run) -> _Growth:
    step, measured = read(run, "step"), read(run, "alphas")
    # A logarithmic axis has no place for step 0.
    measured, step = measured[step > 0], step[step > 0]
    descends = optimiser(run).get("type") == "SGD"
    x = step * float(read(run, "rate")) if descends else step
    late = x >= x[-1] / 3
    mean = measured.mean(1)
    guide = mean[-1] + 0.5 * np.log(x / x[-1])
    slope = (mean[-1] - mean[late][0]) / np.log(x[-1] / x[late][0]) if late.sum() > 1 else np.nan
    words = f"dashed: a guide of slope ½; measured over the last two thirds: {number(float(slope))}"
    return _Growth(x, measured, guide[:, None], words, "rate × step" if descends else "step")
