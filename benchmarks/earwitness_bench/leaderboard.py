"""From scores to a ranking: the mean rank over headline columns, controls beside it, never a sum of raw scores."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from earwitness.specs import load_target
from earwitness_bench.results import missing_in, read_scores
from earwitness_bench.statistics import group_bootstrap, mean_ranks
from earwitness_bench.store import Store

YARDSTICKS = ("earwitness:uniform-noise", "earwitness:loudness", "earwitness:constant-gain")
"""Controls that a method must beat, beside its own maps shuffled over clips."""

_STATUSES = ("ok", "failed", "skipped")


@dataclass(frozen=True)
class Standing:
    """One line of the leaderboard.

    Attributes
    ----------
    place : int or None
        1 is best; equal mean ranks share a place. None for controls and for what is not ranked.
    explainer : str
    scope : str
        ``post-hoc``, ``by-design`` or ``control``.
    mean_rank : float or None
        Over headline columns.
    above_control : str
        ``"3/7"``: on how many headline columns it beats noise, loudness, constant gain and its own shuffled maps, each
        with a paired 95 % interval that excludes 0. Empty for controls.
    clips, degenerate, failed, skipped : int
        Rows that were explained, and how many of those maps point nowhere; rows whose explanation failed, or to which
        the method does not apply.
    values : dict of str to float or None
        Aggregate of each column, by its title.
    intervals : dict of str to (float, float)
        Of the headline columns that are means: 95 % bootstrap interval over source recordings.
    above : tuple of str
        Titles of the headline columns that ``above_control`` counts.
    """

    place: int | None
    explainer: str
    scope: str
    mean_rank: float | None
    above_control: str
    clips: int
    degenerate: int
    failed: int
    skipped: int
    values: dict[str, float | None]
    intervals: dict[str, tuple[float, float]]
    above: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """The leaderboard of one arena.

    Attributes
    ----------
    arena : str
    columns : tuple of dict
        As in the metrics' specs, with ``metric`` and ``version``, and ``title``: the column's name, or
        ``metric:column`` where two metrics have a column of that name.
    standings : tuple of Standing
    missing_cells : int
        Not computed yet: the run was stopped.
    notes : tuple of str
        What a reader should know of the numbers.
    """

    arena: str
    columns: tuple[dict[str, Any], ...]
    standings: tuple[Standing, ...]
    missing_cells: int = 0
    notes: tuple[str, ...] = ()


def make_tables(store: Store) -> list[Table]:
    """The leaderboards of a run, one per arena."""
    plan = store.read_plan()
    scores = read_scores(store)
    often = Counter(column["name"] for metric in plan["metrics"] for column in metric["columns"])
    columns = tuple(
        {
            **column,
            "title": column["name"] if often[column["name"]] == 1 else f"{metric['name']}:{column['name']}",
            "metric": metric["name"],
            "version": metric["version"],
        }
        for metric in plan["metrics"]
        for column in metric["columns"]
    )
    return [_table(arena, scores[scores["arena"] == arena["title"]], columns, store) for arena in plan["arenas"]]


def _table(arena: dict[str, Any], scores: pd.DataFrame, columns: tuple[dict[str, Any], ...], store: Store) -> Table:
    aggregates = {column["title"]: _aggregate_of(column) for column in columns}
    notes: dict[str, None] = {}
    values: dict[str, dict[str, float | None]] = {explainer["title"]: {} for explainer in arena["explainers"]}
    for title, line in values.items():
        for column in columns:
            try:
                line[column["title"]] = _aggregate(_select(scores, title, column), aggregates[column["title"]])
            except Exception as error:  # a metric's own function: it costs its column, not the table
                line[column["title"]] = None
                notes[f"{column['title']} could not be aggregated ({type(error).__name__}: {error})"] = None
    headline = _ranked_columns(columns, values)
    ranks = _ranks(values, [e["title"] for e in arena["explainers"] if e["scope"] == "post-hoc"], headline)
    standings = []
    for explainer in arena["explainers"]:
        title, rank = explainer["title"], ranks.get(explainer["title"])
        above = None if rank is None else _above_control(scores, title, _yardsticks(arena, title), headline)
        standings.append(
            Standing(
                place=None if rank is None else 1 + sum(other < rank for other in ranks.values()),
                explainer=title,
                scope=explainer["scope"],
                mean_rank=rank,
                above_control="" if above is None else f"{len(above)}/{len(headline)}",
                **_counts(explainer, store),
                values=values[title],
                intervals=_intervals(scores, title, headline),
                above=above or (),
            )
        )
    standings.sort(key=lambda s: (s.place is None, s.place or 0, s.scope == "control", s.explainer))
    missing = missing_in(store, arena)
    return Table(arena["title"], columns, tuple(standings), missing, (*_notes(standings, missing), *notes))


def _ranked_columns(
    columns: tuple[dict[str, Any], ...], values: dict[str, dict[str, float | None]]
) -> list[dict[str, Any]]:
    """Headline columns that say what is better and that somebody was scored in."""
    return [
        column
        for column in columns
        if column["headline"]
        and column["direction"] != "neither"
        and any(line[column["title"]] is not None for line in values.values())
    ]


def _notes(standings: list[Standing], missing_cells: int) -> list[str]:
    notes = [f"{missing_cells} cells are missing: this run is not finished"] if missing_cells else []
    for line in standings:
        if line.degenerate and line.scope != "control":
            notes.append(f"{line.explainer}: {line.degenerate} of {line.clips} maps point nowhere")
        if line.failed:
            notes.append(f"{line.explainer}: {line.failed} of {_rows(line)} explanations failed")
        if line.skipped:
            notes.append(f"{line.explainer}: does not apply to {line.skipped} of {_rows(line)}")
    return notes


def _rows(line: Standing) -> int:
    return line.clips + line.failed + line.skipped


def _select(scores: pd.DataFrame, explainer: str, column: dict[str, Any]) -> pd.DataFrame:
    chosen = (scores["explainer"] == explainer) & (scores["column"] == column["name"])
    return scores[chosen & (scores["metric"] == column["metric"])].set_index("row")


def _aggregate_of(column: dict[str, Any]) -> Callable[[Any], Any]:
    """The function from a column's rows to one number, imported when it is first called."""
    named: dict[str, Callable[[Any], Any]] = {"mean": np.mean, "median": np.median}

    def aggregate(values: Any) -> Any:
        name = column["aggregate"]
        return (named.get(name) or load_target(name, what=f"column {column['name']!r}"))(values)

    return aggregate


