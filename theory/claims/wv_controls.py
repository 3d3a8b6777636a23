"""Claims WV5, WV7 and WV8: what makes a waiver element of another token (2407.01601)."""

from __future__ import annotations

import math

from theory.claim import TIERS, Arms, Claim, Control, Measure
from theory.claims.wv_arms import (
    DRAWS,
    MINILM,
    ROW,
    SECOND,
    SMOLLM2,
    both,
    evidence,
    over_first,
    ratio,
    received,
    value_ratio,
)

_TOKEN = f"The controlled token is the one at position {ROW} of 256, in all heads."

_UNLIKE = {
    "with_previous": "itself and the one before it",
    "previous_only": "the one before it",
    "last_five": "itself and the four before it",
    "all_but_first": "all but the first",
    "first_only": "the first alone",
}


def _towards(words: str, arm: str, low: float, high: float) -> Measure:
    return ratio(f"attention to the token over that to the first, {words}", lambda a: over_first(a[arm]), low, high)


def _value_change(controlled: str, free: str, words: str) -> Measure:
    return ratio(
        f"value norm of the token over the median, {words}, over that without control",
        lambda a: value_ratio(a[controlled], ROW) / value_ratio(a[free], ROW),
        0.0,
        0.5,
    )


def _two_over_one(a: Arms) -> float:
    return (received(a["two_alone"], ROW) + received(a["two_alone"], SECOND)) / received(a["alone"], ROW)


WV5 = Claim(
    id="WV5",
    source="2407.01601",
    statement="In a pretrained decoder a token that is made to see itself alone becomes a waiver element.",
    kind="checkpoint",
    evidence=evidence("alone", "two_alone", "hidden_column", "smollm2", "minilm_alone", "minilm"),
    measures=both(
        _towards("seeing itself alone", "alone", 0.3, math.inf),
        _towards("without control", "smollm2", 0.0, 0.1),
        _towards("hidden from the others", "hidden_column", 0.0, 0.1),
        _value_change("alone", "smollm2", "seeing itself alone"),
        ratio("attention to two such tokens over that to one", _two_over_one, 1.0, 2.0),
        ratio(
            "attention to the first token beside two such over that without",
            lambda a: received(a["two_alone"], 0) / received(a["smollm2"], 0),
            0.0,
            1.0,
        ),
    ),
    expected={"quick": "supported", "paper": "supported"},
    control=Control(
        "an encoder (MiniLM) under the same mask",
        swap={"alone": "minilm_alone", "two_alone": "minilm_alone", "smollm2": "minilm"},
    ),
    figure="controls",
    note=f"{SMOLLM2} {_TOKEN} {DRAWS}",
)
WV5B = Claim(
    id="WV5b",
    source="2407.01601, comparisons",
    statement="In a pretrained decoder no other narrow row of the mask makes a waiver element.",
    kind="checkpoint",
    evidence=evidence("alone", *_UNLIKE),
    measures=both(*(_towards(f"seeing {words}", arm, 0.0, 0.1) for arm, words in _UNLIKE.items())),
    expected={"quick": "refuted", "paper": "refuted"},
    control=Control(
        "in every arm the token sees all but the first",
        swap={arm: "all_but_first" for arm in _UNLIKE if arm != "all_but_first"},
        expected="supported",
    ),
    figure="controls",
    note=(
        f"{SMOLLM2} {_TOKEN} What a row that sees one other token becomes depends on the passage: from nothing to two "
        f"thirds of a first token. {DRAWS}"
    ),
)
WV5C = Claim(
    id="WV5c",
    source="2407.01601, the other way",
    statement="In a pretrained decoder the first token is no sink once it is mixed with all others.",
    kind="checkpoint",
    evidence=evidence("first_opened", "smollm2_repeated", "smollm2"),
    measures=both(
        ratio(
            "attention to the first token when it attends evenly to all, over that without control",
            lambda a: received(a["first_opened"], 0) / received(a["smollm2"], 0),
            0.0,
            0.5,
        ),
    ),
    expected={"quick": "refuted", "paper": "refuted"},
    control=Control(
        "one token repeated, so that the others are no more mixed than the first",
        swap={"first_opened": "smollm2_repeated"},
        expected="supported",
    ),
    figure="controls",
    note=(
        f"{SMOLLM2} Its row is opened in all blocks, with even attention, as scores of keys behind the mask are not "
        f"what the model was trained for. It is all or nothing: of 18 passages (seeds 0 to 2) 6 lost the sink, and 12 "
        f"kept it. {DRAWS}"
    ),
)
WV5D = Claim(
    id="WV5d",
    source="2407.01601, by layers",
    statement="Seeing itself alone makes a waiver element of a token only if it does so in all blocks.",
    kind="checkpoint",
    evidence=evidence("alone_early", "alone_late", "alone"),
    measures=both(
        _towards("seeing itself alone in blocks 0 to 2", "alone_early", 0.0, 0.3),
        _towards("seeing itself alone from block 5 on", "alone_late", 0.0, 0.3),
    ),
    expected=dict.fromkeys(TIERS, "inconclusive"),
    control=Control("it does in all blocks", swap={"alone_early": "alone", "alone_late": "alone"}),
    figure="controls",
    note=f"{SMOLLM2} {_TOKEN} {DRAWS}",
)


