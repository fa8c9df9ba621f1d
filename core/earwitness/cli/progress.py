"""Progress on standard error, for anything that may take longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from earwitness.protocols import Progress

DELAY_S = 2.0
"""Work that is done sooner shows no bar."""

_LINE_EVERY_S = 15.0


@contextmanager
def progress_bar(what: str, *, quiet: bool = False) -> Iterator[Progress]:
    """A bar with time left on a terminal, a line now and then elsewhere.

    Parameters
    ----------
    what : str
        Shown until the work says what it does.
    quiet : bool
        Show nothing.

    Yields
    ------
    callable (done, total, text)
    """
    if quiet:
        yield lambda done, total, text: None
    elif sys.stderr.isatty():
        with _terminal(what) as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _terminal(what: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bars = Bars(TextColumn("{task.description}"), *columns, console=Console(stderr=True), transient=True)
    task = bars.add_task(what, total=None)
    started = time.monotonic()

    def report(done: int, total: int, text: str) -> None:
        bars.update(task, completed=done, total=total or None, description=text or what)
        if time.monotonic() - started > DELAY_S and not bars.live.is_started:
            bars.start()

    try:
        yield report
    finally:
        bars.stop()


def _lines() -> Progress:
    last = time.monotonic()

    def report(done: int, total: int, text: str) -> None:
        nonlocal last
        if time.monotonic() - last > _LINE_EVERY_S:
            last = time.monotonic()
            print(f"{text}: {done} of {total}", file=sys.stderr, flush=True)

    return report
