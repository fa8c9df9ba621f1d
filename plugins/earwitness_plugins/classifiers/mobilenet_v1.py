"""MobileNetV1 as YAMNet has it (Howard et al., arXiv:1704.04861; tensorflow/models, research/audioset/yamnet).

A 3 x 3 convolution, then thirteen depthwise separable ones, each followed by batch normalisation and ReLU; the mean
over the map is the embedding, and one linear layer decides. Every layer is a module that is used once, in the order of
definition, so that layer-wise relevance propagation, DeepLift and guided backpropagation can hook them.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

STEM = 32
"""Channels of the first convolution, whose stride is 2."""

BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)
"""Output channels and stride of each depthwise separable convolution (Table 1 of the paper)."""

_BATCH_NORM_EPS = 1e-4


class MobileNetV1(nn.Module):
    """Patches to logits; 3.74 million parameters with 521 classes.

    ``features.94`` is the last convolutional map after its ReLU, (B, 1024, H/32, W/32), and ``pool`` gives the
    embedding, its mean, (B, 1024).

    Parameters
    ----------
    n_classes : int
        C.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        layers = [_same_padding(stride=2), nn.Conv2d(1, STEM, 3, stride=2, bias=False), *_normalised(STEM)]
        n_in = STEM
        for n_out, stride in BLOCKS:
            depthwise = nn.Conv2d(n_in, n_in, 3, stride=stride, groups=n_in, bias=False)
            pointwise = nn.Conv2d(n_in, n_out, 1, bias=False)
            layers += [_same_padding(stride), depthwise, *_normalised(n_in), pointwise, *_normalised(n_out)]
            n_in = n_out
        self.features = nn.Sequential(*layers)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc: nn.Module = nn.Linear(n_in, n_classes)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches to logits.

        Parameters
        ----------
        patches : Tensor (B, 1, H, W), float32
            Both axes even at each of the five layers of stride 2, that is multiples of 32, as YAMNet's 96 x 64.

        Returns
        -------
        Tensor (B, C), float32
        """
        return self.fc(self.pool(self.features(patches)))  # type: ignore[no-any-return]

    @property
    def n_embedding(self) -> int:
        """Length of the embedding."""
        return BLOCKS[-1][0]

    def with_head(self, head: nn.Module) -> MobileNetV1:
        """A copy in which ``head``, a map of the embedding (B, 1024), replaces the last layer."""
        changed = copy.deepcopy(self)
        changed.fc = head
        return changed


def _normalised(n_channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(n_channels, eps=_BATCH_NORM_EPS), nn.ReLU()


def _same_padding(stride: int) -> nn.ZeroPad2d:
    """TensorFlow's "same" padding of a 3 x 3 kernel on even maps: with stride 2, only right and bottom are padded."""
    return nn.ZeroPad2d((0, 1, 0, 1) if stride == 2 else 1)
