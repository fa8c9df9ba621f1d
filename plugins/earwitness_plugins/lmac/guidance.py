"""Guidance of the fine-tuning stage: masks that sound like the clean recording (Paissan et al., section 2.1).

The paper adds λ_g ‖M ⊙ X - X‖, X being the clean recording; its code has by default the binary cross-entropy to where X
is loud, and replaces the sparsity term by it. Here the norm is the default, which makes masks sound better; the
cross-entropy makes them smaller. Only clips whose masked recording is near the clean one already are
guided. All on the listening STFT, in log1p of magnitudes; B rows, F bins, N frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from earwitness.audio.masking import mask_to_gain
from earwitness.errors import ConfigurationError, nearest
from earwitness.explanation import Scale

GuidanceLoss = Literal["bce", "norm"]

LOUD = 0.35
"""Share of a clip's own maximum, in log1p of the magnitude, from which a bin belongs to the target."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How masks are guided.

    Attributes
    ----------
    weight : float, >= 0
        λ_g.
    loss : {"bce", "norm"}
        Binary cross-entropy to the binarised clean spectrogram; or mean squared distance of the masked recording from
        the clean one.
    least_cosine : float, in [-1, 1]
        CCT: only clips are guided whose masked recording has at least this cosine with the clean one.
    """

    weight: float = 32.0
    loss: GuidanceLoss = "norm"
    least_cosine: float = 0.6

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf") or not -1 <= self.least_cosine <= 1:
            raise ConfigurationError(
                f"Guidance needs a weight of 0 or more and a cosine between -1 and 1; got {self.weight} and "
                f"{self.least_cosine}."
            )
        if self.loss not in get_args(GuidanceLoss):
            raise ConfigurationError(
                f"There is no guidance_loss {self.loss!r}. {nearest(self.loss, get_args(GuidanceLoss))}"
            )

    def of_masks(self, mask: Tensor, recording: Tensor, clean: Tensor, *, scale: Scale) -> tuple[Tensor, Tensor]:
        """The guidance of each row, and which rows are guided.

        Parameters
        ----------
        mask : Tensor (B, F, N), float32, in [0, 1]
        recording, clean : Tensor (B, F, N), float32, >= 0
            |S| of the recording, noise included, and without the noise.
        scale : {"magnitude", "log1p"}
            Of the mask.

        Returns
        -------
        loss : Tensor (B,), float32
            λ_g times the loss; 0 where a row is not guided.
        guided : Tensor (B,), bool
        """
        clamped = mask.clamp(0, 1)  # a lifted mask may exceed 1 by rounding
        heard = torch.log1p(mask_to_gain(clamped, recording, scale) * recording)
        clean = torch.log1p(clean)
        guided = cosine(heard.detach(), clean) >= self.least_cosine
        if self.loss == "bce":
            loss = functional.binary_cross_entropy(clamped, loud_bins(clean), reduction="none").mean((1, 2))
        else:
            loss = (heard - clean).square().mean((1, 2))
        return torch.where(guided, self.weight * loss, 0.0), guided


def loud_bins(level: Tensor) -> Tensor:
    """1 where a bin reaches ``LOUD`` of its clip's maximum, else 0; none in a silent clip. (B, F, N) to the same."""
    highest = level.amax((1, 2), keepdim=True)
    return ((level >= LOUD * highest) & (highest > 0)).to(level.dtype)


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine between maps (B, F, N): Tensor (B,); 0 where one of them is zero."""
    one, other = one.flatten(1), other.flatten(1)
    norms = one.norm(dim=1) * other.norm(dim=1)
    return (one * other).sum(1) / torch.where(norms > 0, norms, 1)
