"""A run's results as one folder of static pages: to be read, seen and heard, without a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from earwitness.errors import EarwitnessError, StoreError
from earwitness.protocols import Progress
from earwitness.registry import Registry
from earwitness_bench.leaderboard import make_tables
from earwitness_bench.leaderboard import write_pages as write_papers
from earwitness_bench.replay import Replay
from earwitness_bench.report.facts import gather
from earwitness_bench.report.gallery import PAGE_BYTES, Budget, Gallery, Shown, affordable_rows
from earwitness_bench.report.pages import ArenaPages, write_pages
from earwitness_bench.store import Store

CLIPS = 80
"""Clips of each arena that get pages and sounds, unless told otherwise."""

MAX_MB = 30.0
"""Size of the whole folder, unless told otherwise."""

_FIXED_BYTES = 600_000
"""Pages that do not grow with the clips, diagrams and tables."""


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
    notes = [str(note) for note in plan.get("notes", [])]
    arenas = []
    for number, (arena, own, table) in enumerate(zip(plan["arenas"], facts, tables, strict=True), start=1):
        rows = list(own.rows.values())[:clips]
        played = [e["title"] for e in arena["explainers"] if e["scope"] != "control"]
        shown = [Shown(row, place) for place, row in enumerate(rows, start=1)]
        arenas.append(ArenaPages(number, own, table, shown, played, arena))
    written = _Exhibition(store, registry, device, folder, max_mb, progress).open(arenas)
    notes += written.notes
    pages = write_pages(folder, arenas, plan, notes)
    write_papers(tables, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    sounds = len(list((folder / "media").glob("*.mp3")))
    if size > max_mb * 1e6:
        written.notes.append(f"the report takes {size / 1e6:.1f} MB, more than {max_mb:g}: its tables alone are large")
    return Report(folder, pages, sounds, size / 1e6, tuple(written.notes))


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


class _Exhibition:
    """All arenas' sounds and pictures, under one budget."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        device: torch.device | str,
        folder: Path,
        max_mb: float,
        progress: Progress,
    ) -> None:
        self._open: Callable[[int], Replay] = lambda arena: Replay(store, arena, registry=registry, device=device)
        self._folder, self._max_mb, self._progress = folder, max_mb, progress
        self.notes: list[str] = []

    def open(self, arenas: list[ArenaPages]) -> _Exhibition:
        """Fill in what is shown."""
        left = 0.98 * self._max_mb * 1e6 - _FIXED_BYTES  # estimates may be wrong by that
        total = sum(len(arena.shown) * len(arena.played) for arena in arenas)
        done = 0
        for place, arena in enumerate(arenas):
            share = left / (len(arenas) - place)
            done, spent = self._arena(place, arena, share, (done, total))
            left -= spent
        return self

    def _arena(self, place: int, arena: ArenaPages, share: float, steps: tuple[int, int]) -> tuple[int, float]:
        done, total = steps
        asked = len(arena.shown) * len(arena.played)
        if not asked:
            return done, 0.0
        try:
            replay = self._open(place)
            duration_s = replay.longest_s
        except (EarwitnessError, OSError) as error:
            self.notes.append(f"{arena.facts.title}: no sounds and no pictures: {error}")
            return done + asked, 0.0
        methods = len(arena.played)
        count = affordable_rows([one.row for one in arena.shown], methods, duration_s, share)
        if count < len(arena.shown):
            self.notes.append(
                f"{arena.facts.title}: sounds and pictures of {count} of {len(arena.shown)} clips, because more do not "
                f"fit into {self._max_mb:g} MB; --max-mb allows more"
            )
        budget = Budget(share - count * methods * PAGE_BYTES, count * (1 + 2 * methods), count * (1 + methods))
        before = budget.left
        gallery = Gallery(replay, self._folder, str(arena.number), budget)
        done = gallery.fill(arena.shown[:count], arena.played, self._progress, done, total)
        if budget.kbps < _POOR_KBPS and count:
            self.notes.append(
                f"{arena.facts.title}: sounds have down to {budget.kbps:.0f} kbit/s, to stay within "
                f"{self._max_mb:g} MB; --max-mb allows more"
            )
        return done + asked - count * methods, before - budget.left + count * methods * PAGE_BYTES


_POOR_KBPS = 20.0
"""Below, one hears that a sound was compressed."""


__all__ = ["CLIPS", "MAX_MB", "Report", "write_report"]
