"""A suite that uses a fit which is there already."""

from __future__ import annotations

from pathlib import Path

import pytest

from earwitness import load_classifier, load_dataset
from earwitness.errors import CheckpointError, ConfigurationError
from earwitness.fitting import fit, fitted_identity
from earwitness.registry import registry
from earwitness_bench.runner import run_suite
from earwitness_bench.store import Store
from earwitness_bench.suite import Suite, parse_suite


def suite(classifier: str, **entry: str) -> Suite:
    arena = {
        "dataset": {"name": "toy", "parameters": {"split": "test", "clips": 2}},
        "classifier": {"name": classifier},
    }
    lists = {"arenas": [arena], "explainers": [{"name": "class-mean", **entry}], "metrics": [{"name": "mask-shape"}]}
    return parse_suite({"name": "mine", "threads": 1, "controls": False, **lists})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit to the toy classifier."""
    found = tmp_path_factory.mktemp("fits") / "mean"
    data = load_dataset("toy", parameters={"split": "train", "clips": 4})
    fit(registry(), "class-mean", load_classifier("toy-cnn"), data, found, parameters={"n_frames": 8})
    return found


def test_it_is_used_as_it_is_with_its_own_parameters(folder: Path, tmp_path: Path) -> None:
    summary = run_suite(suite("toy-cnn", checkpoint=str(folder)), tmp_path, registry=registry())
    assert (summary.failed, summary.explained) == ((), 1)
    (explainer,) = Store(tmp_path).read_plan()["arenas"][0]["explainers"]
    assert explainer["identity"]["fitted"] == fitted_identity(folder)
    assert not (tmp_path / "fits").exists()
    assert run_suite(suite("toy-cnn", checkpoint=str(folder)), tmp_path, registry=registry()).explained == 0


def test_one_that_is_missing_is_named_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no fitted explainer"):
        run_suite(suite("toy-cnn", checkpoint=str(tmp_path / "nothing")), tmp_path / "out", registry=registry())


def test_one_of_another_classifier_fails_and_says_so(folder: Path, tmp_path: Path) -> None:
    summary = run_suite(suite("esc10-cnn", checkpoint=str(folder)), tmp_path, registry=registry())
    assert "was fitted to toy-cnn" in summary.failed[0]


def test_without_a_fit_or_a_checkpoint_both_ways_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"fit = .* or which fit to use: checkpoint"):
        run_suite(suite("toy-cnn"), tmp_path, registry=registry())
