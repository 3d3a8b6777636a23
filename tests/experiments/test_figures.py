"""Figures: what they show is what the evidence says, and nothing of it is clipped or covered."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from beside import load
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments import figures
from experiments.figures.dynamics import log_fit
from experiments.figures.evidence import curve
from experiments.figures.style import OUTCOME
from experiments.figures.text import interval, number, token_label, tolerance
from theory.claims.oq6 import EXPECTED
from theory.costs import CONDITIONS, LONGER, cost, risk

ROOT = Path(__file__).parents[2]


made_up = load(__file__, "synthetic_evidence")
THREE_ARMS = ("adam", "sgd", "relu")


def draw(name: str, layers: int, kinds: tuple[str, ...]) -> Figure:
    if kinds == ("causes",):
        return figures.FIGURES[name](made_up.causes(), {})
    if kinds == ("pulls",):
        return figures.FIGURES[name]({"trained_pulls": [made_up.pulls(seed) for seed in range(2)]}, {})
    if kinds == ("survey",):
        return figures.FIGURES[name]({"survey": [made_up.survey(seed) for seed in range(3)]}, {})
    if kinds[0] == "passages":
        return figures.FIGURES[name]({kind: [made_up.passages(0)] for kind in kinds}, {})
    if kinds[0] == "first":
        return figures.FIGURES[name]({kind: [made_up.first_tokens(seed) for seed in (0, 1)] for kind in kinds}, {})
    if kinds[0] == "costs_softmax":
        return figures.FIGURES[name]({arm: [made_up.costs(seed, arm) for seed in (0, 1)] for arm in kinds}, {})
    if kinds[0] == "decoder_none":
        return figures.FIGURES[name](small_models(kinds), {})
    if kinds[0] == "heads":
        return figures.FIGURES[name](by_domain(), {})
    if kinds[0] == "language":
        return figures.FIGURES[name](followed(), {})
    if kinds[0] == "zeroed":
        return figures.FIGURES[name]({kind: [made_up.zeroed_heads(seed) for seed in (0, 1)] for kind in kinds}, {})
    if kinds[0] == "free":
        return figures.FIGURES[name](controlled(), {})
    calculated = set(kinds) <= set(made_up.THEORY)
    runs = made_up.theory_arms(kinds, seeds=2) if calculated else made_up.arms(layers, kinds, seeds=2)
    return figures.FIGURES[name](runs, made_up.claim("BB1", "supported"))


def controlled() -> dict[str, list[Any]]:
    """A decoder without and with a control, and an encoder with one."""
    return {
        "free": [made_up.passages(seed) for seed in (0, 1)],
        "controlled": [made_up.passages(seed, row=5) for seed in (0, 1)],
        "encoder": [made_up.passages(0, causal=False, row=5)],
    }


def small_models(arms: tuple[str, ...]) -> dict[str, list[Any]]:
    return {arm: [made_up.small_model(seed, *arm.split("_")) for seed in (0, 1)] for arm in arms}


def followed() -> dict[str, list[Any]]:
    """A language model followed over training, beside a run on Bigram-Backcopy."""
    return {"language": [made_up.followed(seed) for seed in (0, 1)], "three_blocks": made_up.arms(3, seeds=2)["adam"]}


def by_domain() -> dict[str, list[Any]]:
    """Two kinds of text, of which one has block 1 active."""
    return {
        "heads_prose": [made_up.heads(seed) for seed in (0, 1)],
        "heads_code": [made_up.heads(seed + 2, active=1) for seed in (0, 1)],
    }


CASES = [
    ("dynamics", 1, ("adam",)),
    ("dynamics", 3, THREE_ARMS),
    ("attention_maps", 1, ("adam",)),
    ("attention_maps", 3, ("adam",)),
    ("value_norms", 1, ("adam",)),
    ("value_norms", 3, ("adam",)),
    ("residual_norms", 3, THREE_ARMS),
    ("residual_by_token", 3, ("adam", "relu")),
    ("block_removal", 3, ("adam",)),
    ("residual_gradients", 3, ("adam",)),
    ("measures", 1, ("adam",)),
    ("key_types", 1, ("without_start", "softmax")),
    ("copy_probability", 1, ("markov", "half_copied", "softmax")),
    ("sink_logit_growth", 1, ("flow_growth", "flow_bent", "flow_flat_growth", "flow_joint", "flow_contexts")),
    ("value_convergence", 1, ("flow_drain", "flow_joint", "flow_drain_sparse")),
    ("phase_portrait", 1, ("flow_joint", "flow_contexts", "flow_joint_sparse", "flow_joint_flat")),
    ("concentration", 1, ("flow_joint", "flow_joint_flat", "descent_adam", "descent_sgd")),
    ("peak_mechanism", 1, ("peak_adam", "peak_sgd", "peak_sign", "peak_coupled", "peak_sweep")),
    ("order_of_convergence", 1, ("path_descent", "path_adam")),
    ("variant_survey", 1, ("survey",)),
    ("sink_costs", 1, ("costs_softmax", "costs_softmax_n", "costs_sigmoid")),
    ("profiles", 1, ("passages", "others")),
    ("controls", 1, ("free", "controlled")),
    ("small_models", 1, ("decoder_none", "decoder_rope", "encoder_learned")),
    ("trajectory", 3, ("language",)),
    ("removed_layers", 1, ("first", "second")),
    ("head_domains", 1, ("heads",)),
    ("head_costs", 1, ("zeroed", "zeroed_code")),
    ("interventions", 1, ("causes",)),
    ("value_pull", 1, ("pulls",)),
    ("network_growth", 1, ("minimal_constant", "minimal_one_context", "minimal_many_contexts", "minimal_sgd")),
]


def visible_texts(figure: Figure) -> Iterator[Text]:
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip():
            yield text


@pytest.mark.parametrize(("name", "layers", "kinds"), CASES)
def test_figure_is_legible(name: str, layers: int, kinds: tuple[str, ...]) -> None:
    figure = draw(name, layers, kinds)
    figure.canvas.draw()
    # What is drawn fits the page, in inches; one pixel of rounding at 100 dots per inch.
    used, width, height = figure.get_tightbbox(), *figure.get_size_inches()
    assert min(used.x0, used.y0, width - used.x1, height - used.y1) >= -0.01, used
    for legend in figure.legends:
        for axes in figure.axes:
            assert not legend.get_window_extent().overlaps(axes.get_tightbbox()), "the legend covers a panel"
    for axes in figure.axes:
        shares_labels = not any(label.get_visible() for label in axes.get_xticklabels())
        colour_bar = axes.get_label() == "<colorbar>"
        assert axes.get_xlabel() or colour_bar or shares_labels
        assert axes.get_ylabel() or not axes.get_yticks().size


def test_table_names_every_figure_once() -> None:
    assert {name for name, *_ in CASES} == set(figures.FIGURES)


def test_a_survey_shows_every_variant_of_every_seed_sorted_within_its_group() -> None:
    runs = [made_up.survey(seed) for seed in range(3)]
    figure = figures.variant_survey({"survey": runs})
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert sorted(names) == sorted(runs[0].manifest["variants"])
    row, column = names.index("relu"), runs[0].manifest["variants"].index("relu")
    wanted = sorted(float(run.arrays["value_ratio"][column, 0]) for run in runs)
    seeds = [line for line in figure.axes[1].lines if len(line.get_ydata()) == 3 and line.get_ydata()[0] == row]
    assert sorted(seeds[0].get_xdata()) == pytest.approx(wanted)
    groups = [EXPECTED[name] for name in names]
    assert groups == sorted(groups, key=["keeps", "removes", "open"].index)


def test_profiles_show_received_attention_and_norms_over_the_median() -> None:
    run = made_up.passages(0)
    received, value, resid = (axes.images[0].get_array() for axes in figures.profiles({"model": [run]}).axes[:3])
    np.testing.assert_array_equal(received, run.arrays["received"][0, :, :24])
    for shown, name in ((value, "value_norm"), (resid, "resid_norm")):
        norms = run.arrays[name][0]
        np.testing.assert_allclose(shown, (norms / np.median(norms, axis=-1, keepdims=True))[:, :24])


def test_controls_show_the_controlled_token_of_every_arm() -> None:
    runs = controlled()
    received, encoder, norms, _ = figures.controls(runs).axes
    free, alone = (line.get_ydata() for line in received.lines)
    np.testing.assert_allclose(free, np.mean([run.arrays["received"][..., 5] for run in runs["free"]], axis=(0, 1)))
    np.testing.assert_allclose(alone[1:], 0.6)
    assert len(encoder.lines) == 1
    ratios = [
        run.arrays["value_norm"] / np.median(run.arrays["value_norm"], -1, keepdims=True) for run in runs["controlled"]
    ]
    np.testing.assert_allclose(norms.lines[1].get_ydata(), np.exp(np.log(ratios)[..., 5].mean((0, 1))))
    assert [text.get_text() for text in norms.get_legend().get_texts()] == ["no control", r"\$position_5\$ alone"]


def test_costs_of_every_seed_stand_in_the_row_of_their_condition_and_none_is_left_out() -> None:
    runs = {arm: [made_up.costs(seed, arm) for seed in range(3)] for arm in ("costs_softmax", "costs_sigmoid")}
    figure = figures.sink_costs(runs)
    panel, about, *_ = figure.axes
    rows = [label.get_text().replace("\n", " ") for label in panel.get_yticklabels()]
    assert len(rows) == len(CONDITIONS) + len(LONGER)
    for arm, each in runs.items():
        for i, (name, words) in enumerate(CONDITIONS.items()):
            of = "late" if name.startswith("evicted") else "all"
            added = [cost(run, name, of) if i else risk(run, "free") for run in each]
            assert i == 0 or words.replace(",", "") == rows[i].replace(",", "")
            drawn = [line for line in panel.lines if round(line.get_ydata()[0]) == i and len(line.get_xdata()) == 3]
            colour = figures.arm_colours(runs)[arm]
            (line,) = [line for line in drawn if line.get_color() == colour]
            # What costs nothing, or less, stands at the edge.
            np.testing.assert_allclose(line.get_xdata(), np.maximum(added, 1e-5))
    assert len(about.get_yticklabels()) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["softmax", "sigmoid"]


def test_small_models_stand_in_the_column_of_their_scheme_with_their_numbers() -> None:
    runs = small_models(("decoder_rope", "encoder_learned", "decoder_none"))
    figure = figures.small_models(runs)
    decoder, encoder, _ = figure.axes
    assert [label.get_text() for label in decoder.get_xticklabels()] == ["learned", "RoPE", "no positions"]
    words = {text.get_position(): text.get_text() for text in decoder.texts}
    assert {column for column, _ in words} == {1, 2}
    assert {text.get_position()[0] for text in encoder.texts} == {0}
    for column, arm in ((1, "decoder_rope"), (2, "decoder_none")):
        assert words[column, 0] == "4.0 × even"
        tokens = [run.arrays["received"][0, 1, :, 6].mean() for run in runs[arm]]
        free = np.exp(np.mean(np.log(tokens)))
        norms = [run.arrays["value_norm"][:, 1, 6] for run in runs[arm]]
        ratio = np.exp(np.mean([np.log(norm[1] / norm[0]) for norm in norms]))
        lines = words[column, 1].split("\n")
        assert lines[0] == f"{free / 0.4:.2f} → 0.75 of first"
        assert lines[1:] == [f"{free / 0.1:.1f} → 3.0 × even", f"|v| × {ratio:.2f}"]
        assert float(decoder.images[0].get_array()[1, column]) == pytest.approx(0.3 / free)


def test_a_trajectory_shows_the_leading_block_over_even_attention_and_each_head_by_domain() -> None:
    runs = followed()
    attention, dlogit, _, residual, maps, _ = figures.trajectory(runs).axes
    run = runs["language"][0].arrays
    # Block 1 has the sink, block 2 the peak; two seeds and their mean for each of two arms.
    np.testing.assert_allclose(attention.lines[0].get_ydata(), run["attn_start"][:, 1] / run["baseline"], rtol=1e-6)
    np.testing.assert_allclose(dlogit.lines[0].get_ydata(), run["dlogit"][:, 1], rtol=1e-6)
    np.testing.assert_allclose(residual.lines[0].get_ydata(), run["resid_norm_start"][:, 2], rtol=1e-6)
    means = np.mean([each.arrays["sink_mass"][-1].mean(1) for each in runs["language"]], axis=0)
    np.testing.assert_allclose(np.asarray(maps.images[0].get_array()), means.reshape(2, -1), rtol=1e-6)
    # Head 2 of block 1 is the one that is active in the second domain.
    np.testing.assert_array_equal(maps.lines[-1].get_xdata(), [1 * 4 + 2])


def test_removed_layers_show_what_is_left_of_the_peak() -> None:
    run = made_up.first_tokens(0)
    norms, left = figures.removed_layers({"model": [run]}).axes
    np.testing.assert_allclose(norms.lines[0].get_ydata(), np.exp(np.log(run.arrays["resid_norm"]).mean(0)))
    attention, mlp = (line.get_ydata() for line in left.lines[:2])
    np.testing.assert_allclose(attention, 1.0)
    expected = np.exp(np.log(5.5 / run.arrays["resid_norm"].max(-1)).mean())
    np.testing.assert_allclose(mlp, [1, 1, expected, 1, 1, 1])


def test_titles_of_two_domains_leave_each_other_room() -> None:
    figure = figures.head_domains(by_domain())
    figure.canvas.draw()
    titles = [
        text for axes in figure.axes[:3] for text in axes.findobj(Text) if text.get_text() == axes.get_title("left")
    ]
    left, middle, right = (text.get_window_extent() for text in titles)
    assert left.x1 < middle.x0 < middle.x1 < right.x0


def test_heads_by_domain_show_sinks_gaps_and_the_heads_that_differ() -> None:
    runs = by_domain()
    mass, gap, entropy, *_ = figures.head_domains(runs).axes
    means = [np.mean([run.arrays["weight_by_head"][..., 0] for run in each], (0, 1)).ravel() for each in runs.values()]
    np.testing.assert_allclose(mass.images[0].get_array(), np.stack(means, axis=1))
    np.testing.assert_allclose(gap.images[0].get_array(), (means[1] - means[0])[:, None])
    entropies = np.mean([run.arrays["entropy_by_head"] for run in runs["heads_code"]], (0, 1)).ravel()
    np.testing.assert_allclose(np.asarray(entropy.images[0].get_array())[:, 1], entropies)
    (dots,) = (line for line in gap.lines if line.get_marker() == ".")
    assert {4, 5, 6, 7} <= set(dots.get_ydata())
    assert len(dots.get_ydata()) < 7
    assert [text.get_text() for text in mass.get_xticklabels()] == ["prose", r"\$code\$"]


def test_head_costs_show_every_head_of_both_blocks() -> None:
    runs = {"zeroed_prose": [made_up.zeroed_heads(seed) for seed in (0, 1)]}
    (axes,) = figures.head_costs(runs).axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    for name, read in (("sink_mass", "get_xdata"), ("divergence", "get_ydata")):
        expected = np.mean([run.arrays[name] for run in runs["zeroed_prose"]], axis=(0, 1))
        np.testing.assert_allclose([getattr(line, read)() for line in dots], expected)
    assert dots[0].get_alpha() < dots[1].get_alpha()


def test_key_types_are_sorted_by_the_mean_share() -> None:
    runs = made_up.arms(1, ("without_start",))
    share, norm = figures.key_types(runs).axes
    wanted = np.mean([run.arrays["attention_by_token"][0].astype(float) for run in runs["without_start"]], axis=0)
    order = np.argsort(-wanted, kind="stable")
    np.testing.assert_array_equal([bar.get_height() for bar in share.patches], wanted[order])
    names = runs["without_start"][0].manifest["tokens"]
    assert [text.get_text() for text in norm.get_xticklabels()] == [token_label(names[i]) for i in order]
    red = {names[i] for i, bar in zip(order, share.patches, strict=True) if to_hex(bar.get_facecolor()) == "#c04000"}
    assert red == {" ", "e", "t"}


def test_copy_probability_has_a_point_for_each_run() -> None:
    runs = made_up.arms(1, ("softmax", "markov", "half_copied"))
    runs["softmax"] = [made_up.run(1, seed, "softmax", last_step=6000) for seed in range(3)]
    sink, cost = figures.copy_probability(runs).axes
    for axes in (sink, cost):
        (means,) = (line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 3)
        np.testing.assert_array_equal(means.get_xdata(), [0, 0.5, 1])
    # The longer run is read where the others end.
    longer = runs["softmax"][0].arrays
    at = np.abs(longer["step"].astype(float) - 1200).argmin()
    dots = np.concatenate([line.get_ydata() for line in sink.lines if line.get_marker() == "."])
    assert float(longer["attn_start"][at, 0]) in dots
    last = longer["backcopy"][-1], longer["bigram"][-1]
    worth = 0.25 * (6.0 - float(last[0])) + 0.75 * (0.01 - float(last[1]))
    dots = np.concatenate([line.get_ydata() for line in cost.lines if line.get_marker() == "."])
    assert np.abs(dots - worth).min() < 1e-6  # float32


def test_interventions_show_what_was_cut_beside_the_free_run() -> None:
    runs = made_up.causes()
    figure = figures.interventions(runs)
    rows = [figure.axes[i : i + 3] for i in range(0, len(figure.axes), 3)]
    told = {
        "even": ("Attention to <s> forced even,\nfrom the start", 0, "value", [1]),
        "norm": ("Norm of the value of <s> held,\nfrom step 1,000 on", 1000, "attention", [2]),
        "elsewhere": ("blocks.0.attn_out at position 0 held,\nfrom step 20 on", 20, "", []),
    }
    assert len(rows) == len(told)
    for row, (arm, (title, step, follows, shaded)) in zip(rows, told.items(), strict=True):
        assert row[0].get_title("left") == title
        held = [text.get_text() for text in row[0].texts if "(held)" in text.get_text()]
        assert len(held) == len(shaded)
        assert not any(follows in text for text in held if follows)
        assert [i for i in (1, 2) if row[i].patches] == shaded
        for axes, name in zip(row[1:], ("attn_start", "value_norm_start"), strict=True):
            (free, cut) = (line for line in axes.lines if line.get_linewidth() > 2)
            for line, wanted in ((free, "free"), (cut, arm)):
                mean = np.mean([run.arrays[name][:, 0].astype(float) for run in runs[wanted]], axis=0)
                np.testing.assert_allclose(line.get_ydata(), mean, rtol=1e-12)
            assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [step]
            # The free run goes on, but nothing is compared there.
            assert axes.get_xlim()[1] == 1200


def test_a_value_s_pull_is_measured_beside_both_predictions() -> None:
    runs = [made_up.pulls(seed) for seed in (0, 1)]
    over_steps, whole, held = figures.value_pull({"trained_pulls": runs}).axes
    own = np.stack([run.arrays["own"] for run in runs])
    drawn = [line.get_ydata() for line in over_steps.lines]
    for name in ("own", "other", "velocity"):
        mean = np.mean([run.arrays[name].sum(1) for run in runs], axis=0)
        assert any(np.shape(line) == mean.shape and np.allclose(line, mean, rtol=1e-12) for line in drawn)
    # Here the theory is exact with values as the network reads them, and not with the MLP held.
    dots, line = whole.lines
    np.testing.assert_allclose(dots.get_xdata(), own.ravel(), rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(dots.get_ydata(), own.ravel())
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())
    assert np.abs(held.lines[0].get_xdata() - own.ravel()).max() > 0.1 * np.abs(own).max()


def test_without_an_intervention_there_is_nothing_to_show() -> None:
    with pytest.raises(ValueError, match="at least one arm with an intervention, got adam"):
        figures.interventions(made_up.arms(1, seeds=1))


def panel(figure: Figure, title: str) -> Any:
    (found,) = (axes for axes in figure.axes if axes.get_title("left") == title)
    return found


def test_dynamics_shows_each_seed_and_the_mean() -> None:
    runs = made_up.arms(1, ("adam", "relu"))
    figure = figures.dynamics(runs)
    axes = panel(figure, "Attention to <s>")
    colours = figures.arm_colours(runs)
    for arm, arm_runs in runs.items():
        lines = [line for line in axes.lines if to_hex(line.get_color()).upper() == colours[arm]]
        thin = [line for line in lines if line.get_linewidth() < 1]
        (mean,) = (line for line in lines if line.get_linewidth() > 2)
        wanted = np.stack([run.arrays["attn_start"][:, 0].astype(float) for run in arm_runs])
        np.testing.assert_array_equal(np.stack([line.get_ydata() for line in thin]), wanted)
        # float64 means of the same numbers
        np.testing.assert_allclose(mean.get_ydata(), wanted.mean(0), rtol=1e-12)
        assert mean.get_xdata()[0] == 0
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == [pytest.approx(0.124, abs=1e-4)]  # rounded to 4 digits


def test_block_removal_shows_the_network_with_and_without_each_block() -> None:
    runs = made_up.arms(3, ("adam",), seeds=2)
    figure = figures.block_removal(runs)
    axes = panel(figure, "Val ratio of <s> where the sink is")
    # In made-up runs the sink is strongest in the first of the upper blocks.
    whole = [float(run.arrays["value_ratio"][-1, 1]) for run in runs["adam"]]
    lines = [line.get_ydata() for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(lines, [[value, 0.8, value, value] for value in whole], rtol=1e-6)
    assert [bar.get_height() for bar in axes.patches] == pytest.approx(np.mean(lines, axis=0))
    (source,) = (line for line in axes.lines if line.get_linestyle() == "--")
    assert source.get_ydata()[0] == pytest.approx(5 * np.mean(whole))
    (table,) = figure.axes[-1].tables
    cells = {position: cell.get_text().get_text() for position, cell in table.get_celld().items()}
    assert [cells[3, column] for column in (1, 2, 3)] == [number(np.mean(whole)), "block 0", "0.8"]
    assert [cells[6, column] for column in (2, 3)] == ["all MLPs", number(2.0 / 2.1)]


def test_residual_gradients_shows_cosines_and_images() -> None:
    runs = made_up.arms(3, ("adam",), seeds=2)
    figure = figures.residual_gradients(runs)
    gradients = runs["adam"][0].arrays["gradient_start"].astype(float)
    shown = np.asarray(panel(figure, "Cosines of gradients at <s>").images[0].get_array())
    norms = np.linalg.norm(gradients, axis=1)
    np.testing.assert_allclose(shown, gradients @ gradients.T / np.outer(norms, norms), atol=1e-9)
    # Made-up states grow in one direction, with noise.
    grown = np.asarray(panel(figure, "Cosines of growth at <s>").images[0].get_array())
    assert np.median(grown) > 0.9 > 0.3 > np.abs(np.median(shown))
    axes = panel(figure, "Image of the residual state under the value map")
    thick = {line.get_label(): line.get_ydata() for line in axes.lines if line.get_linewidth() > 2}
    logs = [np.log(run.arrays["residual_start_image"][:, 1]) for run in runs["adam"]]
    np.testing.assert_allclose(thick["<s>"], np.exp(np.mean(logs, axis=0)), rtol=1e-5)
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [1]


def test_step_zero_stands_left_of_the_first_step() -> None:
    figure = figures.dynamics(made_up.arms(1, seeds=1))
    figure.canvas.draw()
    axes = panel(figure, "Backcopy excess risk")
    zero, one, ten, hundred = axes.transData.transform([(step, 1.0) for step in (0, 1, 10, 100)])[:, 0]
    assert zero == pytest.approx(axes.bbox.x0)
    assert one - zero > 20  # pixels, enough for a tick label
    assert ten - one == pytest.approx(hundred - ten)


def test_risk_that_is_not_positive_leaves_a_gap_in_place_of_an_error() -> None:
    run = made_up.run(1, 0)
    risk = np.array(run.arrays["bigram"])
    risk[-1], risk[-2] = 0.0, -1e-7
    figure = figures.dynamics({"adam": [run._replace(arrays={**run.arrays, "bigram": risk})]})
    figure.canvas.draw()
    mean = panel(figure, "Bigram excess risk").lines[-1].get_ydata()
    assert np.isnan(mean[-2:]).all()
    assert np.isfinite(mean[:-2]).all()


@given(st.floats(0.001, 20), st.floats(-20, 20))
def test_log_fit_finds_the_line_after_the_fast_phase(slope: float, intercept: float) -> None:
    step = np.array([0.0, 1, 10, 30, 100, 300, 1000])
    risk = np.array([6.0, 5, 4, 2, 0.09, 0.2, 0.01])
    values = intercept + slope * np.log(np.maximum(step, 1))
    values[:4] = 100.0  # before the fast phase is over anything may stand
    fit = log_fit(step, values, risk)
    assert fit is not None
    assert fit.start == 100
    # Rounding of sums of a few numbers up to 160, in float64.
    assert fit.line.slope == pytest.approx(slope, abs=1e-11)
    assert fit.line.intercept == pytest.approx(intercept, abs=1e-10)


def test_log_fit_takes_the_last_decade_where_the_risk_stays_and_nothing_from_two_points() -> None:
    step = np.array([0.0, 10, 90, 110, 300, 1000])
    risk = np.full(6, 3.0)
    fit = log_fit(step, step, risk)
    assert fit is not None
    assert fit.start == 110
    assert fit.line.r_squared < 0.95  # linear growth is not logarithmic
    assert log_fit(step[:4], step[:4], risk[:4]) is None


def test_seeds_of_different_length_are_compared_where_both_have_points() -> None:
    long, short = made_up.run(1, 0), made_up.run(1, 1)
    cut = {name: values[:10] if name in ("step", "dlogit") else values for name, values in short.arrays.items()}
    shared = curve("adam", [long, short._replace(arrays=cut)], "dlogit", 0)
    assert shared.seeds.shape == (2, 10)
    np.testing.assert_array_equal(shared.step, long.arrays["step"][:10])


def test_attention_maps_show_the_weights_and_mark_the_triggers() -> None:
    runs = made_up.arms(3, seeds=1)
    run = runs["adam"][0]
    figure = figures.attention_maps(runs)
    maps = figure.axes[:6]
    for index in range(2):
        for layer in range(3):
            axes = maps[3 * index + layer]
            shown = axes.images[0].get_array()
            weights = run.arrays["example_attention"][index, layer].astype(float)
            np.testing.assert_array_equal(shown.filled(0.0), weights)
            assert shown.mask[0, 1], "a key in the future must not look like a weight of 0"
            assert not shown.mask[np.tril_indices(len(weights))].any()
            tokens = [run.manifest["tokens"][token] for token in run.arrays["example_tokens"][index]]
            for axis in (axes.xaxis, axes.yaxis):
                labels = axis.get_ticklabels()
                assert [label.get_text().replace("\\", "") for label in labels] == list(map(token_label, tokens))
                red = [to_hex(label.get_color()) == "#c04000" for label in labels]
                assert red == run.arrays["example_triggers"][index].tolist()


def test_long_sequences_are_cut_and_say_so() -> None:
    figure = figures.attention_maps({"base": [made_up.run(1, 0, length=257)]})
    assert figure.axes[0].images[0].get_array().shape == (40, 40)
    assert "first 40 of 257" in figure.axes[0].get_title("left")


def test_value_norms_are_the_heights_of_the_bars() -> None:
    runs = made_up.arms(1, seeds=1)
    figure = figures.value_norms(runs)
    for index, axes in enumerate(figure.axes):
        heights = [bar.get_height() for bar in axes.patches]
        np.testing.assert_array_equal(heights, runs["adam"][0].arrays["example_value_norm"][index, 0].astype(float))
        assert [to_hex(bar.get_facecolor()) == "#000000" for bar in axes.patches].index(True) == 0


def test_the_legend_of_residual_norms_has_room_for_long_names() -> None:
    runs = made_up.arms(3, THREE_ARMS, seeds=1)
    words = "3 layers, blocks 0 and 2 without attention, Softmax, AdamW 0.0003, in bfloat16"
    long = {
        arm: [run._replace(manifest={**run.manifest, "label": words}) for run in each] for arm, each in runs.items()
    }
    figure = figures.residual_norms(long)
    figure.canvas.draw()
    legend, page = figure.legends[0].get_window_extent(), figure.bbox
    assert page.x0 <= legend.x0 < legend.x1 <= page.x1


def test_residual_norms_of_a_block_share_one_scale() -> None:
    figure = figures.residual_norms(made_up.arms(3, THREE_ARMS, seeds=2))
    figure.canvas.draw()
    norms, ratios = figure.axes[:9], figure.axes[9:]
    for block in range(3):
        assert len({axes.get_ylim() for axes in norms[block::3]}) == 1
        assert ratios[block].get_ylim() != norms[block].get_ylim()


def test_a_seed_that_runs_away_leaves_the_others_visible() -> None:
    runs = made_up.arms(3, THREE_ARMS, seeds=3)
    before = figures.residual_norms(runs).axes[2].get_ylim()
    runs["relu"][0].arrays["resid_norm_start"][:, 2] = 1e9
    assert figures.residual_norms(runs).axes[2].get_ylim() == before


def test_arms_keep_their_colours() -> None:
    alone, together = figures.arm_colours(["deep_sgd"]), figures.arm_colours(["zebra", "deep_sgd", "Adam", "muon"])
    assert alone["deep_sgd"] == together["deep_sgd"]
    assert len(set(together.values())) == 4
    assert list(together) == ["zebra", "deep_sgd", "Adam", "muon"]


@given(st.lists(st.text(max_size=4), max_size=10, unique=True))
def test_up_to_ten_arms_have_ten_colours(names: list[str]) -> None:
    assert len(set(figures.arm_colours(names).values())) == len(names)


def test_measures_show_band_interval_and_outcome() -> None:
    claim = made_up.claim("BB1", "supported")
    figure = figures.measures(claim)
    figure.canvas.draw()
    wanted = [*claim["measures"], *claim["control"]["measures"]]
    for axes, measure in zip(figure.axes, wanted, strict=True):
        assert axes.get_title("left").startswith(measure["name"])
        assert axes.get_title("right").startswith(OUTCOME[measure["inside"]].word)
        band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
        low, high = measure["tolerance"]
        left, right = axes.get_xlim()
        # A pixel's worth of rounding in the way from data to screen and back.
        assert band.x0 == pytest.approx(left if low is None else low, abs=1e-9)
        assert band.x1 == pytest.approx(right if high is None else high, abs=1e-9)
        drawn = [line.get_xdata() for line in axes.lines]
        assert any(np.array_equal(line, measure["values"]) for line in drawn)
        assert any(np.array_equal(line, measure["ci95"]) for line in drawn)
    assert any("control: must come out the other way" in text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize(
    "change",
    [
        {"measured": float("inf"), "ci95": None, "values": [float("inf")] * 3, "inside": False},
        {"measured": None, "ci95": None, "values": [], "n": 0, "inside": None},
        {"measured": float("nan"), "ci95": [None, None], "inside": None},
        {"tolerance": None},
        {"tolerance": [None, None], "measured": 0.0, "ci95": [0.0, 0.0], "values": [0.0]},
        {"name": "costs $5 or $6 " * 12, "predicted": "between $\\frac{1} and $2 " * 12},
        {"predicted": 0},
    ],
)
def test_measures_of_any_kind_can_be_drawn(change: dict[str, Any]) -> None:
    claim = made_up.claim("BB1", "refuted")
    claim["measures"][0].update(change)
    figure = figures.measures(claim)
    figure.canvas.draw()
    axes = figure.axes[0]
    left, right = axes.title, axes._right_title
    assert not axes._left_title.get_window_extent().overlaps(right.get_window_extent()), (left, right)
    if "predicted" in change:
        assert f"predicted {str(change['predicted'])[:8]}" in axes.get_title("left").replace("\\$", "$")


def test_claim_without_measures_says_so() -> None:
    figure = figures.measures({"id": "BB1", "status": "not run", "measures": [], "control": None})
    assert [text.get_text() for text in visible_texts(figure)] == ["BB1: no measures (not run)"]


def test_save_writes_both_formats_whole(tmp_path: Path) -> None:
    figure = figures.measures(made_up.claim("BB1", "supported"))
    png, svg = figures.save(figure, tmp_path / "new" / "TH2.a")
    assert [png.name, svg.name] == ["TH2.a.png", "TH2.a.svg"]
    width = int.from_bytes(png.read_bytes()[16:20], "big")
    assert width == int(figure.get_figwidth() * 150)
    assert sorted(path.name for path in png.parent.iterdir()) == ["TH2.a.png", "TH2.a.svg"]
    assert svg.read_text(encoding="utf-8").rstrip().endswith("</svg>")


def test_failing_save_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = figures.measures({"id": "BB1"})
    png, svg = figures.save(figure, tmp_path / "BB1")
    before = png.read_bytes(), svg.read_bytes()

    def fail(path: Path, **options: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(KeyboardInterrupt):
        figures.save(figure, tmp_path / "BB1")
    assert (png.read_bytes(), svg.read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_drawing_leaves_the_callers_style_alone() -> None:
    before = dict(matplotlib.rcParams)
    figures.measures(made_up.claim("BB1", "supported"))
    assert dict(matplotlib.rcParams) == before


def test_figures_do_without_pyplot() -> None:
    code = "import sys, experiments.figures; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", sorted(set(figures.FIGURES) - {"measures"}))
def test_missing_evidence_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="at least one arm"):
        figures.FIGURES[name]({}, {})
    with pytest.raises(ValueError, match=r"'adam'.*at least one run"):
        figures.FIGURES[name]({"adam": []}, {})


def test_missing_array_and_missing_label_are_named() -> None:
    run = made_up.run(1, 7)
    arrays = {name: values for name, values in run.arrays.items() if name != "dlogit"}
    with pytest.raises(ValueError, match="seed 7: expected an array 'dlogit'"):
        figures.dynamics({"adam": [run._replace(arrays=arrays)]})
    with pytest.raises(ValueError, match="a label for token 10, got 2 labels"):
        figures.attention_maps({"adam": [run._replace(manifest={"tokens": ["a", "b"]})]})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.012345, "0.0123"),
        (0.5, "0.5"),
        (0, "0"),
        (3, "3"),
        (-0.25, "−0.25"),
        (999.6, "1,000"),
        (12345.0, "12,300"),
        (1.5e7, "1.5e7"),
        (4.5e-7, "4.5e−7"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
        (float("nan"), "NaN"),
        (None, "–"),
        ("log t", "log t"),
    ],
)
def test_number(value: object, text: str) -> None:
    assert number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
def test_number_keeps_three_digits(value: float) -> None:
    read = float(number(value).replace("−", "-").replace(",", ""))
    # Three significant digits: half a unit in the third, of a leading digit of at least 1; subnormals aside.
    assert read == pytest.approx(value, rel=5.1e-3, abs=1e-307)


def test_intervals() -> None:
    assert interval([0.01, 0.02]) == "[0.01, 0.02]"
    assert interval(None) == interval([None, None]) == "–"
    assert tolerance([None, 0.02]) == "≤ 0.02"
    assert tolerance([0.95, float("inf")]) == "≥ 0.95"
    assert tolerance([0.8, 1.2]) == "0.8 to 1.2"
    assert tolerance(None) == tolerance([None, None]) == "any value"


@pytest.mark.parametrize(
    ("token", "label"),
    [
        ("<s>", "<s>"),
        (" ", "␣"),
        ("\n", "↵"),
        (" the", "␣the"),
        ("\x07", "U+0007"),
        ("\u4e2d", "U+4E2D"),
        ("", "∅"),
    ],
)
def test_token_label(token: str, label: str) -> None:
    assert token_label(token) == label