def _aggregate(rows: pd.DataFrame, function: Callable[[Any], Any]) -> float | None:
    values = rows["value"].dropna().to_numpy()
    if not len(values):
        return None
    result = float(function(values))
    return result if math.isfinite(result) else None


def _ranks(
    values: dict[str, dict[str, float | None]], ranked: list[str], headline: list[dict[str, Any]]
) -> dict[str, float]:
    if not ranked or not headline:
        return {}
    scores = np.array([[_nan(values[title][c["title"]]) for c in headline] for title in ranked])
    ranks = mean_ranks(scores, [c["direction"] == "higher" for c in headline])
    # Rounded, because sums of equal ranks in another order may differ in the last bit, and equal ranks share a place.
    return {title: round(float(rank), 9) for title, rank in zip(ranked, ranks, strict=True) if not math.isnan(rank)}


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _yardsticks(arena: dict[str, Any], title: str) -> list[str]:
    """Titles of the controls that a method must beat."""
    return [
        control["title"]
        for control in arena["explainers"]
        if control["scope"] == "control"
        and (
            control["identity"]["name"] in YARDSTICKS
            if control["shuffle_of"] is None
            else control["shuffle_of"] == title
        )
    ]


def _above_control(
    scores: pd.DataFrame, title: str, yardsticks: list[str], headline: list[dict[str, Any]]
) -> tuple[str, ...] | None:
    """Titles of the columns on which a method beats every yardstick, paired over clips; None if there is no yardstick.

    A yardstick without scores beats everybody: nothing was shown.
    """
    if not yardsticks:
        return None
    beaten = []
    for column in headline:
        own = _select(scores, title, column)
        sign = 1.0 if column["direction"] == "higher" else -1.0
        if all(_beats(own, _select(scores, name, column)["value"], sign) for name in yardsticks):
            beaten.append(column["title"])
    return tuple(beaten)


