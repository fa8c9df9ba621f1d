"""The interpreter: Ψ, Θ and the dictionary between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from earwitness_plugins.l2i.psi import Psi
from earwitness_plugins.l2i.theta import Pooling, Theta


@dataclass(frozen=True)
class Sizes:
    """What an interpreter is built from.

    Attributes
    ----------
    channels : (int, int, int)
        Of the hidden maps, in the order in which they are computed.
    n_patterns, n_classes : int
        K and C.
    pooling : {"attention", "max"}
    width : int
        Of Ψ, and of Θ's attention; 256 as published.
    """

    channels: tuple[int, ...]
    n_patterns: int
    n_classes: int
    pooling: Pooling
    width: int


class Interpretation(NamedTuple):
    """What the interpreter makes of hidden maps.

    ``activations`` H (B, K, N), >= 0; ``pooled`` z (B, K), >= 0; ``logits`` (B, C).
    """

    activations: Tensor
    pooled: Tensor
    logits: Tensor


class Interpreter(nn.Module):
    """Hidden maps to activations of patterns, and these to the decision.

    Parameters
    ----------
    sizes : Sizes
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.psi = Psi(sizes.channels, sizes.n_patterns, width=sizes.width)
        self.theta = Theta(sizes.n_patterns, sizes.n_classes, pooling=sizes.pooling, hidden=sizes.width)

    def forward(self, maps: Sequence[Tensor], n_frames: int) -> Interpretation:
        """Three maps (B, C, H, W), and the number of frames of the listening STFT."""
        activations = self.psi(maps, n_frames)
        pooled = self.theta.pooled(activations)
        return Interpretation(activations, pooled, self.theta(pooled))
