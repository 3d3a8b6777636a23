"""Claims LM4: which layers of a pretrained decoder write the peak of its first token (2410.13835, section 4)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from theory.checkpoint import FirstToken
from theory.claim import TIERS, Arms, Claim, Control, Measure, Run

PARTS = ("attention", "mlp")
_COUNT = {"quick": 16, "paper": 64}
_EVIDENCE = {
    tier: {
        "first_smollm2": FirstToken("smollm2-135m", "prose", _COUNT[tier]),
        "first_glassllm": FirstToken("glassllm", "prose", _COUNT[tier]),
    }
    for tier in TIERS
}


def share_left(run: Run) -> NDArray[np.float64]:
    """[2, L]: the peak without the attention or the MLP of a block over that with all of them.

    The peak of a token is the largest of its norms over the blocks; shares are geometric means over tokens.
    """
    whole = np.log(run.arrays["resid_norm"].astype(np.float64).max(-1))
    each = [np.log(run.arrays[f"without_{part}"].astype(np.float64).max(-1)) - whole[:, None] for part in PARTS]
    return np.exp(np.mean(each, axis=1))


def growth(run: Run) -> float:
    """The largest factor by which one block lengthens the residual stream at the first position, after block 0."""
    norms = np.log(run.arrays["resid_norm"].astype(np.float64)).mean(0)
    return float(np.exp(np.diff(norms).max()))


def _needed(a: Arms) -> float:
    """Parts of blocks whose removal takes away more than half of the peak, but for the one that takes most."""
    return float((share_left(a["first_smollm2"]) < 0.5).sum() - 1)


def _depth(a: Arms) -> float:
    left = share_left(a["first_smollm2"])
    return float(left.min(0).argmin() / left.shape[1])


LM4 = Claim(
    id="LM4",
    source="2410.13835, section 4",
    statement="One early layer of a pretrained decoder writes the residual peak.",
    kind="checkpoint",
    evidence=_EVIDENCE,
    measures=dict.fromkeys(
        TIERS,
        (
            Measure(
                "peak without the attention or MLP that matters most, over that with it",
                lambda a: float(share_left(a["first_smollm2"]).min()),
                "< 0.2",
                (0.0, 0.2),
                scale="log",
            ),
            Measure("its block over the number of blocks", _depth, "< 0.5", (-math.inf, 0.5)),
            Measure(
                "largest growth of the residual norm in one block",
                lambda a: growth(a["first_smollm2"]),
                "> 5",
                (5.0, math.inf),
                scale="log",
            ),
        ),
    ),
    expected={"quick": "supported", "paper": "supported"},
    control=Control("a decoder without a peak (glassllm)", swap={"first_smollm2": "first_glassllm"}),
    figure="removed_layers",
    note=(
        "SmolLM2-135M-Instruct in 4 bits; the first token alone, as under a causal mask nothing else reaches it. Each "
        "seed draws other tokens. It is the MLP of block 11 of 30."
    ),
)
LM4B = Claim(
    id="LM4b",
    source="2410.13835, section 4; the number of layers is new",
    statement="That layer alone is needed for the peak: no other part of a block, removed, takes away half of it.",
    kind="checkpoint",
    evidence=_EVIDENCE,
    measures=dict.fromkeys(
        TIERS,
        (
            Measure(
                "other parts whose removal takes away more than half of the peak", _needed, "< 0.5", (-math.inf, 0.5)
            ),
        ),
    ),
    expected={"quick": "refuted", "paper": "refuted"},
    control=Control(
        "a decoder without a peak (glassllm), none of whose parts halves the norm",
        swap={"first_smollm2": "first_glassllm"},
        expected="supported",
    ),
    figure="removed_layers",
    note="The MLPs of block 0 and of those right before block 11 are needed as well: they make what it reads.",
)

CLAIMS = (LM4, LM4B)
