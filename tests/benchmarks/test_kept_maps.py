"""Agreement of explainers from the maps that a run has kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr

from bench_stubs import stub_registry, suite_of
from earwitness_bench.kept_maps import map_agreements
from earwitness_bench.packing import unpack
from earwitness_bench.runner import run_suite
from earwitness_bench.store import Store

ARENA = "bands on tones"


def maps_of(store: Store, title: str) -> dict[str, torch.Tensor]:
    """All maps of an explainer, read by hand."""
    (arena,) = store.read_plan()["arenas"]
    found = {}
    for cell in next(e for e in arena["explainers"] if e["title"] == title)["cells"]:
        rows = store.read_cell("explain", cell["explain"])["rows"]
        explanation = unpack(*store.read_maps(cell["explain"]))
        values = (explanation.mask or explanation.relevance).values
        found.update({row["row"]: own for row, own in zip(rows, values, strict=True)})
    return found


def test_the_mean_is_that_of_spearmans_correlation_over_all_clips(tmp_path: Path) -> None:
    run_suite(suite_of("ideal", "wobbly", "parted", controls=True), tmp_path, registry=stub_registry())
    store = Store(tmp_path)
    found = map_agreements(store, ARENA)
    assert [(one.first, one.second) for one in found] == [
        ("ideal", "wobbly"),
        ("ideal", "parted"),
        ("wobbly", "parted"),
    ]
    for one in found:
        first, second = maps_of(store, one.first), maps_of(store, one.second)
        wanted = [spearmanr(first[row].flatten(), second[row].flatten()).statistic for row in first]
        assert one.mean == pytest.approx(sum(wanted) / 5)
        assert (one.clips, one.constant, one.apart, one.absent) == (5, 0, 0, 0)
        assert one.interval is not None
        assert one.interval[0] <= one.mean <= one.interval[1]


def test_what_cannot_be_compared_is_counted_with_its_reason(tmp_path: Path) -> None:
    flat = {"name": "ideal", "parameters": {"inside": 0.0}, "label": "flat"}
    broken = {"name": "naughty", "parameters": {"way": "crash"}, "label": "broken"}
    run_suite(suite_of("wobbly", flat, broken, "saliency"), tmp_path, registry=stub_registry())
    found = {(one.first, one.second): one for one in map_agreements(Store(tmp_path), ARENA)}
    constant = found["wobbly", "flat"]
    assert (constant.mean, constant.interval, constant.clips, constant.constant) == (None, None, 0, 5)
    assert found["wobbly", "broken"].absent == 5
    assert found["wobbly", "saliency"].apart == 5  # one on the listening STFT, the other on samples


def test_maps_that_were_not_kept_are_absent(tmp_path: Path) -> None:
    run_suite(suite_of("ideal", "wobbly", map_cap_mb=0.0), tmp_path, registry=stub_registry())
    (one,) = map_agreements(Store(tmp_path), ARENA)
    assert (one.clips, one.absent) == (0, 5)


def test_an_arena_that_is_not_there_has_none(tmp_path: Path) -> None:
    run_suite(suite_of("ideal"), tmp_path, registry=stub_registry())
    assert map_agreements(Store(tmp_path), "elsewhere") == []
