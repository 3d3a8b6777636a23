"""The claims WV on made-up profiles: which fact each measure hangs on, and that controls come out the other way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from theory.checkpoint import COMPARED, MaskControl, Passages, PositionControl
from theory.claim import Claim
from theory.claims import wv, wv_controls
from theory.claims.wv_arms import ARMS, ROW, SECOND, even, onset, share
from theory.judge import Verdict, judge, measured

B, T = 3, 256
LAYERS = {True: 20, False: 6}
Arrays = dict[str, np.ndarray]


class Run(NamedTuple):
    arrays: Mapping[str, np.ndarray]
    manifest: Mapping[str, Any]


def plain(rng: np.random.Generator, causal: bool) -> Arrays:
    """A model without a sink: even attention, values of one size, and a key adds twice its weight."""
    shape = (B, LAYERS[causal], T)
    level = np.array([(1 / np.arange(key + 1, T + 1)).mean() for key in range(T)]) if causal else np.full(T, 1 / T)
    found = {
        "received": level * rng.uniform(0.9, 1.1, shape),
        "value_norm": rng.uniform(0.9, 1.1, shape),
        "resid_norm": rng.uniform(0.9, 1.1, shape),
        "compared_weight": np.full((*shape[:2], len(COMPARED)), 0.01),
        "compared_share": np.full((*shape[:2], len(COMPARED)), 0.02),
    }
    if not causal:
        found["position_norm"] = rng.uniform(0.9, 1.1, 512)
        found["position_norm"][0] = 5.0
    return found


def sink(found: Arrays, position: int, received: float, value: float = 0.1) -> None:
    found["received"][..., position] = received * (1 + 0.001 * np.arange(B))[:, None]
    found["value_norm"][..., position] = value


def arms(seed: int) -> dict[str, Run]:
    """What the papers say and the packaged weights show, as far as claims are recorded as they are."""
    rng = np.random.default_rng(seed)
    first = {"smollm2": 0.4, "smollm2_random": 0.45, "first_opened": 0.3, "minilm": 0.17, "minilm_bare": 0.17}
    # Attention to the controlled token where it is more than even.
    rows = {"alone": 0.2, "alone_late": 0.02, "first_vector": 0.12, "norm_matched": 0.04}
    rows |= {"previous_only": 0.1, "with_previous": 0.1, "first_only": 0.1}
    # Draws that leave two claims open at the paper's size.
    rows |= {"alone_early": (0.04, 0.06, 0.1)[seed], "minilm_alone": (0.01, 0.017, 0.03)[seed]}
    found = {}
    for name, tiers in ARMS.items():
        causal = tiers["quick"].model != "minilm-l6"
        arrays = plain(rng, causal)
        if name not in ("glassllm", "smollm2_repeated", "minilm_shifted", "minilm_shifted_random"):
            sink(arrays, 0, first.get(name, 0.3))
            # In the decoder the smaller value makes up for the weight, in the encoder it is smaller still.
            arrays["compared_weight"][..., 0], arrays["compared_share"][..., 0] = 0.3, 0.3 if causal else 0.03
        if name in rows:
            sink(arrays, ROW, rows[name])
        if name == "hidden_column":
            arrays["received"][..., ROW] = 0.001
        if name == "two_alone":
            sink(arrays, ROW, 0.15)
            sink(arrays, SECOND, 0.15)
        if name == "smollm2":
            # Besides the first token, the more a token receives the smaller its value.
            arrays["value_norm"][..., 1:] = 1 / (1 + 20 * arrays["received"][..., 1:])
        if name == "minilm":
            arrays["value_norm"][..., 1:] = 1 + 20 * arrays["received"][..., 1:]
        found[name] = Run(arrays, {"causal": causal, "environment": "made up"})
    return found


@pytest.fixture(scope="module")
def runs() -> list[dict[str, Run]]:
    return [arms(seed) for seed in range(3)]


def judged(claim: Claim, runs: list[dict[str, Run]]) -> Verdict:
    return judge(claim, "quick", [{name: of[name] for name in claim.evidence["quick"]} for of in runs])


@pytest.mark.parametrize("claim", [*wv.CLAIMS, *wv_controls.CLAIMS], ids=lambda claim: claim.id)
def test_a_claim_comes_out_as_recorded_where_the_models_do_what_is_recorded(claim: Claim, runs: Any) -> None:
    verdict = judged(claim, runs)
    assert (verdict.status, verdict.control_status) == (claim.expected["paper"], claim.control.expected)


@pytest.mark.parametrize("claim", [*wv.CLAIMS, *wv_controls.CLAIMS], ids=lambda claim: claim.id)
def test_models_without_sinks_and_without_answers_to_controls_support_none(claim: Claim) -> None:
    runs = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        causal = {name: tiers["quick"].model != "minilm-l6" for name, tiers in ARMS.items()}
        about = {name: {"causal": of, "environment": "made up"} for name, of in causal.items()}
        runs.append({name: Run(plain(rng, of), about[name]) for name, of in causal.items()})
    verdict = judged(claim, runs)
    # A claim that something does not happen can hold there; its control then shows that it says nothing.
    assert verdict.status in ("refuted", "check broken")


def test_half_is_not_more_than_half() -> None:
    runs = [{"a": Run({}, {})}] * 3
    half, more = (measured(share("layers", lambda a, x=x: x, 0.5), runs).inside for x in (0.5, 0.51))  # type: ignore[misc]
    assert (half, more) == (False, True)


def test_even_attention_is_what_an_even_decoder_gives(runs: Any) -> None:
    decoder, encoder = runs[0]["smollm2"], runs[0]["minilm"]
    weights = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]
    by_key = [weights[key:, key].mean() for key in range(T)]
    np.testing.assert_allclose(even(decoder), by_key, rtol=1e-12)
    np.testing.assert_allclose(even(encoder), 1 / T)


def test_the_onset_is_the_first_block_with_a_sink(runs: Any) -> None:
    arrays = {"received": np.full((B, 7, T), 0.01)}
    assert onset(Run(arrays, {"causal": True})) == 7
    arrays["received"][:, 3:, 0] = 0.3
    assert onset(Run(arrays, {"causal": True})) == 3


def test_controls_must_fit_their_passages() -> None:
    one = Passages("glassllm", "prose", 2, 32, control=MaskControl(rows=(31,)))
    assert one.describe()["control"] == {"type": "MaskControl", **vars(MaskControl(rows=(31,)))}
    assert one.describe() != Passages("glassllm", "prose", 2, 32, control=MaskControl(rows=(30,))).describe()
    for control in (MaskControl(rows=(32,)), PositionControl(rows=(3, -1))):
        with pytest.raises(ValueError, match="choose rows from 0 to 31"):
            Passages("glassllm", "prose", 2, 32, control=control)
