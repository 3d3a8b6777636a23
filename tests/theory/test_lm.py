"""LM1 on made-up profiles: supported where sink, drain and peak coincide, refuted where one of them is elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from theory.checkpoint import Passages
from theory.claims.lm import LM1, LM1B
from theory.judge import Verdict, judge
from theory.profiles import profile, sink_positions

Arrays = dict[str, np.ndarray]
B, L, T, SINK = 3, 5, 20, 4


class Run(NamedTuple):
    arrays: Mapping[str, np.ndarray]
    manifest: Mapping[str, Any]


def ideal(seed: int, rng: np.random.Generator) -> Arrays:
    shape = (B, L, T)
    found = {
        "received": rng.uniform(0.0, 0.05, shape),
        "value_norm": rng.uniform(1.0, 2.0, shape),
        "resid_norm": rng.uniform(1.0, 2.0, shape),
    }
    # Block 0 has no sink, as in a real model.
    found["received"][:, 1:, SINK] = 0.5 + 0.01 * seed
    found["value_norm"][:, 1:, SINK] = 0.2 + 0.01 * seed
    found["resid_norm"][:, 1:, SINK] = 50.0 + seed
    # The last position sees itself and is seen by itself alone.
    found["received"][..., -1] = 1.0
    return found


def no_sink(found: Arrays) -> None:
    found["received"][..., SINK] = 0.01


def judged(change: Callable[[Arrays], None] = lambda found: None) -> Verdict:
    seeds = []
    for seed in range(3):
        found, flat = (ideal(seed, np.random.default_rng(seed)) for _ in range(2))
        change(found)
        no_sink(flat)
        about = {"causal": True, "tokens": [], "environment": "made up"}
        seeds.append({"smollm2": Run(found, about), "glassllm": Run(flat, about)})
    return judge(LM1, "quick", seeds)


def test_it_is_supported_where_all_three_coincide() -> None:
    verdict = judged()
    assert (verdict.status, verdict.control_status) == ("supported", "refuted")


def elsewhere(name: str, value: float) -> Callable[[Arrays], None]:
    def change(found: Arrays) -> None:
        found[name][:, 1:, SINK + 1] = value

    return change


def flat(name: str, value: float) -> Callable[[Arrays], None]:
    def change(found: Arrays) -> None:
        found[name][:, 1:, SINK] = value

    return change


@pytest.mark.parametrize(
    ("outside", "change"),
    [
        ({0, 1, 2, 3, 4}, no_sink),
        ({1}, elsewhere("value_norm", 0.1)),
        ({2}, elsewhere("resid_norm", 100.0)),
        ({3}, flat("value_norm", 0.95)),
        ({4}, flat("resid_norm", 2.5)),
    ],
)
def test_each_measure_can_refute_it(outside: set[int], change: Callable[[Arrays], None]) -> None:
    verdict = judged(change)
    assert verdict.status == "refuted"
    assert {i for i, measure in enumerate(verdict.measures) if measure.inside is not True} == outside


def test_a_control_with_a_sink_breaks_the_check() -> None:
    runs = {"smollm2": ideal(0, np.random.default_rng(0)), "glassllm": ideal(0, np.random.default_rng(1))}
    about = {"causal": True, "tokens": [], "environment": "made up"}
    verdict = judge(LM1, "quick", [{arm: Run(found, about) for arm, found in runs.items()} for _ in range(3)])
    assert verdict.status == "check broken"


def test_late_positions_count_in_an_encoder_alone() -> None:
    found = ideal(0, np.random.default_rng(0))
    decoder, encoder = (Run(found, {"causal": causal}) for causal in (True, False))
    assert profile(decoder, "received").shape == (B, L, T // 2)
    position, is_sink = sink_positions(decoder)
    assert (position[:, 1:] == SINK).all()
    assert (is_sink == (np.arange(L) > 0)).all()
    assert (sink_positions(encoder)[0] == T - 1).all()


def test_what_refutes_the_encoder_is_the_residual_stream() -> None:
    seeds = []
    for seed in range(3):
        decoder, encoder = (ideal(seed, np.random.default_rng(seed)) for _ in range(2))
        encoder["received"][..., -1] = 0.0
        encoder["resid_norm"][...] = 1 + 0.01 * np.arange(T) + 0.01 * seed
        seeds.append(
            {
                "minilm": Run(encoder, {"causal": False, "environment": "made up"}),
                "smollm2": Run(decoder, {"causal": True, "environment": "made up"}),
            }
        )
    verdict = judge(LM1B, "quick", seeds)
    assert (verdict.status, verdict.control_status) == ("refuted", "supported")
    assert [measure.inside for measure in verdict.measures] == [True, True, False, True, False]


def test_descriptions_name_the_weights() -> None:
    one = Passages("glassllm", "prose", 2, 24)
    assert one.describe()["weights"]
    assert one.describe() != Passages("glassllm", "code", 2, 24).describe()
    with pytest.raises(ValueError, match="nearest"):
        Passages("glassllmm", "prose", 2, 24)
    with pytest.raises(ValueError, match="domain must be one of"):
        Passages("glassllm", "poems", 2, 24)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length at least 18"):
        Passages("glassllm", "prose", 2, 3)
