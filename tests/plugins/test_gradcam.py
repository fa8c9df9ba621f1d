"""GradCAM against Eq. 1 and 2 of its paper, channel by channel and patch by patch, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attributions import CLASSIFIERS, TARGET, closeness, entrance, explain, relevance
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ClassifierError, EarwitnessError, NotApplicableError
from earwitness_plugins.gradients.gradcam import GradCam, last_convolution
from networks import (
    OneEach,
    SmallCNN,
    batch_of,
    classifier_of,
    doubled,
    log_mel,
    patches_of,
    randomise,
    wave_classifier_of,
)

torch.set_num_threads(1)


def interpolation(n_in: int, n_out: int) -> Tensor:
    """Matrix of linear interpolation between cell centres, held at the ends."""
    matrix = torch.zeros(n_out, n_in, dtype=torch.float64)
    for i in range(n_out):
        place = min(max((i + 0.5) * n_in / n_out - 0.5, 0.0), n_in - 1.0)
        left = min(int(place), max(n_in - 2, 0))
        matrix[i, left] += 1 - (place - left)
        if n_in > 1:
            matrix[i, left + 1] += place - left
    return matrix


def enlarged(cam: Tensor, n_rows: int, n_columns: int) -> Tensor:
    return interpolation(cam.shape[0], n_rows) @ cam @ interpolation(cam.shape[1], n_columns).T


def cams(classifier: AudioClassifier, waveform: Tensor, domain: str, layer: str, target: int) -> list[Tensor]:
    """relu(sum_k a_k A_k), a_k the mean gradient of channel k: the maps of one clip, one for each patch."""
    kept: dict[str, Tensor] = {}

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept["A"] = output.detach().clone().requires_grad_()
        return kept["A"].clone()  # for an in-place ReLU

    handle = classifier.network.get_submodule(layer).register_forward_hook(hook)
    x, function = entrance(classifier, waveform, domain)
    function(x.detach().requires_grad_())[target].backward()
    handle.remove()
    assert kept["A"].grad is not None
    maps = []
    for activation, grad in zip(kept["A"].detach(), kept["A"].grad, strict=True):
        cam = torch.zeros(activation.shape[1:], dtype=torch.float64)
        for channel, slope in zip(activation, grad, strict=True):
            cam += slope.sum() / slope.numel() * channel
        maps.append(cam.clamp_min(0))
    return maps


def slow_gradcam(classifier: AudioClassifier, batch: Batch, domain: str, layer: str) -> Tensor:
    rows = []
    for waveform, target in zip(batch.waveforms, TARGET.tolist(), strict=True):
        (cam,) = cams(classifier, waveform, domain, layer, target)
        x, _ = entrance(classifier, waveform, domain)
        if x.ndim == 2:
            rows.append(enlarged(cam, *x.shape))
        else:
            rows.append(interpolation(cam.shape[-1], x.shape[0]) @ (cam.mean(0) if cam.ndim == 2 else cam))
    return torch.stack(rows)


def slow_gradcam_of_patches(
    classifier: AudioClassifier, batch: Batch, domain: str, layer: str, *, transposed: bool
) -> Tensor:
    """Each patch of 8 frames, 4 apart, adds its map where it lies; then the mean over the patches on a cell."""
    rows = []
    for waveform, target in zip(batch.waveforms, TARGET.tolist(), strict=True):
        n_bands, n_frames = classifier.features(waveform[None]).shape[2:]
        total, patches = torch.zeros(n_bands, n_frames, dtype=torch.float64), torch.zeros(n_frames)
        for number, cam in enumerate(cams(classifier, waveform, domain, layer, target)):
            frames = slice(4 * number, 4 * number + 8)
            total[:, frames] += enlarged(cam.T if transposed else cam, n_bands, 8)
            patches[frames] += 1
        joined = total / patches.clamp_min(1)
        if domain == "waveform":
            joined = interpolation(n_frames, len(waveform)) @ joined.mean(0)
        rows.append(joined)
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("kind", "domain", "layer"),
    [
        ("log-mel", "features", "features.0"),
        ("log-mel", "features", "features.4"),
        ("log-mel", "features", "features.5"),
        ("log-mel", "waveform", "features.4"),
        ("samples", "features", "features.0"),
        ("samples", "waveform", "features.3"),
    ],
)
def test_gradcam_is_the_rectified_sum_of_channels_weighted_by_their_mean_gradient(
    kind: str, domain: str, layer: str
) -> None:
    classifier, batch = CLASSIFIERS[kind](), doubled(batch_of())
    values = relevance(GradCam(domain=domain, layer=layer), classifier, batch)  # type: ignore[arg-type]
    assert closeness(values, slow_gradcam(classifier, batch, domain, layer)) < 1e-6


@pytest.mark.parametrize("kind", ["patches", "transposed patches"])
@pytest.mark.parametrize("domain", ["features", "waveform"])
@pytest.mark.parametrize("layer", ["features.0", "features.5"])
@pytest.mark.parametrize("n_samples", [4000, 3700])
def test_the_maps_of_patches_are_joined_where_they_lie(kind: str, domain: str, layer: str, n_samples: int) -> None:
    """Of 29 frames, which are 3700 samples, the last belongs to no patch."""
    classifier, batch = CLASSIFIERS[kind](), doubled(batch_of(n_samples=n_samples))
    slow = slow_gradcam_of_patches(classifier, batch, domain, layer, transposed=kind.startswith("transposed"))
    for memory_mb in (1e-6, 100):
        values = relevance(GradCam(domain=domain, layer=layer, memory_mb=memory_mb), classifier, batch)  # type: ignore[arg-type]
        assert closeness(values, slow) < 1e-6
    if n_samples == 3700 and domain == "features":
        assert slow.shape[2] == 29
        assert float(values[:, :, -1].abs().max()) == 0


class OverTime(nn.Module):
    """Convolves features over time only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(16, 5, 3)
        self.head = nn.Linear(5, 3)
        randomise(self, seed=2)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.conv(features[:, 0]).relu().mean(2))


