"""From scores to a ranking: the mean rank over headline columns, controls beside it, never a sum of raw scores."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from earwitness.specs import load_target
from earwitness_bench.plan import SHUFFLED
from earwitness_bench.results import read_scores
from earwitness_bench.statistics import group_bootstrap, mean_ranks
from earwitness_bench.store import Store

YARDSTICKS = ("uniform-noise", "loudness", "constant-gain")
"""Controls that a method must beat, beside its own maps shuffled over clips."""


@dataclass(frozen=True)
class Standing:
    """One line of the leaderboard.

    Attributes
    ----------
    place : int or None
        None for controls and for what is not ranked.
    explainer : str
    scope : str
        ``post-hoc``, ``by-design`` or ``control``.
    mean_rank : float or None
        Over headline columns.
    above_control : str
        ``"3/7"``: on how many headline columns it beats noise, loudness, constant gain and its own shuffled maps, each
        with a paired 95 % interval that excludes 0. Empty for controls.
    clips, degenerate, missing : int
        Rows scored in at least one column; rows whose map points nowhere; rows whose explanation failed.
    values : dict of str to float or None
        Aggregate of each column.
    """

    place: int | None
    explainer: str
    scope: str
    mean_rank: float | None
    above_control: str
    clips: int
    degenerate: int
    missing: int
    values: dict[str, float | None]


@dataclass(frozen=True)
class Table:
    """The leaderboard of one arena."""

    arena: str
    columns: tuple[dict[str, Any], ...]
    standings: tuple[Standing, ...]


def make_tables(store: Store) -> list[Table]:
    """The leaderboards of a run, one per arena."""
    plan = store.read_plan()
    scores = read_scores(store)
    columns = tuple(
        {**column, "metric": metric["name"], "version": metric["version"]}
        for metric in plan["metrics"]
        for column in metric["columns"]
    )
    return [_table(arena, scores[scores["arena"] == arena["title"]], columns, store) for arena in plan["arenas"]]


def _table(arena: dict[str, Any], scores: pd.DataFrame, columns: tuple[dict[str, Any], ...], store: Store) -> Table:
    values = {
        explainer["title"]: {c["name"]: _aggregate(scores, explainer["title"], c) for c in columns}
        for explainer in arena["explainers"]
    }
    headline = [c for c in columns if c["headline"] and any(values[t][c["name"]] is not None for t in values)]
    ranked = [e["title"] for e in arena["explainers"] if e["scope"] == "post-hoc"]
    ranks = _ranks(values, ranked, headline)
    places = {title: place for place, title in enumerate(sorted(ranks, key=lambda t: (ranks[t], t)), start=1)}
    standings = []
    for explainer in arena["explainers"]:
        title = explainer["title"]
        clips, degenerate, missing = _counts(explainer, store)
        above = _above_control(scores, title, headline) if title in ranks else ""
        standings.append(
            Standing(
                places.get(title),
                title,
                explainer["scope"],
                ranks.get(title),
                above,
                clips,
                degenerate,
                missing,
                values[title],
            )
        )
    standings.sort(key=lambda s: (s.place is None, s.place or 0, s.scope == "control", s.explainer))
    return Table(arena["title"], columns, tuple(standings))


def _select(scores: pd.DataFrame, explainer: str, column: dict[str, Any]) -> pd.DataFrame:
    chosen = (scores["explainer"] == explainer) & (scores["column"] == column["name"])
    return scores[chosen & (scores["metric"] == column["metric"])].set_index("row")


def _aggregate(scores: pd.DataFrame, explainer: str, column: dict[str, Any]) -> float | None:
    values = _select(scores, explainer, column)["value"].dropna().to_numpy()
    if not len(values):
        return None
    named: dict[str, Callable[[Any], Any]] = {"mean": np.mean, "median": np.median}
    function = named.get(column["aggregate"]) or load_target(column["aggregate"], what=f"column {column['name']!r}")
    result = float(function(values))
    return result if math.isfinite(result) else None


def _ranks(
    values: dict[str, dict[str, float | None]], ranked: list[str], headline: list[dict[str, Any]]
) -> dict[str, float]:
    if not ranked or not headline:
        return {}
    scores = np.array([[_nan(values[title][c["name"]]) for c in headline] for title in ranked])
    ranks = mean_ranks(scores, [c["direction"] == "higher" for c in headline])
    return {title: float(rank) for title, rank in zip(ranked, ranks, strict=True) if not math.isnan(rank)}


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _above_control(scores: pd.DataFrame, title: str, headline: list[dict[str, Any]]) -> str:
    """``beaten/all``: headline columns on which a method beats every yardstick, paired over clips."""
    present = set(scores["explainer"])
    yardsticks = [name for name in (*YARDSTICKS, f"{SHUFFLED}: {title}") if name in present]
    if not yardsticks:
        return ""
    beaten = 0
    for column in headline:
        own = _select(scores, title, column)
        sign = 1.0 if column["direction"] == "higher" else -1.0
        beaten += all(_beats(own, _select(scores, name, column)["value"], sign) for name in yardsticks)
    return f"{beaten}/{len(headline)}"


def _beats(own: pd.DataFrame, other: pd.Series, sign: float) -> bool:
    difference = sign * (own["value"] - other.reindex(own.index)).to_numpy()
    low, _ = group_bootstrap(difference, own["group"].tolist())
    return low > 0


def _counts(explainer: dict[str, Any], store: Store) -> tuple[int, int, int]:
    cells = [store.read_cell("explain", cell["explain"]) for cell in explainer["cells"]]
    rows = [row for cell in cells if cell and cell["status"] == "ok" for row in cell["rows"]]
    failed = sum(1 for cell in cells if cell is None or cell["status"] == "failed")
    return len(rows), sum(row["degenerate"] for row in rows), failed


def as_json(tables: list[Table]) -> str:
    """For machines."""
    return json.dumps({"schema": 1, "tables": [asdict(table) for table in tables]}, indent=1) + "\n"


def as_csv(tables: list[Table]) -> str:
    """One line per arena and explainer; values at full precision."""
    names = list(dict.fromkeys(column["name"] for table in tables for column in table.columns))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    fixed = ["arena", "place", "explainer", "scope", "mean_rank", "above_control", "clips", "degenerate", "failed"]
    writer.writerow([*fixed, *names])
    for table in tables:
        for line in table.standings:
            facts = [line.place, line.explainer, line.scope, line.mean_rank, line.above_control]
            counts = [line.clips, line.degenerate, line.missing]
            writer.writerow([table.arena, *facts, *counts, *(line.values.get(name) for name in names)])
    return buffer.getvalue()


def as_markdown(tables: list[Table]) -> str:
    """GitHub tables, headline first, own-mask scores second."""
    return "\n".join(f"## {table.arena}\n\n" + "\n".join(_sections(table, _markdown_rows)) for table in tables)


def as_text(tables: list[Table]) -> str:
    """For a terminal."""
    return "\n".join(
        f"{table.arena}\n{'=' * len(table.arena)}\n" + "\n".join(_sections(table, _text_rows)) for table in tables
    )


def _sections(table: Table, lay_out: Callable[[list[list[str]]], str]) -> list[str]:
    """The headline table, then one per metric whose columns are not headline."""
    sections = []
    headline = [c for c in table.columns if c["headline"]]
    if headline:
        facts = [
            [str(s.place or "–"), s.explainer, _show(s.mean_rank, 2), s.above_control or "–"] for s in table.standings
        ]
        head = ["#", "explainer", "mean rank", "above control"]
        sections.append("Headline (ranked; – is a control)\n\n" + _grid(table, head, facts, headline, lay_out))
    for metric in dict.fromkeys(c["metric"] for c in table.columns if not c["headline"]):
        chosen = [c for c in table.columns if c["metric"] == metric and not c["headline"]]
        facts = [[str(s.place or "–"), s.explainer] for s in table.standings]
        sections.append(f"{metric} (not ranked)\n\n" + _grid(table, ["#", "explainer"], facts, chosen, lay_out))
    notes = [
        f"{s.explainer}: {s.degenerate} of {s.clips} maps point nowhere"
        for s in table.standings
        if s.degenerate and s.scope != "control"
    ] + [f"{s.explainer}: {s.missing} chunks failed" for s in table.standings if s.missing]
    return [*sections, *([f"Notes: {'; '.join(notes)}.\n"] if notes else [])]


def _grid(
    table: Table,
    head: list[str],
    facts: list[list[str]],
    columns: list[dict[str, Any]],
    lay_out: Callable[[list[list[str]]], str],
) -> str:
    arrows = {"higher": " ↑", "lower": " ↓", "neither": ""}
    names = [c["name"] + arrows[c["direction"]] for c in columns]
    rows = [
        [*fact, *(_show(standing.values[c["name"]], 3) for c in columns)]
        for fact, standing in zip(facts, table.standings, strict=True)
    ]
    return lay_out([[*head, *names], *rows])


def _show(value: float | None, digits: int) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.{digits}f}"


def _markdown_rows(rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "| " + " | ".join("---" if index < 2 else "---:" for index in range(len(rows[0]))) + " |"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])]) + "\n"


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
