"""Times alternatives in turns, in one process, and reports ratios: a loaded machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from earwitness.clips import Batch, Clip


def ratios(baseline: Callable[[], object], other: Callable[[], object], *, rounds: int = 30) -> tuple[float, float]:
    """How many times faster ``other`` is: median over rounds, and the ratio of the best times."""
    times: dict[str, list[float]] = {"baseline": [], "other": []}
    for _ in range(min(3, rounds)):
        baseline()
        other()
    for _ in range(rounds):
        for name, function in (("baseline", baseline), ("other", other)):
            started = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - started)
    pairs = zip(times["baseline"], times["other"], strict=True)
    return statistics.median(a / b for a, b in pairs), min(times["baseline"]) / min(times["other"])


def gate(what: str, measured: float, *, at_least: float | None = None, at_most: float | None = None) -> bool:
    """Print one line of the table, with the bound that is promised; returns whether it is kept."""
    kept = (at_least is None or measured >= at_least) and (at_most is None or measured <= at_most)
    bound = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}" if at_most is not None else ""
    verdict = ("ok" if kept else "MISSED") if bound else ""
    print(f"{what:88s} {measured:9.3g}  {bound:9s} {verdict}", flush=True)
    return kept


def recordings(n_clips: int, rate: int, seconds: float = 5.0) -> Batch:
    """Seeded quiet noise as a batch of clips."""
    noise = 0.1 * torch.randn(n_clips, round(seconds * rate), generator=torch.Generator().manual_seed(0))
    return Batch.of([Clip(row, rate, f"noise {number}") for number, row in enumerate(noise)])
