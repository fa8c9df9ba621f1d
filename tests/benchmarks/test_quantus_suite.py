"""The suite ``quantus``, and Quantus' metrics in a run: all methods, all families, every chunk size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench_stubs import stub_registry, suite_of
from earwitness.registry import registry
from earwitness.specs import ExplainerSpec
from earwitness_bench.quantus.catalogue import OFFERED
from earwitness_bench.results import read_scores
from earwitness_bench.runner import run_suite
from earwitness_bench.store import Store
from earwitness_bench.suite import Suite, load_suite

SUITE = load_suite("quantus")
METRICS = [metric.name.rpartition(":")[2] for metric in SUITE.metrics if ":quantus:" in metric.name]


def shortened(clips: int = 2) -> Suite:
    """The suite on fewer clips, without controls."""
    arena = SUITE.arenas[0]
    dataset = arena.dataset.model_copy(update={"parameters": {**arena.dataset.parameters, "clips": clips}})
    arenas = (arena.model_copy(update={"dataset": dataset}),)
    return SUITE.model_copy(update={"arenas": arenas, "controls": False, "threads": 1})


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("quantus")
    summary = run_suite(shortened(), folder, registry=registry())
    assert summary.failed == ()
    return read_scores(Store(folder))


def test_every_built_in_method_is_in_the_suite() -> None:
    built_in = {
        offer.qualified_name
        for offer in registry().offers("explainers")
        if offer.origin.distribution == "earwitness"
        and isinstance(offer.spec, ExplainerSpec)
        and offer.spec.scope == "post-hoc"
    }
    assert built_in
    assert built_in - {entry.name for entry in SUITE.explainers} == set()


def test_every_family_of_quantus_has_a_metric_in_the_suite() -> None:
    assert {OFFERED[name].category for name in METRICS} == {entry.category for entry in OFFERED.values()}
    assert {"FaithfulnessCorrelation", "PixelFlipping", "MaxSensitivity", "RelevanceMassAccuracy", "Complexity"} <= set(
        METRICS
    )


def test_every_method_is_scored_by_every_metric_on_some_clip(scores: pd.DataFrame) -> None:
    scored = scores[scores["outcome"] == "scored"]
    missing = [
        (entry.short_name, name)
        for entry in SUITE.explainers
        for name in METRICS
        if not ((scored["explainer"] == entry.short_name) & (scored["column"] == name)).any()
    ]
    assert missing == []


def test_what_is_not_scored_says_why(scores: pd.DataFrame) -> None:
    outcomes = set(scores[scores["outcome"] != "scored"]["outcome"])
    assert all(outcome.startswith(("skipped: the map is", "skipped: explained again, ")) for outcome in outcomes)


# --- explaining again, in a run


def outcomes_of(folder: Path, *explainers: Any, **options: Any) -> pd.DataFrame:
    suite = suite_of(*explainers, **{"data": {"clips": 4}, **options})
    summary = run_suite(suite, folder, registry=stub_registry())
    assert summary.failed == ()
    return read_scores(Store(folder))


AGAIN = (
    {"name": "quantus:MaxSensitivity", "parameters": {"nr_samples": 2, "lower_bound": 0.01}},
    {"name": "quantus:RandomLogit", "parameters": {"similarity_func": "correlation_pearson"}},
)


def test_the_chunk_size_changes_no_score_of_a_metric_that_explains_again(tmp_path: Path) -> None:
    tables = [
        outcomes_of(tmp_path / str(size), "wobbly", "saliency", metrics=AGAIN, chunk_size=size) for size in (1, 2, 4)
    ]
    for other in tables[1:]:
        assert other["row"].tolist() == tables[0]["row"].tolist()
        np.testing.assert_allclose(other["value"], tables[0]["value"], rtol=2e-3, atol=1e-4)


def test_a_map_of_random_numbers_is_the_same_whatever_the_recording_and_the_class(tmp_path: Path) -> None:
    """Its numbers come from the clip's own stream, also where the clip is asked for alone."""
    found = outcomes_of(tmp_path, "uniform-noise", metrics=AGAIN)
    logits = found[found["column"] == "RandomLogit"]["value"]
    assert len(logits) == 4
    np.testing.assert_allclose(logits, 1.0, atol=1e-3)


def test_a_shuffled_map_does_not_follow_the_recording(tmp_path: Path) -> None:
    found = outcomes_of(tmp_path, "saliency", metrics=AGAIN[:1], controls=True)
    own, shuffled = (found[found["explainer"] == title] for title in ("saliency", "shuffled: saliency"))
    assert (shuffled[shuffled["outcome"] == "scored"]["value"] < 1e-3).all()
    assert (own["value"] > 1e-2).any()


def test_several_rows_of_one_clip_are_told_apart(tmp_path: Path) -> None:
    found = outcomes_of(tmp_path, "saliency", metrics=AGAIN[1:], target="label", data={"clips": 2, "both_labels": True})
    assert found["row"].tolist() == ["clip-0#high", "clip-0#low", "clip-1#high", "clip-1#low"]
    assert found["value"].notna().all()


def test_a_metric_that_fails_in_quantus_costs_its_own_column(tmp_path: Path) -> None:
    bad = {"name": "quantus:PixelFlipping", "parameters": {"features_in_step": 7}}
    suite = suite_of("saliency", metrics=(bad, "mean-map"), data={"clips": 2})
    summary = run_suite(suite, tmp_path, registry=stub_registry())
    assert len(summary.failed) == 1
    assert "quantus:PixelFlipping failed inside Quantus" in summary.failed[0]
    found = read_scores(Store(tmp_path))
    assert found[found["column"] == "mean-map"]["value"].notna().all()
