"""An arena's results as aligned arrays: what statistics need of millions of cells, in one pass and bounded memory.

A score takes nine bytes. Where all of them take more than :data:`IN_MEMORY_BYTES`, they lie in a temporary file that is
mapped into memory: the system holds what is in use, and no more than it has.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from earwitness.errors import StoreError
from earwitness_bench.results import PARQUET, check_metrics, is_right, missing_metadata, units_of
from earwitness_bench.statistics.groups import Floats
from earwitness_bench.store import Store

IN_MEMORY_BYTES = 2**28

ABSENT, SCORED, SKIPPED, FAILED, OTHER = range(5)
"""What became of a row: the first word of its outcome. To an absent one the run has not come."""

_KINDS = {"scored": SCORED, "explained": SCORED, "skipped": SKIPPED, "failed": FAILED}

Kinds = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Series:
    """An explainer's scores in a column, over all rows of the arena.

    Attributes
    ----------
    values : ndarray (n,), float64
        NaN where there is none.
    kinds : ndarray (n,), uint8
        What became of each row.
    """

    values: Floats
    kinds: Kinds


@dataclass(frozen=True, eq=False)
class Explanations:
    """What became of an explainer's rows: ``kinds`` (n,), uint8; whether the map points nowhere: (n,), bool."""

    kinds: Kinds
    degenerate: NDArray[np.bool_]


@dataclass(eq=False)
class ArenaTable:
    """One arena.

    Attributes
    ----------
    rows : dict of str to int
        The place of each row that some explainer has come to; in ascending order of the names.
    groups : ndarray (n,), int64
        Source recording of each row, as a number in the order of their names.
    right : ndarray (n,), int8
        1 where the explained class is one of the clip's, 0 where it is not, -1 where one of the two is not known.
    series : dict of (explainer, metric, column) to Series
    explanations : dict of str to Explanations
        By explainer.
    missing : int
        Cells that are not there yet.
    """

    rows: dict[str, int]
    groups: NDArray[np.int64]
    right: NDArray[np.int8]
    series: dict[tuple[str, str, str], Series] = field(default_factory=dict)
    explanations: dict[str, Explanations] = field(default_factory=dict)
    missing: int = 0
    _shelf: _Shelf = field(default_factory=lambda: _Shelf(0, 0))

    @classmethod
    def of(cls, facts: dict[str, tuple[str, int]], n_series: int) -> ArenaTable:
        """An empty one: the group of each row, and whether it is right; and how many series there will be."""
        names = sorted(facts)
        _, places = np.unique(np.array([facts[name][0] for name in names], dtype=str), return_inverse=True)
        right = np.array([facts[name][1] for name in names], dtype=np.int8)
        rows = {name: place for place, name in enumerate(names)}
        return cls(rows, places.astype(np.int64), right, _shelf=_Shelf(n_series, len(rows)))

    def places(self, rows: Sequence[str]) -> NDArray[np.intp]:
        """Where these rows are.

        Raises
        ------
        StoreError
            One is not.
        """
        try:
            return np.array([self.rows[row] for row in rows], dtype=np.intp)
        except KeyError as row:
            raise StoreError(f"The results of {row} are of another chunk. Was a cell copied by hand?") from None

    def explained(self, title: str) -> Explanations:
        """What became of an explainer's rows, to be filled in."""
        n = len(self.rows)
        return self.explanations.setdefault(title, Explanations(np.zeros(n, np.uint8), np.zeros(n, np.bool_)))

    def enter(
        self, key: tuple[str, str, str], places: NDArray[np.intp], values: Sequence[float | None], outcomes: list[str]
    ) -> None:
        """Enter some rows of an explainer, metric and column.

        Raises
        ------
        StoreError
            One of them is there; or there are not as many values, and outcomes, as rows.
        """
        if not len(places) == len(values) == len(outcomes):
            raise StoreError(
                f"Results of {list(key)} are of {len(places)} rows, with {len(values)} values and {len(outcomes)} "
                "outcomes. Was a cell changed by hand?"
            )
        if key not in self.series:
            self.series[key] = self._shelf.series()
        found = self.series[key]
        if found.kinds[places].any() or len(set(places.tolist())) < len(places):
            raise StoreError(f"Results of {list(key)} stand twice. Was a cell copied by hand?")
        given = np.array(values, dtype=np.float64)
        found.values[places] = given
        found.kinds[places] = np.where(np.isnan(given), kinds_of(outcomes), SCORED)


class _Shelf:
    """Room for so many series of n rows: in memory, or in a temporary file that goes when nobody looks at it.

    All series lie in two arrays, because each array in a file keeps a descriptor open, and a process has about a
    thousand of them.
    """

    def __init__(self, n_series: int, n: int) -> None:
        on_disk = 9 * n_series * n > IN_MEMORY_BYTES
        self._values = _room(np.dtype(np.float64), (n_series, n), on_disk)
        self._kinds = _room(np.dtype(np.uint8), (n_series, n), on_disk)
        self._taken = 0

    def series(self) -> Series:
        """One more, without scores."""
        place, self._taken = self._taken, self._taken + 1
        self._values[place] = np.nan
        return Series(self._values[place], self._kinds[place])


