"""`jaxsink evidence`: what is stored, and what may go."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.environment import environment_digest
from experiments.evidence import EvidenceStore


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def show(runs: Path, console: Console) -> None:
    """Print every stored run with its size."""
    entries = EvidenceStore(runs).entries()
    table = Table(title=f"{len(entries)} runs in {escape(str(runs))}", title_justify="left")
    for name in ("key", "run", "seed", "environment", "seconds", "size"):
        table.add_column(name)
    for folder, manifest, size in entries:
        if manifest is None:
            what = "unfinished" if folder.suffix else "of another version"
            row = (what, "", folder.name, "")
        else:
            device = f"{manifest['environment']['device']}, jax {manifest['environment']['jax']}"
            row = (manifest["label"], str(manifest["seed"]), device, f"{manifest['seconds']:.1f}")
        table.add_row(folder.parent.name, *map(escape, row), _size(size))
    console.print(table)


def prune(runs: Path, everything: bool, yes: bool, console: Console) -> None:
    """Remove unfinished, foreign and outdated runs, or all; without `yes` only say what would go."""
    store, here = EvidenceStore(runs), environment_digest()
    # What goes is looked up under the lock: another process may be about to finish one of the runs under way.
    with store.locked() if yes else nullcontext():
        entries = store.entries()
        doomed = [(f, size) for f, manifest, size in entries if everything or manifest is None or f.name != here]
        total = _size(sum(size for _, size in doomed))
        if not yes:
            for folder, size in doomed:
                console.print(f"{folder}  {_size(size)}", markup=False, soft_wrap=True)
            console.print(f"{len(doomed)} of {len(entries)} runs, {total}, would go; add --yes to remove them")
            return
        for folder, _ in doomed:
            shutil.rmtree(folder)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()
    console.print(f"removed {len(doomed)} of {len(entries)} runs, {total}")
