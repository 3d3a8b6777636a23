"""LM4 on made-up first tokens: one layer that writes the peak, several that do, and none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from theory.claims.lm_peak import LM4, LM4B, growth, share_left
from theory.judge import judge

B, L = 3, 12


class Run(NamedTuple):
    arrays: Mapping[str, np.ndarray]
    manifest: Mapping[str, Any]


def made_up(seed: int, writer: int, also: tuple[int, ...] = (), factor: float = 100.0) -> Run:
    """A peak that the MLP of block `writer` writes; it needs the MLPs of the blocks `also`."""
    rng = np.random.default_rng(seed)
    norms = rng.uniform(5.0, 5.2, (B, L))
    norms[:, writer:] *= factor
    without = {part: np.repeat(norms[:, None], L, axis=1) for part in ("attention", "mlp")}
    for block in (writer, *also):
        without["mlp"][:, block] = norms * (1 / factor if block == writer else 0.3)
    arrays = {"resid_norm": norms, "without_attention": without["attention"], "without_mlp": without["mlp"]}
    return Run(arrays, {"environment": "made up"})


def judged(claim: Any, **how: Any) -> tuple[str, str]:
    runs = [
        {"first_smollm2": made_up(seed, **how), "first_glassllm": made_up(seed, 3, factor=1.2)} for seed in range(3)
    ]
    verdict = judge(claim, "quick", runs)
    return verdict.status, verdict.control_status


def test_one_writer_supports_both() -> None:
    assert judged(LM4, writer=3) == ("supported", "refuted")
    # Where nothing writes a peak no other layer is needed for it either.
    assert judged(LM4B, writer=3) == ("supported", "supported")


def test_others_that_are_needed_refute_the_second_alone() -> None:
    assert judged(LM4, writer=3, also=(0, 2))[0] == "supported"
    assert judged(LM4B, writer=3, also=(0, 2))[0] == "refuted"


@pytest.mark.parametrize("how", [{"writer": 9}, {"writer": 3, "factor": 2.0}])
def test_a_late_or_weak_writer_refutes_the_first(how: dict[str, Any]) -> None:
    assert judged(LM4, **how)[0] == "refuted"


def test_shares_and_growth() -> None:
    run = made_up(0, 3, (1,))
    left = share_left(run)
    assert left.shape == (2, L)
    np.testing.assert_allclose(left[0], 1.0)
    assert left[1, 3] == pytest.approx(0.01)
    assert left[1, 1] == pytest.approx(0.3)
    assert growth(run) == pytest.approx(100, rel=0.05)
