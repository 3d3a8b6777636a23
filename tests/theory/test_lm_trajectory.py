"""LM7-LM7c on made-up trajectories: each measure hangs on one fact, and specifications refuse what they cannot be."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from jaxsink.models import DecoderConfig
from theory.claim import Claim
from theory.claims import lm_trajectory
from theory.claims.lm_trajectory import (
    BARE,
    LANGUAGE,
    LM7,
    LM7B,
    LM7C,
    dependent,
    leading,
    over_even,
    typical_factor,
    with_time,
)
from theory.judge import Verdict, judge
from theory.small_language import VOCABULARY, SmallLanguage

L, N, B, EVEN = 3, 4, 24, 0.1
STEPS = np.array([0, 20, 40, 80, 120, 160, 240, 320, 480, 640, 900, 1200])
Arrays = dict[str, np.ndarray]
Change = Callable[[Arrays], None]


class Run(NamedTuple):
    arrays: Mapping[str, np.ndarray]
    manifest: Mapping[str, Any]


def ideal(seed: int) -> Arrays:
    """All that is said of OLMo: block 1 gets a sink and a drain, block 2 a peak, and two heads hang on the domain."""
    rng, done = np.random.default_rng(seed), STEPS / STEPS[-1]
    flat = rng.uniform(0.99, 1.01, (len(STEPS), L))
    arrays = {"step": STEPS, "baseline": np.float64(EVEN)}
    arrays |= {"attn_start": EVEN * flat, "dlogit": 0.1 * flat, "value_ratio": flat.copy(), "peak_ratio": flat.copy()}
    arrays["attn_start"][:, 1] += 0.4 * done
    arrays["dlogit"][:, 1] = np.log1p(STEPS) * flat[:, 1]
    arrays["value_ratio"][:, 1] *= 1 - 0.7 * done
    arrays["peak_ratio"][:, 2] *= 1 + 4 * done
    arrays["resid_norm_start"] = 5 * flat * arrays["peak_ratio"]
    mass = rng.uniform(0.09, 0.11, (len(STEPS), 2, B, L, N))
    mass[-1, 1, :, 1, :2] *= 3.0
    return arrays | {"sink_mass": mass}


def judged(claim: Claim, change: Change = lambda arrays: None, arm: str = "language") -> Verdict:
    def run(name: str, seed: int) -> Run:
        arrays = ideal(10 * seed + len(name))
        if name == arm:
            change(arrays)
        return Run(arrays, {"environment": "made up"})

    return judge(claim, "quick", [{name: run(name, seed) for name in claim.evidence["quick"]} for seed in range(3)])


def curved(name: str, layer: int, of: Callable[[np.ndarray], np.ndarray]) -> Change:
    """A curve of a block that is another function of the share of the run."""

    def change(arrays: Arrays) -> None:
        arrays[name][:, layer] = of(STEPS / STEPS[-1])

    return change


def alike(arrays: Arrays) -> None:
    arrays["sink_mass"][-1] = arrays["sink_mass"][0]


def less(arrays: Arrays) -> None:
    """Heads that differ beyond doubt, by a factor too small to count; all of them, so that they do on average."""
    arrays["sink_mass"][-1, 1] = 1.3 * arrays["sink_mass"][0, 1]


def one(arrays: Arrays) -> None:
    """A single head, that the mean over heads does not show."""
    alike(arrays)
    arrays["sink_mass"][-1, 1, :, 0, 0] *= 1.7


# How each measure is made false; (measures outside, arm, change).
FALSE: list[tuple[Claim, set[int], str, Change]] = [
    (LM7, {0}, "language", curved("attn_start", 1, lambda x: EVEN * (1.2 + 0.5 * x))),
    (LM7, {1}, "language_bare", curved("attn_start", 1, lambda x: EVEN * (1.2 + 0.5 * x))),
    (LM7, {2}, "language", curved("dlogit", 1, lambda x: -np.log(x + 1e-3))),
    (LM7B, {0}, "language", curved("value_ratio", 1, lambda x: 1 - 0.1 * x)),
    (LM7B, {1}, "language_bare", curved("value_ratio", 1, lambda x: 1 - 0.1 * x)),
    (LM7B, {2}, "language", curved("peak_ratio", 2, lambda x: 1 + 0.5 * x)),
    (LM7B, {3}, "language_bare", curved("peak_ratio", 2, lambda x: 1 + 0.5 * x)),
    (LM7B, {4}, "language", curved("resid_norm_start", 2, lambda x: 5 + x**8)),
    (LM7C, {0, 1, 2}, "language", alike),
    (LM7C, {2}, "language", less),
    (LM7C, {1}, "language", one),
]


@pytest.mark.parametrize("claim", lm_trajectory.CLAIMS, ids=lambda claim: claim.id)
def test_a_trajectory_as_that_of_olmo_supports_all(claim: Claim) -> None:
    verdict = judged(claim)
    assert all(measure.inside for measure in verdict.measures), verdict.measures
    assert verdict.control_status == claim.control.expected
    assert verdict.status == "supported"


@pytest.mark.parametrize(("claim", "outside", "arm", "change"), FALSE)
def test_a_claim_of_which_a_measure_is_false_is_refuted(
    claim: Claim, outside: set[int], arm: str, change: Change
) -> None:
    verdict = judged(claim, change, arm)
    assert {i for i, measure in enumerate(verdict.measures) if measure.inside is False} == outside
    assert all(measure.inside for i, measure in enumerate(verdict.measures) if i not in outside)
    assert (verdict.status, verdict.control_status) == ("refuted", claim.control.expected)


@pytest.mark.parametrize(
    ("claim", "name", "arm"),
    [
        (LM7, "attn_start", "three_blocks"),
        (LM7B, "value_ratio", "free"),
        (LM7B, "peak_ratio", "three_blocks"),
    ],
)
def test_without_a_sink_drain_or_peak_on_backcopy_nothing_is_said(claim: Claim, name: str, arm: str) -> None:
    def flat(arrays: Arrays) -> None:
        arrays[name][:] = arrays[name][:1]

    assert judged(claim, flat, arm).status == "check broken"


def test_a_gap_that_falls_on_backcopy_breaks_the_check() -> None:
    assert judged(LM7, curved("dlogit", 1, lambda x: -x), "three_blocks").status == "check broken"


def test_labels_that_say_nothing_or_a_model_that_differs_from_the_start_break_the_check() -> None:
    def as_at_first(arrays: Arrays) -> None:
        arrays["sink_mass"][0] = arrays["sink_mass"][-1]
        # The halves that are compared differ as the domains do.
        arrays["sink_mass"][-1, :, ::2, 2] *= 3.0

    assert judged(LM7C, as_at_first).status == "check broken"


def test_numbers_are_those_of_the_block_that_leads() -> None:
    run = Run(ideal(4), {})
    assert (leading(run), leading(run, "peak_ratio")) == (1, 2)
    rise = np.corrcoef(np.log(STEPS[1:]), run.arrays["dlogit"][1:, 1])[0, 1]
    assert with_time(run) == pytest.approx(rise)
    assert over_even(run) == pytest.approx(run.arrays["attn_start"][-1, 1] / EVEN)
    one, other = run.arrays["sink_mass"][-1].mean(1)
    ratios = [max(x / y, y / x) for x, y in zip(one.ravel(), other.ravel(), strict=True)]
    assert typical_factor(run, -1) == pytest.approx(np.prod(ratios) ** (1 / len(ratios)))
    found = dependent(*run.arrays["sink_mass"][-1])
    np.testing.assert_array_equal(np.argwhere(found), [[1, 0], [1, 1]])


def test_arms_are_what_their_names_say() -> None:
    for tier, spec in LANGUAGE.items():
        assert replace(spec, start=False) == BARE[tier]
        assert spec.start
        assert spec.model.d_model == spec.model.n_heads * spec.model.head_size
    assert LANGUAGE["paper"].domains == ("plays", "code")


MODEL = DecoderConfig(VOCABULARY, n_layers=1, n_heads=1, n_key_heads=1, head_size=4, d_model=4, d_mlp=4)
SPEC = SmallLanguage(MODEL)


def test_descriptions_tell_runs_apart() -> None:
    changes: list[dict[str, Any]] = [{"start": False}, {"domains": ("plays", "code")}, {"steps": 20}, {"passages": 8}]
    changes.append({"model": replace(MODEL, n_layers=2)})
    described = [SPEC.describe(), *(replace(SPEC, **change).describe() for change in changes)]
    assert all(one != other for i, one in enumerate(described) for other in described[:i])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"domains": ("prose",)}, "domains must be two or more of prose, plays, code, documentation, but prose"),
        ({"domains": ("prose", "prose")}, "but prose, prose were given"),
        ({"domains": ("prose", "random")}, "but prose, random were given"),
        ({"model": replace(MODEL, vocab_size=66)}, "must be the 128 characters of ASCII, but it is 66"),
        ({"length": 7}, "length must be at least 8"),
        ({"batch": 0}, "all other numbers at least 1"),
        ({"batch": 5}, "batch must be a multiple of the 2 domains, but is 5"),
        ({"steps": 30}, "a multiple of chunk_steps=20, but 30"),
        ({"characters": 40_000}, "64 passages of 64 characters need 40960 characters"),
    ],
)
def test_mistakes_in_a_specification(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SPEC, **changes)
