"""Plans of many cells: keys on disk, folders in folders, parts of a run."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from bench_stubs import stub_registry, suite_of
from earwitness.artifacts import digest_of
from earwitness.errors import StoreError
from earwitness_bench import store as store_module
from earwitness_bench.leaderboard import FORMATS, make_tables
from earwitness_bench.plan import Plan
from earwitness_bench.planned_keys import Form, PlannedCells
from earwitness_bench.reproduction import reproduce
from earwitness_bench.results import read_scores
from earwitness_bench.runner import make_plan, run_suite
from earwitness_bench.store import Store
from earwitness_bench.suite import Suite


def wide(**options: object) -> Suite:
    two = [{"name": "ideal"}, {"name": "wobbly"}]
    return suite_of(*two, metrics=("mean-map", "two"), controls=True, data={"clips": 7}, **options)


def run(out: Path, suite: Suite, **options: object) -> None:
    run_suite(suite, out, registry=stub_registry(), **options)  # type: ignore[arg-type]


@pytest.fixture
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of a few cells is treated like one of millions."""
    monkeypatch.setattr(store_module, "INLINE_CELLS", 10)
    monkeypatch.setattr(store_module, "DEEP_CELLS", 20)


def as_said(store: Store) -> str:
    return FORMATS["json"](make_tables(store))


@pytest.mark.parametrize("where", ["first", "kind", "z"])
def test_a_form_digests_as_the_whole_document_does(where: str) -> None:
    rest = {"kind": "explain", "nested": {"b": [1, None, "é"], "a": 2.5}}
    content = [["clip", "group", ["low"], None]]
    form = Form(rest, where) if where not in rest else Form({"nested": rest["nested"]}, where)
    whole = {**({"nested": rest["nested"]} if where in rest else rest), where: content}
    assert form.digest(json.dumps(content, sort_keys=True, separators=(",", ":"))) == digest_of(whole)


def test_keys_are_the_hashes_of_what_a_cell_says_of_itself(tmp_path: Path) -> None:
    store = Store(tmp_path, create=True)
    plan, _ = make_plan(wide(), store, registry=stub_registry())
    listed = list(plan.keys())
    assert len(listed) == len(plan)
    for unit in (plan[number] for number in range(len(plan))):
        entries = [unit.stage.dataset.entries[index] for index, _ in unit.chunk]
        clips = [[e.clip_id, e.group, e.labels, e.fingerprint, None] for e in entries]
        assert unit.explain_key == digest_of({"kind": "explain", "clips": clips, **unit.provenance})
        scoring = {"route": "waveform", "scale": "magnitude", "rule": "normalise", "explain": unit.explain_key}
        wanted = [digest_of({"kind": "score", "metric": judge.identity, **scoring}) for judge in unit.judges]
        assert list(unit.score_keys) == wanted
        assert listed[unit.number] == [unit.explain_key, *wanted]
        base = plan.base_of(unit.number)
        assert unit.base_key == (None if base is None else plan[base].explain_key)
    sent: Plan = pickle.loads(pickle.dumps(plan))
    assert list(sent.keys()) == listed


@pytest.mark.usefixtures("_large")
def test_a_large_plan_keeps_its_keys_on_disk_and_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "large", wide())
    monkeypatch.undo()
    run(tmp_path / "small", wide())
    large, small = Store(tmp_path / "large"), Store(tmp_path / "small")
    document = json.loads((tmp_path / "large" / "plan.json").read_bytes())
    assert "cells" not in document["arenas"][0]["explainers"][0]
    assert document["schema"] == 3
    read = large.read_plan()["arenas"][0]["explainers"]
    wanted = small.read_plan()["arenas"][0]["explainers"]
    assert all(isinstance(explainer["cells"], PlannedCells) for explainer in read)
    assert [list(e["cells"]) for e in read] == [e["cells"] for e in wanted]
    assert as_said(large) == as_said(small)
    assert read_scores(large).equals(read_scores(small))
    assert {len(path.relative_to(tmp_path / "large").parts) for path in large.folder.rglob("*.json")} == {1, 5}


@pytest.mark.usefixtures("_large")
def test_folders_of_both_depths_are_merged_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "deep", wide())
    monkeypatch.undo()
    run(tmp_path / "flat", suite_of("ideal", metrics=("mean-map",), data={"clips": 7}))
    for part in ("cells", "maps"):
        shutil.copytree(tmp_path / "deep" / part, tmp_path / "flat" / part, dirs_exist_ok=True)
    summary = run_suite(wide(), tmp_path / "flat", registry=stub_registry())
    assert (summary.explained, summary.scored) == (0, 0)


@pytest.mark.usefixtures("_large")
def test_a_cell_of_a_large_run_can_be_reproduced(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    run(tmp_path, suite_of("ideal", "wobbly", metrics=("mean-map",), data={"clips": 20}))
    plan = Store(tmp_path).read_plan()
    for key in (
        plan["arenas"][0]["explainers"][1]["cells"][3]["explain"],
        plan["arenas"][0]["explainers"][0]["cells"][-1]["scores"][0],
    ):
        assert reproduce(key[:12], tmp_path, registry=stub_registry()).equal
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_large")
def test_a_file_of_keys_that_was_cut_off_or_lost_is_named(tmp_path: Path) -> None:
    run(tmp_path, wide())
    (keys,) = tmp_path.glob("plan-*.keys")
    keys.write_bytes(keys.read_bytes()[:-32])
    with pytest.raises(StoreError, match="bytes instead of"):
        Store(tmp_path).read_plan()
    keys.unlink()
    with pytest.raises(StoreError, match="0 bytes instead of"):
        Store(tmp_path).read_plan()
    run(tmp_path, wide())
    assert as_said(Store(tmp_path))


@pytest.mark.usefixtures("_large")
def test_a_large_plan_can_be_written_as_it_was_read_but_no_metric_added(tmp_path: Path) -> None:
    run(tmp_path, wide())
    store = Store(tmp_path)
    before = as_said(store)
    plan = store.read_plan()
    store.write_plan({name: value for name, value in plan.items() if name not in ("schema", "kind")})
    assert as_said(Store(tmp_path)) == before
    plan["metrics"].append(plan["metrics"][0])
    with pytest.raises(StoreError, match="too large"):
        store.write_plan(plan)


def test_parts_of_a_run_are_disjoint_and_make_up_the_whole(tmp_path: Path) -> None:
    store = Store(tmp_path / "plan", create=True)
    plan, _ = make_plan(wide(), store, registry=stub_registry())
    parts = [list(plan.numbers((k, 3))) for k in range(3)]
    assert sorted(number for part in parts for number in part) == list(range(len(plan)))
    chunks = [{plan.place(number)[1] for number in part} for part in parts]
    assert chunks == [{0, 3}, {1}, {2}]
    for k in range(3):
        run(tmp_path / "parts", wide(), shard=(k, 3))
        missing = make_tables(Store(tmp_path / "parts"))[0].missing_cells
        assert bool(missing) is (k < 2)
    run(tmp_path / "whole", wide())
    assert as_said(Store(tmp_path / "parts")) == as_said(Store(tmp_path / "whole"))