_VECTORS = {"interior_vector": "position 100's vector", "mean_vector": "the mean vector"}
WV7 = Claim(
    id="WV7",
    source="2407.01601",
    statement="In a pretrained encoder a token that gets the first position's vector becomes a waiver element.",
    kind="checkpoint",
    evidence=evidence("first_vector", *_VECTORS, "minilm", "smollm2_first_number", "smollm2"),
    measures=both(
        _towards("with position 0's vector", "first_vector", 0.3, math.inf),
        _towards("without control", "minilm", 0.0, 0.1),
        *(_towards(f"with {words}", arm, 0.0, 0.1) for arm, words in _VECTORS.items()),
        _value_change("first_vector", "minilm", "with position 0's vector"),
    ),
    expected={"quick": "supported", "paper": "supported"},
    control=Control(
        "a decoder (SmolLM2) that rotates the token as its first one",
        swap={"first_vector": "smollm2_first_number", "minilm": "smollm2"},
    ),
    figure="controls",
    note=f"{MINILM} With [CLS] and [SEP]. {_TOKEN} {DRAWS}",
)
WV7B = Claim(
    id="WV7b",
    source="2407.01601; the comparison is new",
    statement="The norm of the first position's vector does nothing by itself: its direction makes the waiver element.",
    kind="checkpoint",
    evidence=evidence("norm_matched", "interior_vector", "minilm"),
    measures=both(_towards("with position 100's vector at the norm of position 0's", "norm_matched", 0.0, 0.1)),
    expected={"quick": "refuted", "paper": "refuted"},
    control=Control(
        "position 100's vector at its own norm", swap={"norm_matched": "interior_vector"}, expected="supported"
    ),
    figure="controls",
    note=(
        f"{MINILM} With [CLS] and [SEP]. {_TOKEN} The norm alone makes a good part of a first token, in some passages "
        f"more than in others. {DRAWS}"
    ),
)
WV8 = Claim(
    id="WV8",
    source="2407.01601",
    statement="The mask control works on a decoder alone, the position control on an encoder alone.",
    kind="checkpoint",
    evidence=evidence("alone", "smollm2_first_number", "minilm_alone", "first_vector"),
    measures=both(
        _towards("decoder, mask control", "alone", 0.3, math.inf),
        _towards("decoder, position control", "smollm2_first_number", 0.0, 0.1),
        _towards("encoder, mask control", "minilm_alone", 0.0, 0.1),
        _towards("encoder, position control", "first_vector", 0.3, math.inf),
    ),
    expected={"quick": "supported", "paper": "inconclusive"},
    control=Control(
        "the controls exchanged",
        swap={
            "alone": "smollm2_first_number",
            "smollm2_first_number": "alone",
            "minilm_alone": "first_vector",
            "first_vector": "minilm_alone",
        },
    ),
    figure="controls",
    note=f"SmolLM2-135M-Instruct in 4 bits, whose positions are rotated, and all-MiniLM-L6-v2. {_TOKEN} {DRAWS}",
)

CLAIMS = (WV5, WV5B, WV5C, WV5D, WV7, WV7B, WV8)
