"""What a run would compute, and what that takes: counted from the store, measured on one batch of each explainer."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from earwitness.protocols import Progress
from earwitness.registry import Registry
from earwitness_bench.engines import Engine, Serial
from earwitness_bench.engines.process import cpu_threads
from earwitness_bench.plan import Plan, Unit
from earwitness_bench.runner import choose_threads, make_plan
from earwitness_bench.store import Store
from earwitness_bench.suite import Suite
from earwitness_bench.tasks import Task
from earwitness_bench.worker import Worker


@dataclass(frozen=True)
class Line:
    """An explainer in an arena.

    Attributes
    ----------
    arena, explainer : str
    cells, cached : int
        In all, and those that are there.
    clips_left : int
        Rows of the units in which something is missing.
    seconds_per_clip : float or None
        As measured, its scores included, for a shuffled control the pace of the method that it shuffles; None where
        nothing is left, or where it must be fitted first.
    megabytes_per_clip : float or None
        On disk: cells and maps.
    """

    arena: str
    explainer: str
    cells: int
    cached: int
    clips_left: int
    seconds_per_clip: float | None = None
    megabytes_per_clip: float | None = None

    @property
    def seconds(self) -> float:
        """One worker's time."""
        return self.clips_left * (self.seconds_per_clip or 0)


@dataclass(frozen=True)
class Forecast:
    """Before a run.

    Attributes
    ----------
    lines : tuple of Line
    workers, threads : int
    peak_memory_mb : float
        Of one worker.
    notes : tuple of str
    """

    lines: tuple[Line, ...]
    workers: int
    threads: int
    peak_memory_mb: float
    notes: tuple[str, ...]

    @property
    def unknown(self) -> tuple[str, ...]:
        """Explainers that nothing is known of, because they must be fitted first."""
        return tuple(
            dict.fromkeys(line.explainer for line in self.lines if line.clips_left and line.seconds_per_clip is None)
        )

    @property
    def seconds(self) -> float:
        """The run's time, if workers do not slow each other down; without those that are unknown."""
        return sum(line.seconds for line in self.lines) / self.workers

    @property
    def disk_mb(self) -> float:
        """What the results folder grows by."""
        return sum(line.clips_left * (line.megabytes_per_clip or 0) for line in self.lines)

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**asdict(self), "seconds": self.seconds, "disk_mb": self.disk_mb}


def forecast(
    suite: Suite,
    out: str | os.PathLike[str],
    *,
    registry: Registry,
    engine: Engine | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = lambda done, total, text: None,
) -> Forecast:
    """Say what a run would do. Nothing is written, and nothing is fitted; one batch is computed in a temporary folder.

    Parameters
    ----------
    suite : Suite
    out : str or Path
        Results folder; it need not exist.
    registry : Registry
    engine : Engine, optional
        Default: serial.
    device : torch.device or str
    progress : callable (explainers measured, explainers in all, name of the next)

    Raises
    ------
    EarwitnessError
        The suite names something that does not exist.
    """
    engine = engine or Serial()
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(out if Path(out).is_dir() else scratch, create=True)
        threads, notes = choose_threads(suite, store, engine)
        with cpu_threads(threads):
            plan, more = make_plan(suite, store, registry=registry, device=device)
            probe = Worker(plan, Store(Path(scratch) / "probe", create=True), registry)
            lines: list[Line] = []
            n_lines = sum(len(lineup.contestants) for lineup in plan.lineups)
            for arena, lineup in enumerate(plan.lineups):
                for contestant in range(len(lineup.contestants)):
                    progress(len(lines), n_lines, lineup.contestants[contestant].title)
                    lines.append(_line(plan, arena, contestant, store, probe, lines))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Forecast(tuple(lines), engine.workers, threads, round(peak, 1), (*notes, *more))


def _line(plan: Plan, arena: int, contestant: int, store: Store, probe: Worker, known: Sequence[Line]) -> Line:
    lineup = plan.lineups[arena]
    n_chunks, n_contestants = len(lineup.stage.chunks), len(lineup.contestants)
    first = sum(map(len, plan.lineups[:arena])) + contestant
    units = [plan[first + chunk * n_contestants] for chunk in range(n_chunks)]
    found = [_found(unit, store) for unit in units]
    left = [unit for unit, count in zip(units, found, strict=True) if count < 1 + len(plan.judges)]
    line = Line(
        lineup.stage.arena.title,
        lineup.contestants[contestant].title,
        len(units) * (1 + len(plan.judges)),
        sum(found),
        sum(len(unit.chunk) for unit in left),
    )
    if not left or isinstance(lineup.contestants[contestant].fitted, str):
        return line
    base = plan.base_of(left[0].number)
    if base is not None:
        shuffled = lineup.contestants[contestant].shuffle_of
        for other in known:
            if (other.arena, other.explainer) == (line.arena, shuffled) and other.seconds_per_clip is not None:
                return replace(
                    line, seconds_per_clip=other.seconds_per_clip, megabytes_per_clip=other.megabytes_per_clip
                )
        probe(Task(base))
    before = _size_mb(probe.store.folder)
    seconds = probe(Task(left[0].number)).seconds
    grown = _size_mb(probe.store.folder) - before
    clips = len(left[0].chunk)
    return replace(line, seconds_per_clip=seconds / clips, megabytes_per_clip=grown / clips)


def _found(unit: Unit, store: Store) -> int:
    """How many cells of a unit are there; where explaining failed or did not apply, no score is missing."""
    cell = store.read_cell("explain", unit.explain_key)
    if cell is None or cell.get("transient"):
        return 0
    if cell["status"] != "ok":
        return 1 + len(unit.score_keys)
    scores = [store.read_cell("score", key) for key in unit.score_keys]
    return 1 + sum(score is not None and not score.get("transient") for score in scores)


def _size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def as_text(found: Forecast) -> str:
    """For a terminal."""
    lines = []
    for arena in dict.fromkeys(line.arena for line in found.lines):
        lines += [arena, "=" * len(arena), f"{'cells':>8} {'found':>8} {'clips left':>11} {'s a clip':>9}  explainer"]
        for line in found.lines:
            if line.arena == arena:
                pace = "" if line.seconds_per_clip is None else f"{line.seconds_per_clip:.3f}"
                lines.append(f"{line.cells:>8} {line.cached:>8} {line.clips_left:>11} {pace:>9}  {line.explainer}")
    if found.unknown:
        lines.append(f"Not estimated, because they must be fitted first: {'; '.join(found.unknown)}.")
    lines += [f"note: {note}" for note in found.notes]
    cells = f"{sum(line.cached for line in found.lines)} of {sum(line.cells for line in found.lines)} cells are there."
    if not any(line.seconds_per_clip is not None for line in found.lines):
        return "\n".join([*lines, f"{cells} What the rest takes is not known." if found.unknown else cells])
    takes, without = "takes about", ""
    if found.unknown:
        takes, without = "takes at least", f", without {len(found.unknown)} explainers that must be fitted first"
    lines.append(
        f"{cells} The rest {takes} {_duration(found.seconds)} with {found.workers} x {found.threads} threads, "
        f"{found.peak_memory_mb:.0f} MB of memory for each worker, and {found.disk_mb:.1f} MB on disk{without}."
    )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
