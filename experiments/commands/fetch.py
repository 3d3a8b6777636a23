"""`jaxsink fetch`: the weights and texts of the catalogue, what of them is here, and how to get the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jaxsink.checkpoints import CATALOGUE, Asset, cache_folder, fetch, find_asset, is_cached


def show(console: Console) -> None:
    """Print the catalogue and what of it is in the cache."""
    title = f"cache {escape(str(cache_folder()))} ($JAXSINK_CACHE names another)"
    table = Table(title=title, title_justify="left", show_lines=True)
    for name in ("name", "what", "note", "format", "download", "licence", "cached"):
        table.add_column(name)
    for asset in CATALOGUE:
        cells = (asset.name, asset.what, asset.note, asset.format, _megabytes(asset.size), asset.licence)
        table.add_row(*map(escape, cells), "yes" if is_cached(asset) else "no")
    console.print(table)


def get(names: Sequence[str], console: Console) -> None:
    """Fetch these; print the licence and the path of each.

    Raises:
        ValueError: a name is not in the catalogue (then nothing is fetched), or it cannot be fetched.
    """
    for asset in [find_asset(name) for name in names]:
        console.print(f"{asset.name}: {asset.what}; licence: {asset.licence}", markup=False, soft_wrap=True)
        path = _fetched(asset, console)
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)


def _fetched(asset: Asset, console: Console) -> Path:
    """Fetch it under a bar of progress, which a log does without."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(asset.requirement, total=asset.size)

        def update(count: int) -> None:
            bar.update(task, completed=count)

        return fetch(asset.name, progress=update)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
