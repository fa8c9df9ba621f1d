"""The results folder: whole or absent, merged by copying, shared by processes, read when older, refused when newer."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import bench_stubs
from bench_stubs import CALLS, stub_registry, suite_of
from earwitness.artifacts import digest_of
from earwitness.errors import StoreError
from earwitness_bench.runner import Summary, run_suite
from earwitness_bench.store import LEFTOVER_S, SCHEMA, Store
from earwitness_bench.suite import Suite, parse_suite

TIMING = ("seconds", "peak_memory_mb", "checksum", "traceback")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    CALLS.clear()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(out: Path, suite: Suite | None = None) -> Summary:
    return run_suite(suite or suite_of(), out, registry=stub_registry())


def cells(out: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(out.glob("cells/*/*/*.json")):
        cell = json.loads(path.read_bytes())
        found[cell["key"]] = {name: value for name, value in cell.items() if name not in TIMING}
    return found


# --- several machines, several processes


def test_folders_of_several_machines_are_merged_by_copying_files(tmp_path: Path) -> None:
    whole = suite_of("ideal", "wobbly", metrics=("mean-map", "two"), controls=True)
    run(tmp_path / "a", suite_of("ideal", metrics=("mean-map", "two"), controls=True))
    run(tmp_path / "b", suite_of("wobbly", metrics=("two",), controls=True))
    for part in ("cells", "maps"):
        shutil.copytree(tmp_path / "b" / part, tmp_path / "a" / part, dirs_exist_ok=True)
    CALLS.clear()
    summary = run(tmp_path / "a", whole)
    assert (summary.explained, CALLS["wobbly"], CALLS["ideal"]) == (0, 0, 0)
    assert summary.scored == 5  # mean-map on wobbly's three chunks, and on the two whose maps can be shuffled
    run(tmp_path / "whole", whole)
    assert cells(tmp_path / "a") == cells(tmp_path / "whole")


def test_two_processes_on_one_folder_do_not_harm_each_other(tmp_path: Path) -> None:
    code = (
        "import torch; torch.set_num_threads(1); import bench_stubs; "
        f"bench_stubs.killable_run({str(tmp_path / 'shared')!r})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait(timeout=240) for process in both] == [0, 0]
    run(tmp_path / "alone", bench_stubs.killable_suite())
    assert cells(tmp_path / "shared") == cells(tmp_path / "alone")
    assert not list((tmp_path / "shared").rglob("*.corrupt"))
    assert run(tmp_path / "shared", bench_stubs.killable_suite()).explained == 0


def test_one_process_at_a_time_fits(tmp_path: Path) -> None:
    store, order = Store(tmp_path, create=True), []

    def work(name: str) -> None:
        with store.alone("fit"):
            order.append(f"{name} begins")
            time.sleep(0.05)
            order.append(f"{name} ends")

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = order[0][0], order[2][0]
    assert order == [f"{first} begins", f"{first} ends", f"{second} begins", f"{second} ends"]


def test_what_killed_writers_left_is_swept_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    run(tmp_path)
    before = cells(tmp_path)
    cell = next(tmp_path.glob("cells/score/*/*.json"))
    new = cell.parent / f".{cell.name}.efgh5678"
    maps = next(tmp_path.glob("maps/*/*.safetensors"))
    names = (tmp_path / ".plan.keys", tmp_path / ".scores.parquet", cell.with_name(f".{cell.name}"))
    old = [path.with_name(f"{path.name}.abcd1234") for path in (*names, maps.with_name(f".{maps.name}"))]
    for path in (*old, new):
        path.write_text("half")
    for path in old:
        os.utime(path, (time.time() - LEFTOVER_S - 10,) * 2)
    run(tmp_path)
    assert [path.exists() for path in (*old, new)] == [False, False, False, False, True]
    assert cells(tmp_path) == before


# --- a full disk


@contextmanager
def files_no_longer_than(n_bytes: int) -> Iterator[None]:
    """What a full disk does to a writer: the file stays short, and the call fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("n_bytes", [0, 3000, 10_000])
def test_a_full_disk_stops_the_run_and_leaves_a_store_from_which_it_goes_on(tmp_path: Path, n_bytes: int) -> None:
    suite = suite_of("ideal", "wobbly", metrics=("mean-map", "two"))
    with files_no_longer_than(n_bytes), pytest.raises(StoreError, match="disk not full"):
        run(tmp_path / "full", suite)
    assert not [path for path in (tmp_path / "full").rglob(".*.*") if path.is_file()]
    run(tmp_path / "full", suite)
    assert not list((tmp_path / "full").rglob("*.corrupt"))
    run(tmp_path / "whole", suite)
    assert cells(tmp_path / "full") == cells(tmp_path / "whole")


