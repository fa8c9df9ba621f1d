"""Explanations that are made audible again, compared with the ones that were scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench_stubs import CALLS, bands, stub_registry, suite_of, tones
from earwitness.audio.rules import parse_rule
from earwitness.clips import Batch
from earwitness.errors import StoreError
from earwitness.render import Scene, render
from earwitness_bench.packing import unpack
from earwitness_bench.replay import CannotReplayError, Replay
from earwitness_bench.results import read_scores
from earwitness_bench.runner import run_suite
from earwitness_bench.store import Store


def ran(out: Path, *explainers: Any, **options: Any) -> Store:
    run_suite(suite_of(*explainers, **options), out, registry=stub_registry())
    return Store(out)


def replay_of(store: Store) -> Replay:
    return Replay(store, 0, registry=stub_registry())


def test_what_is_played_is_the_kept_map_under_the_runs_rule(tmp_path: Path) -> None:
    store = ran(tmp_path, "wobbly", rule="quantile(0.7)")
    replay = replay_of(store)
    (explainer,) = store.read_plan()["arenas"][0]["explainers"]
    clips = {clip.clip_id: clip for clip in (tones()[n] for n in range(5))}
    classifier = bands()
    assert len(replay) == 3
    for chunk, keys in enumerate(explainer["cells"]):
        found = replay.play("wobbly", chunk)
        batch = Batch.of([clips[row] for row in found.rows])
        scene = Scene(classifier, batch, classifier.listening)
        wanted = render(scene, unpack(*store.read_maps(keys["explain"])), parse_rule("quantile(0.7)"))  # type: ignore[misc]
        assert torch.equal(found.heard, wanted.heard)
        assert torch.equal(found.gain, wanted.gain)
        assert found.heard + found.rest == pytest.approx(batch.waveforms, abs=1e-5)
        p = classifier.probabilities(wanted.heard).gather(
            1, classifier.probabilities(batch.waveforms).argmax(1)[:, None]
        )
        assert found.p_heard == pytest.approx(p[:, 0].detach(), abs=1e-5)


def test_the_probabilities_are_those_that_were_scored(tmp_path: Path) -> None:
    store = ran(tmp_path, "ideal", metrics=["own-mask"])
    scores = read_scores(store)
    kept = {row.row: row.value for row in scores[scores["column"] == "FF"].itertuples()}
    replay = replay_of(store)
    for chunk in range(len(replay)):
        found = replay.play("ideal", chunk)
        for row, original, rest in zip(found.rows, found.p_original, found.p_rest, strict=True):
            assert float(original - rest) == pytest.approx(kept[row], abs=1e-5)


def test_some_rows_of_a_chunk_can_be_asked_for(tmp_path: Path) -> None:
    replay = replay_of(ran(tmp_path, "ideal"))
    both = replay.play("ideal", 0)
    one = replay.play("ideal", 0, [both.rows[1]])
    assert one.rows == both.rows[1:]
    assert torch.equal(one.heard, both.heard[1:])


def test_maps_that_were_not_kept_are_explained_again(tmp_path: Path) -> None:
    kept = replay_of(ran(tmp_path / "kept", "wobbly")).play("wobbly", 0)
    store = ran(tmp_path / "not", "wobbly", map_cap_mb=0.0)
    CALLS.clear()
    again = replay_of(store).play("wobbly", 0)
    assert CALLS["wobbly"] == 1
    assert torch.equal(kept.heard, again.heard)


def test_maps_that_were_not_kept_and_would_be_others_now_are_refused(tmp_path: Path) -> None:
    store = ran(tmp_path, "wobbly", map_cap_mb=0.0)
    plan = store.read_plan()
    cell = plan["arenas"][0]["explainers"][0]["cells"][0]
    kept = store.read_cell("explain", cell["explain"])
    assert kept is not None
    store.write_cell("explain", "ff" * 32, {n: v for n, v in kept.items() if n not in ("schema", "kind", "key")})
    cell["explain"] = "ff" * 32
    store.write_plan({name: value for name, value in plan.items() if name not in ("schema", "kind")})
    with pytest.raises(CannotReplayError, match="not kept, and what they depend on has changed"):
        replay_of(store).play("wobbly", 0)


def test_what_was_not_explained_says_why(tmp_path: Path) -> None:
    store = ran(tmp_path, {"name": "naughty", "parameters": {"way": "crash"}, "label": "naughty"})
    with pytest.raises(CannotReplayError, match="out of luck"):
        replay_of(store).play("naughty", 0)


def altered(store: Store, change: Any) -> Store:
    path = store.folder / "plan.json"
    plan = json.loads(path.read_text())
    change(plan)
    path.write_text(json.dumps(plan))
    return store


def test_another_classifier_is_refused(tmp_path: Path) -> None:
    def sharper(plan: Any) -> None:
        plan["suite"]["arenas"][0]["classifier"]["parameters"] = {"sharpness": 2.0}

    with pytest.raises(StoreError, match="not the one that was explained"):
        replay_of(altered(ran(tmp_path, "ideal"), sharper))


def test_other_recordings_are_refused(tmp_path: Path) -> None:
    def louder(plan: Any) -> None:
        plan["suite"]["arenas"][0]["dataset"]["parameters"] = {"level": 0.9}

    replay = replay_of(altered(ran(tmp_path, "ideal"), louder))
    with pytest.raises(CannotReplayError, match="the data set has changed"):
        replay.play("ideal", 0)
