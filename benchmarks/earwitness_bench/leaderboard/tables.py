"""The leaderboard of each arena."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from earwitness_bench.arena_table import read_arena
from earwitness_bench.leaderboard.columns import ArenaScores, Column, aggregate_of, columns_of, sign_of
from earwitness_bench.leaderboard.controls import is_above, yardsticks_of
from earwitness_bench.leaderboard.differences import Agreement, Difference, agreement, differences
from earwitness_bench.statistics import bootstrap, mean_ranks
from earwitness_bench.store import Store


@dataclass(frozen=True)
class Counts:
    """What became of an explainer's rows in a column.

    Attributes
    ----------
    scored, skipped, failed : int
        They sum to the rows that the run has come to.
    degenerate : int
        Of the scored ones: the map points nowhere.
    """

    scored: int
    skipped: int
    failed: int
    degenerate: int


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
        ``"3/7"``: on how many headline columns it beats noise, loudness, constant gain and its own shuffled maps: the
        paired bootstrap intervals over recordings exclude 0 after Holm. Empty for controls.
    clips, degenerate, failed, skipped : int
        Rows that were explained, and how many of those maps point nowhere; rows whose explanation failed, or to which
        the method does not apply.
    values : dict of str to float or None
        Aggregate of each column, by its title.
    intervals : dict of str to (float, float)
        Of the headline columns: 95 % bootstrap interval over source recordings.
    above : tuple of str
        Titles of the columns, headline or not, on which it is above control.
    counts : dict of str to Counts
        Of each column, by its title.
    fit_seconds : float or None
        What its fit took, and the one from which it started; None where there was none.
    n_parameters : int or None
        How many numbers were fitted, where the method says so.
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
    counts: dict[str, Counts]
    fit_seconds: float | None = None
    n_parameters: int | None = None


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
    differences : tuple of Difference
        Of the ranked methods.
    agreement : Agreement or None
        Of the headline columns.
    missing_cells : int
        Not computed yet: the run was stopped.
    notes : tuple of str
        What a reader should know of the numbers.
    seed : int or None
        Of the run; with the metrics' versions, one for the whole table.
    accuracy : float or None
        Share of the clips, in [0, 1], for which the classifier decides for a class of theirs. None where the clips'
        classes are not known, or other classes than the decided ones are explained.
    """

    arena: str
    columns: tuple[Column, ...]
    standings: tuple[Standing, ...]
    differences: tuple[Difference, ...] = ()
    agreement: Agreement | None = None
    missing_cells: int = 0
    notes: tuple[str, ...] = ()
    seed: int | None = None
    accuracy: float | None = None


def make_tables(store: Store) -> list[Table]:
    """The leaderboards of a run, one per arena.

    Raises
    ------
    StoreError
        The plan is damaged, or the results are not of one version of each metric and explainer, and of one seed.
    """
    plan = store.read_plan()
    columns = columns_of(plan)
    suite = plan.get("suite", {})
    return [
        _Maker(arena, ArenaScores(read_arena(store, plan, arena)), columns).table(suite) for arena in plan["arenas"]
    ]


