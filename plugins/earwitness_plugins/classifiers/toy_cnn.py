"""The small network of the DRSA thesis for its synthetic two-class data (Table 4.2; 8,234 parameters)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from earwitness.audio.dialects import drsa_toy
from earwitness.audio.front_end import LogMel

TOY_LABELS = ("class1", "class2")


class ToyCNN(nn.Module):
    """Five convolutions with ReLU and max pooling, three linear layers; for maps of 64 bands x 64 to 67 frames.

    ``features.1``, ``.4``, ``.7``, ``.10`` and ``.13`` are the ReLU outputs that DRSA looks at. One second at 16 kHz
    has 67 frames, of which the pooling drops the last ones.

    Parameters
    ----------
    channels : tuple of int
        Filters of each convolution.
    hidden : int
        Units of the two hidden linear layers.
    n_classes : int
    """

    def __init__(self, channels: tuple[int, ...] = (8, 8, 16, 16, 16), hidden: int = 20, n_classes: int = 2) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for n_in, n_out in pairwise((1, *channels)):
            blocks += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*blocks)
        n_flat = channels[-1] * (64 // 2 ** len(channels)) ** 2
        self.classifier = nn.Sequential(
            nn.Linear(n_flat, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, n_classes),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, 1, 64, N'), float32 -> logits (B, C)."""
        return self.classifier(self.features(features).flatten(1))  # type: ignore[no-any-return]


def toy_front_end() -> LogMel:
    """log10 of 64 mel bands, 480-sample frames at 16 kHz: its STFT is a listening STFT, so both routes are open."""
    return drsa_toy()
