"""The packaged classifiers: what they are worth on data they never saw, and how they are trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from earwitness import load_classifier, load_dataset
from earwitness.classifier import AudioClassifier
from earwitness.cli.shell import shell
from earwitness.clips import Batch, Dataset
from earwitness.errors import ConfigurationError
from earwitness.render import Scene
from earwitness.specs import load_target
from earwitness_plugins.classifiers import zoo
from earwitness_plugins.classifiers.architectures import ARCHITECTURES, architecture
from earwitness_plugins.classifiers.evaluation import evaluate


def accuracy(classifier: AudioClassifier, dataset: Dataset) -> float:
    return evaluate(classifier, dataset, batch_size=16, progress=lambda *_: None).accuracy


def test_the_toy_classifier_is_right_on_98_percent_of_clips_it_never_saw() -> None:
    held_out = load_dataset("toy", parameters={"split": "test", "clips": 200})
    assert accuracy(load_classifier("toy-cnn"), held_out) >= 0.98


@pytest.mark.real_data
def test_the_packaged_classifier_is_right_on_85_percent_of_the_fold_it_never_saw(shared_root: Path) -> None:
    folder = str(shared_root / "data" / "esc10")
    fold = load_dataset("esc10", parameters={"folder": folder, "folds": [5]})
    assert len(fold) == 80
    assert accuracy(load_classifier("esc10-cnn"), fold) >= 0.85


@pytest.mark.parametrize("name", ["esc10-cnn", "toy-cnn"])
def test_the_spectrogram_route_is_open_and_agrees_for_the_whole_recording(name: str) -> None:
    classifier = load_classifier(name)
    clip = load_dataset("toy", parameters={"split": "test", "clips": 1})[0].resampled(classifier.rate)
    batch = Batch.of([clip])
    by_route = [Scene(classifier, batch, classifier.listening, route).original for route in ("waveform", "spectrogram")]
    assert torch.allclose(*by_route, atol=1e-4)


@pytest.mark.parametrize("path", sorted(zoo.WEIGHTS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_packaged_weights_are_small(path: Path) -> None:
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize("name", ["sb-cnn", "att-crnn"])
def test_a_classifier_without_packaged_weights_says_how_to_get_some(name: str) -> None:
    assert name in ARCHITECTURES
    with pytest.raises(ConfigurationError, match=f"train-classifier {name}"):
        load_classifier(name)


def test_every_packaged_weight_has_its_report_and_every_classifier_its_summary() -> None:
    for path in zoo.WEIGHTS.glob("*.safetensors"):
        assert path.with_suffix(".json").is_file(), path
    listed = json.loads(CliRunner().invoke(shell, ["list", "classifiers", "--json"]).stdout)["classifiers"]
    names = {"esc10-cnn", "toy-cnn", "toy-wave-cnn", "yamnet", "efficientat-mn04"}
    names |= {"yamnet-esc10", "efficientat-mn04-esc10"}
    own = {entry["name"]: entry for entry in listed if entry["distribution"] == "earwitness"}
    assert names <= own.keys()
    for name in names:
        assert load_target(own[name]["target"]).__doc__, name


@pytest.mark.parametrize("seconds", [0.3, 1.0, 7.5])
def test_the_packaged_classifier_takes_any_length(seconds: float) -> None:
    classifier = load_classifier("esc10-cnn")
    noise = 0.1 * torch.randn(2, round(seconds * classifier.rate), generator=torch.Generator().manual_seed(0))
    assert classifier.probabilities(noise).shape == (2, 10)


def test_silence_is_evidence_for_no_class() -> None:
    classifier = load_classifier("esc10-cnn")
    assert float(classifier.probabilities(torch.zeros(1, 5 * classifier.rate)).max()) < 0.5


def test_training_by_command_writes_weights_and_a_report_that_load_again(tmp_path: Path) -> None:
    out = tmp_path / "toy.safetensors"
    sizes = [f"--{split}-param=clips={count}" for split, count in (("train", 64), ("validation", 32), ("test", 32))]
    done = CliRunner().invoke(
        shell, ["train-classifier", "toy-cnn", "--out", str(out), "--epochs", "2", *sizes, "--json"]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["data"]["train"] == {"split": "train", "clips": 64}
    assert set(report["accuracy"]) == {"validation", "test"}
    assert len(report["curves"]["train_loss"]) == 2
    own = load_classifier("toy-cnn", parameters={"weights": str(out)})
    assert torch.equal(own.network.state_dict()["classifier.4.bias"], load_file(out)["classifier.4.bias"])
    assert own.checksum != load_classifier("toy-cnn").checksum
    assert not list(tmp_path.glob("*.checkpoint"))


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'toy-cnn'"):
        architecture("toy-cn")