class _Maker:
    """One arena at work."""

    def __init__(self, arena: dict[str, Any], scores: ArenaScores, columns: tuple[Column, ...]) -> None:
        self.arena, self.scores, self.columns = arena, scores, columns
        self.problems: dict[str, None] = {}
        self.titles = [explainer["title"] for explainer in arena["explainers"]]
        self.values = {title: {c["title"]: self._value(title, c) for c in columns} for title in self.titles}
        self.headline = [
            column
            for column in columns
            if column["headline"]
            and sign_of(column)
            and any(line[column["title"]] is not None for line in self.values.values())
        ]

    def table(self, suite: dict[str, Any]) -> Table:
        ranks = self._ranks([e["title"] for e in self.arena["explainers"] if e["scope"] == "post-hoc"])
        standings = [self._standing(explainer, ranks) for explainer in self.arena["explainers"]]
        standings.sort(key=lambda s: (s.place is None, s.place or 0, s.scope == "control", s.explainer))
        missing = self.scores.missing
        ranked = [title for title in self.titles if title in ranks]
        return Table(
            self.arena["title"],
            self.columns,
            tuple(standings),
            differences(self.scores, ranked, self.headline),
            agreement(self._matrix(ranked), len(ranked), self.headline),
            missing,
            (*_notes(standings, missing), *self.problems),
            suite.get("seed"),
            self.scores.accuracy if suite.get("target") == "predicted" else None,
        )

    def _standing(self, explainer: dict[str, Any], ranks: dict[str, float]) -> Standing:
        title, rank = explainer["title"], ranks.get(explainer["title"])
        above = None if explainer["scope"] == "control" else self._above(title)
        of_headline = {column["title"] for column in self.headline}
        clips, degenerate, failed, skipped = self.scores.explained(title)
        return Standing(
            place=None if rank is None else 1 + sum(other < rank for other in ranks.values()),
            explainer=title,
            scope=explainer["scope"],
            mean_rank=rank,
            above_control="" if above is None else f"{len(of_headline.intersection(above))}/{len(of_headline)}",
            clips=clips,
            degenerate=degenerate,
            failed=failed,
            skipped=skipped,
            values=self.values[title],
            intervals=self._intervals(title),
            above=above or (),
            counts={column["title"]: Counts(*self.scores.counts(title, column)) for column in self.columns},
            fit_seconds=(explainer.get("fit") or {}).get("seconds"),
            n_parameters=(explainer.get("fit") or {}).get("n_parameters"),
        )

    def _value(self, title: str, column: Column) -> float | None:
        try:
            return self.scores.aggregate(title, column)
        except Exception as error:  # a metric's own function: it costs its column, not the table
            self.problems[f"{column['title']} could not be aggregated ({type(error).__name__}: {error})"] = None
            return None

    def _matrix(self, titles: list[str]) -> Any:
        lines = [[self.values[title][c["title"]] for c in self.headline] for title in titles]
        return np.array(lines, dtype=np.float64).reshape(len(titles), len(self.headline))

    def _ranks(self, titles: list[str]) -> dict[str, float]:
        if not titles or not self.headline:
            return {}
        ranks = mean_ranks(self._matrix(titles), [sign_of(c) > 0 for c in self.headline])
        # Rounded, because sums of equal ranks in another order may differ in the last bit, and equal ranks share a
        # place.
        return {t: round(float(rank), 9) for t, rank in zip(titles, ranks, strict=True) if not math.isnan(rank)}

    def _above(self, title: str) -> tuple[str, ...] | None:
        """None where there is nothing to be above, or no score."""
        yardsticks = yardsticks_of(self.arena, title)
        scored = [column for column in self.columns if self.values[title][column["title"]] is not None]
        if not yardsticks or not scored:
            return None
        return tuple(c["title"] for c in scored if self._guarded(c, False, is_above, self.scores, title, yardsticks, c))

    def _intervals(self, title: str) -> dict[str, tuple[float, float]]:
        found = {c["title"]: self._guarded(c, (math.nan, math.nan), self._interval, title, c) for c in self.headline}
        return {name: ends for name, ends in found.items() if not math.isnan(ends[0])}

    def _interval(self, title: str, column: Column) -> tuple[float, float]:
        values, groups = self.scores.matrix([title], column)
        return bootstrap(values[:, 0], groups, aggregate_of(column)).interval()

    def _guarded(self, column: Column, otherwise: Any, function: Any, *arguments: Any) -> Any:
        """A metric's own function may work on all rows and fail on a resample."""
        try:
            return function(*arguments)
        except Exception as error:
            if column["aggregate"] in ("mean", "median"):
                raise
            self.problems[f"{column['title']} could not be resampled ({type(error).__name__}: {error})"] = None
            return otherwise


def _notes(standings: list[Standing], missing_cells: int) -> list[str]:
    notes = [f"{missing_cells} cells are missing: this run is not finished"] if missing_cells else []
    for line in standings:
        rows = line.clips + line.failed + line.skipped
        if line.degenerate and line.scope != "control":
            notes.append(f"{line.explainer}: {line.degenerate} of {line.clips} maps point nowhere")
        if line.failed:
            notes.append(f"{line.explainer}: {line.failed} of {rows} explanations failed")
        if line.skipped:
            notes.append(f"{line.explainer}: does not apply to {line.skipped} of {rows}")
    below = [line.explainer for line in standings if line.above_control.startswith("0/")]
    if any(line.above_control == "0/0" for line in standings):
        notes.append("no column of this suite is a headline, so nothing is ranked")
    elif below and not missing_cells:
        notes.append(f"not above control on any headline column: {', '.join(below)}")
    return notes
