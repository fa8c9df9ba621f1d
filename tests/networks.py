"""Small seeded networks, classifiers and batches that several test modules share. Half a second at 8 kHz."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from earwitness.audio.front_end import Identity, LogMel
from earwitness.audio.mel import Compression, MelBands, Stft
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Clip

RATE = 8000
N_SAMPLES = 4000
LABELS = ("dog", "rain", "clock")


class SmallCNN(nn.Module):
    """Two convolutions, each with batch norm, and one ReLU, in place, that serves both."""

    def __init__(self, n_classes: int = len(LABELS), seed: int = 0) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            relu,
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            relu,
        )
        self.head = nn.Linear(8, n_classes)
        randomise(self, seed)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.features(features).mean((2, 3)))


class OneEach(SmallCNN):
    """The same function with a ReLU of its own for each layer, as DeepLIFT asks for."""

    def __init__(self, n_classes: int = len(LABELS), seed: int = 0) -> None:
        super().__init__(n_classes, seed)
        self.features[2], self.features[6] = nn.ReLU(), nn.ReLU()


class WaveCNN(nn.Module):
    """Eats samples (B, 1, T)."""

    def __init__(self, n_classes: int = len(LABELS), seed: int = 0) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(1, 6, 32, stride=8),
            nn.BatchNorm1d(6),
            nn.ReLU(inplace=True),
            nn.Conv1d(6, 8, 8, stride=4),
            nn.ReLU(),
        )
        self.head = nn.Linear(8, n_classes)
        randomise(self, seed)

    def forward(self, samples: Tensor) -> Tensor:
        return self.head(self.features(samples).mean(2))


class Lambda(nn.Module):
    """Any function of the inputs as a network."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Any:
        return self.function(inputs)


def randomise(network: nn.Module, seed: int) -> None:
    """Seeded weights, and batch norms that do something; the global generator is left alone."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator) * 0.4
            tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else values)


def log_mel() -> LogMel:
    return LogMel(
        rate=RATE, stft=Stft(256, 128), bands=MelBands(16), compression=Compression("ln", 1e-4, shift=3.0), power=1
    )


def classifier_of(network: nn.Module | None = None, **options: Any) -> AudioClassifier:
    settings: dict[str, Any] = {"front_end": log_mel(), "labels": LABELS, "name": "small"}
    return AudioClassifier(SmallCNN() if network is None else network, **{**settings, **options})


def wave_classifier_of(network: nn.Module | None = None, **options: Any) -> AudioClassifier:
    return classifier_of(WaveCNN() if network is None else network, **{"front_end": Identity(rate=RATE), **options})


def noise(n_rows: int = 4, *, n_samples: int = N_SAMPLES, seed: int = 1) -> Tensor:
    return 0.3 * torch.randn(n_rows, n_samples, generator=torch.Generator().manual_seed(seed))


def patches_of(features: Tensor, frames: int = 8, hop: int = 4) -> Tensor:
    """A segmenter: (B, 1, M, N') -> (B, P, 1, M, frames)."""
    return features.unfold(3, frames, hop).permute(0, 3, 1, 2, 4)


def transposed_patches_of(features: Tensor, frames: int = 8, hop: int = 4) -> Tensor:
    """A segmenter with time before frequency: (B, 1, M, N') -> (B, P, 1, frames, M)."""
    return patches_of(features, frames, hop).transpose(3, 4)


def clips_of(waveforms: Tensor, labels: Sequence[str] = (), rate: int = RATE) -> list[Clip]:
    """Clips ``clip-0``, ``clip-1``, … with one label each, in turn."""
    return [
        Clip(row, rate, f"clip-{number}", labels=(labels[number % len(labels)],) if labels else ())
        for number, row in enumerate(waveforms)
    ]


def batch_of(n_rows: int = 4, *, n_samples: int = N_SAMPLES, seed: int = 1) -> Batch:
    return Batch.of(clips_of(noise(n_rows, n_samples=n_samples, seed=seed)))


def doubled(batch: Batch) -> Batch:
    """The same batch in float64."""
    return Batch(batch.waveforms.double(), batch.rate, batch.clips)
