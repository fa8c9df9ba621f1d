"""Plugins that misbehave: each is contained and named, and everybody else's cells are what they are without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bench_stubs
from bench_stubs import stub_registry, suite_of
from earwitness_bench import runner
from earwitness_bench.results import read_scores
from earwitness_bench.runner import Summary, run_suite
from earwitness_bench.store import Store
from earwitness_bench.suite import Suite
from unruly import METRIC_WAYS, WAYS, unruly_plugin

TIMING = ("seconds", "peak_memory_mb", "checksum", "traceback")
BYSTANDER = {"name": "wobbly", "parameters": {"from_global": True}}
METRICS = ("mean-map", "own-mask")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(out: Path, suite: Suite, **options: Any) -> Summary:
    return run_suite(suite, out, registry=stub_registry(unruly_plugin()), **options)


def cells(out: Path, kind: str = "*") -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(out.glob(f"cells/{kind}/*/*.json")):
        cell = json.loads(path.read_bytes())
        found[cell["key"]] = {name: value for name, value in cell.items() if name not in TIMING}
    return found


def suite_with(way: str, clip: str = "", **options: Any) -> Suite:
    """The culprit comes first, so that whatever it leaves behind would be met by the others."""
    parameters = {"way": way, **({"clip": clip} if clip else {})}
    culprit = {"name": "unruly", "parameters": parameters, "label": "culprit"}
    return suite_of(culprit, BYSTANDER, "ideal", metrics=METRICS, **{"data": {"clips": 4}, "chunk_size": 4, **options})


def outcomes_of(out: Path, explainer: str) -> dict[str, str]:
    table = read_scores(Store(out))
    chosen = table[(table["explainer"] == explainer) & (table["column"] == "mean-map")]
    return dict(zip(chosen["row"], chosen["outcome"], strict=True))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The cells of the bystanders, who are alone."""
    out = tmp_path_factory.mktemp("undisturbed")
    run(out, suite_of(BYSTANDER, "ideal", metrics=METRICS, data={"clips": 4}, chunk_size=4))
    return cells(out)


IN_A_PROCESS_OF_ITS_OWN = {"hangs in compiled code", "kills its process"}
SAID = {
    "raises": "RuntimeError: something is wrong",
    "hangs": "it took more than 0.3 s",
    "NaN": "has NaN or infinite values",
    "wrong shape": r"must have shape (4, 129, 33) here, got (4, 5, 33)",
    "wrong type": "must return an Explanation, got Tensor",
    "wrong device": "meta tensors",
}
HARMLESS = {"writes to its input", "writes to the classifier", "changes global state"}


@pytest.mark.parametrize("way", sorted(SAID))
def test_an_explainer_that_fails_is_named_and_harms_nobody(tmp_path: Path, undisturbed: Any, way: str) -> None:
    summary = run(tmp_path, suite_with(way, cell_timeout_s=0.3 if way == "hangs" else None))
    assert len(summary.failed) == 1
    assert summary.failed[0].startswith("bands on tones · culprit: ")
    assert SAID[way] in summary.failed[0]
    assert all(SAID[way] in outcome for outcome in outcomes_of(tmp_path, "culprit").values())
    assert undisturbed.items() <= cells(tmp_path).items()


@pytest.mark.parametrize("way", sorted(HARMLESS))
def test_what_an_explainer_writes_to_reaches_nobody(tmp_path: Path, undisturbed: Any, way: str) -> None:
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    summary = run(tmp_path, suite_with(way))
    assert summary.failed == ()
    assert undisturbed.items() <= cells(tmp_path).items()
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)


def test_every_way_to_misbehave_is_tested_here_or_with_real_processes() -> None:
    elsewhere = {"raises for one clip", "wants too much memory"}
    assert set(WAYS) == set(SAID) | HARMLESS | IN_A_PROCESS_OF_ITS_OWN | elsewhere


# --- one bad row


