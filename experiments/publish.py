"""From results to files: claims.json, figures as PNG and SVG, report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments import figures
from experiments.environment import environment
from experiments.evidence import StoredRun, write_json
from experiments.report import render
from experiments.results import SCHEMA, Result, to_json
from jaxsink import __version__
from theory.claim import Tier

# Overview pictures: figure -> the arms that it shows, in order, as claims name them.
OVERVIEW: Mapping[str, tuple[str, ...]] = {
    "dynamics": ("softmax",),
    "attention_maps": ("softmax",),
    "value_norms": ("softmax",),
    "residual_norms": ("deep_adam", "deep_sgd", "deep_relu"),
    "residual_by_token": ("deep_adam", "deep_sgd", "deep_relu"),
}


def claim_output(folder: Path) -> None:
    """Make sure that results may go to `folder`, before any work is done.

    Raises:
      ValueError: it is a file, cannot be written, or holds files of somebody else's.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file, but a folder is needed; name another one.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "claims.json").exists():
        raise ValueError(
            f"--out {folder} holds files that jaxsink did not write; name an empty or new folder so that none is lost."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be written ({error.strerror}); name another folder.") from error


def sizes(results: Sequence[Result]) -> list[str]:
    """The runs behind the verdicts in words, each once."""
    return list(dict.fromkeys(r.manifest["label"] for res in results for rs in res.runs.values() for r in rs[:1]))


def document(results: Sequence[Result], tier: Tier, command: str, seconds: float) -> dict[str, Any]:
    """The content of claims.json."""
    versions = {"jaxsink": __version__, **{k: v for k, v in environment().items() if k not in ("device", "platform")}}
    return {
        "schema": SCHEMA,
        "profile": tier,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": versions,
        "device": f"{environment()['device']} ({environment()['platform']})",
        "seconds": round(seconds, 1),
        "sizes": sizes(results),
        "claims": [to_json(result) for result in results],
    }


def _shared_arms(results: Sequence[Result]) -> dict[str, Sequence[StoredRun]]:
    return {arm: runs for result in results for arm, runs in result.runs.items()}


def publish(results: Sequence[Result], out: Path, tier: Tier, command: str, seconds: float) -> Path:
    """Write everything that one verification yields into `out`.

    Returns:
      The path of report.html.
    """
    data = document(results, tier, command, seconds)
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    drawn: dict[str, Path] = {}

    def draw(name: str, runs: Mapping[str, Sequence[StoredRun]]) -> Path:
        """A picture of runs, drawn once however many claims show it."""
        file = "-".join([name, *runs])
        if file not in drawn:
            drawn[file] = _save(figures.FIGURES[name](runs, {}), folder / file)
        return drawn[file]

    pictures: dict[str, Path] = {}
    arms = _shared_arms(results)
    for name, wanted in OVERVIEW.items():
        if shown := {arm: arms[arm] for arm in wanted if arm in arms}:
            pictures[name] = draw(name, shown)
    for result, entry in zip(results, data["claims"], strict=True):
        claim = result.claim
        if not result.verdict.measures:
            continue
        pictures[claim.id] = _save(figures.measures(entry), folder / claim.id)
        entry["figure"] = f"figures/{claim.id}.png"
        if claim.figure != "measures":
            pictures[f"{claim.id}/{claim.figure}"] = draw(claim.figure, result.runs)
    write_json(out / "claims.json", data)
    return render(data, pictures, out / "report.html")


def _save(figure: Figure, path: Path) -> Path:
    figures.save(figure, path)
    return path.with_name(path.name + ".png")
