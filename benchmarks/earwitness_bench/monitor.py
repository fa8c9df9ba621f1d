"""What a run tells while it goes on: cells done, running and failed, time left, and how fast each explainer is."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from earwitness_bench.tasks import Outcome

LINE_EVERY_S = 15.0
"""Where there is no terminal, a line so often."""

_SHOWN = 8


@dataclass(frozen=True)
class Said:
    """Something that a reader of the log should know."""

    text: str


@dataclass(frozen=True)
class Passing:
    """What is being done before the first unit, such as a step of a fit."""

    text: str


@dataclass(frozen=True)
class Planned:
    """How many units of each title there are, and how many cells each has."""

    units: Counter[str]
    cells_of_unit: int


@dataclass(frozen=True)
class Began:
    """A unit is at work."""

    title: str


@dataclass(frozen=True)
class BrokeOff:
    """The worker of a unit has ended; the unit comes again."""

    title: str


@dataclass(frozen=True)
class Ended:
    """A unit is done."""

    outcome: Outcome


Event = Said | Passing | Planned | Began | BrokeOff | Ended
Observer = Callable[[Event], None]
"""Is told what happens in a run, in the process that started it."""


def silent(event: Event) -> None:
    """Takes no notice."""


class Tally:
    """Counts a run as it goes on.

    Attributes
    ----------
    now : str
        What was said last.
    running : Counter of str
        Titles of the units at work.
    done, failed, cells : int
        Cells done, those of them that failed, and cells in all.
    """

    def __init__(self) -> None:
        self.now = ""
        self.running: Counter[str] = Counter()
        self.done = self.failed = self.cells = 0
        self._cells_of_unit = 1
        self._left: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._units: Counter[str] = Counter()
        self._clips: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        """Take notice of an event."""
        match event:
            case Said(text) | Passing(text):
                self.now = text
            case Planned(units, cells_of_unit):
                self._left, self._cells_of_unit = units.copy(), cells_of_unit
                self.cells = units.total() * cells_of_unit
            case Began(title):
                self.running[title] += 1
            case BrokeOff(title):
                self.running[title] -= 1
            case Ended(outcome):
                self._count(outcome)

    def _count(self, outcome: Outcome) -> None:
        title = outcome.title
        self.running[title] -= 1
        if not outcome.unscored:
            self._left[title] -= 1
            self.done += self._cells_of_unit
        self.failed += len(outcome.errors)
        if outcome.explained or outcome.scored:
            self._seconds[title] += outcome.seconds
            self._units[title] += 1
            self._clips[title] += outcome.clips

    @property
    def seconds_left(self) -> float | None:
        """By what each explainer's units took so far, and as many workers as are busy; None before the first one."""
        if not self._units:
            return None
        usual = sum(self._seconds.values()) / self._units.total()
        pace = {title: self._seconds[title] / n for title, n in self._units.items()}
        work = sum(count * pace.get(title, usual) for title, count in self._left.items())
        return work / max(1, self.running.total())

    def speeds(self) -> list[tuple[str, float]]:
        """Seconds that a clip takes with each explainer, its scores included; the slowest first."""
        known = [(title, self._seconds[title] / n) for title, n in self._clips.items() if n]
        return sorted(known, key=lambda pair: -pair[1])

    def line(self) -> str:
        """All of it in a line."""
        if not self.cells:
            return self.now
        busy = self.running.total()
        left = self.seconds_left
        parts = [f"{self.done} of {self.cells} cells", f"{busy} running", f"{self.failed} failed"]
        return ", ".join([*parts, *([f"{_clock(left)} left"] if left is not None else [])])


class Log:
    """Writes to a file what one may ask later: what was run, what failed, and which workers ended."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._told: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Write down an event; each failure and note once."""
        match event:
            case Said(text):
                self._write(text)
            case Planned(units, cells_of_unit):
                self._write(f"{units.total()} units, {units.total() * cells_of_unit} cells")
            case Ended(outcome):
                told = (*(f"failed: {text}" for text in outcome.errors), *(f"note: {text}" for text in outcome.notes))
                for text in dict.fromkeys(told):
                    if text not in self._told:
                        self._told.add(text)
                        self._write(text)

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a full disk is told of by what has to be kept, not by the log
            self._file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z {' '.join(text.split())}\n")
            self._file.flush()


@contextmanager
def log_file(folder: Path) -> Iterator[Log]:
    """``run.log`` in a results folder; what is there stays."""
    with (folder / "run.log").open("a", encoding="utf-8") as file:
        yield Log(file)


@contextmanager
def console(tally: Tally, *, quiet: bool = False) -> Iterator[None]:
    """Show a tally on standard error: live on a terminal, else a line now and then."""
    if quiet:
        yield
    elif sys.stderr.isatty():
        with _live(tally):
            yield
    else:
        with _lines(tally):
            yield


@contextmanager
def _live(tally: Tally) -> Iterator[None]:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def picture() -> Text:
        slow = [f"  {speed:8.3f} s a clip  {title}" for title, speed in tally.speeds()[:_SHOWN]]
        at_work = [f"  at work: {title}" for title, count in tally.running.items() if count > 0][:_SHOWN]
        return Text("\n".join([tally.line(), *at_work, *slow]))

    with Live(console=Console(stderr=True), get_renderable=picture, transient=True):
        yield


@contextmanager
def _lines(tally: Tally) -> Iterator[None]:
    over = threading.Event()

    def speak() -> None:
        while not over.wait(LINE_EVERY_S):
            print(tally.line(), file=sys.stderr, flush=True)

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        over.set()
        speaker.join()


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return time.strftime("%H:%M:%S", time.gmtime(whole)) if whole < 86400 else f"{whole / 86400:.1f} days"