def test_one_bad_clip_costs_only_itself(tmp_path: Path) -> None:
    summary = run(tmp_path, suite_with("raises for one clip", "clip-2", controls=True))
    failure = "failed: ValueError: nothing to be said about clip-2"
    assert f"bands on tones · culprit · clip-2: {failure}" in summary.failed
    outcomes = outcomes_of(tmp_path, "culprit")
    assert outcomes == {"clip-0": "scored", "clip-1": "scored", "clip-2": failure, "clip-3": "scored"}
    (cell,) = [cell for cell in cells(tmp_path, "explain").values() if cell["title"] == "culprit"]
    assert (cell["status"], cell["rows_per_call"]) == ("ok", 1)
    assert {row["row"]: row["outcome"] for row in cell["rows"]} == {
        **dict.fromkeys(outcomes, "explained"),
        "clip-2": failure,
    }
    assert any("was explained 1 at a time" in note for note in summary.notes)
    shuffled = outcomes_of(tmp_path, "shuffled: culprit")
    assert shuffled == outcomes  # which takes maps only from those that have one


def test_the_others_of_a_bad_clips_chunk_have_the_scores_they_have_alone(tmp_path: Path) -> None:
    run(tmp_path / "chunk", suite_with("raises for one clip", "clip-2"))
    run(tmp_path / "single", suite_with("raises for one clip", "clip-2", chunk_size=1))
    tables = [read_scores(Store(tmp_path / name)) for name in ("chunk", "single")]
    one, other = (table[table["explainer"] == "culprit"]["value"].to_numpy() for table in tables)
    assert np.isnan(one).sum() == 10  # mean-map and nine columns of own-mask
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_metric_added_later_scores_the_rows_that_were_explained(tmp_path: Path) -> None:
    suite = suite_with("raises for one clip", "clip-2", controls=True)
    run(tmp_path / "later", suite.model_copy(update={"metrics": suite.metrics[:1]}))
    assert run(tmp_path / "later", suite).explained == 0
    run(tmp_path / "at once", suite)
    assert cells(tmp_path / "later") == cells(tmp_path / "at once")


@pytest.mark.parametrize("clips", [4, 1])
def test_a_clip_that_cannot_be_read_costs_only_itself_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clips: int
) -> None:
    suite = suite_of("ideal", BYSTANDER, metrics=METRICS, data={"clips": clips}, chunk_size=4)
    with monkeypatch.context() as patched:
        patched.setattr(runner, "load_dataset", lambda *_, **__: Hole(bench_stubs.tones(clips=clips)))
        summary = run(tmp_path, suite)
    assert len(summary.failed) == 2  # once for each explainer
    outcomes = outcomes_of(tmp_path, "ideal")
    assert outcomes.pop("clip-0") == "failed: OSError: Input/output error"
    assert set(outcomes.values()) <= {"scored"}
    assert run(tmp_path, suite).failed == ()
    run(tmp_path / "whole", suite)
    assert cells(tmp_path) == cells(tmp_path / "whole")


class Hole:
    """A data set whose first clip cannot be read."""

    def __init__(self, whole: Any) -> None:
        self._whole = whole
        self.labels, self.rate, self.entries, self.notes = whole.labels, whole.rate, whole.entries, whole.notes

    def __len__(self) -> int:
        return len(self._whole)

    def __getitem__(self, index: int) -> Any:
        if index == 0:
            raise OSError("Input/output error")
        return self._whole[index]


# --- memory


def test_a_batch_for_which_memory_is_short_is_halved_and_that_is_recorded(tmp_path: Path, undisturbed: Any) -> None:
    summary = run(tmp_path, suite_with("wants too much memory"))
    assert summary.failed == ()
    (cell,) = [cell for cell in cells(tmp_path, "explain").values() if cell["title"] == "culprit"]
    assert cell["rows_per_call"] == 2
    assert [row["outcome"] for row in cell["rows"]] == ["explained"] * 4
    assert any("was explained 2 at a time" in note for note in summary.notes)
    assert undisturbed.items() <= cells(tmp_path).items()
    assert all(cell["rows_per_call"] == 4 for cell in undisturbed.values() if cell["kind"] == "explain")


def test_rows_explained_in_halves_are_those_of_smaller_chunks(tmp_path: Path) -> None:
    run(tmp_path / "halved", suite_with("wants too much memory"))
    run(tmp_path / "small", suite_with("wants too much memory", chunk_size=2))
    one, other = (read_scores(Store(tmp_path / name)) for name in ("halved", "small"))
    one, other = (table[table["explainer"] == "culprit"] for table in (one, other))
    assert one["row"].tolist() == other["row"].tolist()
    assert len(one) == 40
    assert np.abs(one["value"].to_numpy() - other["value"].to_numpy()).max() < 1e-3


