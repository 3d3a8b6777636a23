"""Claims WV: waiver elements of pretrained models (2407.01601): who they are, and what makes one of another token."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from theory.checkpoint import COMPARED, MaskControl, Passages, PositionControl, Sees, Vector
from theory.claim import TIERS, Arms, Claim, Control, Measure, Run, Tier
from theory.profiles import profile, sink_positions

Array = NDArray[np.float64]
# The token that the controls are about, and a second one; both are seen by more than half of the queries.
ROW, SECOND = 64, 96
# Passages a seed and their tokens, which are more than 1,024 characters of prose; a control takes fewer.
_SIZES: dict[Tier, tuple[int, int]] = {"quick": (6, 256), "paper": (34, 256)}
_FEWER: dict[Tier, tuple[int, int]] = {"quick": (2, 256), "paper": (34, 256)}


def _passages(model: str, domain: str = "prose", **more: object) -> dict[Tier, Passages]:
    sizes = _FEWER if "control" in more else _SIZES
    return {tier: Passages(model, domain, *size, **more) for tier, size in sizes.items()}  # type: ignore[arg-type]


def _masked(model: str, sees: Sees = "itself", rows: tuple[int, ...] = (ROW,), **more: object) -> dict[Tier, Passages]:
    return _passages(model, control=MaskControl(sees, rows, **more))  # type: ignore[arg-type]


def _moved(model: str, vector: Vector) -> dict[Tier, Passages]:
    return _passages(model, control=PositionControl(vector, (ROW,)))


_ARMS: dict[str, dict[Tier, Passages]] = {
    "smollm2": _passages("smollm2-135m"),
    "smollm2_random": _passages("smollm2-135m", "random"),
    "smollm2_repeated": _passages("smollm2-135m", "repeated"),
    "glassllm": {tier: Passages("glassllm", "prose", count, 128) for tier, (count, _) in _SIZES.items()},
    "minilm": _passages("minilm-l6"),
    "minilm_bare": _passages("minilm-l6", special=False),
    "minilm_shifted": _passages("minilm-l6", special=False, first_position=1),
    "minilm_shifted_random": _passages("minilm-l6", "random", special=False, first_position=1),
    "alone": _masked("smollm2-135m"),
    "two_alone": _masked("smollm2-135m", rows=(ROW, SECOND)),
    "with_previous": _masked("smollm2-135m", "itself and the one before"),
    "previous_only": _masked("smollm2-135m", "the one before"),
    "last_five": _masked("smollm2-135m", "the last five"),
    "all_but_first": _masked("smollm2-135m", "all but the first"),
    "first_only": _masked("smollm2-135m", "the first"),
    "hidden_column": _masked("smollm2-135m", column=True),
    "alone_early": _masked("smollm2-135m", last_layer=2),
    "alone_late": _masked("smollm2-135m", first_layer=5),
    # What it does differs from passage to passage more than the others.
    "first_opened": {
        tier: Passages("smollm2-135m", "prose", *_SIZES[tier], control=MaskControl("all", (0,))) for tier in TIERS
    },
    "minilm_alone": _masked("minilm-l6"),
    "first_vector": _moved("minilm-l6", "first"),
    "interior_vector": _moved("minilm-l6", "interior"),
    "norm_matched": _moved("minilm-l6", "interior with the first one's norm"),
    "mean_vector": _moved("minilm-l6", "mean"),
    "smollm2_first_number": _moved("smollm2-135m", "first"),
}


def _evidence(*names: str) -> dict[Tier, dict[str, Passages]]:
    return {tier: {name: _ARMS[name][tier] for name in names} for tier in TIERS}


def even(run: Run) -> Array:
    """[T], attention that each position would receive on average if every query attended evenly to what it sees."""
    length = run.arrays["received"].shape[-1]
    if not run.manifest["causal"]:
        return np.full(length, 1 / length)
    shares = 1 / np.arange(1, length + 1)
    return np.array([shares[key:].mean() for key in range(length)])


def received(run: Run, position: int) -> float:
    """Attention that a position receives, mean over passages and layers."""
    return float(run.arrays["received"][..., position].mean())


def over_first(run: Run, position: int = ROW) -> float:
    """Attention received by a position over that received by the first one."""
    return received(run, position) / received(run, 0)


def value_ratio(run: Run, position: int) -> float:
    """Value norm at a position over the median of its passage and layer, geometric mean."""
    norms = profile(run, "value_norm")
    return float(np.exp(np.log(norms[..., position] / np.median(norms, axis=-1)).mean()))


def _over_even(run: Run, position: int) -> Array:
    """[L]: attention received by a position over that under even attention, mean over passages."""
    return np.asarray(run.arrays["received"][..., position].mean(0) / even(run)[position], np.float64)


def _correlations(run: Run) -> Array:
    """[L]: Spearman correlation of attention received and value norm over positions, mean over passages."""
    given, norms = profile(run, "received"), profile(run, "value_norm")
    each = [[spearmanr(g, n).statistic for g, n in zip(*pair, strict=True)] for pair in zip(given, norms, strict=True)]
    return np.asarray(each, np.float64).mean(0)


def _coincide(run: Run) -> float:
    """Share of layers and passages in which the position that receives most has the smallest value norm."""
    return float((profile(run, "received").argmax(-1) == profile(run, "value_norm").argmin(-1)).mean())


def _given_over_taken(run: Run, key: int) -> float:
    """What a key adds to the outputs over the weight that it takes, geometric mean over layers; heads averaged."""
    index = COMPARED.index(key)
    share, weight = (run.arrays[f"compared_{name}"][..., index].mean(0) for name in ("share", "weight"))
    return float(np.exp(np.log(share / weight).mean()))


def _most_at_first(run: Run) -> float:
    """Share of layers and passages in which the first position receives the most."""
    return float((sink_positions(run)[0] == 0).mean())


def onset(run: Run) -> float:
    """The first layer in which position 0 receives more than .2 of the attention; as many as there are if none."""
    sinks = run.arrays["received"][..., 0].mean(0) > 0.2
    return float(sinks.argmax() if sinks.any() else len(sinks))


def _log(name: str, extract: object, low: float, high: float) -> Measure:
    words = f"> {low:g}" if high == math.inf else f"< {high:g}" if low == 0 else f"{low:g} to {high:g}"
    return Measure(name, extract, words, (low, high), scale="log")  # type: ignore[arg-type]


def _share(name: str, extract: object, low: float) -> Measure:
    return Measure(name, extract, f"> {low:g}", (low, math.inf))  # type: ignore[arg-type]


def _both(*measures: Measure) -> dict[Tier, tuple[Measure, ...]]:
    return dict.fromkeys(TIERS, measures)


_SMOLLM2 = "SmolLM2-135M-Instruct in 4 bits, without a token that begins the text."
_MINILM = "all-MiniLM-L6-v2."
_DRAWS = "Each seed draws other passages; intervals are over such draws, not over trainings."
_SEEN = "Positions that fewer than half of the queries see are left out."
_TOKEN = f"The controlled token is the one at position {ROW} of 256, in all heads."

WV1 = Claim(
    id="WV1",
    source="2407.01601, section 3",
    statement="The first element draws a disproportionate part of the attention in a pretrained decoder.",
    kind="checkpoint",
    evidence=_evidence("smollm2", "glassllm"),
    measures=_both(
        _log(
            "attention to the first token over even attention, median over layers",
            lambda a: float(np.median(_over_even(a["smollm2"], 0))),
            3.0,
            math.inf,
        ),
        _share("share of layers in which it receives the most", lambda a: _most_at_first(a["smollm2"]), 0.5),
    ),
    expected={"quick": "supported", "paper": "supported"},
    control=Control("a decoder without a sink (glassllm)", swap={"smollm2": "glassllm"}),
    figure="profiles",
    note=f"{_SMOLLM2} {_DRAWS} {_SEEN}",
)


def _reduced(arm: str) -> dict[Tier, tuple[Measure, ...]]:
    return _both(
        _share(
            "share of layers in which value norm falls with attention received (Spearman)",
            lambda a: float((_correlations(a[arm]) < 0).mean()),
            0.5,
        ),
        _share(
            "share of layers in which the token that receives the most has the smallest value",
            lambda a: _coincide(a[arm]),
            0.5,
        ),
    )


WV2 = Claim(
    id="WV2",
    source="2407.01601, section 3",
    statement="Elements that draw much attention have reduced values in a pretrained decoder.",
    kind="checkpoint",
    evidence=_evidence("smollm2", "glassllm"),
    measures=_reduced("smollm2"),
    expected={"quick": "supported", "paper": "supported"},
    control=Control("a decoder without a sink (glassllm)", swap={"smollm2": "glassllm"}),
    figure="profiles",
    note=f"{_SMOLLM2} {_DRAWS} {_SEEN}",
)
WV2B = Claim(
    id="WV2b",
    source="2407.01601, section 3, for the encoders",
    statement="Elements that draw much attention have reduced values in a pretrained encoder.",
    kind="checkpoint",
    evidence=_evidence("minilm", "smollm2"),
    measures=_reduced("minilm"),
    expected={"quick": "inconclusive", "paper": "refuted"},
    control=Control(
        "a decoder (SmolLM2), where the same measures must hold", swap={"minilm": "smollm2"}, expected="supported"
    ),
    figure="profiles",
    note=(
        f"{_MINILM} The one token that draws the most has the smallest value; among all the others value norm and "
        f"attention are as good as unrelated. {_DRAWS}"
    ),
)


def _little(arm: str, key: int) -> Measure:
    return _log(
        f"share of the outputs over share of the attention, key {key}, geometric mean over layers",
        lambda a: _given_over_taken(a[arm], key),
        0.0,
        0.5,
    )


WV3 = Claim(
    id="WV3",
    source="2407.01601, section 3",
    statement="The first element of a pretrained decoder adds far less to the outputs than its share of the attention.",
    kind="checkpoint",
    evidence=_evidence("smollm2", "minilm"),
    measures=_both(_little("smollm2", 0)),
    expected={"quick": "refuted", "paper": "refuted"},
    control=Control(
        "an encoder (MiniLM), where the same measure must hold", swap={"smollm2": "minilm"}, expected="supported"
    ),
    figure="profiles",
    note=(
        f"{_SMOLLM2} The share is |w v| of the key over |sum_j w_j v_j|, each averaged over queries. Values of other "
        "keys cancel each other, so that an ordinary one has two to three times its weight; the first one has a third "
        f"of that, and yet no less than its weight. {_DRAWS}"
    ),
)
WV3B = Claim(
    id="WV3b",
    source="2407.01601, section 3, for the encoders",
    statement="The first element of a pretrained encoder adds far less to the outputs than its share of the attention.",
    kind="checkpoint",
    evidence=_evidence("minilm"),
    measures=_both(_little("minilm", 0)),
    expected={"quick": "supported", "paper": "supported"},
    control=Control(f"an ordinary token (position {COMPARED[1]})", measures=_both(_little("minilm", COMPARED[1]))),
    figure="profiles",
    note=f"{_MINILM} With [CLS] and [SEP]. {_DRAWS}",
)


def _first_over_even(arm: str, words: str, low: float, high: float) -> Measure:
    return _log(
        f"attention to the first token over even attention, mean over layers, {words}",
        lambda a: float(_over_even(a[arm], 0).mean()),
        low,
        high,
    )


WV4 = Claim(
    id="WV4",
    source="2407.01601, section 4.1",
    statement="A pretrained decoder chooses the first element whatever token it is, for it alone is not mixed.",
    kind="checkpoint",
    evidence=_evidence("smollm2", "smollm2_random", "smollm2_repeated", "minilm_shifted", "minilm_shifted_random"),
    measures=_both(
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
    note=f"{_SMOLLM2} {_DRAWS}",
)

_UNLIKE = {
    "with_previous": "itself and the one before it",
    "previous_only": "the one before it",
    "last_five": "itself and the four before it",
    "all_but_first": "all but the first",
    "first_only": "the first alone",
}


def _towards(words: str, arm: str, low: float, high: float) -> Measure:
    return _log(f"attention to the token over that to the first, {words}", lambda a: over_first(a[arm]), low, high)


def _value_change(controlled: str, free: str, words: str) -> Measure:
    return _log(
        f"value norm of the token over the median, {words}, over that without control",
        lambda a: value_ratio(a[controlled], ROW) / value_ratio(a[free], ROW),
        0.0,
        0.5,
    )


def _two_over_one(a: Arms) -> float:
    return (received(a["two_alone"], ROW) + received(a["two_alone"], SECOND)) / received(a["alone"], ROW)


WV5 = Claim(
    id="WV5",
    source="2407.01601, section 4.2",
    statement="In a pretrained decoder a token that is made to see itself alone becomes a waiver element.",
    kind="checkpoint",
    evidence=_evidence("alone", "two_alone", "hidden_column", "smollm2", "minilm_alone", "minilm"),
    measures=_both(
        _towards("seeing itself alone", "alone", 0.3, math.inf),
        _towards("without control", "smollm2", 0.0, 0.1),
        _towards("hidden from the others", "hidden_column", 0.0, 0.1),
        _value_change("alone", "smollm2", "seeing itself alone"),
        _log("attention to two such tokens over that to one", _two_over_one, 1.0, 2.0),
        _log(
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
    note=f"{_SMOLLM2} {_TOKEN} {_DRAWS}",
)
WV5B = Claim(
    id="WV5b",
    source="2407.01601, section 4.2, comparisons",
    statement="In a pretrained decoder no other narrow row of the mask makes a waiver element.",
    kind="checkpoint",
    evidence=_evidence("alone", *_UNLIKE),
    measures=_both(*(_towards(f"seeing {words}", arm, 0.0, 0.1) for arm, words in _UNLIKE.items())),
    expected={"quick": "refuted", "paper": "refuted"},
    control=Control(
        "in every arm the token sees all but the first",
        swap={arm: "all_but_first" for arm in _UNLIKE if arm != "all_but_first"},
        expected="supported",
    ),
    figure="controls",
    note=(
        f"{_SMOLLM2} {_TOKEN} What a row that sees one other token becomes depends on the passage: from nothing to two "
        f"thirds of a first token. {_DRAWS}"
    ),
)
WV5C = Claim(
    id="WV5c",
    source="2407.01601, section 4.2, the other way",
    statement="In a pretrained decoder the first token is no sink once it is mixed with all others.",
    kind="checkpoint",
    evidence=_evidence("first_opened", "smollm2_repeated", "smollm2"),
    measures=_both(
        _log(
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
        f"{_SMOLLM2} Its row is opened in all blocks, with even attention, as scores of keys behind the mask are not "
        f"what the model was trained for. It is all or nothing: of 18 passages (seeds 0 to 2) 6 lost the sink, and 12 "
        f"kept it. {_DRAWS}"
    ),
)
WV5D = Claim(
    id="WV5d",
    source="2407.01601, section 4.2, by layers",
    statement="Seeing itself alone makes a waiver element of a token only if it does so in all blocks.",
    kind="checkpoint",
    evidence=_evidence("alone_early", "alone_late", "alone"),
    measures=_both(
        _towards("seeing itself alone in blocks 0 to 2", "alone_early", 0.0, 0.3),
        _towards("seeing itself alone from block 5 on", "alone_late", 0.0, 0.3),
    ),
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control("it does in all blocks", swap={"alone_early": "alone", "alone_late": "alone"}),
    figure="controls",
    note=f"{_SMOLLM2} {_TOKEN} {_DRAWS}",
)


def _position_over_even(arm: str, position: int, words: str) -> Measure:
    return _log(
        f"attention to {words} over even attention, mean over layers",
        lambda a: float(_over_even(a[arm], position).mean()),
        3.0,
        math.inf,
    )


def _position_norm(arm: str, position: int, words: str) -> Measure:
    return _log(
        f"norm of the position vector of {words} over the median of all",
        lambda a: float(a[arm].arrays["position_norm"][position] / np.median(a[arm].arrays["position_norm"])),
        1.5,
        math.inf,
    )


_BARE = f"{_MINILM} Without [CLS] and [SEP], so that only the position tells the first and the last token. {_DRAWS}"
_FIRST = (
    _position_over_even("minilm_bare", 0, "the first token"),
    _log("value norm of the first token over the median", lambda a: value_ratio(a["minilm_bare"], 0), 0.0, 0.5),
    _position_norm("minilm_bare", 0, "the first position"),
)
WV6 = Claim(
    id="WV6",
    source="2407.01601, section 4.1",
    statement="A pretrained encoder with learned positions chooses its first element by the position.",
    kind="checkpoint",
    evidence=_evidence("minilm_bare", "minilm_shifted"),
    measures=_both(*_FIRST),
    expected={"quick": "supported", "paper": "supported"},
    control=Control("the same texts from position 1 on", swap={"minilm_bare": "minilm_shifted"}),
    figure="profiles",
    note=_BARE,
)
WV6B = Claim(
    id="WV6b",
    source="2407.01601, section 4.1",
    statement="A pretrained encoder with learned positions chooses its last element, too.",
    kind="checkpoint",
    evidence=_evidence("minilm_bare"),
    measures=_both(
        _position_over_even("minilm_bare", -1, "the last token"),
        _log("value norm of the last token over the median", lambda a: value_ratio(a["minilm_bare"], -1), 0.0, 0.5),
    ),
    expected={"quick": "refuted", "paper": "refuted"},
    control=Control("the first token", measures=_both(*_FIRST[:2]), expected="supported"),
    figure="profiles",
    note=_BARE,
)

_VECTORS = {"interior_vector": "position 100's vector", "mean_vector": "the mean vector"}
WV7 = Claim(
    id="WV7",
    source="2407.01601, section 4.3",
    statement="In a pretrained encoder a token that gets the first position's vector becomes a waiver element.",
    kind="checkpoint",
    evidence=_evidence("first_vector", *_VECTORS, "minilm", "smollm2_first_number", "smollm2"),
    measures=_both(
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
    note=f"{_MINILM} With [CLS] and [SEP]. {_TOKEN} {_DRAWS}",
)
WV7B = Claim(
    id="WV7b",
    source="2407.01601, section 4.3; the comparison is new",
    statement="The norm of the first position's vector does nothing by itself: its direction makes the waiver element.",
    kind="checkpoint",
    evidence=_evidence("norm_matched", "interior_vector", "minilm"),
    measures=_both(_towards("with position 100's vector at the norm of position 0's", "norm_matched", 0.0, 0.1)),
    expected={"quick": "refuted", "paper": "refuted"},
    control=Control(
        "position 100's vector at its own norm", swap={"norm_matched": "interior_vector"}, expected="supported"
    ),
    figure="controls",
    note=f"{_MINILM} With [CLS] and [SEP]. {_TOKEN} The norm alone makes a good part of a first token, in some passages more than in others. {_DRAWS}",
)
WV8 = Claim(
    id="WV8",
    source="2407.01601, section 4",
    statement="The mask control works on a decoder alone, the position control on an encoder alone.",
    kind="checkpoint",
    evidence=_evidence("alone", "smollm2_first_number", "minilm_alone", "first_vector"),
    measures=_both(
        _towards("decoder, mask control", "alone", 0.3, math.inf),
        _towards("decoder, position control", "smollm2_first_number", 0.0, 0.1),
        _towards("encoder, mask control", "minilm_alone", 0.0, 0.1),
        _towards("encoder, position control", "first_vector", 0.3, math.inf),
    ),
    expected={"quick": "supported", "paper": "supported"},
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
    note=f"SmolLM2-135M-Instruct in 4 bits, whose positions are rotated, and all-MiniLM-L6-v2. {_TOKEN} {_DRAWS}",
)

CLAIMS = (WV1, WV2, WV2B, WV3, WV3B, WV4, WV5, WV5B, WV5C, WV5D, WV6, WV6B, WV7, WV7B, WV8)
