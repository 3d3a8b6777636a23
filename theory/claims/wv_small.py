"""Claims WV8b-WV8g: both controls on small models trained here, for every scheme of positions (2407.01601)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from jaxsink.models import TransformerConfig
from jaxsink.models.config import Positions
from jaxsink.training import AdamW, TrainConfig
from theory.claim import TIERS, Claim, Control, Measure, Run, Tier
from theory.claims.wv_arms import both, ratio
from theory.small_models import KINDS, LOOKS, SCHEMES, Kind, SmallModel

_RUNS: dict[Tier, TrainConfig] = {
    "quick": TrainConfig(
        model=TransformerConfig(n_layers=2, n_heads=4, d_model=64),
        optimiser=AdamW(rate=3e-3),
        length=32,
        batch=16,
        steps=400,
        chunk_steps=50,
    ),
    "paper": TrainConfig(model=TransformerConfig(n_layers=3, n_heads=4)),
}
# The controlled token, and the position whose number it gets where the first one's is compared with another.
_ROWS: dict[Tier, tuple[int, int]] = {"quick": (16, 8), "paper": (64, 100)}


def _model(kind: Kind, scheme: Positions, tier: Tier) -> SmallModel:
    run, (row, interior) = _RUNS[tier], _ROWS[tier]
    run = replace(run, model=replace(run.model, positions=scheme))
    return SmallModel(kind, run, row=row, interior=interior)


ARMS: dict[str, dict[Tier, SmallModel]] = {
    f"{kind}_{scheme}": {tier: _model(kind, scheme, tier) for tier in TIERS} for kind in KINDS for scheme in SCHEMES
}


def upper(run: Run, look: str) -> NDArray[np.float64]:
    """[L - 1, T], attention received in the blocks after the first, mean over heads.

    The first block's keys are made of embeddings alone, so that no mask can change what they receive there.
    """
    received = np.asarray(run.arrays["received"], np.float64)[list(LOOKS).index(look)]
    return np.asarray(received.mean(1)[1:])


def _token(run: Run, look: str) -> float:
    """What the controlled token receives, mean over blocks."""
    return float(upper(run, look)[:, run.manifest["row"]].mean())


def _first(run: Run) -> float:
    """What the first token receives without control, mean over blocks."""
    return float(upper(run, "free")[:, 0].mean())


def over_first(run: Run, look: str) -> float:
    """What the controlled token receives over what the first one receives without control."""
    return _token(run, look) / _first(run)


def over_even(run: Run, look: str) -> float:
    """What the controlled token receives over what even attention gives it."""
    return _token(run, look) / float(run.arrays["even"][run.manifest["row"]])


def change(run: Run, look: str) -> float:
    """What a control multiplies the attention to its token by."""
    return _token(run, look) / _token(run, "free")


def value_change(run: Run, look: str) -> float:
    """What a control multiplies the value norm of its token by, relative to the median, geometric mean over blocks."""
    norms = np.log(np.asarray(run.arrays["value_norm"], np.float64))[:, 1:, run.manifest["row"]]
    return float(np.exp((norms[list(LOOKS).index(look)] - norms[list(LOOKS).index("free")]).mean()))


def moved(run: Run, look: str) -> float:
    """The largest difference that a control makes to what any token receives, in any head."""
    received = np.asarray(run.arrays["received"], np.float64)
    return float(np.abs(received[list(LOOKS).index(look)] - received[list(LOOKS).index("free")]).max())


def sink(run: Run) -> float:
    """What the first token receives over what even attention gives it, in the block in which that is the most."""
    received = np.asarray(run.arrays["received"], np.float64)[list(LOOKS).index("free")]
    return float(received[..., 0].mean(1).max()) / float(run.arrays["even"][0])


# Attention that counts as an answer, over that without the control; and as a sink, over even attention, of which the
# first of 32 tokens of a decoder can receive ten times as much, and of an encoder 32 times.
TWICE = 2.0
_DECODERS, _ENCODERS = ([f"{kind}_{scheme}" for scheme in SCHEMES] for kind in KINDS)
_SEEN = (
    "Attention is the mean over the heads of the blocks after the first and over the queries that see the token, its "
    "own left out."
)
_SIZE = "Two blocks of four heads, 64 dimensions, 32 tokens of Bigram-Backcopy that begin with <s>, 400 steps (quick)."


def _words(arm: str) -> str:
    kind, scheme = arm.split("_")
    return f"{kind}, {'no positions' if scheme == 'none' else scheme}"


def _changed(arm: str, look: str, low: float, high: float) -> Measure:
    name = f"attention to the token {LOOKS[look]} over that without control ({_words(arm)})"
    return ratio(name, lambda a: change(a[arm], look), low, high)


def _answers(arm: str, look: str) -> Measure:
    return _changed(arm, look, TWICE, math.inf)


def _stays(arm: str, look: str) -> Measure:
    return _changed(arm, look, 0.0, TWICE)


def _has_sink(arm: str) -> Measure:
    name = f"attention to the first token over even attention, the block in which it is most ({_words(arm)})"
    return ratio(name, lambda a: sink(a[arm]), TWICE, math.inf)


def _unmoved(arm: str) -> Measure:
    name = f"largest change of attention received, any token and head ({_words(arm)})"
    return Measure(name, lambda a: moved(a[arm], "position"), "0 exactly", (0.0, math.ulp(0.0)))


def _evidence(*arms: str) -> dict[Tier, dict[str, SmallModel]]:
    return {tier: {arm: ARMS[arm][tier] for arm in arms} for tier in TIERS}


WV8B = Claim(
    id="WV8b",
    source="2407.01601, trained here",
    statement="A small decoder answers the mask control, whatever its scheme of positions.",
    kind="training",
    evidence=_evidence(*_DECODERS),
    measures=both(*(_answers(arm, "mask") for arm in _DECODERS)),
    expected={"quick": "refuted", "paper": "supported"},
    control=Control(
        "decoders without positions in the place of all others",
        swap={arm: "decoder_none" for arm in _DECODERS if arm != "decoder_none"},
        expected="supported",
    ),
    figure="small_models",
    note=(
        f"{_SIZE} {_SEEN} Without positions the token receives six to seven times as much, with ALiBi 1.8 times, "
        "with RoPE no more than before."
    ),
)
WV8C = Claim(
    id="WV8c",
    source="new",
    statement=(
        "A small decoder answers the mask control where it has no positions, and does not where they are added to the "
        "stream or rotate it."
    ),
    kind="training",
    evidence=_evidence(*(arm for arm in _DECODERS if arm != "decoder_alibi")),
    measures=both(
        _answers("decoder_none", "mask"),
        ratio(
            "attention to the token seeing itself alone over that to the first without control (decoder, no positions)",
            lambda a: over_first(a["decoder_none"], "mask"),
            0.3,
            math.inf,
        ),
        ratio(
            "value norm of the token over the median, seeing itself alone, over that without control (decoder, no "
            "positions)",
            lambda a: value_change(a["decoder_none"], "mask"),
            0.0,
            1.0,
        ),
        *(_stays(f"decoder_{scheme}", "mask") for scheme in ("learned", "sinusoidal", "rope")),
    ),
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control(
        "RoPE and no positions exchanged", swap={"decoder_none": "decoder_rope", "decoder_rope": "decoder_none"}
    ),
    figure="small_models",
    note=(
        f"{_SIZE} {_SEEN} Sinusoidal positions stay below the limit in every seed, yet three seeds leave their mean "
        "undecided. Seeing the last five tokens does nearly as much as seeing itself alone."
    ),
)
WV8D = Claim(
    id="WV8d",
    source="2407.01601, trained here",
    statement="A small decoder does not answer the position control, whatever its scheme of positions.",
    kind="training",
    evidence=_evidence(*_DECODERS),
    measures=both(*(_stays(arm, "position") for arm in _DECODERS)),
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control("the mask control in its place", measures=both(*(_stays(arm, "mask") for arm in _DECODERS))),
    figure="small_models",
    note=(
        f"{_SIZE} {_SEEN} Undecided are learned positions, in one seed of which the token receives 1.4 times as much; "
        "in all other schemes it receives less, as it does with an interior position's number."
    ),
)
_ADDED = ("encoder_learned", "encoder_sinusoidal")
WV8E = Claim(
    id="WV8e",
    source="2407.01601, trained here",
    statement=(
        "A small encoder with position vectors makes a sink of its first position, and a token that gets its vector "
        "becomes one."
    ),
    kind="training",
    evidence=_evidence(*_ADDED, "decoder_none"),
    measures=both(*(_has_sink(arm) for arm in _ADDED), *(_answers(arm, "position") for arm in _ADDED)),
    expected={"quick": "refuted", "paper": "supported"},
    control=Control(
        "a decoder without positions, and the mask control",
        measures=both(_has_sink("decoder_none"), _answers("decoder_none", "mask")),
        expected="supported",
    ),
    figure="small_models",
    note=f"{_SIZE} 15 % of the tokens are masked. {_SEEN}",
)
WV8F = Claim(
    id="WV8f",
    source="2407.01601, trained here",
    statement="A small encoder does not answer the mask control, whatever its scheme of positions.",
    kind="training",
    evidence=_evidence(*_ENCODERS, "decoder_none"),
    measures=both(*(_stays(arm, "mask") for arm in _ENCODERS)),
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control(
        "a decoder without positions in the place of all encoders", swap=dict.fromkeys(_ENCODERS, "decoder_none")
    ),
    figure="small_models",
    note=f"{_SIZE} {_SEEN} No encoder of this size has a sink, so that there is none to be made of another token. "
    "Undecided is the one without positions.",
)
_BARE = [f"{kind}_none" for kind in KINDS]
WV8G = Claim(
    id="WV8g",
    source="elementary",
    statement="Without positions there is nothing to transplant: the position control changes no weight at all.",
    kind="training",
    evidence=_evidence(*_BARE, *(f"{kind}_learned" for kind in KINDS)),
    measures=both(*map(_unmoved, _BARE)),
    expected={"quick": "supported", "paper": "supported"},
    control=Control("learned positions", swap={f"{kind}_none": f"{kind}_learned" for kind in KINDS}),
    figure="small_models",
    note=_SIZE,
)

CLAIMS = (WV8B, WV8C, WV8D, WV8E, WV8F, WV8G)
