"""What a report says of each clip, explainer and curve, gathered from the results."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from earwitness.artifacts import digest_of
from earwitness_bench.leaderboard.columns import Column, columns_of
from earwitness_bench.results import read_scores
from earwitness_bench.store import Store

NOT_ASKED = "skipped: not part of the listening test"
"""Of a clip that no rater was to hear: it lacks nothing."""


@dataclass(frozen=True)
class Row:
    """A clip and the class of it that is explained.

    Attributes
    ----------
    name : str
        The clip's identity, with the class where a clip has several.
    labels : tuple of str
        Its classes; none if they are not known.
    target : str
        The explained class.
    chunk : int
    fingerprint : str
        Of the recording; empty where it was not kept.
    """

    name: str
    group: str
    labels: tuple[str, ...]
    target: str
    chunk: int
    fingerprint: str = ""

    @property
    def decision(self) -> str:
        """Whether the explained class is one of the clip's."""
        if not self.labels:
            return "unknown"
        return "right" if self.target in self.labels else "wrong"


@dataclass(frozen=True)
class Result:
    """What became of a row with one explainer.

    Attributes
    ----------
    outcome : str
        ``explained``, ``skipped: …`` or ``failed: …``.
    degenerate : bool
        The map points nowhere.
    scores : dict of str to float or None
        By the columns' titles.
    outcomes : dict of str to str
        By the same: ``scored``, ``skipped: …`` or ``failed: …``.
    """

    outcome: str
    degenerate: bool
    scores: dict[str, float | None]
    outcomes: dict[str, str]

    @property
    def kind(self) -> str:
        """For a filter: the worst that happened to it."""
        kinds = {said.partition(":")[0] for said in (self.outcome, *self.outcomes.values()) if said != NOT_ASKED}
        for kind in ("failed", "skipped"):
            if kind in kinds:
                return kind
        return "points nowhere" if self.degenerate else "scored"


@dataclass(frozen=True)
class Lines:
    """A column's curves, averaged over clips.

    Attributes
    ----------
    column : dict
    x : tuple of float
    y : dict of str to tuple of float
        By explainer.
    clips : int
        At most behind a curve.
    """

    column: Column
    x: tuple[float, ...]
    y: dict[str, tuple[float, ...]]
    clips: int


@dataclass(frozen=True)
class Trouble:
    """A reason why something has no score.

    Attributes
    ----------
    explainer : str
    metric : str
        ``explanation`` where there was nothing to score.
    kind : str
        ``failed`` or ``skipped``.
    reason : str
    rows : tuple of str
        Which rows.
    """

    explainer: str
    metric: str
    kind: str
    reason: str
    rows: tuple[str, ...]


