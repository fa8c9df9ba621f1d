"""Distances that are no numbers: what a training and an explanation say of them, and that nothing is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from click.testing import CliRunner
from torch import Tensor

from apnet_toy import CONFIGURATION, LABELS, MODEL, N_SAMPLES, RATE, TRAINING, clips, tone, train_apnet
from earwitness.batching import ClipList
from earwitness.cli.shell import shell
from earwitness.clips import Batch
from earwitness.errors import AudioError, ClassifierError
from earwitness.fitting import Workspace
from earwitness.random import Random
from earwitness_plugins.apnet import training
from earwitness_plugins.apnet.configuration import Recipe
from earwitness_plugins.apnet.explainer import APNet
from earwitness_plugins.apnet.network import AudioPrototypeNetwork, check_distances
from earwitness_plugins.apnet.objective import initialise
from earwitness_plugins.apnet.prototypes import compare
from earwitness_plugins.apnet.trained import classifier_of
from earwitness_plugins.apnet.training import accuracy, train_network
from earwitness_plugins.classifiers.training_data import TrainingData

SHORT: dict[str, Any] = {"model": MODEL, "training": {**TRAINING, "epochs": 4}}
WINDOWS = CONFIGURATION.windows
SCALER = (-90.0, 30.0)
TOO_LOUD = 1e25


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("apnet")
    train_apnet(path, parameters=SHORT)
    return path


@pytest.fixture
def trained(folder: Path) -> APNet:
    return train_apnet(folder, parameters=SHORT)  # found, not trained again


def fresh() -> AudioPrototypeNetwork:
    net = CONFIGURATION.network(3)
    initialise(net, Recipe(), torch.Generator().manual_seed(0))
    return net


def overflowing() -> AudioPrototypeNetwork:
    """Weights that are finite, and a latent map that is not."""
    net = fresh()
    with torch.no_grad():
        for layer in (net.encoder.conv1, net.encoder.conv2, net.encoder.conv3):
            layer.weight.mul_(1e20)
    assert bool(net.distances(net.encoder(torch.rand(2, 1, 16, 16))).isnan().any())
    return net


def with_a_loud_one(n_clips: int, loud: int) -> ClipList:
    held = [clips(n_clips)[i] for i in range(n_clips)]
    held[loud] = replace(held[loud], waveform=TOO_LOUD * held[loud].waveform)
    return ClipList(held, LABELS)


def waveforms(data: ClipList) -> Tensor:
    return torch.stack([data[i].waveform for i in range(len(data))])


def test_a_training_whose_encoder_overflows_goes_on_later_from_its_last_good_epoch(
    tmp_path: Path, trained: APNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras_step = training.keras_step

    def leap(optimiser: torch.optim.Adam, step: int) -> None:
        keras_step(optimiser, step)
        if step == 8:  # in the third epoch, of three steps each
            for values in optimiser.param_groups[0]["params"][:6]:
                values.data.mul_(1e20)

    monkeypatch.setattr(training, "keras_step", leap)
    told = r"diverged in epoch 3 of 4, after 8 steps.*nan\. The last good epoch is kept.*Lower the learning rate"
    with pytest.raises(ClassifierError, match=told):
        train_apnet(tmp_path, parameters=SHORT)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    monkeypatch.undo()
    epochs: list[int] = []

    def note(done: int, total: int, text: str) -> None:
        if text.startswith("loss"):
            epochs.append(done)

    resumed = train_apnet(tmp_path, parameters=SHORT, progress=note)
    assert epochs == [3, 4]
    assert all(torch.equal(resumed.state()[name], value) for name, value in trained.state().items())


def test_a_training_says_whether_the_start_or_a_recording_is_at_fault(tmp_path: Path) -> None:
    front_end = CONFIGURATION.front_end(*SCALER)

    def train(network: AudioPrototypeNetwork, data: ClipList) -> None:
        clips_and_classes = (waveforms(data), torch.arange(6) % 3)
        train_network(
            network, TrainingData(clips_and_classes, front_end, torch.device("cpu"), None), WINDOWS,
            recipe=Recipe(epochs=1, batch_size=6), seed=0, validation=None, workspace=Workspace(tmp_path, "key"),
            progress=lambda *_: None,
        )  # fmt: skip

    with pytest.raises(ClassifierError, match=r"after 0 steps.*no good epoch yet.*weights that it began with"):
        train(overflowing(), clips(6))
    with pytest.raises(ClassifierError, match="The features of a clip are NaN or infinite"):
        train(fresh(), with_a_loud_one(6, 4))
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_says_nan_has_no_accuracy() -> None:
    features, classes = torch.rand(4, 1, 16, 16), torch.tensor([0, 1, 2, 0])
    assert 0 <= accuracy(fresh(), features, classes, WINDOWS) <= 1
    with pytest.raises(ClassifierError, match="says NaN to validation clips"):
        accuracy(overflowing(), features, classes, WINDOWS)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_recording_that_is_too_loud_for_the_features_is_named(tmp_path: Path, part: str) -> None:
    with pytest.raises(AudioError, match=r"features of 1 clips are NaN.*'middle-4', with samples up to 3.*e\+24"):
        train_apnet(tmp_path, parameters=SHORT, **{part: with_a_loud_one(6, 4)})
    assert list(tmp_path.iterdir()) == []


def test_prototypes_are_not_compared_by_nan() -> None:
    windows = torch.rand(20, 1, 16, 16)
    assert bool(compare(fresh(), windows).similarity.isfinite().all())
    with pytest.raises(ClassifierError, match=r"NaN in 16 of 16 windows: they overflow in the encoder"):
        compare(overflowing(), windows)
    windows[18, 0, 3, 3] = torch.nan
    with pytest.raises(AudioError, match=r"NaN in 1 of 4 windows: their features are NaN or infinite"):
        compare(fresh(), windows)
    check_distances(torch.tensor([[0.0, torch.inf]]), windows[18:19])  # infinitely far is an answer


def test_an_explanation_says_what_overflowed(trained: APNet) -> None:
    batch = Batch.of([clips(2)[0], clips(2)[1]])
    target, random = torch.tensor([0, 1]), Random(0, batch.clip_ids)
    with pytest.raises(ClassifierError, match=r"NaN in 2 of 2 windows: they overflow in the encoder"):
        APNet().explain(
            classifier_of(overflowing(), CONFIGURATION, SCALER, LABELS), batch, target=target, random=random
        )
    with pytest.raises(ClassifierError, match="NaN or infinite values"):
        classifier_of(overflowing(), CONFIGURATION, SCALER, LABELS).prepare()
    loud = with_a_loud_one(2, 1)
    batch = Batch.of([loud[0], loud[1]])
    with pytest.raises(AudioError, match=r"NaN in 1 of 2 windows: their features.*Are the samples in \[-1, 1\]"):
        trained.explain(trained.as_classifier(), batch, target=target, random=random)


def test_a_recording_that_overflows_costs_the_others_nothing(folder: Path, tmp_path: Path) -> None:
    for name, scale in (("loud", TOO_LOUD), ("next", 1.0)):
        soundfile.write(tmp_path / f"{name}.wav", scale * tone("middle", N_SAMPLES).numpy(), RATE, subtype="FLOAT")
    files = [str(tmp_path / f"{name}.wav") for name in ("loud", "next")]
    use = ["--explainer", "apnet", "--checkpoint", str(folder), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(shell, ["explain", *files, *use])
    assert done.exit_code == 1
    assert "loud.wav has samples of" in done.stderr
    assert [path.parent.name for path in (tmp_path / "out").glob("*/explanation.json")] == ["next"]
