"""Verdicts as claims.json: writing, reading, comparing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.evidence import StoredRun
from theory.claim import Claim, Status, Tier
from theory.judge import Measured, Verdict

SCHEMA = 1
# What `compare` reads of a claim.
ENTRY = {"id", "status", "measures", "control"}


@dataclass(frozen=True)
class Result:
    """A verdict with the runs it rests on. `failed` means the claim has this tier and yet could not be judged."""

    claim: Claim
    tier: Tier
    verdict: Verdict
    runs: Mapping[str, Sequence[StoredRun]]
    failed: bool = False

    @property
    def expected(self) -> Status:
        """The verdict on record for this tier."""
        return self.claim.expected.get(self.tier, "not run")

    @property
    def seconds(self) -> float:
        """Time that its evidence took to make, all arms and seeds, whenever that was."""
        return sum(float(run.manifest["seconds"]) for runs in self.runs.values() for run in runs)


def _number(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _ends(interval: tuple[float, float] | None) -> list[float | None] | None:
    return None if interval is None else [_number(end) for end in interval]


def _measure(m: Measured) -> dict[str, Any]:
    return {
        "name": m.name,
        "predicted": m.predicted,
        "measured": _number(m.mean),
        "ci95": _ends(m.interval),
        "ci95_samples": _ends(m.over_samples),
        "n": len(m.values),
        "values": [_number(value) for value in m.values],
        "tolerance": [_number(end) for end in m.tolerance],
        "inside": m.inside,
        "scale": m.scale,
    }


def to_json(result: Result) -> dict[str, Any]:
    """One entry of claims.json. Numbers that are not finite become null, as JSON has none."""
    claim, verdict = result.claim, result.verdict
    arms = {name: [run.key for run in runs] for name, runs in result.runs.items()}
    return {
        "id": claim.id,
        "source": claim.source,
        "statement": claim.statement,
        "kind": claim.kind,
        "tier": result.tier,
        "status": verdict.status,
        "expected": result.expected,
        "measures": [_measure(m) for m in verdict.measures],
        "control": {
            "setting": claim.control.setting,
            "expected": claim.control.expected,
            "status": verdict.control_status,
            "measures": [_measure(m) for m in verdict.control_measures],
        },
        "arms": arms,
        "evidence": sorted({key for keys in arms.values() for key in keys}),
        "figure": None,
        "seconds": round(result.seconds, 2),
        "note": " ".join(part for part in (claim.note, verdict.note and f"[{verdict.note}]") if part),
    }


def read_claims(path: Path) -> dict[str, Any]:
    """A claims.json.

    Raises:
      ValueError: the file is missing, no claims.json, or of another version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no readable claims.json ({error}); name the file that verify wrote.") from error
    if not isinstance(data, dict) or not isinstance(data.get("claims"), list):
        raise ValueError(f"{path} holds no claims; name the claims.json that verify wrote.")
    if data.get("schema") != SCHEMA:
        raise ValueError(
            f"{path} has schema {data.get('schema')}, and this version reads {SCHEMA}; write it again with verify."
        )
    if "profile" not in data or not all(isinstance(c, dict) and set(c) >= ENTRY for c in data["claims"]):
        raise ValueError(
            f"{path} lacks what every claim must have ({', '.join(sorted(ENTRY))}); write it again with verify."
        )
    return data


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """What differs between two claims.json: rows (claim, what, in the first, in the second).

    A measure differs when its place against the tolerance does, or when the two 95 % intervals do not overlap.
    """
    left, right = ({c["id"]: c for c in data["claims"]} for data in (first, second))
    rows: list[tuple[str, str, str, str]] = []
    if first["profile"] != second["profile"]:
        rows.append(("all", "profile", first["profile"], second["profile"]))
    for name in [*left, *(n for n in right if n not in left)]:
        if name not in left or name not in right:
            rows.append((name, "claim", *("absent" if name not in side else "present" for side in (left, right))))
            continue
        a, b = left[name], right[name]
        if a["status"] != b["status"]:
            rows.append((name, "status", a["status"], b["status"]))
        if a["control"]["status"] != b["control"]["status"]:
            rows.append((name, "control", a["control"]["status"], b["control"]["status"]))
        mine, theirs = ({m["name"]: m for m in side["measures"]} for side in (a, b))
        for measure in [*mine, *(m for m in theirs if m not in mine)]:
            if measure not in mine or measure not in theirs:
                rows.append((name, measure, *("measured" if measure in side else "absent" for side in (mine, theirs))))
                continue
            m, other = mine[measure], theirs[measure]
            if m["inside"] != other["inside"] or _apart(m["ci95"], other["ci95"]):
                rows.append((name, measure, _words(m), _words(other)))
    return rows


def _apart(a: Sequence[float] | None, b: Sequence[float] | None) -> bool:
    if a is None or b is None:
        return (a is None) != (b is None)
    return a[1] < b[0] or b[1] < a[0]


def _words(m: Mapping[str, Any]) -> str:
    place = {True: "inside", False: "outside", None: "undecided"}[m["inside"]]
    value = "not finite" if m["measured"] is None else f"{m['measured']:.4g}"
    interval = "" if m["ci95"] is None else f" [{m['ci95'][0]:.4g}, {m['ci95'][1]:.4g}]"
    return f"{value}{interval}, {place}"
