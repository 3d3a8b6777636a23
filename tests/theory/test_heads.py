"""The permutation test over passages against scipy's and under the null, and LM2 and LM3 on made-up heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

from theory.checkpoint import MaskControl, Passages
from theory.claims.lm_heads import LM2, LM2B, LM2C, LM3, LM3B
from theory.heads import RATE, SPLITS, HeadZeroing, compare, permutation_p_values
from theory.judge import judge


def scipy_p_values(first: np.ndarray, second: np.ndarray, resamples: int) -> np.ndarray:
    def difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return x.mean(axis) - y.mean(axis)

    how = {"vectorized": True, "axis": 0, "n_resamples": resamples, "rng": np.random.default_rng(1)}
    return np.asarray(stats.permutation_test((first, second), difference, **how).pvalue)


@pytest.mark.parametrize(("one", "other"), [(4, 5), (5, 5), (2, 6)])
def test_p_values_are_those_of_scipy_where_all_splits_are_gone_through(one: int, other: int) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(one, 3, 4)), rng.normal(size=(other, 3, 4))
    second[:, 0] += 2.0
    # Ties, within the passages of a head and between the two groups.
    first[:, 2], second[:, 2] = rng.integers(0, 2, (one, 4)), rng.integers(0, 2, (other, 4))
    np.testing.assert_allclose(permutation_p_values(first, second), scipy_p_values(first, second, 10**6), rtol=1e-12)


def test_p_values_of_splits_drawn_at_random_are_near_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(20, 30)), rng.normal(size=(20, 30)) + np.linspace(0, 1.5, 30)
    found, expected = permutation_p_values(first, second), scipy_p_values(first, second, 20_000)
    # Five standard errors of the difference of two estimates of twice a share.
    error = 5 * 2 * np.sqrt(2 * (expected / 2) * (1 - expected / 2) / SPLITS) + 2 / SPLITS
    assert (np.abs(found - expected) < error).all()
    assert found.min() < 1e-3 < 0.3 < found.max()


def test_p_values_are_calibrated_where_there_is_no_difference() -> None:
    rng = np.random.default_rng(3)
    # Skewed, and heads with scales of their own.
    pooled = rng.exponential(size=(10, 4000)) * rng.uniform(0.1, 10, 4000)
    p_values = permutation_p_values(pooled[:5], pooled[5:])
    for level in (0.05, 0.2, 0.5):
        # Of 252 splits p-values are multiples of 2 / 252; four standard errors of a share.
        attained = np.floor(level * 126) / 126
        assert abs((p_values <= level).mean() - attained) < 4 * np.sqrt(level * (1 - level) / 4000)


def test_false_discoveries_are_controlled_and_shifted_heads_are_found() -> None:
    rng = np.random.default_rng(4)
    none, shares, found = [], [], []
    for _ in range(300):
        # Heads that hang together, as those of one model on one passage do.
        groups = rng.normal(size=(2, 6, 40)) + rng.normal(size=(2, 6, 1))
        none.append(compare(*groups).differs().any())
        groups = rng.normal(size=(2, 6, 40))
        groups[0, :, :20] += 4.0
        differs = compare(*groups).differs()
        shares.append(differs[20:].sum() / max(differs.sum(), 1))
        found.append(differs[:20].mean())
    # Some head is said to differ in 5 % of cases at most, and 5 % of those said to differ are not: four errors.
    assert np.mean(none) < RATE + 4 * np.sqrt(RATE * (1 - RATE) / 300)
    assert np.mean(shares) < RATE
    assert np.mean(found) > 0.9
    # Without the control of false discoveries nearly each case without a difference would have one.
    uncontrolled = [(permutation_p_values(*rng.normal(size=(2, 6, 40))) <= RATE).any() for _ in range(50)]
    assert np.mean(uncontrolled) > 0.5


def test_a_gap_has_a_sign_and_a_least_size() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.5, 0.01, (6, 3)), rng.normal(0.5, 0.01, (6, 3))
    first[:, 0] += 0.3
    first[:, 1] -= 0.1
    found = compare(first, second)
    np.testing.assert_allclose(found.gap, first.mean(0) - second.mean(0))
    assert found.differs().tolist()[:2] == [True, True]
    assert found.differs(0.2).tolist() == [True, False, False]


def test_groups_of_one_passage_and_of_other_heads_are_refused() -> None:
    for one, other in (((1, 4), (5, 4)), ((5, 4), (5, 3))):
        with pytest.raises(ValueError, match="at least two passages with the same heads"):
            compare(np.zeros(one), np.zeros(other))


def test_blocks_of_which_heads_are_zeroed() -> None:
    passages = Passages("glassllm", "prose", 2, 24)
    assert HeadZeroing(passages, 6).layers(30) == (5, 11, 17, 23, 29)
    assert HeadZeroing(passages).layers(4) == (0, 1, 2, 3)
    with pytest.raises(ValueError, match="every must be at least 1"):
        HeadZeroing(passages, 0)
    with pytest.raises(ValueError, match="the passages have a control"):
        HeadZeroing(Passages("glassllm", "prose", 2, 24, control=MaskControl(rows=(3,))))


# The claims -----------------------------------------------------------------------------------------------------
class Run(NamedTuple):
    arrays: Mapping[str, np.ndarray]
    manifest: Mapping[str, Any]


L, N = 10, 9


def masses(rng: np.random.Generator, count: int, mean: np.ndarray) -> Run:
    weights = np.clip(rng.normal(mean, 0.02, (count, L, N)), 0, 1)
    return Run({"weight_by_head": np.stack([weights, 0 * weights], axis=-1)}, {"environment": "made up"})


def by_domain(seed: int, gap: float, heads: int, small: float = 0.1) -> dict[str, Run]:
    """Block 0 has `heads` heads that are active on code, blocks 1 to 3 differ by `small`, random tokens add 0.1."""
    rng = np.random.default_rng(seed)
    prose = np.full((L, N), 0.5)
    code, flat = prose.copy(), np.full((L, N), 0.05)
    code[0, :heads] -= gap
    code[1:4] += small
    arms = {"prose": (16, prose), "code": (8, code), "documentation": (8, prose)}
    arms |= {"prose_begun": arms["prose"], "code_begun": arms["code"]}
    arms |= {"random": (8, prose + 0.1), "repeated": (8, prose - 0.4)}
    arms |= {"glassllm_prose": (16, flat), "glassllm_code": (8, flat + 0.1)}
    return {f"heads_{name}": masses(rng, *how) for name, how in arms.items()}


def status(claim: Any, make: Callable[[int], Any]) -> tuple[str, str]:
    verdict = judge(claim, "quick", [make(seed) for seed in range(3)])
    return verdict.status, verdict.control_status


@pytest.mark.parametrize("claim", [LM2, LM2C], ids=lambda claim: claim.id)
def test_heads_that_turn_with_the_domain_support_lm2(claim: Any) -> None:
    assert status(claim, lambda seed: by_domain(seed, 0.4, 6 + seed % 2)) == ("supported", "refuted")
    # Three blocks of small differences are not heads that turn, and very few that turn are not enough.
    assert status(claim, lambda seed: by_domain(seed, 0.0, 0))[0] == "refuted"
    assert status(claim, lambda seed: by_domain(seed, 0.4, 2 + seed % 2, small=0.0))[0] == "refuted"


def test_random_tokens_put_heads_to_rest_in_lm2b() -> None:
    assert status(LM2B, lambda seed: by_domain(seed, 0.0, 0)) == ("supported", "refuted")

    def lower(seed: int) -> dict[str, Run]:
        found = by_domain(seed, 0.0, 0)
        less = found["heads_random"].arrays["weight_by_head"] - 0.15
        return {**found, "heads_random": Run({"weight_by_head": less}, {"environment": "made up"})}

    assert status(LM2B, lower)[0] == "refuted"


def zeroed(seed: int, slope: float, turn: float, spread: float = 0.01, loss: float = 0.0) -> dict[str, Run]:
    """Expected costs fall with sink mass by `slope`, and in the domain where it is larger by `turn`."""
    rng = np.random.default_rng(seed)
    mass = rng.uniform(0, 0.7, (5, N))[None] + rng.uniform(0, 0.2, (2, 5, N))
    typical = mass.mean(0)
    expected = 0.1 * np.exp(-slope * typical - turn * (mass - typical) + rng.normal(0, spread, mass.shape))
    runs = {}
    for name, of, paid in zip(("zeroed_prose", "zeroed_code"), mass, expected, strict=True):
        cost = np.array([loss - 0.05, loss + 0.05])[:, None, None] + rng.normal(0, 1e-3, (2, 5, N))
        arrays = {"sink_mass": np.stack([of, of]), "divergence": np.stack([paid, paid]), "cost": cost}
        runs[name] = Run(arrays, {"environment": "made up"})
    return runs


def test_heads_whose_zeroing_costs_as_they_are_active_support_lm3() -> None:
    assert status(LM3, lambda seed: zeroed(seed, 8.0, 5.0)) == ("supported", "supported")
    assert status(LM3B, lambda seed: zeroed(seed, 8.0, 5.0)) == ("supported", "refuted")


def test_costs_without_regard_to_sinks_refute_lm3() -> None:
    assert status(LM3, lambda seed: zeroed(seed, 0.0, 0.0, spread=1.0)) == ("refuted", "supported")
    assert status(LM3, lambda seed: zeroed(seed, -4.0, -4.0)) == ("refuted", "supported")
    assert status(LM3B, lambda seed: zeroed(seed, 8.0, -5.0))[0] == "refuted"
    # Where all heads cost alike nothing can be said, and a loss that changes is seen whatever ranks the heads.
    assert status(LM3, lambda seed: zeroed(seed, 0.0, 0.0)) == ("check broken", "refuted")
    verdict = judge(LM3, "quick", [zeroed(seed, 8.0, 5.0, loss=0.03) for seed in range(3)])
    assert [measure.inside for measure in verdict.measures] == [True, True, True, False]
