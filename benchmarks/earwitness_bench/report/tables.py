"""Leaderboards as a page shows them: groups of lines, cells with interval and marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from earwitness_bench.leaderboard import Standing, Table
from earwitness_bench.leaderboard.columns import Column
from earwitness_bench.leaderboard.sections import ARROWS, INCOMPLETE, NONE, show


@dataclass(frozen=True)
class Cell:
    """A number for eyes, and for sorting.

    Attributes
    ----------
    text, interval, marks : str
    value : float or None
    best : bool
        Nobody that is ranked is better.
    """

    text: str
    interval: str
    marks: str
    value: float | None
    best: bool


@dataclass(frozen=True)
class Line:
    """An explainer with its cells."""

    standing: Standing
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Grid:
    """Some columns of a leaderboard.

    Attributes
    ----------
    name : str
        ``Headline``, or the metric.
    headline : bool
    columns : tuple of (str, str, str)
        Title, arrow and direction.
    groups : tuple of (str, tuple of Line)
        Ranked methods, models that explain themselves, controls, shuffled maps; without empty ones.
    """

    name: str
    headline: bool
    columns: tuple[tuple[str, str, str], ...]
    groups: tuple[tuple[str, tuple[Line, ...]], ...]


def grids(table: Table) -> list[Grid]:
    """The headline, then each metric's other columns, without columns that are empty."""
    shown = [c for c in table.columns if any(s.values[c["title"]] is not None for s in table.standings)]
    headline = [c for c in shown if c["headline"]]
    found = [_grid("Headline", headline, table, headline=True)] if headline else []
    for metric in dict.fromkeys(c["metric"] for c in shown if not c["headline"]):
        own = [c for c in shown if c["metric"] == metric and not c["headline"]]
        found.append(_grid(metric.removeprefix("earwitness:"), own, table, headline=False))
    return found


def group_of(standing: Standing) -> str:
    """The heading under which an explainer stands."""
    if standing.scope != "control":
        return "Methods" if standing.scope == "post-hoc" else "Models that explain themselves"
    return "Their own maps, shuffled over clips" if standing.explainer.startswith("shuffled: ") else "Controls"


def _grid(name: str, columns: Sequence[Column], table: Table, *, headline: bool) -> Grid:
    groups: dict[str, list[Line]] = {}
    best = {c["title"]: _best(c, table.standings) for c in columns}
    for standing in table.standings:
        cells = tuple(_cell(standing, c["title"], best[c["title"]]) for c in columns)
        groups.setdefault(group_of(standing), []).append(Line(standing, cells))
    order = ("Methods", "Models that explain themselves", "Controls", "Their own maps, shuffled over clips")
    return Grid(
        name,
        headline,
        tuple((c["title"], ARROWS[c["direction"]].strip(), c["direction"]) for c in columns),
        tuple((group, tuple(groups[group])) for group in order if group in groups),
    )


def _best(column: Column, standings: Sequence[Standing]) -> float | None:
    values = [v for s in standings if s.scope == "post-hoc" and (v := s.values[column["title"]]) is not None]
    if len(values) < 2 or column["direction"] == "neither":
        return None
    return max(values) if column["direction"] == "higher" else min(values)


def _cell(standing: Standing, title: str, best: float | None) -> Cell:
    value = standing.values[title]
    counts = standing.counts[title]
    marks = "*" if title in standing.above else ""
    if value is not None and (counts.skipped or counts.failed):
        marks += INCOMPLETE
    interval = ""
    if title in standing.intervals:
        low, high = standing.intervals[title]
        interval = f"{show(low, 2)} – {show(high, 2)}"
    is_best = value is not None and value == best and standing.scope == "post-hoc"
    return Cell(show(value, 3) if value is not None else NONE, interval, marks, value, is_best)
