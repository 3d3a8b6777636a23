"""From results to files: claims.json, figures as PNG and SVG, report.html."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments import figures
from experiments.environment import environment
from experiments.evidence import StoredRun, write_json
from experiments.report import render
from experiments.report.overview import SECTIONS
from experiments.results import SCHEMA, Result, to_json
from jaxsink import __version__
from theory.claim import Tier

# Claims from which on pictures are drawn by several processes: each takes some four seconds to start.
MANY = 12
# Arms of a figure that its file is named after.
NAMED = 6


def _has_claims(folder: Path) -> bool:
    return (folder / "claims.json").exists()


def claim_output(folder: Path, ours: Callable[[Path], bool] = _has_claims) -> None:
    """Make sure that results may go to `folder`, before any work is done.

    Args:
      folder: may exist. ours: whether what a folder holds may be replaced.

    Raises:
      ValueError: it is a file, cannot be written, or holds files of somebody else's.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file, but a folder is needed; name another one.")
    if folder.is_dir() and any(folder.iterdir()) and not ours(folder):
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
    """Arms by name; of two with one name, that of the earlier claim, as the built-in ones come first."""
    arms: dict[str, Sequence[StoredRun]] = {}
    for result in results:
        for arm, runs in result.runs.items():
            arms.setdefault(arm, runs)
    return arms


def publish(results: Sequence[Result], out: Path, tier: Tier, command: str, seconds: float) -> Path:
    """Write everything that one verification yields into `out`.

    Returns:
      The path of report.html.
    """
    data, folder = document(results, tier, command, seconds), out / "figures"
    judged = [(r, entry) for r, entry in zip(results, data["claims"], strict=True) if r.verdict.measures]
    for result, entry in judged:
        entry["figure"] = f"figures/{result.claim.id}.png"
    # First, so that a figure's fault takes no verdict with it, and a folder half written is known as a report's.
    write_json(out / "claims.json", data)
    folder.mkdir(exist_ok=True)
    drawn: dict[Any, Future[Path]] = {}
    files: set[str] = set()

    def draw(name: str, runs: Mapping[str, Sequence[StoredRun]]) -> Future[Path]:
        """A picture of runs, drawn once however many claims show it."""
        what = name, tuple((arm, *(run.key for run in each)) for arm, each in runs.items())
        if what not in drawn:
            # No longer than what every file system takes.
            file = "-".join([name, *[*runs][:NAMED]]) + (f"-and-{len(runs) - NAMED}-more" if len(runs) > NAMED else "")
            # Claims of a user's own may have arms of the same names and other runs.
            if file in files:
                file += f"-{len(files)}"
            files.add(file)
            drawn[what] = submit(draw_runs, name, dict(runs), folder / file)
        return drawn[what]

    arms = _shared_arms(results)
    with _workers(len(judged)) as submit:
        drawing: dict[str, Future[Path]] = {}
        for name, row in (each for rows in SECTIONS.values() for each in rows.items()):
            if shown := row.drawn(arms):
                drawing[name] = draw(name, {arm: arms[arm] for arm in shown})
        for result, entry in judged:
            claim = result.claim
            drawing[claim.id] = submit(draw_measures, entry, folder / claim.id)
            if claim.figure != "measures":
                drawing[f"{claim.id}/{claim.figure}"] = draw(claim.figure, result.runs)
        pictures = {name: future.result() for name, future in drawing.items()}
    for path in [*folder.glob("*.png"), *folder.glob("*.svg")]:
        if path.with_suffix(".png") not in pictures.values():
            path.unlink()  # of the report before this one
    return render(data, pictures, out / "report.html")


def draw_runs(name: str, runs: Mapping[str, Sequence[StoredRun]], path: Path) -> Path:
    """Draw the figure of this name of runs by arm; in a worker process, if there is one."""
    return _save(figures.FIGURES[name](runs, {}), path)


def draw_measures(entry: Mapping[str, Any], path: Path) -> Path:
    """Draw the measures of an entry of claims.json; in a worker process, if there is one."""
    return _save(figures.measures(entry), path)


@contextmanager
def _workers(pictures: int) -> Iterator[Callable[..., Future[Path]]]:
    """A function that submits work: to a process for each core, or, where starting them would take longer, to nobody.

    Drawing one takes a second or more, which adds up over forty claims.
    """
    if pictures < MANY:
        yield _at_once
        return
    # A forked process would inherit the threads of JAX in whatever state they are.
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        yield pool.submit


def _at_once(function: Callable[..., Path], *arguments: Any) -> Future[Path]:
    done: Future[Path] = Future()
    done.set_result(function(*arguments))
    return done


def _save(figure: Figure, path: Path) -> Path:
    figures.save(figure, path)
    return path.with_name(path.name + ".png")
