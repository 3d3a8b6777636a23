"""Claims BB12-BB14: the sink in other settings: without `<s>`, with rarer copies, and in the minimal network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from jaxsink import metrics
from theory.claim import TIERS, Claim, Control, Measure, Run, Spec, Tier
from theory.claims import arms
from theory.claims.readings import at_step, attention_cost, uniform
from theory.claims.th6 import FLOW, TRAINING

INF = math.inf
SOURCE = "2410.13835, section 2"


# BB12 -----------------------------------------------------------------------------------------------------------
def _most_attended(run: Run) -> tuple[float, float]:
    """Of the token that gets most of the dormant attention: its share, and its value norm over the mean of others."""
    share = np.asarray(run.arrays["attention_by_token"], np.float64)[0]
    norm = np.asarray(run.arrays["value_norm_by_token"], np.float64)[0]
    if not np.isfinite(share).all():
        return math.nan, math.nan
    most = int(share.argmax())
    return float(share[most]), float(norm[most] / np.nanmean(np.delete(norm, most)))


_MOVES = (
    Measure(
        "largest share of a token in dormant attention",
        lambda a: _most_attended(a["without_start"])[0],
        "> 0.5",
        (0.5, INF),
    ),
    Measure(
        "|W_O v| of that token over the mean of others",
        lambda a: _most_attended(a["without_start"])[1],
        "< 0.5",
        (-INF, 0.5),
        "log",
    ),
)

BB12 = Claim(
    id="BB12",
    source=f"{SOURCE}; the setting without a start token new",
    statement="Without <s> the sink moves to a content token.",
    kind="training",
    evidence=arms.by_tier(without_start=arms.WITHOUT_START, softmax=arms.SOFTMAX),
    measures=dict.fromkeys(TIERS, _MOVES),
    expected={"quick": "refuted", "paper": "supported"},
    control=Control("the same task with <s>, which is that token", {"without_start": "softmax"}, expected="supported"),
    figure="key_types",
    note="At the quick size the first position is no sink either. Dormant attention prefers the triggers as a class (a "
    "third to over a half, against a fifth if even), perhaps because they are never copied and their values are free.",
)


# BB13 -----------------------------------------------------------------------------------------------------------
def _sink(run: Run, step: int) -> float:
    return at_step(run, "attn_start", step, 0)


_COST = "cost of cutting attention (nats)"


def _no_need(arm: str, p: str, step: int) -> tuple[Measure, ...]:
    return (
        Measure(
            f"Attn_<s> over uniform, p = {p}", lambda a: _sink(a[arm], step) / uniform(a[arm]), "< 1.5", (-INF, 1.5)
        ),
        Measure(f"{_COST}, p = {p}", lambda a: attention_cost(a[arm]), "0", (-0.01, 0.01)),
    )


def _with_copies(step: int) -> tuple[Measure, ...]:
    def rise(name: str, read: Callable[[Run], float]) -> tuple[Measure, ...]:
        return (
            Measure(
                f"{name}, p = 1/2 minus p = 0", lambda a: read(a["half_copied"]) - read(a["markov"]), "> 0", (0.0, INF)
            ),
            Measure(
                f"{name}, p = 1 minus p = 1/2", lambda a: read(a["softmax"]) - read(a["half_copied"]), "> 0", (0.0, INF)
            ),
        )

    sink = rise("Attn_<s>", lambda run: _sink(run, step))
    return (*_no_need("markov", "0", step), *rise(_COST, attention_cost), *sink)


BB13 = Claim(
    id="BB13",
    source=f"{SOURCE}; the settings below copy probability 1 new",
    statement="A pure Markov chain needs no sink; sink and worth of attention grow with the probability p of a copy.",
    kind="training",
    evidence=arms.by_tier(markov=arms.MARKOV, half_copied=arms.HALF_COPIED, softmax=arms.SOFTMAX),
    measures={"quick": _with_copies(1200), "paper": _with_copies(10_000)},
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control(
        "p = 1 in the place of p = 0",
        measures={"quick": _no_need("softmax", "1", 1200), "paper": _no_need("softmax", "1", 10_000)},
    ),
    figure="copy_probability",
    note="Attn_<s> is compared after equally many steps; attention is cut at the end of each run, which with p = 1 is "
    "a longer one in the quick tier. With p = 1/2 the sink may be stronger because triggers are copied there, too, and "
    "only <s> has a value that is free.",
)


# BB14 -----------------------------------------------------------------------------------------------------------
def _minimal(tier: Tier) -> dict[str, Spec]:
    return {
        "minimal_many_contexts": FLOW[tier],
        "minimal_one_context": replace(FLOW[tier], contexts="one"),
        "minimal_sgd": TRAINING[tier],
    }


def _drain(run: Run) -> float:
    """Last over largest norm of the value of `<s>`, without its mean, which is conserved and changes no output."""
    beta = run.arrays["betas"]
    norm = np.linalg.norm(beta - beta.mean(1, keepdims=True), axis=1)
    return float(norm[-1] / norm.max())


def _log_fit(run: Run, axis: str, since: float) -> float:
    """R^2 of the mean sink logit on log time, from the share `since` of the run on."""
    time = run.arrays[axis].astype(np.float64)
    late = time >= since * time[-1]
    return metrics.line_fit(np.log(time[late]), run.arrays["alphas"].mean(1)[late]).r_squared


def _same(arm: str, words: str, axis: str, since: float, attention: float) -> tuple[Measure, ...]:
    return (
        Measure(
            f"Attn_<s> at the end, {words}",
            lambda a: float(a[arm].arrays["attention"][-1]),
            f"> {attention}",
            (attention, INF),
        ),
        Measure(f"last over largest |value of <s>|, {words}", lambda a: _drain(a[arm]), "< 0.05", (-INF, 0.05), "log"),
        Measure(f"R² of Dlogit on ln t, {words}", lambda a: _log_fit(a[arm], axis, since), "> 0.95", (0.95, INF)),
    )


BB14 = Claim(
    id="BB14",
    source="2410.13835, theorems 1 and 2",
    statement="The minimal network, trained, shows the same: sink, drain and logarithmic growth of the sink logit.",
    kind="theory",
    evidence={tier: _minimal(tier) for tier in TIERS},
    measures=dict.fromkeys(
        TIERS,
        (
            *_same("minimal_many_contexts", "gradient flow", "time", 1e-3, 0.99),
            *_same("minimal_sgd", "SGD", "step", 0.1, 0.95),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("one fixed context, in which the flow freezes", {"minimal_many_contexts": "minimal_one_context"}),
    figure="network_growth",
    note="The mean of the value over the characters is conserved and changes no output; the drain is that of the rest.",
)

CLAIMS = (BB12, BB13, BB14)
