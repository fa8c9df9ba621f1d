"""A compact convolutional network for environmental sounds (ESC-10), and its front end."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn

from earwitness.audio.front_end import LogMel
from earwitness.audio.mel import Compression, MelBands, Stft

FLOOR = 0.01
"""Under the logarithm of a magnitude; a full-scale sine reaches 256."""

_DEVIATION = 2.16  # standard deviation of ln(mel + floor) over folds 1 to 3 of ESC-10, rounded


def compact_front_end() -> LogMel:
    """Logarithm of 64 mel bands at 22,050 Hz, frames of 46 ms each 12 ms: its STFT is the listening STFT of that rate.

    A band is the weighted mean of its bins' magnitudes. The floor under the logarithm is high, so that what is
    inaudible beside a recording does not reach the network. Features are 0 in silence and have about unit variance over
    ESC-10 (mean 1.3): what the first convolution pads with at the edges of a clip is silence, and a relevance that is a
    product with the features gives silence none.
    """
    return LogMel(
        rate=22050,
        stft=Stft(1024, 256),
        bands=MelBands(64, norm="mean"),
        compression=Compression("ln", FLOOR, shift=-math.log(FLOOR), scale=_DEVIATION),
        power=1,
    )


class CompactCNN(nn.Module):
    """Blocks of convolution, batch normalisation and ReLU; 246,394 parameters as built by default.

    All blocks but the last halve both axes, rounding up, so a clip may be as short as one frame. Frequency is averaged,
    time takes its maximum: an event counts as much in five seconds as in half a second. Every layer is a module that is
    used once, in the order of definition, as layer-wise relevance propagation needs it. ``blocks.block5`` is the last
    convolutional map, (B, 128, M/16, N'/16) as built by default.

    Parameters
    ----------
    channels : tuple of int
        Filters of each block's 3 x 3 convolution.
    n_classes : int
        C.
    dropout : float, in [0, 1)
        Share of the pooled features that is dropped while training.
    """

    def __init__(
        self, channels: tuple[int, ...] = (16, 32, 64, 128, 128), n_classes: int = 10, dropout: float = 0.2
    ) -> None:
        super().__init__()
        blocks = OrderedDict[str, nn.Module]()
        n_in = 1
        for number, n_out in enumerate(channels, start=1):
            blocks[f"block{number}"] = _block(n_in, n_out, pooled=number < len(channels))
            n_in = n_out
        self.blocks = nn.Sequential(blocks)
        self.head = nn.Sequential(
            OrderedDict(
                mean_over_frequency=nn.AdaptiveAvgPool2d((1, None)),
                max_over_time=nn.AdaptiveMaxPool2d(1),
                flatten=nn.Flatten(),
                dropout=nn.Dropout(dropout),
                linear=nn.Linear(n_in, n_classes),
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features to logits.

        Parameters
        ----------
        features : Tensor (B, 1, M, N'), float32
            As of :func:`compact_front_end`; any number of bands M >= 1 and frames N' >= 1.

        Returns
        -------
        Tensor (B, C), float32
        """
        return self.head(self.blocks(features))  # type: ignore[no-any-return]


def _block(n_in: int, n_out: int, *, pooled: bool) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module](
        convolution=nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),
        normalisation=nn.BatchNorm2d(n_out),
        relu=nn.ReLU(),
    )
    if pooled:
        layers["pool"] = nn.MaxPool2d(2, ceil_mode=True)
    return nn.Sequential(layers)
