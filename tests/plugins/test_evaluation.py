"""Accuracy: counted rightly, and refused where it means nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from earwitness.artifacts import save_tensors
from earwitness.audio.front_end import Identity
from earwitness.batching import ClipList
from earwitness.classifier import AudioClassifier
from earwitness.cli.shell import shell
from earwitness.clips import Clip
from earwitness.errors import ClassifierError
from earwitness_plugins.classifiers.evaluation import Evaluation, evaluate
from earwitness_plugins.classifiers.toy_cnn import ToyCNN

LABELS = ("low", "middle", "high")


class ByLevel(nn.Module):
    """Decides by the mean sample: below 0.3, above 0.6 or between."""

    def forward(self, samples: Tensor) -> Tensor:
        level = samples.mean((1, 2))
        return torch.stack([0.3 - level, torch.zeros_like(level) + 0.01, level - 0.6], dim=1)


def clip(level: float, *labels: str, name: str = "", n_samples: int = 100) -> Clip:
    waveform = torch.full((n_samples,), level)
    return Clip(waveform, 8000, name or f"{level}-{'-'.join(labels)}-{n_samples}", labels=labels)


def counted(*clips: Clip, batch_size: int = 2) -> Evaluation:
    classifier = AudioClassifier(ByLevel(), front_end=Identity(rate=8000), labels=LABELS)
    return evaluate(classifier, ClipList(clips, LABELS), batch_size=batch_size, progress=lambda *_: None)


def test_each_clip_is_counted_in_the_row_of_its_class_and_the_column_of_the_decision() -> None:
    found = counted(
        clip(0.1, "low"),
        clip(0.9, "low", n_samples=50),  # another length: another batch, so another order
        clip(0.5, "middle"),
        clip(0.8, "high"),
        clip(0.7, "high", n_samples=50),
        clip(0.2, "high"),
    )
    assert found.confusion.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 2]]
    assert found.n_clips == 6
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.accuracy_by_class == pytest.approx({"low": 1 / 2, "middle": 1.0, "high": 2 / 3})


def test_the_size_of_a_batch_changes_nothing() -> None:
    clips = [clip(0.01 * step, LABELS[step % 3], n_samples=50 + 25 * (step % 2)) for step in range(20)]
    assert torch.equal(counted(*clips, batch_size=1).confusion, counted(*clips, batch_size=7).confusion)


def test_a_class_without_clips_has_no_accuracy() -> None:
    assert set(counted(clip(0.1, "low")).accuracy_by_class) == {"low"}


def test_a_clip_of_several_classes_is_right_with_any_of_them() -> None:
    found = counted(clip(0.9, "low", "high"), clip(0.5, "low", "high"))
    assert found.confusion.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_classes_that_the_classifier_does_not_know_are_refused() -> None:
    with pytest.raises(ClassifierError, match=r"does not know these classes of the data: lowest\. Did you mean 'low'"):
        counted(clip(0.1, "lowest"))
    with pytest.raises(ClassifierError, match="1 clips have no class, such as 'nameless'"):
        counted(clip(0.1, name="nameless"))


def test_the_command_reports_accuracy_as_text_and_as_json() -> None:
    arguments = ["evaluate-classifier", "toy-cnn", "--dataset", "toy", "--dataset-param", "split=test"]
    arguments += ["--dataset-param", "clips=40"]
    said = CliRunner().invoke(shell, arguments)
    assert said.exit_code == 0, said.output
    assert "of 40 clips" in said.stdout
    document = json.loads(CliRunner().invoke(shell, [*arguments, "--json"]).stdout)
    assert document["clips"] == sum(map(sum, document["confusion"]["counts"])) == 40
    assert document["accuracy"] >= 0.9
    assert document["accuracy"] == sum(document["confusion"]["counts"][i][i] for i in range(2)) / 40
    assert f"{document['accuracy']:.1%}" in said.stdout


def test_weights_of_one_s_own_are_evaluated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_tensors(tmp_path / "own.safetensors", ToyCNN().state_dict())
    arguments = ["evaluate-classifier", "toy-cnn", "--dataset", "toy", "--dataset-param", "split=test"]
    arguments += ["--dataset-param", "clips=20", "--weights", str(tmp_path / "own.safetensors"), "--json"]
    assert json.loads(CliRunner().invoke(shell, arguments).stdout)["accuracy"] < 0.9  # untrained