def _room(dtype: np.dtype[Any], shape: tuple[int, int], on_disk: bool) -> NDArray[Any]:
    """Zeros."""
    if not on_disk or not math.prod(shape):
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def kinds_of(outcomes: Sequence[str]) -> Kinds:
    """The first word of each outcome, as a number."""
    return np.array([_KINDS.get(str(said).partition(":")[0], OTHER) for said in outcomes], dtype=np.uint8)


def read_arena(store: Store, plan: dict[str, Any], arena: dict[str, Any]) -> ArenaTable:
    """One arena of a run: from its cells; from ``scores.parquet`` where the folder has no cells.

    Raises
    ------
    StoreError
        A row stands twice; or a metric or explainer is there in two versions, or with two seeds.
    """
    check_metrics(plan)
    if (store.folder / "cells").is_dir() or not (store.folder / PARQUET).is_file():
        return _from_cells(store, plan, arena)
    return _from_parquet(store, arena)


def _from_cells(store: Store, plan: dict[str, Any], arena: dict[str, Any]) -> ArenaTable:
    n_columns = sum(len(metric["columns"]) for metric in plan["metrics"])
    table = ArenaTable.of(_facts(store, arena), n_columns * len(arena["explainers"]))
    for explainer in arena["explainers"]:
        explanations = table.explained(explainer["title"])
        for unit in units_of(store, plan, explainer):
            table.missing += unit.missing
            if unit.explained is None:
                continue
            rows = unit.explained["rows"]
            places = table.places([row["row"] for row in rows])
            explanations.kinds[places] = kinds_of([row["outcome"] for row in rows])
            explanations.degenerate[places] = [bool(row["degenerate"]) for row in rows]
            for metric, score in unit.scores:
                for column, values in score["columns"].items():
                    table.enter((explainer["title"], metric["name"], column), places, values, score["outcomes"])
    return table


def _facts(store: Store, arena: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """The group of each row and whether it is right, as in :class:`ArenaTable`: from the first explainer that knows."""
    facts: dict[str, tuple[str, int]] = {}
    for cells in zip(*(explainer["cells"] for explainer in arena["explainers"]), strict=True):
        for cell in cells:
            explained = store.read_cell("explain", cell["explain"])
            rows = explained["rows"] if explained else ()
            for row in rows:
                _learn(facts, row["row"], str(row["group"]), is_right(row))
            if rows and all(row["target"] is not None for row in rows):
                break
    return facts


def _learn(facts: dict[str, tuple[str, int]], row: str, group: str, right: bool | None) -> None:
    """What one explainer knows of a row is kept when the next one does not know it, as where it could not be fitted."""
    if row not in facts or facts[row][1] < 0:
        facts[row] = group, -1 if right is None else int(right)


def _from_parquet(store: Store, arena: dict[str, Any]) -> ArenaTable:
    with pq.ParquetFile(store.folder / PARQUET) as file:
        own = [n for n in range(file.num_row_groups) if _arena_of(file, n) == arena["title"]]
        facts: dict[str, tuple[str, int]] = {}
        for n in own:
            rows = file.read_row_group(n, columns=["row", "group", "right"]).to_pydict()
            for row, group, right in zip(rows["row"], rows["group"], rows["right"], strict=True):
                _learn(facts, row, group, right)
        table = ArenaTable.of(facts, sum(_columns_in(file, n) for n in own))
        for n in own:
            _enter_row_group(table, file, n)
        table.missing = missing_metadata(file).get(arena["title"], 0)
    for explainer in arena["explainers"]:
        table.explained(explainer["title"])
    return table


def _enter_row_group(table: ArenaTable, file: pq.ParquetFile, number: int) -> None:
    """One explainer and metric, as :func:`earwitness_bench.results.write_parquet` writes them."""
    for (title, metric, column), rows in (
        file.read_row_group(number).to_pandas().groupby(["explainer", "metric", "column"], sort=False)
    ):
        places = table.places(rows["row"].tolist())
        outcomes = rows["outcome"].tolist()
        table.enter((title, metric, column), places, rows["value"].to_numpy(), outcomes)
        explanations = table.explained(title)
        known = rows["degenerate"].notna().to_numpy(dtype=np.bool_)
        explanations.kinds[places] = np.where(known, SCORED, kinds_of(outcomes))
        explanations.degenerate[places] = (rows["degenerate"] == True).to_numpy(dtype=np.bool_)  # noqa: E712 - or None


def _arena_of(file: pq.ParquetFile, number: int) -> str:
    place = file.schema_arrow.get_field_index("arena")
    return str(file.metadata.row_group(number).column(place).statistics.min)


def _columns_in(file: pq.ParquetFile, number: int) -> int:
    return len(file.read_row_group(number, columns=["column"])["column"].unique())
