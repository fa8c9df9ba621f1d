"""A run's results as one long table, read from the JSON cells (the truth) and kept as Parquet (derived)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pandas as pd

from earwitness.artifacts import write_atomically
from earwitness.errors import StoreError
from earwitness_bench.store import Store

COLUMNS = (
    *("arena", "explainer", "row", "clip_id", "group", "target", "degenerate"),
    *("metric", "version", "column", "value", "outcome"),
)


def read_scores(store: Store) -> pd.DataFrame:
    """One row per arena, explainer, clip and metric column of the last run.

    Returns
    -------
    DataFrame
        With :data:`COLUMNS`; ``value`` is NaN where the outcome is not ``"scored"``, ``degenerate`` (the map points
        nowhere) is None where nothing was explained. Sorted, so equal results give equal tables.

    Raises
    ------
    StoreError
        A row stands twice; or a metric or explainer is there in two versions, or with two seeds.
    """
    table = pd.DataFrame(list(_rows(store)), columns=list(COLUMNS)).astype({"value": "float64"})
    keys = ["arena", "explainer", "row", "metric", "column"]
    twice = table[table.duplicated(keys)]
    if len(twice):
        raise StoreError(f"These results stand twice: {twice.iloc[0][keys].tolist()}. Was a cell copied by hand?")
    return table.sort_values(keys, kind="stable", ignore_index=True)


def write_parquet(store: Store) -> None:
    """Derive ``scores.parquet`` from the cells."""
    buffer = io.BytesIO()
    read_scores(store).to_parquet(buffer, index=False)
    write_atomically(store.folder / "scores.parquet", buffer.getvalue())


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


def _rows(store: Store) -> Iterator[tuple[Any, ...]]:
    plan = store.read_plan()
    _check_metrics(plan)
    seed = plan.get("suite", {}).get("seed")
    for arena in plan["arenas"]:
        for explainer in arena["explainers"]:
            for cell in explainer["cells"]:
                explained = store.read_cell("explain", cell["explain"])
                if explained is None:
                    continue
                _check_origin(explained, explainer, seed)
                for metric, key in zip(plan["metrics"], cell["scores"], strict=True):
                    score = _nothing(explained, metric) or store.read_cell("score", key)
                    if score is not None:
                        _check_version(score, metric)
                        yield from _score_rows(arena["title"], explainer["title"], explained["rows"], metric, score)


def _check_metrics(plan: dict[str, Any]) -> None:
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
            clip = (row["row"], row["clip_id"], row["group"], row["target"], row["degenerate"])
            yield (arena, explainer, *clip, metric["name"], metric["version"], column, value, said)
