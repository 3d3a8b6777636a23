"""Claims LM5 and LM6: the logits and the key of a pretrained model's sink (2410.13835, section 4; 2410.10781)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from theory.checkpoint import COMPARED
from theory.claim import TIERS, Arms, Claim, Control, Measure, Run
from theory.claims.lm import SMOLLM2_NOTE
from theory.claims.wv_arms import evidence

# A head has a sink where the first token has more than this weight on average.
SINK_HEAD = 0.3
ARM = "smollm2"
_OTHER = COMPARED[1]


def sink_heads(run: Run) -> NDArray[np.bool_]:
    """[L, N]."""
    return np.asarray(run.arrays["weight_by_head"][..., 0].mean(0) > SINK_HEAD)


def in_sink_heads(run: Run, name: str, key: int) -> float:
    """Mean over the heads with a sink of what is measured for a compared key; NaN if there is none."""
    values = np.asarray(run.arrays[name][..., COMPARED.index(key)], np.float64)[sink_heads(run)]
    return float(values.mean()) if values.size else math.nan


def concentration(run: Run, key: int) -> float:
    """Standard deviation of the logit on a key over that of other logits, geometric mean over heads with a sink."""
    spread = np.asarray(run.arrays["logit_std"], np.float64)[sink_heads(run)]
    if not spread.size:
        return math.nan
    return float(np.exp(np.log(spread[:, COMPARED.index(key)] / spread[:, -1]).mean()))


def _of(name: str, key: int) -> Callable[[Arms], float]:
    return lambda a: in_sink_heads(a[ARM], name, key)


def _concentrated(key: int) -> Measure:
    return Measure(
        f"std of the logit on key {key} over that of other logits, heads with a sink",
        lambda a: concentration(a[ARM], key),
        "< 0.5",
        (0.0, 0.5),
        scale="log",
    )


def _apart(key: int) -> tuple[Measure, ...]:
    return (
        Measure(
            f"mean cosine of key {key} with the other keys, heads with a sink",
            _of("key_cosine", key),
            "-0.3 to 0.3",
            (-0.3, 0.3),
        ),
        Measure(
            f"share of queries that have a positive cosine with key {key}, heads with a sink",
            _of("query_aligned", key),
            "> 0.9",
            (0.9, math.inf),
        ),
    )


LM5 = Claim(
    id="LM5",
    source="2410.13835, section 4",
    statement="The logits on a pretrained decoder's sink concentrate: all queries give it nearly the same one.",
    kind="checkpoint",
    evidence=evidence(ARM),
    measures=dict.fromkeys(TIERS, (_concentrated(0),)),
    expected={"quick": "supported", "paper": "supported"},
    control=Control(f"an ordinary key (position {_OTHER})", measures=dict.fromkeys(TIERS, (_concentrated(_OTHER),))),
    figure="profiles",
    note=f"{SMOLLM2_NOTE} Heads with a sink are those that give the first token more than {SINK_HEAD:g} on average.",
)
LM6 = Claim(
    id="LM6",
    source="2410.13835, section 4; 2410.10781",
    statement="The sink's key is nearly orthogonal to the other keys, and all queries align with it.",
    kind="checkpoint",
    evidence=evidence(ARM),
    measures=dict.fromkeys(TIERS, _apart(0)),
    expected={"quick": "supported", "paper": "supported"},
    control=Control(f"an ordinary key (position {_OTHER})", measures=dict.fromkeys(TIERS, _apart(_OTHER))),
    figure="profiles",
    note=(
        f"{SMOLLM2_NOTE} Keys are compared before rotation, queries with keys after it. Heads with a sink are those "
        f"that give the first token more than {SINK_HEAD:g} on average."
    ),
)

CLAIMS = (LM5, LM6)
