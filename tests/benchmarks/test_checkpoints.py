"""A suite that uses a fit which is there already, or starts one from another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from earwitness import load_classifier, load_dataset
from earwitness.errors import CheckpointError, ConfigurationError
from earwitness.fitting import fit, fitted_identity
from earwitness.registry import registry
from earwitness_bench.monitor import Passing
from earwitness_bench.runner import run_suite
from earwitness_bench.store import Store
from earwitness_bench.suite import Suite, parse_suite
from earwitness_plugins.lmac import training


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


TRAIN = {"name": "toy", "parameters": {"split": "train", "clips": 6}}
SMALL = {"width": 8, "noise": None, "batch_size": 4}


def tuned(first: dict[str, Any] = SMALL, *, name: str = "lmac", **second: Any) -> Suite:
    """A decoder, and the same one after a step of fine-tuning."""
    rows = [
        {"name": "lmac", "label": "first", "parameters": {**first, "steps": 1}, "fit": TRAIN},
        {"name": name, "label": "tuned", "parameters": second, "fit": {**TRAIN, "start": "first"}},
    ]
    return parse_suite({**suite("toy-cnn").model_dump(exclude_none=True), "explainers": rows})


def test_a_fit_starts_from_the_one_of_another_explainer_wherever_the_results_lie(tmp_path: Path) -> None:
    asked, out = tuned(**SMALL, steps=0, finetune_steps=1), tmp_path / "results"
    assert run_suite(asked, out, registry=registry()).failed == ()
    documents = {path.parent: json.loads(path.read_text()) for path in out.glob("fits/*/explainer.json")}
    ((second, found),) = ((path, read) for path, read in documents.items() if read["parameters"]["steps"] == 0)
    (first,) = documents.keys() - {second}
    assert found["parameters"]["start"] == str(first)
    assert found["contents"] == {"start": fitted_identity(first)}
    seconds = [each["fit"]["seconds"] for each in Store(out).read_plan()["arenas"][0]["explainers"]]
    own = [documents[folder]["fit"]["seconds"] for folder in (first, second)]
    assert seconds == [own[0], pytest.approx(sum(own))], "what it took, with what it started from"

    before = {path: path.stat().st_mtime_ns for path in first.glob("*")}
    moved = out.rename(tmp_path / "elsewhere")
    again = run_suite(asked, moved, registry=registry())
    assert (again.failed, again.explained) == ((), 0)
    assert {
        out / path.relative_to(moved): path.stat().st_mtime_ns for path in moved.glob(f"fits/{first.name}/*")
    } == before
    assert len(list(moved.glob("fits/*"))) == 2


def test_what_starts_from_a_fit_that_failed_says_so(tmp_path: Path) -> None:
    summary = run_suite(tuned({**SMALL, "layers": ["nowhere"]}, **SMALL), tmp_path, registry=registry())
    assert len(summary.failed) == 2
    assert "the fit from which it starts is missing: ClassifierError" in " ".join(summary.failed)


def test_what_starts_from_an_unsuitable_fit_says_so(tmp_path: Path) -> None:
    asked = tuned(**(SMALL | {"width": 16}), steps=0, finetune_steps=1)
    (said,) = run_suite(asked, tmp_path, registry=registry()).failed
    assert "holds no mask decoder for toy-cnn of width 16" in said


@pytest.mark.parametrize("second", [{"name": "class-mean"}, {"guidance_loss": "nope"}])
def test_wrong_parameters_are_refused_before_anything_is_fitted(second: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no parameter 'start'|no guidance_loss 'nope'"):
        run_suite(tuned(**second), tmp_path, registry=registry())
    assert not (tmp_path / "fits").exists()


class Killed(BaseException):
    pass


def killed_while_tuning(event: object) -> None:
    if isinstance(event, Passing) and event.text.startswith("fitting tuned: loss"):
        raise Killed


def test_a_damaged_start_costs_nothing_but_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun from it goes on once it has been mended."""
    monkeypatch.setattr(training, "STRETCH", 1)
    monkeypatch.setattr(training, "LOOK", 1)
    earlier = tmp_path / "earlier"
    data = load_dataset("toy", parameters=TRAIN["parameters"])
    fit(registry(), "lmac", load_classifier("toy-cnn"), data, earlier, parameters=SMALL | {"steps": 1})
    rows = [
        {"name": "lmac", "label": "first", "checkpoint": str(earlier)},
        {"name": "lmac", "label": "tuned", "parameters": SMALL | {"steps": 2}, "fit": TRAIN | {"start": "first"}},
    ]
    asked = parse_suite({**suite("toy-cnn").model_dump(exclude_none=True), "explainers": rows})
    out = tmp_path / "results"
    with pytest.raises(Killed):
        run_suite(asked, out, registry=registry(), observer=killed_while_tuning)
    (begun,) = out.glob("fits/*/checkpoint.safetensors")
    before, tensors = begun.stat().st_mtime_ns, (earlier / "explainer.safetensors").read_bytes()

    (earlier / "explainer.safetensors").write_bytes(tensors[:-8])
    assert "tuned" in " ".join(run_suite(asked, out, registry=registry()).failed)
    assert begun.stat().st_mtime_ns == before

    (earlier / "explainer.safetensors").write_bytes(tensors)
    assert run_suite(asked, out, registry=registry(), only_failed=True).failed == ()
    run_suite(asked, out, registry=registry())
    assert sorted(path.name for path in begun.parent.glob("*")) == ["explainer.json", "explainer.safetensors"]


def test_a_fit_starts_only_from_one_further_up() -> None:
    rows = [
        {"name": "lmac", "label": name, "fit": {"name": "toy", "start": start}}
        for name, start in [("a", ""), ("b", "c")]
    ]
    with pytest.raises(ConfigurationError, match="b starts from the fit of 'c', and no explainer further up"):
        parse_suite({**suite("toy-cnn").model_dump(exclude_none=True), "explainers": rows})
    rows[1]["fit"]["start"] = "a"  # type: ignore[index]
    parse_suite({**suite("toy-cnn").model_dump(exclude_none=True), "explainers": rows})
    with pytest.raises(ConfigurationError, match="give start either among the parameters"):
        parse_suite(
            {
                **suite("toy-cnn").model_dump(exclude_none=True),
                "explainers": [rows[0], {**rows[1], "parameters": {"start": "folder"}}],
            }
        )