# --- schema versions


def as_schema_1(out: Path) -> None:
    """Rewrite a folder as the first version wrote it."""
    for path in out.glob("cells/*/*/*.json"):
        cell = json.loads(path.read_bytes())
        for new in ("checksum", "machine", "rows_per_call"):
            cell.pop(new, None)
        if cell["kind"] == "score":
            del cell["provenance"], cell["peak_memory_mb"]
        for row in cell.get("rows", ()):
            del row["outcome"], row["fingerprint"]
        cell["schema"] = 1
        path.write_text(json.dumps({**cell, "checksum": digest_of(cell)}))
    plan = json.loads((out / "plan.json").read_bytes())
    (out / "plan.json").write_text(json.dumps({**plan, "schema": 1}))


def test_a_folder_of_schema_1_is_read_and_gone_on_with(tmp_path: Path) -> None:
    from earwitness_bench.leaderboard import FORMATS, make_tables

    naughty = {"name": "naughty", "parameters": {"way": "crash"}}
    suite = suite_of("ideal", naughty, "sociable", data={"clips": 3}, controls=True)
    run(tmp_path, suite)
    before = FORMATS["json"](make_tables(Store(tmp_path)))
    as_schema_1(tmp_path)
    store = Store(tmp_path)
    assert FORMATS["json"](make_tables(store)) == before
    keys = [path.stem for path in sorted(tmp_path.glob("cells/explain/*/*.json"))]
    found = [store.read_cell("explain", key) for key in keys]
    assert all(cell is not None and cell["schema"] == SCHEMA for cell in found)
    outcomes = {row["outcome"] for cell in found if cell for row in cell["rows"]}
    assert outcomes == {
        "explained",
        "failed: RuntimeError: out of luck",
        "skipped: it needs several clips, and this chunk has one",
        "skipped: a chunk of one clip has no other clip to take a map from",
    }
    summary = run(tmp_path, suite)
    assert (summary.explained, summary.scored) == (0, 0)
    assert run(tmp_path, suite_of("ideal", data={"clips": 3}, metrics=("mean-map", "two"))).explained == 0
    assert not list(tmp_path.rglob("*.corrupt"))


def test_a_cell_of_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    run(tmp_path, suite_of("ideal"))
    path = next(tmp_path.glob("cells/explain/*/*.json"))
    cell = json.loads(path.read_bytes())
    del cell["checksum"]
    cell["schema"] = SCHEMA + 1
    path.write_text(json.dumps({**cell, "checksum": digest_of(cell)}))
    with pytest.raises(StoreError, match="Update earwitness"):
        run(tmp_path, suite_of("ideal"))
    assert path.exists()
    assert not path.with_suffix(".corrupt").exists()


# --- where a result comes from


def test_every_cell_says_where_it_comes_from(tmp_path: Path) -> None:
    run(tmp_path, suite_of("ideal", data={"clips": 2}))
    found = list(cells(tmp_path).values())
    explained = next(cell for cell in found if cell["kind"] == "explain")
    scored = next(cell for cell in found if cell["kind"] == "score")
    for cell in (explained, scored):
        assert {"node", "python", "platform", "processor", "cores", "memory_mb", "gpu", "git"} == set(cell["machine"])
    environment = explained["provenance"]["environment"]
    assert {"earwitness", "torch", "captum", "zennit", "quantus", "numpy", "device", "threads"} <= set(environment)
    assert explained["provenance"]["explainer"]["plugin"].startswith("stubs unknown ")
    assert len(explained["provenance"]["classifier"]) == 64
    assert all(len(row["fingerprint"]) == 64 for row in explained["rows"])
    assert scored["explain"] == explained["key"]
    assert scored["metric"]["version"] == 1
    assert scored["provenance"] == {"route": "waveform", "scale": "magnitude", "rule": "normalise", "seed": 0}


def test_scores_of_kept_maps_are_those_of_fresh_ones_on_a_real_network(tmp_path: Path) -> None:
    """What a run that was killed between explaining and scoring comes to."""
    suite = parse_suite(
        {
            "name": "toy",
            "chunk_size": 2,
            "threads": 1,
            "controls": False,
            "arenas": [
                {
                    "dataset": {"name": "toy", "parameters": {"split": "test", "clips": 8}},
                    "classifier": {"name": "toy-cnn"},
                }
            ],
            "explainers": [{"name": "earwitness:loudness"}],
            "metrics": [{"name": "own-mask"}],
        }
    )
    run(tmp_path, suite)
    before = cells(tmp_path)
    shutil.rmtree(tmp_path / "cells" / "score")
    assert run(tmp_path, suite).explained == 0
    assert cells(tmp_path) == before
