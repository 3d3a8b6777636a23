"""From per-seed values to a verdict: t intervals against tolerances, and the control that must come out otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from theory.bootstrap import CONFIDENCE, sample_interval
from theory.claim import Arms, Claim, Control, Measure, Run, Status, Tier


@dataclass(frozen=True)
class Measured:
    """A measure with its values, of which the t interval is judged.

    Attributes:
      inside: None where the interval straddles an end of the tolerance.
      over_samples: the bootstrap interval over the samples of all seeds (`theory.bootstrap`), which is not judged; None
        in a control and where evidence does not consist of samples.
    """

    name: str
    predicted: str
    values: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None
    tolerance: tuple[float, float]
    inside: bool | None
    scale: str
    over_samples: tuple[float, float] | None = None


@dataclass(frozen=True)
class Verdict:
    """The status of a claim, what was measured, and how its control came out."""

    status: Status
    measures: tuple[Measured, ...] = ()
    control_status: Status = "not run"
    control_measures: tuple[Measured, ...] = ()
    note: str = ""


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % Student t interval of the mean; None below two values or where a value is not finite."""
    x = np.asarray(values, np.float64)
    if len(x) < 2 or not np.isfinite(x).all():
        return None
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 1)) * float(stats.sem(x))
    return float(x.mean()) - half, float(x.mean()) + half


def _mean_and_interval(values: Sequence[float], scale: str) -> tuple[float, tuple[float, float] | None]:
    if scale == "linear":
        return float(np.mean(values)), t_interval(values)
    # A ratio that is not positive has no logarithm: NaN, so that the measure stays undecided.
    logs = [math.log(value) if value > 0 else math.nan for value in values]
    interval = t_interval(logs)
    ends = None if interval is None else (float(np.exp(interval[0])), float(np.exp(interval[1])))
    return float(np.exp(np.mean(logs))), ends


def measured(measure: Measure, seeds: Sequence[Arms]) -> Measured:
    """Extract a measure from every seed and place its interval against the tolerance.

    Inside: the whole interval lies in the tolerance. Outside: it lies wholly beyond. Otherwise undecided.
    """
    values = tuple(float(measure.extract(arms)) for arms in seeds)
    mean, interval = _mean_and_interval(values, measure.scale)
    low, high = measure.tolerance
    inside: bool | None = None
    if interval is not None:
        if low <= interval[0] and interval[1] <= high:
            inside = True
        elif interval[1] < low or high < interval[0]:
            inside = False
    return Measured(measure.name, measure.predicted, values, mean, interval, measure.tolerance, inside, measure.scale)


def status_of(measures: Sequence[Measured]) -> Status:
    """Supported if all are inside, refuted if any is outside, else inconclusive."""
    if any(m.inside is False for m in measures):
        return "refuted"
    return "supported" if measures and all(m.inside for m in measures) else "inconclusive"


def _swapped(arms: Arms, swap: Mapping[str, str]) -> dict[str, Run]:
    return {name: arms[swap.get(name, name)] for name in arms}


def _control_measures(claim: Claim, control: Control, tier: Tier) -> tuple[Measure, ...]:
    return claim.measures[tier] if control.measures is None else control.measures[tier]


def judge(claim: Claim, tier: Tier, seeds: Sequence[Arms]) -> Verdict:
    """The verdict on a claim from the runs of every seed.

    Args:
      claim: the claim. tier: which tolerances. seeds: for every seed its arms, name -> run.

    Returns:
      The verdict. A control that does not come out as it must makes the status "check broken", whatever the
      measures say.
    """
    if tier not in claim.evidence:
        needed = " or ".join(claim.evidence)
        return Verdict("not run", note=f"this claim has no {tier} tier; it needs --profile {needed}")
    if environments := sorted({str(run.manifest["environment"]) for arms in seeds for run in arms.values()})[1:]:
        raise ValueError(
            f"the evidence of {claim.id} comes from {len(environments) + 1} environments, but one interval never "
            "mixes them; make the missing runs in one of them."
        )
    # Not of the control, which is there to fail: resampling takes longer than all the rest of judging.
    measures = tuple(replace(measured(m, seeds), over_samples=sample_interval(m, seeds)) for m in claim.measures[tier])
    swapped = [_swapped(arms, claim.control.swap) for arms in seeds]
    control = tuple(measured(m, swapped) for m in _control_measures(claim, claim.control, tier))
    status, control_status = status_of(measures), status_of(control)
    if len(seeds) < 2:
        return Verdict(status, measures, control_status, control, "one seed gives no interval; run at least two")
    if control_status != claim.control.expected:
        note = f"the control came out {control_status} and must come out {claim.control.expected}"
        return Verdict("check broken", measures, control_status, control, note)
    return Verdict(status, measures, control_status, control)
