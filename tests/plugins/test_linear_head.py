"""Linear heads: fitted to the optimum, chosen by the validation fold, and as good at ESC-10 as promised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from earwitness import load_classifier, load_dataset
from earwitness.artifacts import load_tensors, save_tensors
from earwitness.batching import ClipList
from earwitness.cli.shell import shell
from earwitness.clips import Clip
from earwitness.errors import CheckpointError, ClassifierError, ConfigurationError
from earwitness_plugins.classifiers import zoo
from earwitness_plugins.classifiers.evaluation import evaluate
from earwitness_plugins.classifiers.linear_head import (
    PENALTIES,
    Embedded,
    LinearHead,
    classifier_with_head,
    cross_validate,
    embed,
    fit_head,
    save_head,
)
from earwitness_plugins.classifiers.pretrained import pretrained_network
from earwitness_plugins.classifiers.published_weights import WEIGHTS

NAMES = ("yamnet", "efficientat-mn04")


@pytest.fixture
def models(shared_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are at hand."""
    monkeypatch.setenv("EARWITNESS_MODELS", str(shared_root / "models"))


def blobs(n_rows: int, *, seed: int, spread: float = 1.0) -> Embedded:
    """Three clouds in five dimensions of very different scales."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(n_rows) % 3
    centres = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    points = centres[classes] + spread * torch.randn(n_rows, 5, generator=generator)
    return points * torch.tensor([1.0, 100.0, 0.01, 1.0, 5.0]) + 3, classes


# --- the regression


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
def test_the_head_is_the_optimum_of_the_stated_objective(penalty: float) -> None:
    """At the optimum, mean (p - y) x + penalty · W = 0 and mean (p - y) = 0, with standardised x."""
    inputs, classes = blobs(60, seed=1)
    head = fit_head((inputs, classes), 3, penalty)
    x = inputs.double().numpy()
    mean, deviation = x.mean(0), x.std(0)
    weight = head.weight.double().numpy() * deviation
    bias = head.bias.double().numpy() + head.weight.double().numpy() @ mean
    z = (x - mean) / deviation
    scores = z @ weight.T + bias
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    excess = (p - np.eye(3)[classes.numpy()]) / len(x)
    np.testing.assert_allclose(excess.T @ z + penalty * weight, 0, atol=1e-5)
    np.testing.assert_allclose(excess.sum(0), 0, atol=1e-5)


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
def test_a_multilabel_head_is_the_optimum_of_the_stated_objective(penalty: float) -> None:
    """At the optimum, mean (sigmoid(s) - y) x + penalty · W = 0 for each class by itself."""
    inputs, classes = blobs(60, seed=1)
    members = torch.stack([classes == 0, classes != 1, torch.arange(60) % 2 == 0], dim=1)
    head = fit_head((inputs, members), 3, penalty)
    x = inputs.double().numpy()
    mean, deviation = x.mean(0), x.std(0)
    weight = head.weight.double().numpy() * deviation
    scores = ((x - mean) / deviation) @ weight.T + head.bias.double().numpy() + head.weight.double().numpy() @ mean
    excess = (1 / (1 + np.exp(-scores)) - members.numpy()) / len(x)
    np.testing.assert_allclose(excess.T @ ((x - mean) / deviation) + penalty * weight, 0, atol=1e-5)
    np.testing.assert_allclose(excess.sum(0), 0, atol=1e-5)


def test_the_quality_of_a_multilabel_head_is_macro_average_precision() -> None:
    head = LinearHead(torch.eye(2), torch.zeros(2))
    logits = torch.tensor([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]])
    members = torch.tensor([[True, True], [False, False], [True, True]])
    # Class one: hit, miss, hit: (1 + 2/3) / 2. Class two: the same, read from below.
    assert head.quality((logits, members)) == pytest.approx(5 / 6)


def test_equal_embeddings_give_equal_heads_and_a_constant_column_no_weight() -> None:
    inputs, classes = blobs(60, seed=1)
    inputs[:, 2] = 4.0
    heads = [fit_head((inputs, classes), 3, 0.01) for _ in range(2)]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert torch.equal(heads[0].bias, heads[1].bias)
    assert bool(torch.isfinite(heads[0].weight).all())
    assert float(heads[0].weight[:, 2].abs().max()) < 1e-6


def test_a_penalty_of_zero_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be positive, got 0"):
        fit_head(blobs(6, seed=0), 3, 0.0)


def test_each_fold_tests_a_head_that_has_not_seen_it() -> None:
    """The last fold has labels that no other could teach."""
    folds = [blobs(30, seed=number, spread=0.01) for number in range(4)]
    folds[3] = (folds[3][0], (folds[3][1] + 1) % 3)
    results = cross_validate(folds, 3, lambda *_: None)
    assert (results[3].validation_quality, results[3].test_quality) == (1.0, 0.0)
    assert (results[0].validation_quality, results[0].test_quality) == (0.0, 1.0)  # for the first, it selects
    expected = fit_head(
        (torch.cat([fold[0] for fold in folds[:2]]), torch.cat([fold[1] for fold in folds[:2]])),
        3,
        results[3].penalty,
    )
    assert torch.equal(results[3].head.weight, expected.weight)  # folds 1 and 2 alone, out of four


def test_the_largest_of_the_best_penalties_is_taken() -> None:
    folds = [blobs(30, seed=number, spread=0.01) for number in range(3)]
    assert {result.penalty for result in cross_validate(folds, 3, lambda *_: None)} == {max(PENALTIES)}


def test_two_folds_are_too_few() -> None:
    with pytest.raises(ConfigurationError, match="three folds, got 2"):
        cross_validate([blobs(6, seed=0)] * 2, 3, lambda *_: None)


# --- the packaged heads


@pytest.mark.real_data
@pytest.mark.parametrize("name", NAMES)
def test_the_packaged_head_is_right_on_96_percent_of_the_fold_it_never_saw(
    models: None, shared_root: Path, name: str
) -> None:
    fold = load_dataset("esc10", parameters={"folder": str(shared_root / "data" / "esc10"), "folds": [5]})
    classifier = load_classifier(f"{name}-esc10")
    assert not classifier.multilabel
    found = evaluate(classifier, fold, batch_size=16, progress=lambda *_: None)
    report = json.loads((zoo.WEIGHTS / f"{name}-esc10.json").read_text())
    assert found.n_clips == 80
    assert found.accuracy >= 0.96
    # the classifier, through its pool, is the head on the mean embedding that was measured
    assert found.accuracy == pytest.approx(report["accuracy"]["test"], abs=1e-9)
    assert report["cross_validation"]["accuracy"] >= 0.96
    assert report["backbone_sha256"] == WEIGHTS[name].sha256
    assert report["folds"] == {"train": [1, 2, 3], "validation": 4, "test": 5}


@pytest.mark.real_data
@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_is_the_head_on_the_embedding(models: None, tmp_path: Path, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    n_embedding = {"yamnet": 1024, "efficientat-mn04": 384}[name]
    head = LinearHead(torch.randn(3, n_embedding, generator=generator), torch.randn(3, generator=generator))
    save_head(tmp_path / "head.safetensors", head, backbone=name, dataset="mine", labels=("a", "b", "c"))
    classifier = classifier_with_head(name, tmp_path / "head.safetensors")
    assert (classifier.name, classifier.labels) == (f"{name}-mine", ("a", "b", "c"))
    rate = classifier.rate
    clips = [
        Clip(0.1 * torch.randn(2 * rate, generator=generator), rate, str(number), labels=("b",)) for number in range(2)
    ]
    embedded, classes = embed(name, pretrained_network(name), ClipList(clips), ("a", "b", "c"), lambda *_: None)
    assert classes.tolist() == [1, 1]
    logits = classifier.logits(torch.stack([clip.waveform for clip in clips]))
    torch.testing.assert_close(logits, head.logits(embedded), rtol=1e-3, atol=1e-3)


@pytest.mark.real_data
def test_training_by_command_gives_a_head_that_explains(
    models: None, shared_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On three folds of short clips, for speed."""
    out = tmp_path / "head.safetensors"
    folder = shared_root / "data" / "esc10"
    arguments = ["train-head", "efficientat-mn04", "--dataset", "esc10", "--folds", "3", "--out", str(out), "--json"]
    arguments += ["--dataset-param", f"folder={folder}", "--dataset-param", "duration_s=1.0"]
    done = CliRunner().invoke(shell, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report == json.loads(out.with_suffix(".json").read_text())
    assert report["clips"] == [80, 80, 80]
    assert report["folds"] == {"train": [1], "validation": 2, "test": 3}
    assert report["accuracy"]["test"] == report["cross_validation"]["accuracy_by_fold"][-1] >= 0.7
    assert load_classifier("efficientat-mn04-esc10", parameters={"weights": str(out)}).labels == tuple(report["labels"])


@pytest.mark.real_data
def test_the_packaged_multilabel_head_knows_what_sounds_at_once(
    models: None, shared_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EARWITNESS_DATA", str(shared_root / "data"))
    classifier = load_classifier("efficientat-mn04-overlaps")
    assert classifier.multilabel
    data = load_dataset("overlaps", parameters={"recordings": "esc10", "folds": [5], "per_recording": 1})
    embedded = embed(
        "efficientat-mn04",
        pretrained_network("efficientat-mn04"),
        data,
        classifier.labels,
        lambda *_: None,
        multilabel=True,
    )
    report = json.loads((zoo.WEIGHTS / "efficientat-mn04-overlaps.json").read_text())
    head = LinearHead(
        *(load_tensors(zoo.WEIGHTS / "efficientat-mn04-overlaps.safetensors")[0][name] for name in ("weight", "bias"))
    )
    assert head.quality(embedded) == pytest.approx(report["average_precision"]["test"], abs=0.02)
    assert report["average_precision"]["test"] >= 0.9


def test_clips_of_several_classes_need_a_multilabel_head(tmp_path: Path) -> None:
    clip = Clip(torch.zeros(16000), 16000, "both", labels=("a", "b"))
    with pytest.raises(ClassifierError, match=r"has the classes a, b.*--multilabel"):
        embed("yamnet", torch.nn.Identity(), ClipList([clip]), ("a", "b"), lambda *_: None)  # type: ignore[arg-type]


# --- wrong files


def test_a_file_that_is_no_head_or_anothers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    with pytest.raises(CheckpointError, match="There is no file"):
        classifier_with_head("yamnet", path)
    save_tensors(path, {"weight": torch.zeros(2, 3)})
    with pytest.raises(CheckpointError, match=r"holds no linear head\. Make one with: earwitness train-head yamnet"):
        classifier_with_head("yamnet", path)
    head = LinearHead(torch.zeros(2, 384), torch.zeros(2))
    save_head(path, head, backbone="efficientat-mn04", dataset="mine", labels=("a", "b"))
    with pytest.raises(ClassifierError, match="is a head for efficientat-mn04, not for yamnet"):
        classifier_with_head("yamnet", path)
    save_head(path, head, backbone="yamnet", dataset="mine", labels=("a", "b", "c"))
    with pytest.raises(CheckpointError, match=r"damaged: weights \(2, 384\), biases \(2,\), 3 labels"):
        classifier_with_head("yamnet", path)


@pytest.mark.real_data
def test_a_head_of_another_length_is_refused(models: None, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    head = LinearHead(torch.zeros(2, 384), torch.zeros(2))
    save_head(path, head, backbone="yamnet", dataset="mine", labels=("a", "b"))
    with pytest.raises(ClassifierError, match="takes 384 numbers; yamnet gives 1024"):
        classifier_with_head("yamnet", path)


@pytest.mark.parametrize("name", NAMES)
def test_the_packaged_heads_are_small_and_name_the_classes_of_esc10(name: str) -> None:
    path = zoo.WEIGHTS / f"{name}-esc10.safetensors"
    assert path.stat().st_size < 50_000
    report = json.loads(path.with_suffix(".json").read_text())
    assert report["labels"] == list(load_classifier("esc10-cnn").labels)


def test_an_unknown_network_names_the_nearest(tmp_path: Path) -> None:
    done = CliRunner().invoke(shell, ["train-head", "yamnett", "--dataset", "esc10", "--out", str(tmp_path / "h")])
    assert done.exit_code == 1
    assert "There is no published network 'yamnett'. Did you mean 'yamnet'?" in done.stderr
