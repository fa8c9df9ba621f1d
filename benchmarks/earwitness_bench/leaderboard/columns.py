"""Columns of metrics, as the plan of a run names them, and the scores in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earwitness.specs import load_target
from earwitness_bench.arena_table import ABSENT, FAILED, SCORED, SKIPPED, ArenaTable, Series
from earwitness_bench.statistics.groups import Floats
from earwitness_bench.statistics.intervals import Aggregate
from earwitness_bench.tabulation import json_number

Column = dict[str, Any]
"""As in a metric's spec, with ``metric`` and ``version``, and ``title``: the column's name, or ``metric:column`` where
two metrics have a column of that name."""


def columns_of(plan: dict[str, Any]) -> tuple[Column, ...]:
    """All columns of a run, in the order of its suite."""
    often = Counter(column["name"] for metric in plan["metrics"] for column in metric["columns"])
    return tuple(
        {
            **column,
            "title": column["name"] if often[column["name"]] == 1 else f"{metric['name']}:{column['name']}",
            "metric": metric["name"],
            "version": metric["version"],
        }
        for metric in plan["metrics"]
        for column in metric["columns"]
    )


def sign_of(column: Column) -> float:
    """1 where higher is better, -1 where lower is, 0 where nothing is."""
    return {"higher": 1.0, "lower": -1.0, "neither": 0.0}[column["direction"]]


def aggregate_of(column: Column) -> Aggregate | None:
    """The function from a column's rows to one number; None for the mean, which statistics have a short way for.

    Raises
    ------
    PluginError
        It cannot be imported.
    """
    if column["aggregate"] == "mean":
        return None
    if column["aggregate"] == "median":
        return np.median
    found: Callable[[Any], Any] = load_target(column["aggregate"], what=f"column {column['name']!r}")
    return lambda rows: float(found(rows))


class ArenaScores:
    """The scores of one arena.

    Parameters
    ----------
    table : ArenaTable
    """

    def __init__(self, table: ArenaTable) -> None:
        self._table = table
        n = len(table.rows)
        self._nothing = Series(np.full(n, math.nan), np.full(n, ABSENT, np.uint8))

    def _series(self, explainer: str, column: Column) -> Series:
        """An explainer's rows in a column; all absent where it was not run."""
        return self._table.series.get((explainer, column["metric"], column["name"]), self._nothing)

    def counts(self, explainer: str, column: Column) -> tuple[int, int, int, int]:
        """How many rows are scored, skipped, failed; and how many of the scored ones have a map that points nowhere."""
        kinds = self._series(explainer, column).kinds
        scored = kinds == SCORED
        degenerate = scored & self._table.explained(explainer).degenerate
        return int(scored.sum()), int((kinds == SKIPPED).sum()), int((kinds == FAILED).sum()), int(degenerate.sum())

    def explained(self, explainer: str) -> tuple[int, int, int, int]:
        """How many rows were explained, how many of those maps point nowhere, how many failed, and were skipped."""
        found = self._table.explained(explainer)
        done = found.kinds == SCORED
        degenerate = int((done & found.degenerate).sum())
        return int(done.sum()), degenerate, int((found.kinds == FAILED).sum()), int((found.kinds == SKIPPED).sum())

    @property
    def missing(self) -> int:
        """Cells that are not there yet."""
        return self._table.missing

    @property
    def accuracy(self) -> float | None:
        """Share of the rows whose explained class is one of the clip's; None where no clip's classes are known."""
        known = self._table.right[self._table.right >= 0]
        return float(known.mean()) if len(known) else None

    def is_skipped(self, explainer: str, column: Column) -> bool:
        """Whether an explainer was run, and a column does not apply to any of its clips."""
        kinds = self._series(explainer, column).kinds
        there = kinds[kinds != ABSENT]
        return bool(len(there)) and bool((there == SKIPPED).all())

    def matrix(self, explainers: Sequence[str], column: Column) -> tuple[Floats, NDArray[np.int64]]:
        """Values of several explainers on the same clips.

        Returns
        -------
        ndarray (n, explainers), float
            Over all rows that one of them has come to; NaN where there is no score.
        ndarray (n,), int64
            Source recording of each, as a number.
        """
        if not explainers:
            return np.empty((0, 0)), np.empty(0, np.int64)
        there = self.come_to(explainers, column)
        found = [self._series(explainer, column).values[there] for explainer in explainers]
        return np.stack(found, 1), self._table.groups[there]

    def come_to(self, explainers: Sequence[str], column: Column) -> NDArray[np.bool_]:
        """Which rows of the arena one of several explainers has come to in a column."""
        came: NDArray[np.bool_] = np.zeros(len(self._table.rows), np.bool_)
        for explainer in explainers:
            came |= self._series(explainer, column).kinds != ABSENT
        return came

    def aggregate(self, explainer: str, column: Column) -> float | None:
        """One number for an explainer; None where nothing was scored or the number is not finite."""
        values = self._series(explainer, column).values
        values = np.asarray(values[~np.isnan(values)])
        if not len(values):
            return None
        return json_number((aggregate_of(column) or np.mean)(values))
