"""Claims WV1-WV4 and WV6: which tokens of pretrained models are waiver elements (2407.01601)."""

from __future__ import annotations

import math

import numpy as np

from theory.checkpoint import COMPARED
from theory.claim import Claim, Control, Measure, Tier
from theory.claims.wv_arms import (
    DRAWS,
    MINILM,
    SMOLLM2,
    both,
    coincide,
    correlations,
    evidence,
    given_over_taken,
    most_at_first,
    onset,
    over_even,
    ratio,
    share,
    value_ratio,
)

_SEEN = "Positions that fewer than half of the queries see are left out."
WV1 = Claim(
    id="WV1",
    source="2407.01601",
    statement="The first element draws a disproportionate part of the attention in a pretrained decoder.",
    kind="checkpoint",
    evidence=evidence("smollm2", "glassllm"),
    measures=both(
        ratio(
            "attention to the first token over even attention, median over layers",
            lambda a: float(np.median(over_even(a["smollm2"], 0))),
            3.0,
            math.inf,
        ),
        share("share of layers in which it receives the most", lambda a: most_at_first(a["smollm2"]), 0.5),
    ),
    expected={"quick": "supported", "paper": "supported"},
    control=Control("a decoder without a sink (glassllm)", swap={"smollm2": "glassllm"}),
    figure="profiles",
    note=f"{SMOLLM2} {DRAWS} {_SEEN}",
)


def _reduced(arm: str) -> dict[Tier, tuple[Measure, ...]]:
    return both(
        share(
            "share of layers in which value norm falls with attention received (Spearman)",
            lambda a: float((correlations(a[arm]) < 0).mean()),
            0.5,
        ),
        share(
            "share of layers in which the token that receives the most has the smallest value",
            lambda a: coincide(a[arm]),
            0.5,
        ),
    )


WV2 = Claim(
    id="WV2",
    source="2407.01601",
    statement="Elements that draw much attention have reduced values in a pretrained decoder.",
    kind="checkpoint",
    evidence=evidence("smollm2", "glassllm"),
    measures=_reduced("smollm2"),
    expected={"quick": "supported", "paper": "supported"},
    control=Control("a decoder without a sink (glassllm)", swap={"smollm2": "glassllm"}),
    figure="profiles",
    note=f"{SMOLLM2} {DRAWS} {_SEEN}",
)
WV2B = Claim(
    id="WV2b",
    source="2407.01601, for the encoders",
    statement="Elements that draw much attention have reduced values in a pretrained encoder.",
    kind="checkpoint",
    evidence=evidence("minilm", "smollm2"),
    measures=_reduced("minilm"),
    expected={"quick": "inconclusive", "paper": "refuted"},
    control=Control(
        "a decoder (SmolLM2), where the same measures must hold", swap={"minilm": "smollm2"}, expected="supported"
    ),
    figure="profiles",
    note=(
        f"{MINILM} The one token that draws the most has the smallest value; among all the others value norm and "
        f"attention are as good as unrelated. {DRAWS}"
    ),
)


def _little(arm: str, key: int) -> Measure:
    return ratio(
        f"share of the outputs over share of the attention, key {key}, geometric mean over layers",
        lambda a: given_over_taken(a[arm], key),
        0.0,
        0.5,
    )


WV3 = Claim(
    id="WV3",
    source="2407.01601",
    statement="The first element of a pretrained decoder adds far less to the outputs than its share of the attention.",
    kind="checkpoint",
    evidence=evidence("smollm2", "minilm"),
    measures=both(_little("smollm2", 0)),
    expected={"quick": "refuted", "paper": "refuted"},
    control=Control(
        "an encoder (MiniLM), where the same measure must hold", swap={"smollm2": "minilm"}, expected="supported"
    ),
    figure="profiles",
    note=(
        f"{SMOLLM2} The share is |w v| of the key over |sum_j w_j v_j|, each averaged over queries. Values of other "
        "keys cancel each other, so that an ordinary one has two to three times its weight; the first one has a third "
        f"of that, and yet no less than its weight. {DRAWS}"
    ),
)
WV3B = Claim(
    id="WV3b",
    source="2407.01601, for the encoders",
    statement="The first element of a pretrained encoder adds far less to the outputs than its share of the attention.",
    kind="checkpoint",
    evidence=evidence("minilm"),
    measures=both(_little("minilm", 0)),
    expected={"quick": "supported", "paper": "supported"},
    control=Control(f"an ordinary token (position {COMPARED[1]})", measures=both(_little("minilm", COMPARED[1]))),
    figure="profiles",
    note=f"{MINILM} With [CLS] and [SEP]. {DRAWS}",
)


