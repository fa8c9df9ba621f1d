"""MobileNetV3-Large for spectrograms, as EfficientAT has it.

Howard et al., "Searching for MobileNetV3", ICCV 2019, Table 1; Schmid, Koutini and Widmer, "Efficient large-scale audio
tagging via Transformer-to-CNN knowledge distillation", ICASSP 2023. Every layer is a module that is used once; so are
the sums of residual blocks and the gates of squeeze-excite, which attribution methods must treat in their own way.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn


@dataclass(frozen=True)
class Bottleneck:
    """A line of the paper's Table 1: an inverted residual block, at width 1.

    Attributes
    ----------
    kernel : int
        Side of the depthwise convolution.
    expanded, channels : int
        Channels inside the block and of its output.
    gated : bool
        With squeeze-excite.
    hardswish : bool
        Else ReLU.
    stride : int
    """

    kernel: int
    expanded: int
    channels: int
    gated: bool
    hardswish: bool
    stride: int


STEM = 16
BOTTLENECKS = (
    Bottleneck(3, 16, 16, False, False, 1),
    Bottleneck(3, 64, 24, False, False, 2),
    Bottleneck(3, 72, 24, False, False, 1),
    Bottleneck(5, 72, 40, True, False, 2),
    Bottleneck(5, 120, 40, True, False, 1),
    Bottleneck(5, 120, 40, True, False, 1),
    Bottleneck(3, 240, 80, False, True, 2),
    Bottleneck(3, 200, 80, False, True, 1),
    Bottleneck(3, 184, 80, False, True, 1),
    Bottleneck(3, 184, 80, False, True, 1),
    Bottleneck(3, 480, 112, True, True, 1),
    Bottleneck(3, 672, 112, True, True, 1),
    Bottleneck(5, 672, 160, True, True, 2),
    Bottleneck(5, 960, 160, True, True, 1),
    Bottleneck(5, 960, 160, True, True, 1),
)
LAST_EXPANSION = 6
HIDDEN = 1280
"""Units of the hidden linear layer at width 1."""

_BATCH_NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class MobileNetV3(nn.Module):
    """Log-mel spectrograms of any length to logits; 0.98 million parameters with width 0.4 and 527 classes.

    ``features.16.2`` is the last convolutional map, (B, 384, M/32, N'/32) at width 0.4, rounded up, and
    ``classifier.1`` gives the embedding, its mean, (B, 384).

    Parameters
    ----------
    n_classes : int
        C.
    width : float
        Factor of all channels, which are then rounded to multiples of 8.
    dropout : float, in [0, 1)
        Share of hidden units that is dropped while training.
    """

    def __init__(self, n_classes: int, *, width: float, dropout: float = 0.2) -> None:
        super().__init__()
        n_in = _rounded(STEM * width)
        layers: list[nn.Module] = [_convolution(1, n_in, 3, stride=2, activation=nn.Hardswish())]
        for setting in BOTTLENECKS:
            block = InvertedResidual(n_in, setting, width)
            layers.append(block)
            n_in = _rounded(setting.channels * width)
        self.n_embedding = LAST_EXPANSION * n_in
        layers.append(_convolution(n_in, self.n_embedding, 1, activation=nn.Hardswish()))
        self.features = nn.Sequential(*layers)
        hidden = _rounded(HIDDEN * width)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(self.n_embedding, hidden),
            nn.Hardswish(),
            nn.Dropout(dropout),
            nn.Linear(hidden, n_classes),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, 1, M, N'), float32, any M >= 1 and N' >= 1, to logits (B, C)."""
        return self.classifier(self.features(features))  # type: ignore[no-any-return]

    def with_head(self, head: nn.Module) -> MobileNetV3:
        """A copy in which ``head``, a map of the embedding (B, 384), replaces the two linear layers."""
        changed = copy.deepcopy(self)
        changed.classifier = nn.Sequential(*list(changed.classifier)[:2], head)
        return changed


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, gate, project; added to the input where the shapes agree.

    Parameters
    ----------
    n_in : int
        Channels of the input.
    setting : Bottleneck
    width : float
        See :class:`MobileNetV3`.
    """

    def __init__(self, n_in: int, setting: Bottleneck, width: float) -> None:
        super().__init__()
        expanded, n_out = _rounded(setting.expanded * width), _rounded(setting.channels * width)
        activation = nn.Hardswish if setting.hardswish else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != n_in:
            layers.append(_convolution(n_in, expanded, 1, activation=activation()))
        layers.append(
            _convolution(
                expanded, expanded, setting.kernel, stride=setting.stride, groups=expanded, activation=activation()
            )
        )
        if setting.gated:
            layers.append(ConcurrentSqueezeExcite(expanded))
        layers.append(_convolution(expanded, n_out, 1))
        self.block = nn.Sequential(*layers)
        self.sum = Addition() if setting.stride == 1 and n_in == n_out else None

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, n_in, H, W) to (B, n_out, H / stride, W / stride)."""
        projected: Tensor = self.block(maps)
        return projected if self.sum is None else self.sum(maps, projected)


class ConcurrentSqueezeExcite(nn.Module):
    """The squeeze-excite blocks of EfficientAT, of which its published networks use the one over channels.

    Parameters
    ----------
    n_channels : int
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([SqueezeExcite(n_channels)])

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, n_channels, H, W) to gated maps of the same shape."""
        return self.conc_se_layers[0](maps)  # type: ignore[no-any-return]


class SqueezeExcite(nn.Module):
    """A gate for each channel, from the means of all channels (Hu, Shen and Sun, CVPR 2018, eqs. 2 to 4).

    Parameters
    ----------
    n_channels : int
    reduction : int
        Ratio r of channels to hidden units.
    """

    def __init__(self, n_channels: int, reduction: int = 4) -> None:
        super().__init__()
        n_hidden = _rounded(n_channels // reduction)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc1 = nn.Linear(n_channels, n_hidden)
        self.activation = nn.ReLU()
        self.fc2 = nn.Linear(n_hidden, n_channels)
        self.scale_activation = nn.Sigmoid()
        self.gate = Gate()

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, n_channels, H, W) to gated maps of the same shape."""
        hidden = self.activation(self.fc1(self.squeeze(maps)))
        return self.gate(maps, self.scale_activation(self.fc2(hidden)))  # type: ignore[no-any-return]


class Addition(nn.Module):
    """The sum of a residual block, as a module of its own."""

    def forward(self, identity: Tensor, residual: Tensor) -> Tensor:
        """Two tensors of one shape to their sum."""
        return identity + residual


class Gate(nn.Module):
    """The product of squeeze-excite, as a module of its own."""

    def forward(self, maps: Tensor, gates: Tensor) -> Tensor:
        """Maps (B, K, H, W) and gates (B, K), in [0, 1], to maps of the same shape."""
        return maps * gates[:, :, None, None]


def _convolution(
    n_in: int, n_out: int, kernel: int, *, stride: int = 1, groups: int = 1, activation: nn.Module | None = None
) -> nn.Sequential:
    """Convolution, batch normalisation and perhaps an activation, in a plain Sequential, where they can be folded."""
    padding = (kernel - 1) // 2
    convolution = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=padding, groups=groups, bias=False)
    return nn.Sequential(convolution, _BATCH_NORM(n_out), *([activation] if activation is not None else []))


def _rounded(n_channels: float, multiple: int = 8) -> int:
    """To the nearest multiple of 8, but never by more than a tenth down (the rule of the MobileNet papers' code)."""
    rounded = max(multiple, int(n_channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * n_channels else rounded
