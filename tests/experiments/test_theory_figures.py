"""Figures of theory: what is predicted is computed from the evidence, drawn dashed, and absent where there is none."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from beside import load
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments import figures
from experiments.figures.style import INK
from experiments.report.overview import SECTIONS
from theory import growth, peak, predictions

made_up = load(__file__, "synthetic_evidence")
ARMS = {
    "sink_logit_growth": [arm for arm in made_up.THEORY if arm.startswith("flow")],
    "value_convergence": [arm for arm in made_up.THEORY if arm.startswith("flow") and arm != "flow_contexts"],
    "phase_portrait": [arm for arm in made_up.THEORY if arm.startswith("flow")],
    "concentration": [arm for arm in made_up.THEORY if arm.startswith(("flow", "descent"))],
    "peak_mechanism": [arm for arm in made_up.THEORY if arm.startswith("peak")],
    "order_of_convergence": ["path_descent", "path_adam"],
    "network_growth": [arm for arm in made_up.THEORY if arm.startswith("minimal")],
}
EVERY = [(name, arm) for name, arms in ARMS.items() for arm in arms]
# The one whose flow takes seconds to compile is drawn whole in the tests of all figures.
FAST = [name for name in ARMS if name != "order_of_convergence"]


def draw(name: str, *arms: str, seeds: int = 3) -> Figure:
    figure = figures.FIGURES[name](made_up.theory_arms(arms, seeds), {})
    figure.canvas.draw()
    return figure


def dashed(axes: Axes) -> list[Line2D]:
    return [line for line in axes.lines if line.get_linestyle() == "--"]


def panel(figure: Figure, arm: str) -> Axes:
    (found,) = (axes for axes in figure.axes if axes.get_title("left").split("\n")[0] == arm)
    return found


def test_table_names_every_figure_of_the_section() -> None:
    # What values do to weights is drawn of a network in training, in the tests of all figures.
    assert set(ARMS) | {"value_pull"} == set(SECTIONS["Theory"])


@pytest.mark.parametrize(("name", "arm"), EVERY)
def test_a_single_arm_can_be_drawn(name: str, arm: str) -> None:
    figure = draw(name, arm)
    used, width, height = figure.get_tightbbox(), *figure.get_size_inches()
    assert min(used.x0, used.y0, width - used.x1, height - used.y1) >= -0.01, used  # a pixel of rounding
    assert all(not legend.get_window_extent().overlaps(figure.axes[-1].get_tightbbox()) for legend in figure.legends)


@pytest.mark.parametrize("name", FAST)
def test_what_is_predicted_differs_from_what_is_measured_without_colour(name: str) -> None:
    figure = draw(name, *ARMS[name], seeds=1)
    lines = [line for axes in figure.axes for line in axes.lines if line.get_linestyle() != "None"]
    for line in lines:
        assert (line.get_linestyle() == "--") == (to_hex(line.get_color()) == INK), line
    kinds = {line.get_linestyle() for line in lines}
    assert kinds == {"-", "--"}
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("predicted" in label or "stationary" in label for label in labels)


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_evidence_that_is_not_finite_leaves_gaps(name: str, value: float) -> None:
    runs = made_up.theory_arms(ARMS[name])
    for arm_runs in runs.values():
        for run in arm_runs:
            for found in {"alpha", "beta", "alphas", "betas", "peak", "final"} & set(run.arrays):
                if run.arrays[found].ndim > 2 or found in ("alphas", "betas", "peak", "final"):
                    run.arrays[found] = np.where(np.arange(run.arrays[found].shape[-1]) > 1, value, run.arrays[found])
    figures.FIGURES[name](runs, {}).canvas.draw()


@pytest.mark.parametrize("name", FAST)
def test_names_and_labels_are_shown_as_they_stand(name: str) -> None:
    arm = ARMS[name][0]
    run = made_up.theory_run(arm, 0)
    hostile = run._replace(manifest=run.manifest | {"label": "costs $5 or $\\frac{1} more " + "$x" * 60})
    figure = figures.FIGURES[name]({"a_$b$\\frac": [hostile]}, {})
    figure.canvas.draw()
    shown = [axes.get_title("left") for axes in figure.axes]
    shown += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert any(r"a_\$b\$\frac" in text for text in shown)


@pytest.mark.parametrize("name", ARMS)
def test_missing_arrays_are_named(name: str) -> None:
    run = made_up.theory_run(ARMS[name][0], 7)
    with pytest.raises(ValueError, match="seed 7: expected an array"):
        figures.FIGURES[name]({"some": [run._replace(arrays={})]}, {})


# What is drawn as predicted --------------------------------------------------------------------------------------
def instances(run: Any) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    for i in range(2):
        arrays = {name: run.arrays[name][i] for name in ("p", "pi", "total", "mean_value")}
        yield predictions.RestrictedModel(**arrays), run.arrays["start_alpha"][i], run.arrays["start_beta"][i]


def test_growth_is_drawn_as_predicted() -> None:
    names = ("flow_growth", "flow_joint", "flow_contexts")
    figure, runs = draw("sink_logit_growth", *names), made_up.theory_arms(names, 1)
    for arm in names:
        run, wanted = runs[arm][0], []
        times = run.arrays["times"]
        for model, alpha, beta in instances(run):
            if arm == "flow_growth":
                expected = predictions.sink_logit(model, times)
            elif arm == "flow_joint":
                expected = np.full((times.size, alpha.size), predictions.freezing_logit(model, alpha, beta))
            else:
                expected = 0.5 * np.log(times)[:, None] + predictions.growing_constant(model)[None]
            wanted += list(expected.T)
        found = [line.get_ydata() for line in dashed(panel(figure, arm))]
        # The same float64 operations; only the order of sums over a component of all tokens may differ.
        np.testing.assert_allclose(found, wanted, rtol=1e-10)
        measured = [line.get_ydata() for line in panel(figure, arm).lines if line.get_linestyle() == "-"]
        np.testing.assert_array_equal(measured, np.concatenate(list(run.arrays["alpha"].transpose(0, 2, 1))))


def test_components_freeze_apart() -> None:
    lines = dashed(panel(draw("sink_logit_growth", "flow_joint_sparse"), "flow_joint_sparse"))
    levels = np.array([line.get_ydata()[-1] for line in lines]).reshape(2, 4)
    (run,) = made_up.theory_arms(["flow_joint_sparse"], 1)["flow_joint_sparse"]
    for of_instance, (model, alpha, beta) in zip(levels, instances(run), strict=True):
        assert len(np.unique(of_instance)) == 2, "two pairs of queries share no token"
        energies = predictions.conserved(model, alpha, beta)[0]
        limit = np.zeros(6)
        label = predictions.components(model)
        for part in np.unique(label[model.p.argmax(1)]):
            logit = of_instance[label[model.p.argmax(1)] == part][0]
            drained = np.where(label == part, model.total[0] * model.mean_value[0] * np.exp(-logit), 0)
            limit += np.where(label == part, (beta + drained)[label == part].mean() - drained, 0)
        limit = np.where(np.isin(label, label[model.p.argmax(1)]), limit, beta)
        # Conserved to the root's tolerance, 1e-13, times energies of order ten.
        np.testing.assert_allclose(predictions.conserved(model, of_instance, limit)[0], energies, atol=1e-10)


@pytest.mark.parametrize("arm", ["flow_joint_flat", "flow_drain"])
def test_nothing_is_drawn_where_nothing_is_predicted(arm: str) -> None:
    axes = panel(draw("sink_logit_growth", arm), arm)
    assert "nothing is predicted" in axes.get_title("left")
    assert dashed(axes) == []


def test_logits_without_force_are_predicted_to_stay() -> None:
    axes = panel(draw("sink_logit_growth", "flow_flat_growth"), "flow_flat_growth")
    (run,) = made_up.theory_arms(["flow_flat_growth"], 1)["flow_flat_growth"]
    np.testing.assert_array_equal([line.get_ydata()[-1] for line in dashed(axes)], run.arrays["start_alpha"].ravel())


def test_drain_is_drawn_with_its_rate_and_limit() -> None:
    run = made_up.theory_run("flow_drain", 0)
    times = np.geomspace(1, 1e5, 2000)
    paths = []
    for model, alpha, beta in instances(run):
        limit = predictions.value_limit(model, alpha[0], beta)
        decay = np.exp(-2 * predictions.value_rate(model, alpha[0]) * times)
        paths.append(limit + decay[:, None] * (beta - limit))
    alpha = np.broadcast_to(run.arrays["start_alpha"][:, None], (2, times.size, 4))
    arrays = {**run.arrays, "times": times, "alpha": alpha, "beta": np.stack(paths)}
    figure = figures.value_convergence({"flow_drain": [run._replace(arrays=arrays)]})
    assert "fitted over predicted rate: 2 " in panel(figure, "flow_drain").get_title("left")
    for line in dashed(panel(figure, "flow_drain")):
        (left, right), (top, bottom) = line.get_xdata(), line.get_ydata()
        assert np.log(top / bottom) == pytest.approx(right - left)  # slope 1 in units of the predicted rate
    points, curve = figure.axes[1].lines
    # beta has arrived at the end of its path: e^-a to rounding.
    np.testing.assert_allclose(points.get_ydata(), np.exp(-points.get_xdata()), rtol=1e-9)
    np.testing.assert_allclose(curve.get_ydata(), np.exp(-curve.get_xdata()), rtol=1e-12)


def test_portrait_marks_where_one_context_freezes() -> None:
    names = ("flow_joint", "flow_contexts")
    figure, runs = draw("phase_portrait", *names), made_up.theory_arms(names, 1)
    crosses = [line for line in panel(figure, "flow_joint").lines if line.get_marker() == "x"]
    wanted = [predictions.freezing_logit(*each) for each in instances(runs["flow_joint"][0])]
    # As above: sums over a component of all tokens.
    np.testing.assert_allclose([line.get_xdata()[0] for line in crosses], wanted, rtol=1e-10)
    assert not [line for line in panel(figure, "flow_contexts").lines if line.get_marker() == "x"]


def test_spread_is_taken_within_components() -> None:
    run = made_up.theory_run("flow_joint_sparse", 0)
    pairs = [predictions.components(model)[model.p.argmax(1)] for model, *_ in instances(run)]
    # Two values of alpha that only differ between components.
    alpha = np.stack([np.broadcast_to(pair, (37, 4)) for pair in pairs]).astype(float)
    figure = figures.concentration({"some": [run._replace(arrays={**run.arrays, "alpha": alpha})]})
    assert all(not np.any(line.get_ydata()) for line in figure.axes[0].lines)


def test_peaks_are_drawn_as_predicted() -> None:
    figure = draw("peak_mechanism", "peak_adam", "peak_sgd", "peak_sign", "peak_coupled")
    wanted = [peak.adam_peak(0.3, 10.0, 300, 0.9, 0.9, 1e-8), peak.sgd_peak(0.3, 10.0, 300)]
    for axes in figure.axes:
        np.testing.assert_array_equal([line.get_ydata() for line in dashed(axes)], wanted)


def test_turning_step_is_marked() -> None:
    run = made_up.theory_run("peak_adam", 0)
    spec = run.manifest["spec"] | {"optimiser": {"type": "Adam", "rate": 0.3, "b1": 0.9, "b2": 0.999, "eps": 1e-8}}
    curve = peak.adam_peak(0.3, 10.0, 5000, 0.9, 0.999, 1e-8)
    turning = run._replace(arrays={"start": [10.0], "peak": curve[None]}, manifest=run.manifest | {"spec": spec})
    for axes in figures.peak_mechanism({"some": [turning]}).axes:
        (mark,) = (line for line in axes.lines if line.get_marker() == "D")
        assert mark.get_xdata()[0] == peak.turning_step(curve) > 0


def test_minimal_network_is_drawn_as_predicted() -> None:
    names = ("minimal_constant", "minimal_one_context", "minimal_many_contexts", "minimal_adam")
    figure, runs = draw("network_growth", *names), made_up.theory_arms(names, 1)
    for arm in names[:3]:
        a = runs[arm][0].arrays
        seen = growth.contexts(a["p"], a["query"], a["weight"], a["total"], a["b"])
        if arm == "minimal_constant":
            wanted = growth.frozen_logit(seen, a["time"])
        elif arm == "minimal_many_contexts":
            wanted = 0.5 * np.log(a["time"])[:, None] + growth.joint_constant(seen)[None]
        else:
            one: dict[str, Any] = {"p": a["p"], "pi": np.full(5, 0.2), "total": a["total"][:1]}
            model = predictions.RestrictedModel(**one, mean_value=a["b"][:1] / a["total"][0])
            wanted = np.full((25, 5), predictions.freezing_logit(model, a["alpha"], a["beta"]))
        found = np.stack([line.get_ydata() for line in dashed(panel(figure, arm))], axis=1)
        np.testing.assert_allclose(found, wanted, rtol=1e-10)  # as above
    (guide,) = dashed(panel(figure, "minimal_adam"))
    rise = np.diff(guide.get_ydata()[[0, -1]]) / np.diff(np.log(guide.get_xdata()[[0, -1]]))
    assert rise == pytest.approx(0.5)


def test_deviation_of_a_path_off_by_its_rate_is_of_first_order() -> None:
    figure = draw("order_of_convergence", "path_descent", seeds=1)
    paths, orders = figure.axes
    assert len(dashed(paths)) == 4
    for line in dashed(orders):
        x, y = np.log(line.get_xdata()), np.log(line.get_ydata())
        np.testing.assert_allclose(np.diff(y) / np.diff(x), 1)
