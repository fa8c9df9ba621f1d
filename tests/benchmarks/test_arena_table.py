"""Results as aligned arrays: from cells or from Parquet, in memory or in a file, with what stands twice refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from bench_stubs import stub_registry, suite_of
from earwitness.errors import StoreError
from earwitness_bench import arena_table
from earwitness_bench.arena_table import ABSENT, FAILED, SCORED, SKIPPED, ArenaTable, read_arena
from earwitness_bench.leaderboard import FORMATS, make_tables
from earwitness_bench.results import read_scores, write_parquet
from earwitness_bench.runner import run_suite
from earwitness_bench.store import Store
from handmade import ROWS, constant, table_of, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores, a failure, what does not apply, controls."""
    naughty = {"name": "naughty", "parameters": {"way": "crash"}}
    metrics = ("mean-map", "two", "look-at-parts")
    out = tmp_path_factory.mktemp("results")
    suite = suite_of("ideal", "wobbly", naughty, "sociable", metrics=metrics, controls=True)
    run_suite(suite, out, registry=stub_registry())
    write_parquet(Store(out))
    return out


def only_parquet(folder: Path, out: Path) -> Store:
    out.mkdir()
    for name in ("plan.json", "scores.parquet"):
        shutil.copy(folder / name, out / name)
    return Store(out)


def the_table(store: Store) -> ArenaTable:
    plan = store.read_plan()
    return read_arena(store, plan, plan["arenas"][0])


def test_every_score_of_the_long_table_is_where_it_belongs(folder: Path) -> None:
    table, scores = the_table(Store(folder)), read_scores(Store(folder))
    assert list(table.rows) == sorted(set(scores["row"]))
    names = sorted(set(scores["group"]))
    kinds = {"scored": SCORED, "skipped": SKIPPED, "failed": FAILED}
    for row in scores.itertuples():
        series = table.series[row.explainer, row.metric, row.column]
        place = table.rows[row.row]
        np.testing.assert_equal(series.values[place], row.value)
        assert series.kinds[place] == kinds[row.outcome.partition(":")[0]]
        assert names[table.groups[place]] == row.group
        assert table.explanations[row.explainer].degenerate[place] == bool(row.degenerate)
    entered = sum(int((series.kinds != ABSENT).sum()) for series in table.series.values())
    assert entered == len(scores)


def test_a_leaderboard_from_parquet_alone_is_that_of_the_cells(folder: Path, tmp_path: Path) -> None:
    from_cells = FORMATS["json"](make_tables(Store(folder)))
    assert FORMATS["json"](make_tables(only_parquet(folder, tmp_path / "alone"))) == from_cells


def test_what_was_missing_is_known_from_parquet_too(tmp_path: Path) -> None:
    store = write(tmp_path / "a", {"one": constant(1.0, 2.0), "two": constant(0.0, 3.0)}, absent=("two",))
    write_parquet(store)
    alone = only_parquet(tmp_path / "a", tmp_path / "b")
    assert table_of(alone).missing_cells == table_of(store).missing_cells == 1


def test_parquet_is_the_long_table_one_explainer_and_metric_after_the_other(folder: Path) -> None:
    keys = ["arena", "explainer", "row", "metric", "column"]
    derived = pd.read_parquet(folder / "scores.parquet").sort_values(keys, ignore_index=True)
    wanted = read_scores(Store(folder))
    assert derived.columns.tolist() == wanted.columns.tolist()
    assert derived["value"].equals(wanted["value"])
    for name in ("arena", "explainer", "row", "group", "target", "metric", "version", "column", "outcome"):
        assert derived[name].tolist() == wanted[name].tolist(), name
    for name in ("right", "degenerate"):
        found, long = ([None if pd.isna(v) else bool(v) for v in table[name]] for table in (derived, wanted))
        assert found == long, name
    file = pq.ParquetFile(folder / "scores.parquet")
    for number in range(file.num_row_groups):
        group = file.read_row_group(number, columns=["explainer", "metric"]).to_pandas()
        assert len(group.drop_duplicates()) == 1


