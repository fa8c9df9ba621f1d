"""A run: complete, repeatable to the byte, unharmed by kills, damage and bad plugins."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import bench_stubs
from bench_stubs import CALLS, stub_registry, suite_of
from earwitness.artifacts import load_tensors
from earwitness.errors import ConfigurationError, PluginError, StoreError
from earwitness_bench import identity, runner
from earwitness_bench.commands.leaderboard import leaderboard as leaderboard_command
from earwitness_bench.leaderboard import FORMATS, make_tables
from earwitness_bench.results import missing_in, read_scores, write_parquet
from earwitness_bench.runner import Summary, run_suite
from earwitness_bench.store import Store
from earwitness_bench.suite import Suite

TIMING = ("seconds", "peak_memory_mb", "checksum", "traceback")


@pytest.fixture(autouse=True)
def _counted() -> Iterator[None]:
    CALLS.clear()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(out: Path, suite: Suite | None = None, **options: Any) -> Summary:
    return run_suite(suite or suite_of(), out, **{"registry": stub_registry(), **options})


def cells(out: Path, kind: str = "*") -> dict[str, dict[str, Any]]:
    """All cells by key, without what differs from run to run."""
    found = {}
    for path in sorted(out.glob(f"cells/{kind}/*/*.json")):
        cell = json.loads(path.read_bytes())
        found[cell["key"]] = {name: value for name, value in cell.items() if name not in TIMING}
    return found


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def table_of(out: Path) -> str:
    return FORMATS["json"](make_tables(Store(out)))


def scores_of(out: Path, explainer: str, column: str = "mean-map") -> dict[str, float | None]:
    table = read_scores(Store(out))
    chosen = table[(table["explainer"] == explainer) & (table["column"] == column)]
    return {
        row: None if math.isnan(value) else value for row, value in zip(chosen["row"], chosen["value"], strict=True)
    }


def outcomes_of(out: Path, explainer: str, column: str = "mean-map") -> dict[str, str]:
    table = read_scores(Store(out))
    chosen = table[(table["explainer"] == explainer) & (table["column"] == column)]
    return dict(zip(chosen["row"], chosen["outcome"], strict=True))


# --- a whole run


def test_every_clip_is_scored_by_every_metric_on_every_explainer(tmp_path: Path) -> None:
    summary = run(tmp_path, suite_of(metrics=("mean-map", "two")))
    assert (summary.explained, summary.scored, summary.cached, summary.failed) == (6, 12, 0, ())
    table = read_scores(Store(tmp_path))
    assert len(table) == 2 * 5 * 3
    assert set(table["outcome"]) == {"scored"}
    assert set(table["row"]) == {f"clip-{n}" for n in range(5)}
    assert missing_in(Store(tmp_path), Store(tmp_path).read_plan()["arenas"][0]) == 0


def test_a_cell_tells_rows_time_and_origin(tmp_path: Path) -> None:
    run(tmp_path)
    cell = next(cell for cell in cells(tmp_path, "explain").values() if cell["title"] == "ideal")
    row = cell["rows"][0]
    assert set(row) == {
        "row", "clip_id", "group", "labels", "fingerprint", "target", "outcome", "degenerate", "diagnostics",
    }  # fmt: skip
    assert row["target"] == row["labels"][0]
    assert row["diagnostics"] == {"gap": float(row["target"] == "high")}
    environment = cell["provenance"]["environment"]
    assert environment["torch"] == importlib.metadata.version("torch")
    assert (environment["threads"], environment["device"]) == (1, "cpu")
    assert cell["provenance"]["explainer"]["parameters"] == {"pause_s": 0.0, "inside": 1.0}  # defaults included


def test_a_rerun_computes_nothing_and_changes_no_byte(tmp_path: Path) -> None:
    suite = suite_of(metrics=("mean-map", "two"), controls=True)
    run(tmp_path, suite)
    write_parquet(Store(tmp_path))
    before, asked = files(tmp_path), CALLS.copy()
    summary = run(tmp_path, suite)
    write_parquet(Store(tmp_path))
    assert (summary.explained, summary.scored) == (0, 0)
    assert summary.cached == len(cells(tmp_path))
    assert asked == CALLS
    assert files(tmp_path) == before


def test_two_runs_apart_agree_to_the_byte_whatever_the_global_generators_held(tmp_path: Path) -> None:
    suite = suite_of({"name": "wobbly", "parameters": {"from_global": True}})
    for number, name in enumerate("ab"):
        torch.manual_seed(number)
        np.random.seed(number)
        run(tmp_path / name, suite)
    assert cells(tmp_path / "a") == cells(tmp_path / "b")
    assert table_of(tmp_path / "a") == table_of(tmp_path / "b")


def test_a_run_leaves_generators_threads_and_gradient_mode_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(7)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    run(tmp_path, suite_of({"name": "wobbly", "parameters": {"from_global": True}}, threads=2))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert torch.get_num_threads() == 1


def test_a_metric_added_later_explains_nothing_again_and_scores_as_if_it_had_been_there(tmp_path: Path) -> None:
    run(tmp_path / "a")
    asked = CALLS.copy()
    summary = run(tmp_path / "a", suite_of(metrics=("two", "mean-map")))
    assert (summary.explained, summary.scored) == (0, 6)
    assert asked == CALLS  # neither explained nor scored by the old metric
    run(tmp_path / "b", suite_of(metrics=("two", "mean-map")))
    assert cells(tmp_path / "a") == cells(tmp_path / "b")


# --- keys

CHANGES: dict[str, tuple[dict[str, Any], bool]] = {
    "parameter of the explainer": ({"explainers": [{"name": "ideal", "parameters": {"inside": 0.5}}]}, True),
    "seed": ({"seed": 1}, True),
    "chunk size": ({"chunk_size": 3}, True),
    "weights of the classifier": ({"model": {"sharpness": 5.0}}, True),
    "samples of the clips": ({"data": {"level": 0.4}}, True),
    "groups of the clips": ({"data": {"group": "one"}}, True),
    "target": ({"target": "label"}, True),
    "threads": ({"threads": 2}, True),
    "precision": ({"precision": "bfloat16"}, True),
    "route of the mask": ({"scale": "log1p"}, False),
    "rule": ({"rule": "quantile(0.9)"}, False),
    "parameter of the metric": ({"metrics": [{"name": "mean-map", "parameters": {"factor": 2.0}}]}, False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_can_change_a_number_makes_a_new_key(tmp_path: Path, change: str) -> None:
    run(tmp_path, suite_of("ideal"))
    options, explains_again = CHANGES[change]
    options = dict(options)
    summary = run(tmp_path, suite_of(*options.pop("explainers", ("ideal",)), **options))
    assert (summary.explained > 0) == explains_again
    assert summary.scored > 0


def test_the_seed_is_part_of_a_key_also_where_it_changes_no_chunk(tmp_path: Path) -> None:
    for seed in (0, 1):
        assert run(tmp_path, suite_of("wobbly", data={"clips": 1}, seed=seed)).explained == 1


def test_a_new_version_of_a_metric_scores_again_and_explains_nothing(tmp_path: Path) -> None:
    run(tmp_path)
    summary = run(tmp_path, registry=stub_registry(mean_map_version=2))
    assert (summary.explained, summary.scored) == (0, 6)


def test_another_version_of_a_library_makes_new_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, suite_of("ideal"))
    real = identity.environment
    monkeypatch.setattr(runner, "environment", lambda device: {**real(device), "captum": "99"})
    assert run(tmp_path, suite_of("ideal")).explained == 3


@pytest.mark.parametrize(
    "options",
    [
        {"explainers": [{"name": "ideal", "label": "another name"}]},
        {"explainers": [{"name": "stubs:ideal", "parameters": {"inside": 1.0}}]},  # its default
        {"map_cap_mb": 1.0},
        {"summary": "Another text."},
        {"explainers": ["wobbly", "ideal"]},
    ],
)
def test_what_cannot_change_a_number_makes_no_new_key(tmp_path: Path, options: dict[str, Any]) -> None:
    run(tmp_path, suite_of("ideal", "wobbly"))
    summary = run(tmp_path, suite_of(*options.pop("explainers", ("ideal",)), **options))
    assert (summary.explained, summary.scored) == (0, 0)


def test_the_sources_of_what_comes_from_no_index_are_part_of_its_identity(tmp_path: Path) -> None:
    found = identity.distribution_identity.__wrapped__
    package = tmp_path / "acme_sources"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "a.py").write_text("A = 1\n")
    sys.path.insert(0, str(tmp_path))
    try:
        first = found("acme-that-is-not-installed", "acme_sources")
        assert found("acme-that-is-not-installed", "acme_sources") == first
        (package / "inner" / "a.py").write_text("A = 2\n")
        second = found("acme-that-is-not-installed", "acme_sources")
        (package / "inner" / "a.py").rename(package / "a.py")
        third = found("acme-that-is-not-installed", "acme_sources")
    finally:
        sys.path.remove(str(tmp_path))
    assert len({first, second, third}) == 3
    assert identity.distribution_identity("numpy", "numpy") == f"numpy {importlib.metadata.version('numpy')}"


# --- kills


def test_a_run_that_is_killed_five_times_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    suite = bench_stubs.killable_suite()
    run(whole, suite)
    n_cells = len(cells(whole))
    chance = random.Random(20240517)
    code = f"import torch; torch.set_num_threads(1); import bench_stubs; bench_stubs.killable_run({str(killed)!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    kills = 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", code], env=environment)
        if kills == 5:
            assert process.wait(timeout=120) == 0
            break
        goal = len(list(killed.glob("cells/*/*/*.json"))) + chance.randint(1, n_cells // 8)
        while process.poll() is None and len(list(killed.glob("cells/*/*/*.json"))) < goal:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL, "it was done before it could be killed"
        kills += 1
    assert cells(killed) == cells(whole)
    answers = [CliRunner().invoke(leaderboard_command, [str(out), "--format", "json"]) for out in (whole, killed)]
    assert [answer.exit_code for answer in answers] == [0, 0]
    assert answers[0].stdout_bytes == answers[1].stdout_bytes
    asked = CALLS.copy()
    assert run(killed, suite).explained == 0
    assert asked == CALLS


# --- damage

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half-written": lambda content: content[: len(content) // 2],
    "not JSON": lambda content: b"\x80\x04garbage",
    "another JSON": lambda content: b"[1, 2]",
    "one digit altered": lambda content: content.replace(b'"clip-0"', b'"clip-9"').replace(b"scored", b"stored"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["explain", "score"])
def test_a_damaged_cell_is_set_aside_and_computed_again(tmp_path: Path, kind: str, damage: str) -> None:
    run(tmp_path)
    before = cells(tmp_path)
    path = next(
        p for p in sorted(tmp_path.glob(f"cells/{kind}/*/*.json")) if b"clip-0" in p.read_bytes() or kind == "score"
    )
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    summary = run(tmp_path)
    assert (summary.explained, summary.scored) == ((1, 0) if kind == "explain" else (0, 1))
    assert path.with_suffix(".corrupt").exists()
    assert cells(tmp_path) == before


def _flip(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 16]) + content[-8:]


@pytest.mark.parametrize(
    "damage", [lambda content: b"", lambda content: content[:-40], _flip], ids=["empty", "cut", "flip"]
)
def test_damaged_maps_are_set_aside_and_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    run(tmp_path, suite_of("ideal"))
    before = files(tmp_path / "maps")
    for path in tmp_path.glob("maps/*/*.safetensors"):
        path.write_bytes(damage(path.read_bytes()))
    CALLS.clear()
    summary = run(tmp_path, suite_of("ideal", metrics=("mean-map", "two")))
    assert (summary.explained, summary.scored, CALLS["ideal"]) == (0, 3, 3)
    after = files(tmp_path / "maps")
    assert {name: content for name, content in after.items() if name in before} == before
    assert sum(name.endswith(".corrupt") for name in after) == 3


def test_maps_of_another_explanation_are_not_taken_for_its_own(tmp_path: Path) -> None:
    run(tmp_path, suite_of("wobbly"))
    first, second = sorted(tmp_path.glob("maps/*/*.safetensors"))[:2]
    first.write_bytes(second.read_bytes())
    assert Store(tmp_path).read_maps(first.stem) is None
    assert Store(tmp_path).read_maps(second.stem) is not None


def test_a_folder_without_results_or_with_a_damaged_plan_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no results"):
        Store(tmp_path)
    for content in ("{", "[]", "{}", '{"schema": 99}'):
        (tmp_path / "plan.json").write_text(content)
        with pytest.raises(StoreError, match=r"plan\.json"):
            make_tables(Store(tmp_path))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="results folder"):
            run(out)


def test_a_folder_that_cannot_be_written_to_stops_the_run_and_keeps_what_is_there(tmp_path: Path) -> None:
    run(tmp_path, suite_of("ideal"))
    before = cells(tmp_path)
    (tmp_path / "maps").rename(tmp_path / "kept")
    (tmp_path / "maps").write_text("in the way")
    with pytest.raises(StoreError, match="Cannot write"):
        run(tmp_path, suite_of("wobbly"))
    assert before.items() <= cells(tmp_path).items()


# --- plugins that misbehave

WAYS = {
    "crash": "RuntimeError: out of luck",
    "exit": "SystemExit: 3",
    "nan": "NaN or infinite values",
    "shape": r"must have shape \(2, 129, 33\) here, got \(2, 5, 33\)",
    "rows": "was asked for the classes",
    "target": "was asked for the classes",
    "type": "must return an Explanation, got Tensor",
}


@pytest.mark.parametrize("way", WAYS)
def test_an_explainer_that_misbehaves_is_contained_and_named(tmp_path: Path, way: str) -> None:
    naughty = {"name": "naughty", "parameters": {"way": way}, "label": "naughty"}
    summary = run(tmp_path / "with", suite_of(naughty, "ideal", controls=True, data={"clips": 4}))
    run(tmp_path / "without", suite_of("ideal", controls=True, data={"clips": 4}))
    assert any("bands on tones · naughty: " in failure for failure in summary.failed)
    outcomes = outcomes_of(tmp_path / "with", "naughty")
    assert len(outcomes) == 4
    for outcome in outcomes.values():
        assert outcome.startswith("failed: ")
    assert re.search(WAYS[way], next(iter(outcomes.values())))
    assert cells(tmp_path / "without").items() <= cells(tmp_path / "with").items()
    (table,) = make_tables(Store(tmp_path / "with"))
    line = next(s for s in table.standings if s.explainer == "naughty")
    assert (line.place, line.clips, line.failed) == (None, 0, 4)
    assert any("naughty: 4 of 4 explanations failed" in note for note in table.notes)
    CALLS.clear()
    assert run(tmp_path / "with", suite_of(naughty, "ideal", controls=True, data={"clips": 4})).failed == summary.failed
    assert CALLS["naughty"] == 0


def test_an_explainer_that_wrecks_its_batch_and_its_classifier_harms_nobody(tmp_path: Path) -> None:
    vandal = {"name": "naughty", "parameters": {"way": "vandal"}}
    run(tmp_path / "with", suite_of(vandal, "ideal", "wobbly", metrics=("mean-map", "own-mask")))
    run(tmp_path / "without", suite_of("ideal", "wobbly", metrics=("mean-map", "own-mask")))
    assert cells(tmp_path / "without").items() <= cells(tmp_path / "with").items()
    assert torch.is_grad_enabled()


BAD_METRICS = {
    "crash": (["failed: ZeroDivisionError: nothing to divide by"] * 2, True),
    "shape": (["failed: column 'bad' must be a Tensor of shape (2,), got (1,)"] * 2, True),
    "name": (["failed: the metric's spec has the columns ['bad'], but it returned ['other']"] * 2, True),
    "nan": (["skipped: bad not defined for this clip", "scored"], False),
    "inf": (["failed: bad is infinite", "scored"], False),
}


@pytest.mark.parametrize("way", BAD_METRICS)
def test_a_metric_that_misbehaves_costs_only_its_own_values(tmp_path: Path, way: str) -> None:
    suite = suite_of("ideal", metrics=[{"name": "bad", "parameters": {"way": way}}, "mean-map"], data={"clips": 2})
    summary = run(tmp_path, suite)
    outcomes, is_error = BAD_METRICS[way]
    (cell,) = [cell for cell in cells(tmp_path, "score").values() if cell["metric"]["name"] == "stubs:bad"]
    assert cell["outcomes"] == outcomes
    assert cell["columns"]["bad"] == [0.0 if outcome == "scored" else None for outcome in outcomes]
    assert bool(summary.failed) == is_error
    assert set(outcomes_of(tmp_path, "ideal").values()) == {"scored"}
    table = read_scores(Store(tmp_path))
    assert sorted(table[table["column"] == "bad"]["outcome"]) == sorted(outcomes)
    again = run(tmp_path, suite)
    assert (again.scored, again.failed) == (0, summary.failed)


def test_metrics_that_need_sources_are_skipped_with_the_reason(tmp_path: Path) -> None:
    summary = run(tmp_path, suite_of("ideal", metrics=("sourced", "mean-map"), data={"sources": False}))
    assert set(outcomes_of(tmp_path, "ideal", "sourced").values()) == {
        "skipped: the clean sources of these clips are not known"
    }
    assert set(outcomes_of(tmp_path, "ideal", "mean-map").values()) == {"scored"}
    assert summary.failed == ()


def test_a_method_that_does_not_apply_to_the_classifier_is_skipped_with_the_reason(tmp_path: Path) -> None:
    summary = run(tmp_path, suite_of("gradcam", controls=True, data={"clips": 4}))
    outcomes = outcomes_of(tmp_path, "gradcam") | outcomes_of(tmp_path, "shuffled: gradcam")
    (outcome,) = set(outcomes.values())
    assert re.match("skipped: GradCAM needs a convolution with a time axis", outcome)
    assert summary.failed == ()


def test_the_suites_memory_is_the_default_of_every_explainer_that_takes_one(tmp_path: Path) -> None:
    own = {"name": "saliency", "parameters": {"memory_mb": 7.0}, "label": "own"}
    run(tmp_path, suite_of("saliency", own, "ideal", memory_mb=64.0))
    provenance = {cell["title"]: cell["provenance"] for cell in cells(tmp_path, "explain").values()}
    assert provenance["saliency"]["explainer"]["parameters"]["memory_mb"] == 64.0
    assert provenance["own"]["explainer"]["parameters"]["memory_mb"] == 7.0
    assert "memory_mb" not in provenance["ideal"]["explainer"]["parameters"]
    assert run(tmp_path, suite_of("saliency", own, "ideal", memory_mb=32.0)).explained == 3


def test_a_run_in_bfloat16_says_how_far_its_logits_deviate(tmp_path: Path) -> None:
    assert not any("bfloat16" in note for note in run(tmp_path / "exact").notes)
    (note,) = [note for note in run(tmp_path / "coarse", suite_of(precision="bfloat16")).notes if "bfloat16" in note]
    assert re.search(r"differ from those in float32 by up to \d+\.\d\d% of the largest", note)


def test_an_explainer_that_needs_several_clips_is_skipped_where_there_is_one(tmp_path: Path) -> None:
    summary = run(tmp_path, suite_of("sociable", data={"clips": 3}))
    outcomes = list(outcomes_of(tmp_path, "sociable").values())
    assert sorted(outcomes) == ["scored", "scored", "skipped: it needs several clips, and this chunk has one"]
    assert summary.failed == ()


def test_clips_that_cannot_be_read_now_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, mended = suite_of("ideal", data={"broken": True}), suite_of("ideal")
    summary = run(tmp_path, broken)
    assert summary.failed == ("bands on tones · ideal: OSError: the disk is gone",)
    assert len(outcomes_of(tmp_path, "ideal")) == 5
    assert run(tmp_path, mended).failed == ()  # the same clips, so the same keys
    assert set(outcomes_of(tmp_path, "ideal").values()) == {"scored"}
    summary = run(tmp_path, suite_of("ideal", data={"broken": True}, metrics=("mean-map", "two")))
    assert "could not be explained again: OSError: the disk is gone" in summary.failed[0]
    assert set(outcomes_of(tmp_path, "ideal").values()) == {"scored"}  # finished results stay


def test_a_silent_clip_has_null_scores_and_the_others_theirs(tmp_path: Path) -> None:
    suite = suite_of(
        "ideal", "wobbly", metrics=("own-mask", "matched-budget-soft", "localisation"), data={"silent": True}
    )
    assert run(tmp_path, suite).failed == ()
    table = read_scores(Store(tmp_path))
    silent = table["row"] == "clip-1"
    assert table[silent]["value"].isna().all()
    assert table[silent]["outcome"].str.startswith("skipped").all()
    assert table[~silent]["value"].notna().all()


# --- controls


def map_of(out: Path, title: str, row: str) -> torch.Tensor:
    cell = next(
        c for c in cells(out, "explain").values() if c["title"] == title and row in [r["row"] for r in c["rows"]]
    )
    tensors, _ = load_tensors(Store(out).maps_path(cell["key"]))
    return tensors["relevance"][[r["row"] for r in cell["rows"]].index(row)]


@pytest.mark.parametrize("chunk_size", [2, 3, 5])
def test_the_shuffled_control_has_another_clips_map_and_never_its_own(tmp_path: Path, chunk_size: int) -> None:
    run(tmp_path, suite_of("wobbly", controls=True, data={"clips": 5}, chunk_size=chunk_size))
    names = [f"clip-{n}" for n in range(5)]
    own = {name: map_of(tmp_path, "wobbly", name) for name in names}
    taken = []
    for name, outcome in outcomes_of(tmp_path, "shuffled: wobbly").items():
        if outcome != "scored":
            assert outcome == "skipped: a chunk of one clip has no other clip to take a map from"
            continue
        given = map_of(tmp_path, "shuffled: wobbly", name)
        (giver,) = [other for other in names if torch.equal(given, own[other])]
        assert giver != name
        taken.append(giver)
    assert len(set(taken)) == len(taken) == (4 if chunk_size == 2 else 5)


def test_the_shuffled_control_of_a_clip_with_two_labels_is_another_clips(tmp_path: Path) -> None:
    suite = suite_of("wobbly", controls=True, target="label", data={"clips": 4, "both_labels": True})
    assert run(tmp_path, suite).failed == ()
    rows = [f"clip-{n}#{label}" for n in range(4) for label in ("low", "high")]
    assert sorted(outcomes_of(tmp_path, "wobbly")) == sorted(rows)
    own = {row: map_of(tmp_path, "wobbly", row) for row in rows}
    for row in rows:
        given = map_of(tmp_path, "shuffled: wobbly", row)
        (giver,) = [other for other in rows if torch.equal(given, own[other])]
        assert giver.split("#")[0] != row.split("#")[0]
        assert giver.split("#")[1] == row.split("#")[1]  # the map of the same class


def test_all_controls_run_once_and_a_namesake_of_another_distribution_is_no_control(tmp_path: Path) -> None:
    suite = suite_of("ideal", {"name": "earwitness:all-ones"}, {"name": "stubs:loudness"}, controls=True)
    run(tmp_path, suite)
    (arena,) = Store(tmp_path).read_plan()["arenas"]
    scopes = {line["title"]: line["scope"] for line in arena["explainers"]}
    controls = {title for title, scope in scopes.items() if scope == "control"}
    assert controls == {
        "uniform-noise", "loudness", "constant-gain", "all-ones", "all-zeros",
        "shuffled: ideal", "shuffled: stubs:loudness",
    }  # fmt: skip
    assert scopes["stubs:loudness"] == "post-hoc"


def test_an_explainer_with_the_name_of_a_control_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="name of a control"):
        run(tmp_path, suite_of({"name": "ideal", "label": "all-ones"}, controls=True))


# --- maps


def test_scores_do_not_depend_on_whether_the_maps_were_kept(tmp_path: Path) -> None:
    metrics = ("mean-map", "own-mask")
    run(tmp_path / "fresh", suite_of(metrics=metrics, controls=True))
    run(tmp_path / "kept", suite_of(metrics=metrics[:1], controls=True))
    run(tmp_path / "kept", suite_of(metrics=metrics, controls=True))
    capped = suite_of(metrics=metrics[:1], controls=True, map_cap_mb=0)
    run(tmp_path / "capped", capped)
    assert not list(tmp_path.glob("capped/maps/*/*"))
    CALLS.clear()
    run(tmp_path / "capped", suite_of(metrics=metrics, controls=True, map_cap_mb=0))
    assert CALLS["ideal"] > 0  # there was nothing else to do
    assert cells(tmp_path / "fresh") == cells(tmp_path / "kept") == cells(tmp_path / "capped")


def test_parts_score_the_same_fresh_found_or_made_again(tmp_path: Path) -> None:
    first, later = (
        suite_of("parted", metrics=metrics, data={"clips": 4}, controls=True)
        for metrics in (("mean-map",), ("mean-map", "look-at-parts"))
    )
    run(tmp_path / "fresh", later)
    run(tmp_path / "found", first)
    assert run(tmp_path / "found", later).explained == 0
    run(tmp_path / "again", first.model_copy(update={"map_cap_mb": 0.0}))
    run(tmp_path / "again", later.model_copy(update={"map_cap_mb": 0.0}))
    for title in ("parted", "shuffled: parted"):
        fresh = scores_of(tmp_path / "fresh", title, "look-at-parts")
        assert None not in fresh.values()
        assert len(set(fresh.values())) == 4
        assert scores_of(tmp_path / "found", title, "look-at-parts") == fresh
        assert scores_of(tmp_path / "again", title, "look-at-parts") == fresh


def test_the_maps_of_parts_are_made_only_for_a_metric_that_asks(tmp_path: Path) -> None:
    run(tmp_path, suite_of("parted", metrics=("mean-map",)))
    before, explained = CALLS["parts"], CALLS["parted"]
    assert before == 3 * explained  # those of the whole
    run(tmp_path, suite_of("parted", metrics=("mean-map", "two")))
    assert (CALLS["parts"], CALLS["parted"]) == (before, explained)
    run(tmp_path, suite_of("parted", metrics=("mean-map", "two", "look-at-parts")))
    assert CALLS["parted"] == 2 * explained


def test_the_shuffled_control_has_another_clips_parts(tmp_path: Path) -> None:
    run(tmp_path, suite_of("parted", metrics=("look-at-parts",), controls=True, chunk_size=8))
    own = scores_of(tmp_path, "parted", "look-at-parts")
    others = scores_of(tmp_path, "shuffled: parted", "look-at-parts")
    assert sorted(others.values()) == sorted(own.values())  # type: ignore[type-var]
    assert all(others[row] != own[row] for row in own)


def test_metrics_that_need_parts_are_skipped_where_a_method_has_none(tmp_path: Path) -> None:
    run(tmp_path, suite_of("ideal", "parted", metrics=("look-at-parts",)))
    assert set(outcomes_of(tmp_path, "ideal", "look-at-parts").values()) == {"skipped: the method has no parts"}
    assert set(outcomes_of(tmp_path, "parted", "look-at-parts").values()) == {"scored"}


def test_explaining_again_gives_the_same_map_also_for_a_shuffled_one(tmp_path: Path) -> None:
    run(tmp_path, suite_of("wobbly", "ideal", metrics=("again",), controls=True, data={"clips": 4}))
    for title in ("wobbly", "ideal", "shuffled: wobbly", "uniform-noise"):
        assert set(scores_of(tmp_path, title, "again").values()) == {0.0}


def test_scores_agree_across_chunk_sizes(tmp_path: Path) -> None:
    metrics = ("mean-map", "own-mask", "matched-budget-soft")
    for chunk_size in (1, 2, 5):
        run(tmp_path / str(chunk_size), suite_of("ideal", "wobbly", metrics=metrics, chunk_size=chunk_size))
    tables = [read_scores(Store(tmp_path / str(size))) for size in (1, 2, 5)]
    for other in tables[1:]:
        assert other["row"].tolist() == tables[0]["row"].tolist()
        difference = np.abs(other["value"].to_numpy() - tables[0]["value"].to_numpy())
        assert np.all(difference <= 1e-3 * np.maximum(1, np.abs(tables[0]["value"].to_numpy())))


# --- columns and curves


def test_curves_are_kept_with_their_areas_and_columns_side_by_side(tmp_path: Path) -> None:
    run(tmp_path, suite_of("ideal", metrics=("two",)))
    for cell in cells(tmp_path, "score").values():
        curve, p = cell["curves"]["ramp"], cell["columns"]["p"]
        assert curve["x"] == [0.0, 0.25, 1.0]
        for heights, value, area in zip(curve["y"], p, cell["columns"]["ramp"], strict=True):
            assert heights == pytest.approx([0.0, 0.25 * value, value])
            assert area == pytest.approx(value / 2)


# --- fitting


def test_a_fit_is_done_once_and_found_again(tmp_path: Path) -> None:
    suite = suite_of({"name": "fitted", "fit": {"name": "tones"}})
    assert run(tmp_path, suite).failed == ()
    before = cells(tmp_path)
    assert run(tmp_path, suite).explained == 0
    assert CALLS["fit"] == 1
    assert cells(tmp_path) == before
    run(tmp_path / "elsewhere", suite)
    assert cells(tmp_path / "elsewhere") == before


def test_other_training_data_make_another_fit_in_the_same_results_folder(tmp_path: Path) -> None:
    for clips in (4, 6):
        run(tmp_path, suite_of({"name": "fitted", "fit": {"name": "tones", "parameters": {"clips": clips}}}))
    assert CALLS["fit"] == 2
    assert len(list((tmp_path / "fits").iterdir())) == 2


def test_a_fit_has_the_suites_seed_or_one_of_its_own(tmp_path: Path) -> None:
    fits = ({"name": "tones"}, {"name": "tones", "seed": 0}, {"name": "tones", "seed": 1})
    entries = [{"name": "fitted", "label": f"fit {number}", "fit": fit} for number, fit in enumerate(fits)]
    run(tmp_path, suite_of(*entries))
    assert CALLS["fit"] == 2
    first, same, other = (scores_of(tmp_path, f"fit {number}") for number in range(3))
    assert first == same
    assert all(first[row] != other[row] for row in first)


def test_a_damaged_fit_is_set_aside_and_made_again(tmp_path: Path) -> None:
    suite = suite_of({"name": "fitted", "fit": {"name": "tones"}})
    run(tmp_path, suite)
    before = cells(tmp_path)
    (document,) = tmp_path.glob("fits/*/explainer.json")
    document.write_text("{")
    assert run(tmp_path, suite).failed == ()
    assert CALLS["fit"] == 2
    assert cells(tmp_path) == before


def test_a_fit_that_fails_costs_only_that_explainer(tmp_path: Path) -> None:
    failing = {"name": "fitted", "fit": {"name": "tones"}, "parameters": {"fails": True}, "label": "failing"}
    summary = run(tmp_path, suite_of(failing, "ideal"))
    assert summary.failed == ("bands on tones · failing: It could not be fitted: RuntimeError: it does not converge",)
    assert set(outcomes_of(tmp_path, "ideal").values()) == {"scored"}


def test_an_explainer_that_needs_a_fit_asks_for_its_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must be fitted first"):
        run(tmp_path, suite_of("fitted"))
    with pytest.raises(ConfigurationError, match="nothing to fit"):
        run(tmp_path, suite_of({"name": "ideal", "fit": {"name": "tones"}}))


# --- refusals


@pytest.mark.parametrize(
    ("suite", "said"),
    [
        (suite_of("idael"), "Did you mean 'ideal'"),
        (suite_of("ideal", metrics=("mean-mop",)), "Did you mean 'mean-map'"),
        (suite_of({"name": "ideal", "parameters": {"insight": 1}}), "Did you mean 'inside'"),
        (suite_of({"name": "loudness"}), "offered more than once"),
    ],
)
def test_what_a_suite_names_and_nobody_offers_stops_the_run_before_it_starts(
    tmp_path: Path, suite: Suite, said: str
) -> None:
    with pytest.raises((PluginError, ConfigurationError), match=said):
        run(tmp_path, suite)
    assert not list(tmp_path.glob("cells/*"))


def test_labels_that_the_classifier_does_not_know_are_refused_by_name(tmp_path: Path, monkeypatch: Any) -> None:
    clips = bench_stubs.tones()
    clips.entries[2] = dataclasses.replace(clips.entries[2], labels=("bark",))
    monkeypatch.setattr(runner, "load_dataset", lambda *_, **__: clips)
    with pytest.raises(ConfigurationError, match=r"does not know \['bark'\]"):
        run(tmp_path, suite_of("ideal", target="label"))
    clips.entries[2] = dataclasses.replace(clips.entries[2], labels=())
    with pytest.raises(ConfigurationError, match="some clips have none"):
        run(tmp_path, suite_of("ideal", target="label"))
    assert run(tmp_path, suite_of("ideal")).failed == ()


def test_two_clips_of_one_name_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    clips = bench_stubs.tones()
    clips.entries[2] = dataclasses.replace(clips.entries[2], clip_id="clip-0")
    monkeypatch.setattr(runner, "load_dataset", lambda *_, **__: clips)
    with pytest.raises(ConfigurationError, match=r"more than once: \['clip-0'\]"):
        run(tmp_path)


def test_the_spectrogram_route_is_refused_where_the_classifier_has_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="route"):
        run(tmp_path, suite_of("ideal", route="spectrogram"))


# --- the command


@pytest.fixture
def suite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("earwitness_bench.commands.bench.current_registry", stub_registry)
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nchunk_size = 2\nthreads = 1\n[[arenas]]\ndataset = { name = "tones" }\n'
        'classifier = { name = "bands" }\n[[explainers]]\nname = "ideal"\n[[explainers]]\nname = "naughty"\n'
        'parameters = { way = "crash" }\n[[metrics]]\nname = "mean-map"\n'
    )
    return path


def bench(*arguments: Any) -> Any:
    from earwitness_bench.commands.bench import bench as command

    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_bench_tells_what_it_did_as_text(suite_file: Path, tmp_path: Path) -> None:
    done = bench(suite_file, "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert "bands on tones" in done.stdout
    assert "failed: bands on tones · naughty (way=crash): RuntimeError: out of luck" in done.stderr
    assert (tmp_path / "out" / "scores.parquet").exists()


def test_bench_json_is_one_document_and_nothing_else(suite_file: Path, tmp_path: Path) -> None:
    done = bench(suite_file, "--out", tmp_path / "out", "--json")
    document = json.loads(done.stdout)
    assert document["explained"] == 9 * 3  # two methods, their shuffles and five controls; three chunks
    assert any("naughty" in failure for failure in document["failed"])
    assert done.stderr == ""
    again = json.loads(bench(suite_file, "--out", tmp_path / "out", "--json").stdout)
    assert (again["explained"], again["scored"]) == (0, 0)
    assert again["cached"] == document["explained"] + document["scored"]


def test_ctrl_c_says_how_to_go_on(suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench_stubs.MeanMap.score

    def interrupted(self: Any, explanation: Any, context: Any) -> Any:
        if CALLS["mean-map"] == 3:
            raise KeyboardInterrupt
        return real(self, explanation, context)

    monkeypatch.setattr(bench_stubs.MeanMap, "score", interrupted)
    done = bench(suite_file, "--out", tmp_path / "out")
    assert done.exit_code == 130
    assert "the same command goes on from there" in done.stderr
    partial = CliRunner().invoke(leaderboard_command, [str(tmp_path / "out")])
    assert partial.exit_code == 0
    assert "cells are missing; give the same `earwitness bench` again" in partial.stderr
    monkeypatch.setattr(bench_stubs.MeanMap, "score", real)
    document = json.loads(bench(suite_file, "--out", tmp_path / "out", "--json").stdout)
    assert document["cached"] > 0
    assert "missing" not in CliRunner().invoke(leaderboard_command, [str(tmp_path / "out")]).stderr


def test_bench_asks_for_a_suite_and_lists_the_shipped_ones(tmp_path: Path) -> None:
    done = bench("--out", tmp_path)
    assert done.exit_code == 2
    assert "quick" in done.stderr
