"""SB-CNN, the convolutional network that sound-event papers compare with (Salamon and Bello, IEEE SPL 2017)."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from earwitness.audio.front_end import LogMel
from earwitness.audio.mel import Compression, MelBands, Stft
from earwitness_plugins.classifiers.compact_cnn import FLOOR

PATCH = 128
"""Frames of a patch: 2.97 s."""

_HOP = 16
_DEVIATION = 2.3  # standard deviation of ln(mel + floor) over folds 1 to 3 of ESC-10, rounded


def sb_cnn_front_end() -> LogMel:
    """Logarithm of 128 mel bands at 44,100 Hz, frames of 23 ms that do not overlap, as in the paper; 0 in silence.

    Frames are padded to twice their length, without which the lowest bands would hold no bin.
    """
    return LogMel(
        rate=44100,
        stft=Stft(2048, 1024, win_length=1024),
        bands=MelBands(128, norm="mean"),
        compression=Compression("ln", FLOOR, shift=-math.log(FLOOR), scale=_DEVIATION),
        power=1,
    )


class SBCNN(nn.Module):
    """Three 5 x 5 convolutions and two linear layers over patches of 128 x 128; 241,434 parameters for ten classes.

    Pooling is by four along time and two along frequency, as in the paper; many implementations turn that round. While
    training, each clip gives one patch from a random place; otherwise patches every 16 frames (the paper: every frame),
    whose probabilities are averaged. Shorter clips are followed by silence (0).

    Parameters
    ----------
    n_classes : int
        C.
    dropout : float, in [0, 1)
        Ahead of both linear layers.
    """

    def __init__(self, n_classes: int = 10, dropout: float = 0.5) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, 24, 5),
                pool1=nn.MaxPool2d((2, 4)),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(24, 48, 5),
                pool2=nn.MaxPool2d((2, 4)),
                relu2=nn.ReLU(),
                conv3=nn.Conv2d(48, 48, 5),
                relu3=nn.ReLU(),
            )
        )
        self.classifier = nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                dropout1=nn.Dropout(dropout),
                dense=nn.Linear(48 * 25 * 2, 64),
                relu=nn.ReLU(),
                dropout2=nn.Dropout(dropout),
                output=nn.Linear(64, n_classes),
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, 1, 128, N'), float32, to logits (B, C)."""
        missing = PATCH - features.shape[3]
        if missing > 0:
            features = nn.functional.pad(features, (0, missing))
        if self.training:
            return self._logits(_random_patches(features))
        patches = features.unfold(3, PATCH, _HOP).permute(0, 3, 1, 2, 4)
        logits = self._logits(patches.flatten(0, 1)).reshape(*patches.shape[:2], -1)
        # The logarithm of the mean probability: softmax gives the mean back.
        return torch.logsumexp(logits.log_softmax(2), dim=1) - math.log(logits.shape[1])

    def _logits(self, patches: Tensor) -> Tensor:
        return self.classifier(self.convolutions(patches))  # type: ignore[no-any-return]


def _random_patches(features: Tensor) -> Tensor:
    n_rows, _, _, n_frames = features.shape
    starts = torch.randint(n_frames - PATCH + 1, (n_rows,)).tolist()
    return torch.stack([row[..., start : start + PATCH] for row, start in zip(features, starts, strict=True)])