def _first_over_even(arm: str, words: str, low: float, high: float) -> Measure:
    return ratio(
        f"attention to the first token over even attention, mean over layers, {words}",
        lambda a: float(over_even(a[arm], 0).mean()),
        low,
        high,
    )


WV4 = Claim(
    id="WV4",
    source="2407.01601",
    statement="A pretrained decoder chooses the first element whatever token it is, for it alone is not mixed.",
    kind="checkpoint",
    evidence=evidence("smollm2", "smollm2_random", "smollm2_repeated", "minilm_shifted", "minilm_shifted_random"),
    measures=both(
        _first_over_even("smollm2", "prose", 3.0, math.inf),
        _first_over_even("smollm2_random", "random tokens", 3.0, math.inf),
        _first_over_even("smollm2_repeated", "one token repeated, none of which is mixed", 0.0, 3.0),
        Measure(
            "first block in which it receives more than .2, random tokens",
            lambda a: onset(a["smollm2_random"]),
            "< 15",
            (-math.inf, 15.0),
        ),
    ),
    expected={"quick": "supported", "paper": "supported"},
    control=Control(
        "an encoder (MiniLM) whose texts begin at position 1",
        swap={"smollm2": "minilm_shifted", "smollm2_random": "minilm_shifted_random"},
    ),
    figure="profiles",
    note=f"{SMOLLM2} {DRAWS}",
)


def _position_over_even(arm: str, position: int, words: str) -> Measure:
    return ratio(
        f"attention to {words} over even attention, mean over layers",
        lambda a: float(over_even(a[arm], position).mean()),
        3.0,
        math.inf,
    )


def _position_norm(arm: str, position: int, words: str) -> Measure:
    return ratio(
        f"norm of the position vector of {words} over the median of all",
        lambda a: float(a[arm].arrays["position_norm"][position] / np.median(a[arm].arrays["position_norm"])),
        1.5,
        math.inf,
    )


_BARE = f"{MINILM} Without [CLS] and [SEP], so that only the position tells the first and the last token. {DRAWS}"
_FIRST = (
    _position_over_even("minilm_bare", 0, "the first token"),
    ratio("value norm of the first token over the median", lambda a: value_ratio(a["minilm_bare"], 0), 0.0, 0.5),
    _position_norm("minilm_bare", 0, "the first position"),
)
WV6 = Claim(
    id="WV6",
    source="2407.01601",
    statement="A pretrained encoder with learned positions chooses its first element by the position.",
    kind="checkpoint",
    evidence=evidence("minilm_bare", "minilm_shifted"),
    measures=both(*_FIRST),
    expected={"quick": "supported", "paper": "supported"},
    control=Control("the same texts from position 1 on", swap={"minilm_bare": "minilm_shifted"}),
    figure="profiles",
    note=_BARE,
)
WV6B = Claim(
    id="WV6b",
    source="2407.01601",
    statement="A pretrained encoder with learned positions chooses its last element, too.",
    kind="checkpoint",
    evidence=evidence("minilm_bare"),
    measures=both(
        _position_over_even("minilm_bare", -1, "the last token"),
        ratio("value norm of the last token over the median", lambda a: value_ratio(a["minilm_bare"], -1), 0.0, 0.5),
    ),
    expected={"quick": "refuted", "paper": "refuted"},
    control=Control("the first token", measures=both(*_FIRST[:2]), expected="supported"),
    figure="profiles",
    note=_BARE,
)

CLAIMS = (WV1, WV2, WV2B, WV3, WV3B, WV4, WV6, WV6B)