@dataclass
class ArenaFacts:
    """Everything of an arena, by explainer and row."""

    title: str
    rows: dict[str, Row] = field(default_factory=dict)
    results: dict[str, dict[str, Result]] = field(default_factory=dict)
    lines: list[Lines] = field(default_factory=list)
    effort: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By explainer: seconds for all explanations, and the largest memory in MB."""
    opinions: dict[str, Any] | None = None
    """What raters said in a listening test (see ``listening_test.outcome_of``)."""

    @property
    def data_checksum(self) -> str:
        """Of all recordings, whatever their order."""
        return digest_of(sorted((row.name, row.fingerprint) for row in self.rows.values()))

    def troubles(self) -> list[Trouble]:
        """All reasons, failures first, the most frequent first."""
        found: dict[tuple[str, str, str, str], list[str]] = {}
        for explainer, results in self.results.items():
            for row, result in results.items():
                for where, said in _reasons(result):
                    kind, _, reason = said.partition(": ")
                    found.setdefault((kind, explainer, where, reason), []).append(row)
        listed = [Trouble(e, m, k, r, tuple(dict.fromkeys(rows))) for (k, e, m, r), rows in found.items()]
        return sorted(listed, key=lambda t: (t.kind, -len(t.rows), t.explainer, t.metric))


def gather(store: Store) -> list[ArenaFacts]:
    """The facts of each arena of the last run."""
    from earwitness_bench.listening_test import outcome_of  # which writes its pages with the looks of a report

    opinions = outcome_of(store)
    plan = store.read_plan()
    titles = {(c["metric"], c["name"]): c["title"] for c in columns_of(plan)}
    scores = read_scores(store)
    found = []
    for arena in plan["arenas"]:
        facts = ArenaFacts(arena["title"])
        if opinions and opinions["arena"] == facts.title:
            facts.opinions = opinions
        own = scores[scores["arena"] == arena["title"]]
        by_row: dict[tuple[str, str], dict[str, tuple[float | None, str]]] = {}
        fields = (own[name] for name in ("explainer", "row", "metric", "column", "value", "outcome"))
        for explainer, row, metric, column, value, outcome in zip(*fields, strict=True):
            number = None if math.isnan(value) else float(value)
            by_row.setdefault((explainer, row), {})[titles[metric, column]] = (number, str(outcome))
        for explainer in arena["explainers"]:
            _enter(facts, explainer, store, by_row)
        facts.lines = list(_lines(plan, arena, store))
        found.append(facts)
    return found


def _enter(
    facts: ArenaFacts,
    explainer: dict[str, Any],
    store: Store,
    by_row: dict[tuple[str, str], dict[str, tuple[float | None, str]]],
) -> None:
    title = explainer["title"]
    results = facts.results.setdefault(title, {})
    seconds = memory = 0.0
    for chunk, keys in enumerate(explainer["cells"]):
        cell = store.read_cell("explain", keys["explain"])
        if cell is None:
            continue
        seconds += cell.get("seconds") or 0.0
        memory = max(memory, cell.get("peak_memory_mb") or 0.0)
        for row in cell["rows"]:
            name = row["row"]
            if name not in facts.rows or (not facts.rows[name].target and row["target"]):
                facts.rows[name] = Row(
                    name, row["group"], tuple(row["labels"]), row["target"] or "", chunk, row.get("fingerprint") or ""
                )
            said = by_row.get((title, name), {})
            results[name] = Result(
                row["outcome"],
                bool(row["degenerate"]),
                {column: value for column, (value, _) in said.items()},
                {column: outcome for column, (_, outcome) in said.items()},
            )
    facts.effort[title] = (seconds, memory)


def _reasons(result: Result) -> Iterator[tuple[str, str]]:
    if result.outcome != "explained":
        yield "explanation", result.outcome
        return
    for column, said in result.outcomes.items():
        if said != "scored":
            yield column, said


def _lines(plan: dict[str, Any], arena: dict[str, Any], store: Store) -> Iterator[Lines]:
    """Curves of every column that has them, on the clips that each explainer has."""
    by_metric = {metric["name"]: number for number, metric in enumerate(plan["metrics"])}
    kept: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for explainer in arena["explainers"]:
        for keys in explainer["cells"]:
            for name, number in by_metric.items():
                cell = store.read_cell("score", keys["scores"][number])
                for column, curve in ((cell or {}).get("curves") or {}).items():
                    kept.setdefault((name, column), {}).setdefault(explainer["title"], []).append(curve)
    for column in columns_of(plan):
        own = kept.get((column["metric"], column["name"]), {})
        grids = Counter(tuple(curve["x"]) for curves in own.values() for curve in curves)
        if not grids:
            continue
        ((x, _),) = grids.most_common(1)  # clips of another length may have other steps: they enter no mean
        y = {
            title: np.array([row for c in curves if tuple(c["x"]) == x for row in c["y"]], dtype=np.float64)
            for title, curves in own.items()
        }
        whole = {title: rows[~np.isnan(rows).any(1)] for title, rows in y.items() if rows.size}
        means = {title: tuple(rows.mean(0).tolist()) for title, rows in whole.items() if len(rows)}
        if means:
            yield Lines(column, x, means, max(map(len, whole.values())))
