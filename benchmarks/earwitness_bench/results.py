"""A run's results as one long table, read from the JSON cells (the truth) and kept as Parquet (derived)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from earwitness.errors import StoreError
from earwitness_bench.drafts import drafted
from earwitness_bench.store import Store

PARQUET = "scores.parquet"

COLUMNS = (
    *("arena", "explainer", "row", "clip_id", "group", "target", "right", "degenerate"),
    *("metric", "version", "column", "value", "outcome"),
)

_TYPES = {"right": pa.bool_(), "degenerate": pa.bool_(), "version": pa.int64(), "value": pa.float64()}
_SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])
_KEYS = ["arena", "explainer", "row", "metric", "column"]
_MISSING = b"earwitness missing cells"


def read_scores(store: Store) -> pd.DataFrame:
    """One row per arena, explainer, clip and metric column of the last run.

    Returns
    -------
    DataFrame
        With :data:`COLUMNS`; ``value`` is NaN where the outcome is not ``"scored"``, ``right`` (the explained class is
        one of the clip's) is None where one of the two is not known, ``degenerate`` (the map points nowhere) is None
        where nothing was explained. Sorted, so equal results give equal tables. About 500 bytes a
        row: for millions of them see :mod:`earwitness_bench.arena_table`.

    Raises
    ------
    StoreError
        A row stands twice; or a metric or explainer is there in two versions, or with two seeds.
    """
    plan = store.read_plan()
    check_metrics(plan)
    return _sorted(
        row
        for arena in plan["arenas"]
        for explainer in arena["explainers"]
        for unit in units_of(store, plan, explainer)
        for metric, score in unit.scores
        for row in _score_rows(arena["title"], explainer["title"], unit.rows, metric, score)
    )


def _sorted(rows: Iterator[tuple[Any, ...]]) -> pd.DataFrame:
    table = pd.DataFrame(list(rows), columns=list(COLUMNS)).astype({"value": "float64"})
    twice = table[table.duplicated(_KEYS)]
    if len(twice):
        raise StoreError(f"These results stand twice: {twice.iloc[0][_KEYS].tolist()}. Was a cell copied by hand?")
    return table.sort_values(_KEYS, kind="stable", ignore_index=True)


def write_parquet(store: Store) -> None:
    """Derive ``scores.parquet`` from the cells: a row group for each arena, explainer and metric.

    One row group is held at a time, so memory does not grow with the number of explainers and metrics.

    Raises
    ------
    StoreError
        As :func:`read_scores` says; or it cannot be written, and is as it was.
    """
    plan = store.read_plan()
    check_metrics(plan)
    with drafted(store.folder / PARQUET) as draft:
        _write_groups(store, plan, draft.file)


def _write_groups(store: Store, plan: dict[str, Any], file: Any) -> None:
    missing: dict[str, int] = {}
    written: set[tuple[str, str, str]] = set()
    with pq.ParquetWriter(file, _SCHEMA) as writer:
        for arena in plan["arenas"]:
            missing[arena["title"]] = missing_in(store, arena)
            for explainer in arena["explainers"]:
                for number, metric in enumerate(plan["metrics"]):
                    key = (arena["title"], explainer["title"], metric["name"])
                    if key in written:
                        raise StoreError(f"These results stand twice: {list(key)}. Was a cell copied by hand?")
                    written.add(key)
                    table = _sorted(_metric_rows(store, plan, arena, explainer, number))
                    if len(table):
                        table = table.astype({"right": "boolean", "degenerate": "boolean"})
                        writer.write_table(pa.Table.from_pandas(table, _SCHEMA, preserve_index=False), len(table))
        writer.add_key_value_metadata({_MISSING: json.dumps(missing).encode()})


def _metric_rows(
    store: Store, plan: dict[str, Any], arena: dict[str, Any], explainer: dict[str, Any], number: int
) -> Iterator[tuple[Any, ...]]:
    for unit in units_of(store, plan, explainer, number):
        for metric, score in unit.scores:
            yield from _score_rows(arena["title"], explainer["title"], unit.rows, metric, score)


def missing_metadata(file: pq.ParquetFile) -> dict[str, int]:
    """How many cells of each arena were missing when a Parquet file was derived."""
    found: dict[str, int] = json.loads((file.metadata.metadata or {}).get(_MISSING, b"{}"))
    return found


def is_right(row: dict[str, Any]) -> bool | None:
    """Whether the explained class of a row is one of the clip's; None where one of the two is not known."""
    known = row.get("labels") and row["target"] is not None
    return row["target"] in row["labels"] if known else None


def missing_in(store: Store, arena: dict[str, Any]) -> int:
    """How many cells of an arena of the plan are not there yet: a run that was stopped and not taken up again."""
    missing = 0
    for cell in (cell for explainer in arena["explainers"] for cell in explainer["cells"]):
        explained = store.read_cell("explain", cell["explain"])
        if explained is None:
            missing += 1 + len(cell["scores"])
        elif explained["status"] == "ok":
            missing += sum(store.read_cell("score", key) is None for key in cell["scores"])
    return missing


@dataclass(frozen=True)
class UnitCells:
    """What is there of one explainer on one chunk.

    Attributes
    ----------
    explained : dict or None
        The explanation's cell.
    scores : tuple of (dict, dict)
        Metrics as the plan has them, and their cells; also where nothing was explained, and the reason is theirs too.
    missing : int
        Cells that are not there yet.
    """

    explained: dict[str, Any] | None
    scores: tuple[tuple[dict[str, Any], dict[str, Any]], ...]
    missing: int

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Of the explanation."""
        found: list[dict[str, Any]] = self.explained["rows"] if self.explained else []
        return found


def units_of(
    store: Store, plan: dict[str, Any], explainer: dict[str, Any], metric: int | None = None
) -> Iterator[UnitCells]:
    """An explainer's units, chunk by chunk, each checked against the plan; with all metrics or with one of them."""
    seed = plan.get("suite", {}).get("seed")
    wanted = range(len(plan["metrics"])) if metric is None else (metric,)
    for cell in explainer["cells"]:
        explained = store.read_cell("explain", cell["explain"])
        if explained is None:
            yield UnitCells(None, (), 1 + len(cell["scores"]))
            continue
        _check_origin(explained, explainer, seed)
        scores, missing = [], 0
        for number in wanted:
            own, key = plan["metrics"][number], cell["scores"][number]
            score = _nothing(explained, own) or store.read_cell("score", key)
            if score is None:
                missing += 1
            else:
                _check_version(score, own)
                scores.append((own, score))
        yield UnitCells(explained, tuple(scores), missing)


def check_metrics(plan: dict[str, Any]) -> None:
    """A plan names each metric once: never two versions, or two sets of parameters, in one table."""
    by_name: dict[str, list[Any]] = {}
    for metric in plan["metrics"]:
        by_name.setdefault(metric["name"], []).append(metric["version"])
    for name, versions in by_name.items():
        if len(versions) > 1:
            raise StoreError(
                f"This run holds {name} {len(versions)} times, in the versions {', '.join(map(str, versions))}: tables "
                "never mix them. Give `earwitness bench` a suite that names it once; what is there is found again."
            )


def _check_version(score: dict[str, Any], metric: dict[str, Any]) -> None:
    found = score.get("metric", metric)
    if (found["name"], found.get("version", metric["version"])) != (metric["name"], metric["version"]):
        raise StoreError(
            f"A result of {found['name']} version {found.get('version')} stands where the run has {metric['name']} "
            f"version {metric['version']}: tables never mix them. Was a cell copied by hand? Give the same "
            "`earwitness bench` again, into a new folder."
        )


def _check_origin(explained: dict[str, Any], explainer: dict[str, Any], seed: int | None) -> None:
    """That an explanation is by the explainer of the run, in its version and with its parameters, and of its seed."""
    origin = explained.get("provenance") or {}
    if "explainer" in origin and origin["explainer"] != explainer["identity"]:
        differs = "another explainer, version or parameter"
    elif seed is not None and origin.get("seed", seed) != seed:
        differs = f"the seed {origin['seed']}, where the run has {seed}"
    else:
        return
    raise StoreError(
        f"A result of {explainer['title']} is of {differs}: tables never mix them. Was a cell copied by hand? Give the "
        "same `earwitness bench` again, into a new folder."
    )


def _nothing(explained: dict[str, Any], metric: dict[str, Any]) -> dict[str, Any] | None:
    """The scores of a chunk that was not explained: no values, and the reason for every row."""
    if explained["status"] == "ok":
        return None
    n_rows = len(explained["rows"])
    reason = explained["reason"] if explained["status"] == "skipped" else explained["error"]
    columns = {column["name"]: [None] * n_rows for column in metric["columns"]}
    return {"columns": columns, "outcomes": [f"{explained['status']}: {reason}"] * n_rows}


def _score_rows(
    arena: str, explainer: str, rows: list[dict[str, Any]], metric: dict[str, Any], score: dict[str, Any]
) -> Iterator[tuple[Any, ...]]:
    for column, values in score["columns"].items():
        for row, value, outcome in zip(rows, values, score["outcomes"], strict=True):
            said = "scored" if value is not None else outcome
            clip = (row["row"], row["clip_id"], row["group"], row["target"], is_right(row), row["degenerate"])
            yield (arena, explainer, *clip, metric["name"], metric["version"], column, value, said)
