"""The study of surrogates: fidelity worked out a second time, intervals, resume, and the figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.metrics import average_precision_score

from earwitness import load_classifier, load_dataset
from earwitness.cli.shell import shell
from earwitness.errors import ConfigurationError
from earwitness.fitting import fit
from earwitness.registry import registry
from earwitness_bench.studies.material import Material
from earwitness_bench.studies.surrogate import Answers, Design, embed, run_surrogate

N, C, K = 24, 6, 5


def answers(*, multilabel: bool, agreeing: int = N) -> Answers:
    """The surrogate agrees with the classifier on the first so many clips, and names the next class on the others."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(N, C, generator=generator, dtype=torch.float64)
    surrogate = probabilities.logit()
    surrogate[agreeing:] = surrogate[agreeing:].roll(1, dims=1)
    groups = tuple(f"recording {i // 2}" for i in range(N))
    return Answers(probabilities, surrogate, torch.rand(N, K, generator=generator).double(), groups, multilabel)


def test_fidelity_is_agreement_with_the_decision() -> None:
    found = answers(multilabel=False, agreeing=18).fidelity()
    assert list(found) == ["top-1", "top-3", "top-5"]
    assert found["top-1"]["value"] == pytest.approx(18 / N)
    low, high = found["top-1"]["interval"]
    assert low < 18 / N < high
    assert answers(multilabel=False).fidelity()["top-1"] == {"value": 1.0, "interval": [1.0, 1.0]}


def test_with_as_few_classes_as_ranks_there_is_no_such_fidelity() -> None:
    whole = answers(multilabel=False)
    few = Answers(whole.probabilities[:, :3], whole.surrogate[:, :3], whole.relevance, whole.groups, False)
    assert list(few.fidelity()) == ["top-1"]


def test_multilabel_fidelity_is_the_area_that_scikit_learn_finds() -> None:
    own = answers(multilabel=True, agreeing=12)
    found = own.fidelity()
    decisions, scores = (own.probabilities > 0.5).numpy(), own.surrogate.numpy()
    for average in ("macro", "micro"):
        wanted = average_precision_score(decisions, scores, average=average)
        assert found[f"{average}_AUPRC"]["value"] == pytest.approx(wanted)
        assert found[f"{average}_max_F1"]["value"] >= 0.5
    assert answers(multilabel=True).fidelity()["macro_AUPRC"]["value"] == 1.0


def test_clips_of_like_relevance_lie_together() -> None:
    generator = np.random.default_rng(0)
    centres = np.repeat(np.eye(3) * 5, 10, axis=0)
    places = embed(centres + 0.1 * generator.standard_normal(centres.shape), 0)
    assert places.shape == (30, 2)
    own = [places[start : start + 10] for start in (0, 10, 20)]
    spread = max(float(group.std(0).max()) for group in own)
    apart = min(float(np.linalg.norm(a.mean(0) - b.mean(0))) for a, b in ((own[0], own[1]), (own[1], own[2])))
    assert apart > 3 * spread
    assert np.array_equal(places, embed(centres + 0.1 * np.random.default_rng(0).standard_normal(centres.shape), 0))
    assert embed(np.ones((3, 1)), 0).shape == (3, 2)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small interpreter of the toy classifier."""
    folder = tmp_path_factory.mktemp("l2i")
    data = load_dataset("toy", parameters={"split": "train", "clips": 8})
    parameters: dict[str, Any] = {"patterns": 6, "epochs": 1, "width": 8}
    fit(registry(), "l2i", load_classifier("toy-cnn"), data, folder / "fit", parameters=parameters)
    return folder / "fit"


def test_the_command_writes_numbers_and_a_figure_and_goes_on_where_it_was(fitted: Path, tmp_path: Path) -> None:
    arguments = ["study", "surrogate", "--checkpoint", str(fitted), "--classifier", "toy-cnn", "--dataset", "toy"]
    arguments += ["--dataset-param", "split=test", "--dataset-param", "clips=10", "--out", str(tmp_path), "--json"]
    first, again = (json.loads(CliRunner().invoke(shell, arguments).stdout) for _ in range(2))
    assert (first["computed"], first["found"], again["computed"], again["found"]) == (2, 0, 0, 2)
    assert first["fidelity"] == again["fidelity"]
    assert list(first["fidelity"]) == ["top-1"]  # of two classes
    assert len(first["map"]["places"]) == first["clips"] == 10
    assert {path.name for path in tmp_path.glob("surrogate.*")} == {"surrogate.json", "surrogate.png", "surrogate.svg"}


def test_a_method_that_does_not_decide_is_refused(tmp_path: Path) -> None:
    classifier = load_classifier("toy-cnn")
    data = load_dataset("toy", parameters={"split": "train", "clips": 4})
    fit(registry(), "class-mean", classifier, data, tmp_path / "fit")
    with pytest.raises(Exception, match="does not decide on its own") as raised:
        run_surrogate(
            Design("class-mean", tmp_path / "fit", seed=0, chunk_size=8),
            tmp_path / "out",
            material=Material(classifier, data, registry()),
            progress=lambda *_: None,
        )
    assert not isinstance(raised.value, ConfigurationError)  # no clip could be explained: the reason is in the message
