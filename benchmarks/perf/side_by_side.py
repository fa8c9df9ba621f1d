"""Times alternatives in turns, in one process, and reports ratios: a loaded machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def ratios(baseline: Callable[[], object], other: Callable[[], object], *, rounds: int = 30) -> tuple[float, float]:
    """How many times faster ``other`` is: median over rounds, and the ratio of the best times."""
    times: dict[str, list[float]] = {"baseline": [], "other": []}
    for _ in range(3):
        baseline()
        other()
    for _ in range(rounds):
        for name, function in (("baseline", baseline), ("other", other)):
            started = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - started)
    pairs = zip(times["baseline"], times["other"], strict=True)
    return statistics.median(a / b for a, b in pairs), min(times["baseline"]) / min(times["other"])
