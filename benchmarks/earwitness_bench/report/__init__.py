"""A run's results as one folder of static pages: to be read, seen and heard, without a network."""

from __future__ import annotations

import functools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from earwitness.errors import StoreError
from earwitness.protocols import Progress
from earwitness.registry import Registry
from earwitness_bench.leaderboard import make_tables
from earwitness_bench.leaderboard import write_pages as write_papers
from earwitness_bench.replay import Replay
from earwitness_bench.report.exhibition import Exhibition, bytes_of
from earwitness_bench.report.facts import gather
from earwitness_bench.report.gallery import Shown
from earwitness_bench.report.pages import ArenaPages, write_pages
from earwitness_bench.store import Store

CLIPS = 80
"""Clips of each arena that get pages and sounds, unless told otherwise."""

MAX_MB = 30.0
"""Size of the whole folder, unless told otherwise."""


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes
    ----------
    folder : Path
    pages, sounds : int
    size_mb : float
    notes : tuple of str
        What was left out, and why.
    """

    folder: Path
    pages: int
    sounds: int
    size_mb: float
    notes: tuple[str, ...]


def write_report(
    results: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    registry: Registry,
    clips: int = CLIPS,
    max_mb: float = MAX_MB,
    device: torch.device | str = "cpu",
    progress: Progress = lambda done, total, text: None,
) -> Report:
    """Write the report of a results folder.

    Sounds and pictures are made anew from the maps that the run kept, the data and the classifier: what a page plays
    is what was scored. Maps that were not kept are explained again, if nothing has changed since. Controls are on the
    leaderboard and in the curves; they are not played.

    Parameters
    ----------
    results : str or Path
        Results folder.
    out : str or Path
        Is made, or the report in it replaced.
    registry : Registry
    clips : int
        Of each arena that get pages and sounds: the first ones, in the run's shuffled order.
    max_mb : float
        The folder stays below: sounds get poorer, then fewer.
    device : torch.device or str
    progress : callable (done, total, text)

    Raises
    ------
    StoreError
        There are no results, ``out`` holds something else, or cannot be written to.
    """
    store, folder = Store(results), Path(out)
    plan, tables, facts = store.read_plan(), make_tables(store), gather(store)
    _clear(folder)
    arenas = []
    for number, (arena, own, table) in enumerate(zip(plan["arenas"], facts, tables, strict=True), start=1):
        played = [e["title"] for e in arena["explainers"] if e["scope"] != "control"]
        shown = [Shown(row, place) for place, row in enumerate(list(own.rows.values())[:clips], start=1)]
        arenas.append(ArenaPages(number, own, table, shown, played, arena))
    notes = [str(note) for note in plan.get("notes", [])]
    write_papers(tables, folder)
    write_pages(folder, arenas, plan, notes)  # without sounds: these get what the pages leave of the budget
    open_replay = functools.partial(Replay, store, registry=registry, device=device)
    left_out = Exhibition(folder, max_mb, open_replay, progress).fill(arenas)
    pages = write_pages(folder, arenas, plan, notes + left_out)
    size_mb, sounds = bytes_of(folder) / 1e6, len(list((folder / "media").glob("*.mp3")))
    if size_mb > max_mb:
        left_out.append(f"the report takes {size_mb:.1f} MB, more than {max_mb:g}: its tables alone are large")
    return Report(folder, pages, sounds, size_mb, tuple(left_out))


_MARK = ".earwitness-report"


def _clear(folder: Path) -> None:
    """Make an empty folder, or empty one that holds a report, never anything else."""
    try:
        if folder.exists() and any(folder.iterdir()):
            if not (folder / _MARK).is_file():
                raise StoreError(f"{folder} holds something that is no report. Choose another --out.")
            shutil.rmtree(folder)
        (folder / "media").mkdir(parents=True)
        (folder / _MARK).touch()
    except OSError as error:
        raise StoreError(f"Cannot write the report to {folder}: {error.strerror}.") from error


__all__ = ["CLIPS", "MAX_MB", "Report", "write_report"]
