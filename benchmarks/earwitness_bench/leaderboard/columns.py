"""Columns of metrics, as the plan of a run names them, and the scores in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from earwitness.specs import load_target
from earwitness_bench.statistics.groups import Floats
from earwitness_bench.statistics.intervals import Aggregate

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
    scores : DataFrame
        Rows of :func:`earwitness_bench.results.read_scores` of that arena.
    """

    def __init__(self, scores: pd.DataFrame) -> None:
        keys = ["explainer", "metric", "column"]
        self._rows: dict[tuple[str, str, str], pd.DataFrame] = {
            key: rows.set_index("row") for key, rows in scores.groupby(keys, sort=False)
        }
        self._nothing = scores.iloc[:0].set_index("row")

    def rows(self, explainer: str, column: Column) -> pd.DataFrame:
        """An explainer's rows in a column; none where it was not run."""
        return self._rows.get((explainer, column["metric"], column["name"]), self._nothing)

    def is_skipped(self, explainer: str, column: Column) -> bool:
        """Whether an explainer was run, and a column does not apply to any of its clips."""
        outcomes = self.rows(explainer, column)["outcome"]
        return bool(len(outcomes)) and bool(outcomes.str.startswith("skipped").all())

    def matrix(self, explainers: Sequence[str], column: Column) -> tuple[Floats, list[str]]:
        """Values of several explainers on the same clips.

        Returns
        -------
        ndarray (n, explainers), float
            Over all rows that one of them has; NaN where there is no score.
        list of str, length n
            Source recording of each.
        """
        frames = [self.rows(explainer, column) for explainer in explainers]
        groups = pd.concat([frame["group"] for frame in frames])
        groups = groups[~groups.index.duplicated()].sort_index()
        values = [frame["value"].reindex(groups.index).to_numpy(dtype=np.float64) for frame in frames]
        return np.stack(values, 1) if values else np.empty((0, 0)), groups.astype(str).tolist()

    def aggregate(self, explainer: str, column: Column) -> float | None:
        """One number for an explainer; None where nothing was scored or the number is not finite."""
        values = self.rows(explainer, column)["value"].dropna().to_numpy(dtype=np.float64)
        if not len(values):
            return None
        result = float((aggregate_of(column) or np.mean)(values))
        return result if math.isfinite(result) else None