def _intervals(scores: pd.DataFrame, title: str, headline: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    found = {}
    for column in headline:
        own = _select(scores, title, column)
        low, high = group_bootstrap(own["value"].to_numpy(dtype=float), own["group"].tolist())
        if column["aggregate"] == "mean" and not math.isnan(low):
            found[column["title"]] = (low, high)
    return found


def _beats(own: pd.DataFrame, other: pd.Series, sign: float) -> bool:
    difference = sign * (own["value"] - other.reindex(own.index)).to_numpy()
    low, _ = group_bootstrap(difference, own["group"].tolist())
    return low > 0


def _counts(explainer: dict[str, Any], store: Store) -> dict[str, int]:
    found = [store.read_cell("explain", cell["explain"]) for cell in explainer["cells"]]
    cells = [cell for cell in found if cell is not None]
    rows = {s: [row for cell in cells if cell["status"] == s for row in cell["rows"]] for s in _STATUSES}
    return {
        "clips": len(rows["ok"]),
        "degenerate": sum(bool(row["degenerate"]) for row in rows["ok"]),
        "failed": len(rows["failed"]),
        "skipped": len(rows["skipped"]),
    }


def as_json(tables: list[Table]) -> str:
    """For machines."""
    return json.dumps({"schema": 1, "tables": [asdict(t) for t in tables]}, indent=1, allow_nan=False) + "\n"


def as_csv(tables: list[Table]) -> str:
    """One line per arena and explainer; values at full precision."""
    names = list(dict.fromkeys(column["title"] for table in tables for column in table.columns))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    facts = [entry.name for entry in fields(Standing) if entry.name not in ("values", "intervals", "above")]
    bounded = [name for name in names if any(name in s.intervals for table in tables for s in table.standings)]
    writer.writerow(["arena", *facts, *names, *(f"{name} {end}" for name in bounded for end in ("low", "high"))])
    for table in tables:
        for line in table.standings:
            own = [getattr(line, fact) for fact in facts]
            ends = [end for name in bounded for end in line.intervals.get(name, ("", ""))]
            writer.writerow([table.arena, *own, *(line.values.get(name) for name in names), *ends])
    return buffer.getvalue()


def as_markdown(tables: list[Table]) -> str:
    """GitHub tables, headline first, own-mask scores second."""
    return "\n".join(
        f"## {_markdown_text(table.arena)}\n\n" + "\n".join(_sections(table, _markdown_rows)) for table in tables
    )


def as_text(tables: list[Table]) -> str:
    """For a terminal."""
    return "\n".join(
        f"{table.arena}\n{'=' * len(table.arena)}\n" + "\n".join(_sections(table, _text_rows)) for table in tables
    )


_HEADING = "Headline (– is not ranked; * is above control; in brackets the 95 % interval over source recordings)"


def _sections(table: Table, lay_out: Callable[[list[list[str]]], str]) -> list[str]:
    """The headline table, then one per metric whose columns are not headline; without the columns that are empty."""
    sections = []
    shown = [c for c in table.columns if any(s.values[c["title"]] is not None for s in table.standings)]
    headline = [c for c in shown if c["headline"]]
    if headline:
        facts = [
            [str(s.place or "–"), s.explainer, _show(s.mean_rank, 2), s.above_control or "–"] for s in table.standings
        ]
        head = ["#", "explainer", "mean rank", "above control"]
        sections.append(f"{_HEADING}\n\n" + _grid(table, head, facts, headline, lay_out))
    for metric in dict.fromkeys(c["metric"] for c in shown if not c["headline"]):
        chosen = [c for c in shown if c["metric"] == metric and not c["headline"]]
        facts = [[str(s.place or "–"), s.explainer] for s in table.standings]
        heading = f"{metric.removeprefix('earwitness:')} (not ranked)\n\n"
        sections.append(heading + _grid(table, ["#", "explainer"], facts, chosen, lay_out))
    return [*sections, *([f"Notes: {'; '.join(table.notes)}.\n"] if table.notes else [])]


def _grid(
    table: Table,
    head: list[str],
    facts: list[list[str]],
    columns: list[dict[str, Any]],
    lay_out: Callable[[list[list[str]]], str],
) -> str:
    arrows = {"higher": " ↑", "lower": " ↓", "neither": ""}
    names = [c["title"] + arrows[c["direction"]] for c in columns]
    rows = [
        [*fact, *(_cell(standing, c["title"]) for c in columns)]
        for fact, standing in zip(facts, table.standings, strict=True)
    ]
    return lay_out([[*head, *names], *rows])


def _cell(standing: Standing, title: str) -> str:
    value = _show(standing.values[title], 3) + ("*" if title in standing.above else "")
    if title not in standing.intervals:
        return value
    low, high = standing.intervals[title]
    return f"{value} [{_show(low, 2)}, {_show(high, 2)}]"


def _show(value: float | None, digits: int) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.{digits}f}"


def _markdown_rows(rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(map(_markdown_text, cells)) + " |"

    rule = "| " + " | ".join("---" if index < 2 else "---:" for index in range(len(rows[0]))) + " |"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])]) + "\n"


def _markdown_text(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _text_rows(rows: list[list[str]]) -> str:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"


FORMATS: dict[str, Callable[[list[Table]], str]] = {
    "table": as_text,
    "markdown": as_markdown,
    "csv": as_csv,
    "json": as_json,
}
