"""What the claims WV read: models and controls that make their evidence, and the numbers taken from it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from theory.checkpoint import COMPARED, MaskControl, Passages, PositionControl, Sees, Vector
from theory.claim import TIERS, Arms, Measure, Run, Tier
from theory.profiles import SINK, profile, rank_correlations, sink_positions

Array = NDArray[np.float64]
# The token that the controls are about, and a second one; both are seen by more than half of the queries.
ROW, SECOND = 64, 96
# Passages a seed and their tokens, which are more than 1,024 characters of prose; a control takes fewer.
_SIZES: dict[Tier, tuple[int, int]] = {"quick": (6, 256), "paper": (34, 256)}
_FEWER: dict[Tier, tuple[int, int]] = {"quick": (2, 256), "paper": (34, 256)}


def _passages(model: str, domain: str = "prose", **more: object) -> dict[Tier, Passages]:
    sizes, more = _FEWER if "control" in more else _SIZES, {"by_head": False, **more}
    return {tier: Passages(model, domain, *size, **more) for tier, size in sizes.items()}  # type: ignore[arg-type]


def _masked(model: str, sees: Sees = "itself", rows: tuple[int, ...] = (ROW,), **more: object) -> dict[Tier, Passages]:
    return _passages(model, control=MaskControl(sees, rows, **more))  # type: ignore[arg-type]


def _moved(model: str, vector: Vector) -> dict[Tier, Passages]:
    return _passages(model, control=PositionControl(vector, (ROW,)))


ARMS: dict[str, dict[Tier, Passages]] = {
    "smollm2": _passages("smollm2-135m", by_head=True),
    "smollm2_random": _passages("smollm2-135m", "random"),
    "smollm2_repeated": _passages("smollm2-135m", "repeated"),
    "glassllm": {tier: Passages("glassllm", "prose", count, 128, by_head=False) for tier, (count, _) in _SIZES.items()},
    "minilm": _passages("minilm-l6", by_head=True),
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
        tier: Passages("smollm2-135m", "prose", *_SIZES[tier], control=MaskControl("all", (0,)), by_head=False)
        for tier in TIERS
    },
    "minilm_alone": _masked("minilm-l6"),
    "first_vector": _moved("minilm-l6", "first"),
    "interior_vector": _moved("minilm-l6", "interior"),
    "norm_matched": _moved("minilm-l6", "interior with the first one's norm"),
    "mean_vector": _moved("minilm-l6", "mean"),
    "smollm2_first_number": _moved("smollm2-135m", "first"),
}


def evidence(*names: str) -> dict[Tier, dict[str, Passages]]:
    """The arms of these names in every tier."""
    return {tier: {name: ARMS[name][tier] for name in names} for tier in TIERS}


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


def over_even(run: Run, position: int) -> Array:
    """[L]: attention received by a position over that under even attention, mean over passages."""
    return np.asarray(run.arrays["received"][..., position].mean(0) / even(run)[position], np.float64)


def correlations(run: Run) -> Array:
    """[L]: Spearman correlation of attention received and value norm over positions, mean over passages."""
    return np.asarray(rank_correlations(profile(run, "received"), profile(run, "value_norm")).mean(0))


def coincide(run: Run) -> float:
    """Share of layers and passages in which the position that receives most has the smallest value norm."""
    return float((profile(run, "received").argmax(-1) == profile(run, "value_norm").argmin(-1)).mean())


def given_over_taken(run: Run, key: int) -> float:
    """What a key adds to the outputs over the weight that it takes, geometric mean over layers; heads averaged."""
    index = COMPARED.index(key)
    share, weight = (run.arrays[f"compared_{name}"][..., index].mean(0) for name in ("share", "weight"))
    return float(np.exp(np.log(share / weight).mean()))


def most_at_first(run: Run) -> float:
    """Share of layers and passages in which the first position receives the most."""
    return float((sink_positions(run)[0] == 0).mean())


def onset(run: Run) -> float:
    """The first layer in which position 0 receives more than `SINK` of the attention; as many as there are if none."""
    sinks = run.arrays["received"][..., 0].mean(0) > SINK
    return float(sinks.argmax() if sinks.any() else len(sinks))


def ratio(name: str, extract: Callable[[Arms], float], low: float, high: float) -> Measure:
    """A measure of a positive quantity, on a log scale, that must lie between two numbers; 0 and inf are no limits."""
    words = f"> {low:g}" if high == math.inf else f"< {high:g}" if low == 0 else f"{low:g} to {high:g}"
    return Measure(name, extract, words, (low, high), scale="log")


def share(name: str, extract: Callable[[Arms], float], low: float) -> Measure:
    """A measure that must exceed a number: of six layers, three are not more than half."""
    return Measure(name, extract, f"> {low:g}", (math.nextafter(low, math.inf), math.inf))


def both(*measures: Measure) -> dict[Tier, tuple[Measure, ...]]:
    """The same measures in both tiers."""
    return dict.fromkeys(TIERS, measures)


SMOLLM2 = "SmolLM2-135M-Instruct in 4 bits, without a token that begins the text."
MINILM = "all-MiniLM-L6-v2."
DRAWS = "Each seed draws other passages; intervals are over such draws, not over trainings."
