"""LM5 and LM6 on made-up heads: what each measure hangs on, and that only heads with a sink are looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from theory.claims.lm_keys import ARM, CLAIMS, LM5, LM6, concentration, in_sink_heads, sink_heads
from theory.judge import judge

L, N = 4, 3
Arrays = dict[str, np.ndarray]


class Run(NamedTuple):
    arrays: Mapping[str, np.ndarray]
    manifest: Mapping[str, Any]


def made_up(seed: int, change: Callable[[Arrays], None] = lambda found: None) -> Run:
    """Heads 0 and 1 have a sink on key 0, head 2 has none and would refute everything."""
    rng = np.random.default_rng(seed)

    def near(values: Any) -> np.ndarray:
        by_key = np.broadcast_to(np.asarray(values, float), (L, N, len(values)))
        return by_key * rng.uniform(0.97, 1.0, by_key.shape)

    found = {
        "weight_by_head": np.stack([near([0.6, 0.01])] * 2),
        "logit_std": near([0.2, 0.9, 1.0]),
        "query_cosine": near([0.4, -0.1]),
        "query_aligned": near([0.99, 0.1]),
        "key_cosine": near([-0.1, 0.7]),
    }
    found["weight_by_head"][:, :, 2, 0] = 0.05
    for name, value in (("logit_std", 3.0), ("query_aligned", 0.2), ("key_cosine", 0.9)):
        found[name][:, 2, 0] = value
    change(found)
    return Run(found, {"causal": True, "environment": "made up"})


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_it_holds_for_the_sink_and_not_for_another_key(claim: Any) -> None:
    verdict = judge(claim, "quick", [{ARM: made_up(seed)} for seed in range(3)])
    assert (verdict.status, verdict.control_status) == ("supported", "refuted")


def put(name: str, value: float) -> Callable[[Arrays], None]:
    def change(found: Arrays) -> None:
        found[name][..., :2, 0] = value * np.linspace(0.99, 1.01, L)[:, None]

    return change


@pytest.mark.parametrize(
    ("claim", "change"),
    [
        (LM5, put("logit_std", 0.8)),
        (LM6, put("key_cosine", 0.6)),
        (LM6, put("key_cosine", -0.6)),
        (LM6, put("query_aligned", 0.5)),
    ],
)
def test_each_measure_can_refute_it(claim: Any, change: Callable[[Arrays], None]) -> None:
    assert judge(claim, "quick", [{ARM: made_up(seed, change)} for seed in range(3)]).status == "refuted"


def test_means_are_over_the_heads_with_a_sink() -> None:
    run = made_up(0)
    np.testing.assert_array_equal(sink_heads(run), [[True, True, False]] * L)
    assert in_sink_heads(run, "key_cosine", 0) == pytest.approx(run.arrays["key_cosine"][:, :2, 0].mean())
    assert concentration(run, 0) == pytest.approx(0.2, rel=0.05)
    none = made_up(0, lambda found: found["weight_by_head"].fill(0.1))
    assert np.isnan(in_sink_heads(none, "key_cosine", 0))
    assert np.isnan(concentration(none, 0))