# --- metrics

METRIC_SAID = {
    "raises": "ZeroDivisionError: nothing to divide by",
    "hangs": "it took more than 0.3 s",
    "wrong shape": "must be a Tensor of shape (4,), got (1,)",
    "writes to the map": "changed what it was shown: the relevance",
    "writes to the recording": "changed what it was shown: the recordings",
    "writes to the classifier": "changed what it was shown: the classifier's sharpness",
    "leaves a hook": "changed what it was shown: the classifier's mode or hooks",
}


def metric_suite(way: str, **options: Any) -> Suite:
    culprit = {"name": "unruly", "parameters": {"way": way}}
    metrics = ("two", culprit, *METRICS)
    return suite_of(BYSTANDER, "ideal", metrics=metrics, **{"data": {"clips": 4}, "chunk_size": 4, **options})


@pytest.mark.parametrize("way", sorted(METRIC_SAID))
def test_a_metric_that_misbehaves_is_named_and_harms_no_other(tmp_path: Path, undisturbed: Any, way: str) -> None:
    summary = run(tmp_path, metric_suite(way, cell_timeout_s=0.3 if way == "hangs" else None))
    blamed = "ideal" if way == "writes to the map" else "wobbly (from_global=True)"
    if way == "writes to the map":  # one of them has no relevance to write to
        assert "AssertionError" in next(text for text in summary.failed if blamed in text)
        blamed = "wobbly (from_global=True)"
    (said,) = [text for text in summary.failed if f"{blamed} · unruly" in text]
    assert METRIC_SAID[way] in said
    assert undisturbed.items() <= cells(tmp_path).items()


def test_a_metric_for_which_memory_is_short_is_asked_about_fewer_rows(tmp_path: Path, undisturbed: Any) -> None:
    summary = run(tmp_path, metric_suite("wants too much memory"))
    assert summary.failed == ()
    assert any("unruly: 2 rows of 4 were scored at a time" in note for note in summary.notes)
    scores = [cell for cell in cells(tmp_path, "score").values() if cell["metric"]["name"] == "unruly:unruly"]
    assert [(cell["rows_per_call"], cell["columns"]["unruly"]) for cell in scores] == [(2, [0.0] * 4)] * 2
    assert undisturbed.items() <= cells(tmp_path).items()


def test_every_way_of_a_metric_is_tested_here_or_with_real_processes() -> None:
    assert set(METRIC_WAYS) == set(METRIC_SAID) | {"wants too much memory", "kills its process"}


# --- stopping and trying again


def test_fail_fast_stops_at_the_first_cell_that_fails_now(tmp_path: Path) -> None:
    suite = suite_with("raises", chunk_size=2)
    summary = run(tmp_path, suite, fail_fast=True)
    assert (summary.explained, summary.left) == (1, 5)
    again = run(tmp_path, suite, fail_fast=True)  # that failure is known
    assert (again.explained, again.cached, again.left) == (3, 1, 2)


def test_only_failed_computes_what_has_failed_and_nothing_else(tmp_path: Path) -> None:
    run(tmp_path, suite_with("raises", chunk_size=2))
    assert run(tmp_path, suite_with("raises", chunk_size=2)).explained == 0
    summary = run(tmp_path, suite_with("raises", chunk_size=2), only_failed=True)
    assert (summary.explained, summary.scored, summary.cached) == (2, 0, 0)
    assert len(summary.failed) == 1
    whole = suite_with("raises", chunk_size=2, data={"clips": 6})
    assert run(tmp_path, whole, only_failed=True).explained == 2  # what is missing stays missing


def test_a_time_limit_changes_no_key_and_no_number(tmp_path: Path, undisturbed: Any) -> None:
    suite = suite_of(BYSTANDER, "ideal", metrics=METRICS, data={"clips": 4}, chunk_size=4, cell_timeout_s=60.0)
    run(tmp_path, suite)
    assert cells(tmp_path) == undisturbed


def test_what_took_too_long_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    slow = suite_of({"name": "ideal", "parameters": {"pause_s": 0.5}}, data={"clips": 2})
    assert "it took more than 0.1 s" in run(tmp_path, slow.model_copy(update={"cell_timeout_s": 0.1})).failed[0]
    assert run(tmp_path, slow).failed == ()
