"""What a network is trained on: clips and labels that were looked at, turned into batches of features and targets.

N clips, B rows of a batch, T samples, C classes, M bands, N' frames.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from earwitness.audio.front_end import FrontEnd
from earwitness.errors import AudioError, ConfigurationError, DatasetError
from earwitness_plugins.classifiers.augmentation import (
    Augmentation,
    augment_features,
    augment_waveforms,
    drop_regions,
)

Clips = tuple[Tensor, Tensor]
"""Waveforms (N, T), float32 in [-1, 1], and labels (N,), int64."""

_CHUNK = 16  # clips per call of the front end


class TrainingData:
    """Clips to train on, as a source of batches.

    Parameters
    ----------
    clips : (waveforms, labels)
        On the CPU.
    front_end : FrontEnd
    device : torch.device
        Of the front end and of the batches.
    augmentation : Augmentation or None
        None computes the features of all clips once.

    Raises
    ------
    DatasetError, AudioError
        See :func:`check_clips`.
    """

    def __init__(
        self, clips: Clips, front_end: FrontEnd, device: torch.device, augmentation: Augmentation | None
    ) -> None:
        check_clips("training", clips)
        self.waveforms, self.labels = clips
        self.front_end = front_end
        self.device = device
        self.augmentation = augmentation
        self.silence = features_of(front_end, torch.zeros_like(self.waveforms[:1]), device)
        self._fixed = features_of(front_end, self.waveforms, device) if augmentation is None else None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor, n_classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features (B, 1, M, N') and targets (B, C), probabilities, of the clips with these numbers, augmented."""
        targets = functional.one_hot(self.labels[rows], n_classes).to(torch.float32)
        if self._fixed is not None:
            return self._fixed[rows.to(self.device)], targets.to(self.device)
        assert self.augmentation is not None
        waveforms, targets = augment_waveforms(self.waveforms[rows], targets, self.augmentation, generator)
        features = features_of(self.front_end, waveforms, self.device)
        return drop_regions(features, self.silence, self.augmentation, generator), targets.to(self.device)

    def identity(self) -> dict[str, Any]:
        """What the weights depend on, as plain values."""
        return {"front_end": self.front_end.describe(), "train": fingerprint((self.waveforms, self.labels))}


class FeatureData:
    """Feature maps to train on, where the recordings are not at hand or not as they were: a source of batches.

    Parameters
    ----------
    features : Tensor (N, 1, M, N'), float32
        On the device of the batches.
    labels : Tensor (N,), int64
        On the CPU.
    augmentation : Augmentation or None
        Of shifts, mixing and dropped regions; these become the mean of their band over all maps.

    Raises
    ------
    DatasetError
        There is no map, or not one integer label for each.
    AudioError
        The maps have another shape or type, or hold NaN or infinity.
    ConfigurationError
        The augmentation has gains, noise or void, which only recordings can have.
    """

    def __init__(self, features: Tensor, labels: Tensor, augmentation: Augmentation | None) -> None:
        if features.ndim != 4:
            raise AudioError(f"Expected feature maps of shape (N, 1, M, N'), got {tuple(features.shape)}.")
        check_clips("training", (features.flatten(1), labels))
        if augmentation is not None and (
            augmentation.noise_share or augmentation.void_share or any(augmentation.gain_db)
        ):
            raise ConfigurationError(
                f"Feature maps can be shifted, mixed and cut, and have no gain, noise or void: {augmentation}."
            )
        self.features, self.labels = features, labels
        self.device = features.device
        self.augmentation = augmentation
        self.silence = features.mean((0, 3), keepdim=True).expand(features[:1].shape)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor, n_classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See :meth:`TrainingData.batch`."""
        targets = functional.one_hot(self.labels[rows], n_classes).to(self.device, torch.float32)
        features = self.features[rows.to(self.device)]
        if self.augmentation is None:
            return features, targets
        return augment_features(features, targets, self.silence, self.augmentation, generator)

    def identity(self) -> dict[str, Any]:
        """See :meth:`TrainingData.identity`."""
        return {"train": fingerprint((self.features, self.labels))}


def features_of(front_end: FrontEnd, waveforms: Tensor, device: torch.device) -> Tensor:
    """Features (N, 1, M, N') of waveforms (N, T), without gradient, a few clips at a time."""
    with torch.no_grad():
        return torch.cat([front_end(chunk.to(device)) for chunk in torch.split(waveforms, _CHUNK)])


def fingerprint(clips: Clips) -> list[str]:
    """SHA-256 (hex) of the samples and of the labels."""
    return [hashlib.sha256(part.cpu().contiguous().numpy().tobytes()).hexdigest() for part in clips]


def check_clips(name: str, clips: Clips) -> None:
    """Look at clips before they are used.

    Parameters
    ----------
    name : str
        What to call them in the message, for example "training".
    clips : (waveforms, labels)

    Raises
    ------
    DatasetError
        There is none, or there is not one integer label for each.
    AudioError
        Waveforms have another shape or type than (N, T), float32, or hold NaN or infinity.
    """
    waveforms, labels = clips
    if len(waveforms) == 0:
        raise DatasetError(f"There are no {name} clips. Which folds, or which split, were asked for?")
    if waveforms.ndim != 2 or waveforms.dtype != torch.float32:
        shape = tuple(waveforms.shape)
        raise AudioError(f"Expected {name} waveforms (N, T) of torch.float32, got {shape} of {waveforms.dtype}.")
    if labels.shape != waveforms.shape[:1] or labels.dtype != torch.int64:
        raise DatasetError(
            f"Expected one label for each of {len(waveforms)} {name} clips, as torch.int64, "
            f"got {tuple(labels.shape)} of {labels.dtype}."
        )
    broken = (~waveforms.isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        raise AudioError(
            f"{len(broken)} {name} clips hold NaN or infinity (the first is number {broken[0]}). Leave them out."
        )


def check_labels(name: str, labels: Tensor, n_classes: int) -> None:
    """Raise DatasetError where a label is none of a network's classes, 0 to ``n_classes`` - 1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_classes:
        raise DatasetError(
            f"{name.capitalize()} labels run from {low} to {high}, but the network has {n_classes} outputs, "
            f"0 to {n_classes - 1}. Do labels and network belong together?"
        )
