"""The network that eats samples: what it is worth, and that everything works without a feature map."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from earwitness import load_classifier, load_dataset
from earwitness.audio.files import write_audio
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.folding import Folded
from earwitness.loading import load_explainer
from earwitness.random import Random
from earwitness.recordings import explain_recording
from earwitness.render import Scene
from earwitness_plugins.classifiers import zoo
from earwitness_plugins.classifiers.evaluation import evaluate
from earwitness_plugins.classifiers.waveform_cnn import WaveformCNN, waveform_front_end


@pytest.fixture(scope="module")
def classifier() -> AudioClassifier:
    return load_classifier("toy-wave-cnn")


def test_it_is_right_on_95_percent_of_clips_it_never_saw(classifier: AudioClassifier) -> None:
    held_out = load_dataset("toy", parameters={"split": "test", "clips": 200})
    assert evaluate(classifier, held_out, batch_size=16, progress=lambda *_: None).accuracy >= 0.95


def test_the_report_beside_the_weights_tells_the_same(classifier: AudioClassifier) -> None:
    report = json.loads((zoo.WEIGHTS / "toy-wave-cnn.json").read_text())
    assert report["accuracy"]["test"] >= 0.95
    assert report["labels"] == list(classifier.labels)


def test_features_are_the_samples_and_there_is_no_feature_grid(classifier: AudioClassifier) -> None:
    waveforms = torch.randn(3, 16000)
    assert torch.equal(classifier.features(waveforms), waveforms[:, None])
    assert classifier.feature_grid(16000) is None


@pytest.mark.parametrize("n_samples", [32, 1000, 16001, 40000])
def test_the_network_takes_any_length(n_samples: int) -> None:
    assert WaveformCNN().eval()(torch.randn(2, 1, n_samples)).shape == (2, 2)


def test_every_batch_norm_is_folded_and_the_logits_stay(classifier: AudioClassifier) -> None:
    plain = AudioClassifier(WaveformCNN(), front_end=waveform_front_end(), labels=classifier.labels, duration_s=1.0)
    kinds = [type(module) for module in plain.prepare().network.modules()]
    assert (kinds.count(Folded), kinds.count(nn.BatchNorm1d)) == (4, 0)
    assert Folded in {type(module) for module in classifier.network.modules()}


def test_saliency_of_the_samples_is_the_gradient_by_the_samples(classifier: AudioClassifier) -> None:
    data = load_dataset("toy", parameters={"split": "test", "clips": 2})
    batch = Batch.of([data[0], data[1]])
    target = classifier.probabilities(batch.waveforms).argmax(1)
    explainer = load_explainer("saliency")
    found = explainer.explain(classifier, batch, target=target, random=Random(0, batch.clip_ids))
    assert found.relevance is not None
    assert found.relevance.domain == "waveform"
    assert found.relevance.values.shape == (2, 16000)
    waveforms = batch.waveforms.clone().requires_grad_()
    scores = classifier.logits(waveforms).gather(1, target[:, None]).sum()
    (gradient,) = torch.autograd.grad(scores, waveforms)
    torch.testing.assert_close(found.relevance.values, gradient.abs(), rtol=1e-4, atol=1e-6)
    assert bool((gradient.abs().amax(1) > 0).all())


def test_a_recording_is_explained_from_file_to_verdict(classifier: AudioClassifier, tmp_path: Path) -> None:
    clip = load_dataset("toy", parameters={"split": "test", "clips": 1})[0]
    recording = write_audio(tmp_path / "toy.wav", clip.waveform, clip.rate)
    result = explain_recording(
        recording,
        tmp_path / "out",
        classifier=classifier,
        explainer=load_explainer("saliency"),
        explainer_name="saliency",
        progress=lambda *_: None,
    )
    assert 0 < result.verdict.kept_energy < 1
    assert (tmp_path / "out" / "heard.wav").is_file()


def test_the_classifier_tells_a_recording_from_silence(classifier: AudioClassifier) -> None:
    data = load_dataset("toy", parameters={"split": "test", "clips": 2})
    batch = Batch.of([data[0], data[1]])
    scene = Scene(classifier, batch, classifier.listening, "waveform")
    torch.testing.assert_close(scene.original, classifier.probabilities(batch.waveforms), rtol=0, atol=1e-4)
    silence = classifier.probabilities(torch.zeros_like(batch.waveforms))
    assert torch.equal(silence[0], silence[1])
    assert not torch.allclose(silence, scene.original, atol=0.05)
