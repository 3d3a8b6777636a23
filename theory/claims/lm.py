"""Claims LM: sinks, value drains and residual peaks of pretrained models (2410.13835, section 4)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from theory.claim import TIERS, Claim, Control, Measure, Run
from theory.claims.wv_arms import DRAWS, SMOLLM2, evidence
from theory.profiles import SINK, profile, sink_positions


def _at_sinks(values: NDArray[np.generic], run: Run) -> NDArray[np.generic]:
    """What stands in [B, L] where there is a sink."""
    return values[sink_positions(run)[1]]


def _share(run: Run, name: str, largest: bool) -> float:
    """Share of the sinks that also have the extreme norm; 0 where there are no sinks."""
    values, position = profile(run, name), sink_positions(run)[0]
    extreme = values.argmax(-1) if largest else values.argmin(-1)
    same = _at_sinks(extreme == position, run)
    return float(same.mean()) if same.size else 0.0


def _ratio(run: Run, name: str) -> float:
    """Geometric mean over sinks of the norm there over the median of the positions; 1 without sinks."""
    values, position = profile(run, name), sink_positions(run)[0]
    there = np.take_along_axis(values, position[..., None], -1)[..., 0]
    ratios = _at_sinks(there / np.median(values, axis=-1), run)
    return float(np.exp(np.log(ratios.astype(np.float64)).mean())) if ratios.size else 1.0


def _coincide(arm: str) -> tuple[Measure, ...]:
    """What sink, drain and peak at one position mean for a model."""
    return (
        Measure(
            f"share of layers in which one position receives more than {SINK:g} of the attention",
            lambda a: float(sink_positions(a[arm])[1].mean()),
            "> 0.3",
            (0.3, math.inf),
        ),
        Measure(
            "share of the sinks with the smallest value norm",
            lambda a: _share(a[arm], "value_norm", largest=False),
            "> 0.5",
            (0.5, math.inf),
        ),
        Measure(
            "share of the sinks with the largest residual norm",
            lambda a: _share(a[arm], "resid_norm", largest=True),
            "> 0.5",
            (0.5, math.inf),
        ),
        Measure(
            "value norm at a sink over the median",
            lambda a: _ratio(a[arm], "value_norm"),
            "< 0.5",
            (0.0, 0.5),
            scale="log",
        ),
        Measure(
            "residual norm at a sink over the median",
            lambda a: _ratio(a[arm], "resid_norm"),
            "> 5",
            (5.0, math.inf),
            scale="log",
        ),
    )


SMOLLM2_NOTE = f"{SMOLLM2} {DRAWS}"

LM1 = Claim(
    id="LM1",
    source="2410.13835, section 4",
    statement="In a pretrained decoder sink, value drain and residual peak stand at one position.",
    kind="checkpoint",
    evidence=evidence("smollm2", "glassllm"),
    measures=dict.fromkeys(TIERS, _coincide("smollm2")),
    expected={"quick": "supported", "paper": "supported"},
    control=Control("a decoder without a sink (glassllm)", swap={"smollm2": "glassllm"}),
    figure="profiles",
    note=f"{SMOLLM2_NOTE} Positions that fewer than half of the queries see are left out.",
)
LM1B = Claim(
    id="LM1b",
    source="2410.13835, section 4, carried over to an encoder",
    statement="In a pretrained encoder sink, value drain and residual peak stand at one position, too.",
    kind="checkpoint",
    evidence=evidence("minilm", "smollm2"),
    measures=dict.fromkeys(TIERS, _coincide("minilm")),
    expected={"quick": "refuted", "paper": "refuted"},
    control=Control(
        "a decoder (SmolLM2), where the same measures must hold", swap={"minilm": "smollm2"}, expected="supported"
    ),
    figure="profiles",
    note=(
        "all-MiniLM-L6-v2 with [CLS] and [SEP]. Its sink [CLS] has the smallest values, but every block ends in a "
        "LayerNorm, and no residual peak stands there."
    ),
)

CLAIMS = (LM1, LM1B)