def test_a_table_in_a_file_is_that_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = FORMATS["json"](make_tables(Store(folder)))
    monkeypatch.setattr(arena_table, "IN_MEMORY_BYTES", 0)
    table = the_table(Store(folder))
    assert all(isinstance(series.values, np.memmap) for series in table.series.values())
    assert FORMATS["json"](make_tables(Store(folder))) == before


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="no list of open files")
def test_a_table_in_a_file_keeps_few_files_open_however_many_series_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may have about a thousand open, and each array in a file is one."""
    monkeypatch.setattr(arena_table, "IN_MEMORY_BYTES", 0)
    before = len(os.listdir("/dev/fd"))
    table = ArenaTable.of({"x": ("a", 1), "y": ("b", 0)}, 100)
    for number in range(100):
        table.enter(
            (f"explainer {number}", "m", "c"), np.array([1, 0]), [float(number), None], ["scored", "failed: it"]
        )
    assert len(os.listdir("/dev/fd")) - before <= 2
    for number in range(100):
        series = table.series[f"explainer {number}", "m", "c"]
        np.testing.assert_array_equal(series.values, [np.nan, number])
        assert series.kinds.tolist() == [FAILED, SCORED]


def test_whether_a_decision_is_right_is_known_from_whoever_knows_it(tmp_path: Path) -> None:
    """A clip cannot be read, and the last explainer could not even be fitted: it has no targets."""
    store = write(tmp_path / "a", {"fine": constant(1.0, 1.0), "unfit": constant(None, None)}, failed=("unfit",))
    for key in ("e-fine", "e-unfit"):
        cell = store.read_cell("explain", key)
        assert cell is not None
        for number, row in enumerate(cell["rows"]):
            row["labels"] = ["dog"] if number % 2 else ["cat"]
            row["target"] = "dog" if number and key == "e-fine" else None
        store.write_cell("explain", key, cell)
    write_parquet(store)
    right = [-1, *[number % 2 for number in range(1, ROWS)]]
    for table in (the_table(store), the_table(only_parquet(tmp_path / "a", tmp_path / "b"))):
        assert table.right.tolist() == right


def test_a_score_for_all_rows_is_refused(tmp_path: Path) -> None:
    store = write(tmp_path, {"a": constant(1.0, 1.0)})
    store.write_cell("score", "s-a", {"columns": {"up": [1.0], "down": [1.0]}, "outcomes": ["scored"]})
    with pytest.raises(StoreError, match="of 8 rows, with 1 values and 1 outcomes"):
        make_tables(store)


def test_what_stands_twice_is_refused_by_tables_and_by_parquet(tmp_path: Path) -> None:
    store = write(tmp_path, {"a": constant(1.0, 1.0)})
    plan = store.read_plan()
    (explainer,) = plan["arenas"][0]["explainers"]
    explainer["cells"].append(explainer["cells"][0])
    store.write_plan({name: value for name, value in plan.items() if name not in ("schema", "kind")})
    with pytest.raises(StoreError, match="stand twice"):
        make_tables(store)
    with pytest.raises(StoreError, match="stand twice"):
        write_parquet(store)
    assert not list(tmp_path.glob(".scores.parquet*"))
    assert not (tmp_path / "scores.parquet").exists()


def test_an_explainer_with_other_rows_in_a_chunk_is_refused(tmp_path: Path) -> None:
    store = write(tmp_path, {"a": constant(1.0, 1.0), "b": constant(0.0, 1.0)})
    cell = store.read_cell("explain", "e-b")
    assert cell is not None
    cell["rows"][0]["row"] = "another"
    store.write_cell("explain", "e-b", cell)
    with pytest.raises(StoreError, match="another chunk"):
        make_tables(store)


def test_rows_that_nobody_has_come_to_are_none(tmp_path: Path) -> None:
    store = write(tmp_path, {"a": constant(1.0, 1.0), "b": constant(0.0, 1.0)}, absent=("b",))
    table = the_table(store)
    assert len(table.rows) == ROWS
    assert ("b", "stubs:both", "up") not in table.series
    assert (table.explanations["b"].kinds == SCORED).all()
