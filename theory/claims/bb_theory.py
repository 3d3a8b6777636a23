"""Claims BB-T1 and BB-T2: what of the restricted model of 2410.13835 is found in a network trained in full."""

from __future__ import annotations

import math

from theory.claim import TIERS, Claim, Control, Measure
from theory.claims import arms

INF = math.inf
_EVIDENCE = arms.by_tier(softmax=arms.SOFTMAX, triggers_only=arms.TRIGGERS_ONLY)
_CONTROL = Control("loss on the copy positions only, so that nothing asks for a sink", {"softmax": "triggers_only"})

T1 = Claim(
    id="BB-T1",
    source="2410.13835, theorem 2(c)",
    statement="In a trained network the logits on <s>, over those on other keys, are alike for all non-trigger tokens.",
    kind="training",
    evidence=_EVIDENCE,
    measures=dict.fromkeys(
        TIERS,
        (
            Measure(
                "spread of alpha over non-trigger tokens, over its mean",
                lambda a: float(a["softmax"].arrays["extracted_alpha_variation"]),
                "< 0.2",
                (-INF, 0.2),
                "log",
            ),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=_CONTROL,
    note="alpha is the logit on <s> minus the log-mean-exp of the others; tokens weigh as they occur.",
)

T2 = Claim(
    id="BB-T2",
    source="2410.13835, theorem 2(b, c)",
    statement="In a trained network the value of <s> is, up to a constant, the -e^{-alpha} B of its attention.",
    kind="training",
    evidence=_EVIDENCE,
    measures=dict.fromkeys(
        TIERS,
        (
            Measure(
                "cosine of beta - mean with its limit",
                lambda a: float(a["softmax"].arrays["extracted_cosine"]),
                "> 0.9",
                (0.9, INF),
            ),
            Measure(
                "norm of beta - mean over that of its limit",
                lambda a: float(a["softmax"].arrays["extracted_drain"] / a["softmax"].arrays["extracted_drain_limit"]),
                "0.5 to 2",
                (0.5, 2.0),
                "log",
            ),
        ),
    ),
    expected={"quick": "refuted", "paper": "supported"},
    control=_CONTROL,
    note=(
        "The restricted model holds the MLP fixed. A trained one can cancel any value of <s>: what is left of it is "
        "small, but 20 to 7,000 times the limit."
    ),
)

CLAIMS = (T1, T2)