@pytest.mark.parametrize("segmenter", [None, patches_of])
def test_a_network_that_convolves_features_over_time_only_gets_the_same_map_in_every_band(
    segmenter: Callable[[Tensor], Tensor] | None,
) -> None:
    classifier = classifier_of(OverTime(), segmenter=segmenter)
    values = relevance(GradCam(), classifier, batch_of())
    assert values.shape == (4, 16, 32)
    assert torch.allclose(values, values[:, :1].expand_as(values), rtol=1e-6, atol=0)
    assert float(values.abs().max()) > 0


def test_a_network_in_two_parts_of_the_spectrum_gets_one_map_for_both() -> None:
    """Patches may have several channels, as a stack of a map and its change over time has."""

    def stacked(features: Tensor) -> Tensor:
        return patches_of(features).expand(-1, -1, 2, -1, -1)

    class TwoChannels(OneEach):
        def forward(self, features: Tensor) -> Tensor:
            return super().forward(features.mean(1, keepdim=True))

    two = classifier_of(TwoChannels().double(), front_end=log_mel().double(), segmenter=stacked)
    one = classifier_of(OneEach().double(), front_end=log_mel().double(), segmenter=patches_of)
    batch = doubled(batch_of())
    assert closeness(relevance(GradCam(), two, batch), relevance(GradCam(), one, batch)) < 1e-6


# --- the last convolution


class HeadFirst(nn.Module):
    """Names its layers in another order than it runs them, and ends in a convolution over one cell."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, 3, 1)
        self.second = nn.Conv2d(4, 4, 3)
        self.first = nn.Conv2d(1, 4, 3)
        self.unused = nn.Conv2d(1, 4, 3)
        randomise(self, seed=1)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.second(self.first(features).relu()).relu()
        return self.head(hidden.mean((2, 3), keepdim=True))[:, :, 0, 0]


def test_the_last_convolution_is_the_last_that_runs_and_has_a_time_axis() -> None:
    batch = batch_of()
    assert last_convolution(classifier_of(HeadFirst()), batch) == "second"
    assert last_convolution(classifier_of(HeadFirst(), segmenter=patches_of), batch) == "second"
    assert last_convolution(wave_classifier_of(), batch) == "features.3"
    default = relevance(GradCam(), classifier_of(HeadFirst()), batch)
    assert torch.equal(default, relevance(GradCam(layer="second"), classifier_of(HeadFirst()), batch))


class OneFrameAtTheEnd(HeadFirst):
    """Ends in a convolution over maxima over time, with rows but one frame."""

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.first(features).relu().amax(3, keepdim=True)
        rows = self.second(hidden.expand(-1, -1, -1, 3))
        return self.head(rows).mean((2, 3))


def test_in_patches_a_convolution_with_rows_but_one_frame_is_not_the_last() -> None:
    assert last_convolution(classifier_of(OneFrameAtTheEnd(), segmenter=patches_of), batch_of()) == "first"


def test_the_last_convolution_is_taken_after_its_batch_norm_folded_or_not() -> None:
    classifier = classifier_of()
    for one in (classifier, classifier.prepare()):
        assert last_convolution(one, batch_of()) == "features.5"
        assert not any(part._forward_hooks for part in one.network.modules())


# --- refused


def pooled_linear() -> AudioClassifier:
    return classifier_of(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 3)), name="flat")


def flat_patches(features: Tensor) -> Tensor:
    return patches_of(features).flatten(2)


class Twice(SmallCNN):
    def __init__(self) -> None:
        super().__init__()
        self.features[4] = nn.Conv2d(6, 6, 3, padding=1)
        self.features[5] = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)
        randomise(self, seed=4)

    def forward(self, features: Tensor) -> Tensor:
        maps = self.features(features)
        return self.head(self.features[4](maps).mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "layer", "error", "message"),
    [
        (pooled_linear, None, NotApplicableError, "the network of flat has none. Use saliency"),
        (
            lambda: classifier_of(nn.Linear(128, 3), name="cut", segmenter=flat_patches),
            None,
            NotApplicableError,
            r"needs patches that are maps, \(B, P, 1, rows, columns\); cut makes patches of shape \(1, 7, 128\)",
        ),
        (classifier_of, "feature.4", ClassifierError, "Did you mean 'features.4'"),
        (classifier_of, "head", ClassifierError, "'head' of small gives one value per channel. Name a convolution"),
        (classifier_of, "features.2", ClassifierError, "'features.2' runs more than once"),
        (lambda: classifier_of(Twice()), "features.4", ClassifierError, "'features.4' runs more than once"),
        (lambda: classifier_of().prepare(), "features.4", ClassifierError, "'features.5' of small was folded"),
    ],
)
def test_what_has_no_map_is_refused_by_name(
    build: Callable[[], AudioClassifier], layer: str | None, error: type[EarwitnessError], message: str
) -> None:
    with pytest.raises(error, match=message):
        explain(GradCam(layer=layer), build(), batch_of())
