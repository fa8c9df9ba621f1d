"""What a report lets people see and hear: all arenas' sounds and pictures, under one budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from earwitness.protocols import Progress
from earwitness_bench.chunks import describe
from earwitness_bench.replay import Replay
from earwitness_bench.report.gallery import EXHIBIT_BYTES, Budget, Gallery, Shown, affordable_rows
from earwitness_bench.report.pages import ArenaPages

_USABLE = 0.98
"""Of the budget: estimates may be wrong by the rest."""

_POOR_KBPS = 20.0
"""Below, one hears that a sound was compressed."""


class Exhibition:
    """All arenas' sounds and pictures.

    Parameters
    ----------
    folder : Path
        Of the report, whose pages are there, without sounds.
    max_mb : float
        The folder stays below.
    open_replay : callable (place) -> Replay
        The arena of this place in the plan, at work again.
    progress : callable (done, total, text)
    """

    def __init__(self, folder: Path, max_mb: float, open_replay: Callable[[int], Replay], progress: Progress) -> None:
        self._folder, self._max_mb, self._open, self._progress = folder, max_mb, open_replay, progress
        self._done = self._total = 0
        self._notes: list[str] = []

    def fill(self, arenas: Sequence[ArenaPages]) -> list[str]:
        """Make what is shown seen and heard; returns what was left out, and why."""
        left = _USABLE * self._max_mb * 1e6 - bytes_of(self._folder)
        self._total = sum(len(arena.shown) * len(arena.played) for arena in arenas)
        for place, arena in enumerate(arenas):
            if arena.shown and arena.played:
                left -= self._arena(place, arena, left / (len(arenas) - place))
        return self._notes

    def _arena(self, place: int, arena: ArenaPages, share: float) -> float:
        """Fill one; returns the bytes that it took."""
        try:
            replay = self._open(place)
            duration_s = replay.longest_s
        except Exception as error:  # whatever a data set or a classifier raises
            self._leave_out(arena.shown, arena, f"no sounds and no pictures: {describe(error)}")
            return 0.0
        shown, methods = arena.shown, len(arena.played)
        count = affordable_rows(len(shown), methods, duration_s, share)
        if count < len(shown):
            what = f"sounds and pictures of {count} of {len(shown)} clips, because more do not fit into"
            self._leave_out(shown[count:], arena, f"{what} {self._max_mb:g} MB; --max-mb allows more")
        pages = count * methods * EXHIBIT_BYTES
        budget = Budget(share - pages, sounds=count * (1 + 2 * methods), pictures=count * (1 + methods))
        before = budget.left
        Gallery(replay, self._folder, str(arena.number), budget).fill(shown[:count], arena.played, self._step)
        if budget.kbps < _POOR_KBPS and count:
            self._notes.append(
                f"{arena.facts.title}: sounds have down to {budget.kbps:.0f} kbit/s, to stay within "
                f"{self._max_mb:g} MB; --max-mb allows more"
            )
        return before - budget.left + pages

    def _leave_out(self, shown: Sequence[Shown], arena: ArenaPages, why: str) -> None:
        self._notes.append(f"{arena.facts.title}: {why}")
        for one in shown:
            one.reasons[""] = "No sound: see the notes under Provenance."
        self._step(len(shown) * len(arena.played))

    def _step(self, explanations: int) -> None:
        self._done += explanations
        self._progress(self._done, self._total, "making sounds and pictures")


def bytes_of(folder: Path) -> int:
    """What all files of a folder take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
