"""From the deepest hidden maps of a classifier to a mask (Paissan et al., section 2).

As published, maps are brought up to the next earlier map's size and added to it, from the deepest to the earliest. The
published up-convolutions end on 513 bins, at sizes that one classifier and one clip length ask for; here the decoder
ends on a coarse grid of the classifier's bands, whatever the sizes, and a fixed interpolation leads on to the listening
STFT. B rows, M bands and N' frames of the coarse grid, H rows and W columns of a hidden map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from earwitness.errors import CheckpointError

_LEAST_WIDTH = 8
_CHANNELS_OF_A_GROUP = 16
_OF_A_CLASS = 0.5  # standard deviation of what a decoder is told first
_LEAST_SPREAD = 0.1
"""Of a channel, as a share of that of its map's channels on average: one that hardly ever says anything stays quiet."""


class MaskDecoder(nn.Module):
    """A U-Net's upper half, over hidden maps of any size.

    The deepest map has ``width`` channels, each earlier one half as many. To all of it is added what it is on average
    over the clip, and which class is to be explained: of two sounds, a convolution does not see which is the decision.
    Joins are normalised in groups of channels, but for the last, which is the largest.

    Parameters
    ----------
    channels : sequence of int
        Of the hidden maps, in the order in which the classifier computes them.
    width : int
        256 gives 1.1 million parameters over maps of 32, 64, 128 and 128 channels, 1024 gives 17 million.
    bands : int
        M, for networks whose maps have no frequency axis: it is laid out from channels. 0 for all others.
    classes : int
        Of the classifier, for a decoder that is told which one to explain. 0: it is told nothing.
    """

    centres: Tensor
    spreads: Tensor
    told_at_first: Tensor | None

    def __init__(self, channels: Sequence[int], width: int, *, bands: int = 0, classes: int = 0) -> None:
        super().__init__()
        deep_first = tuple(reversed(channels))
        widths = [max(_LEAST_WIDTH, width // 2**level) for level in range(len(deep_first))]
        self.bands = bands
        self.classes = classes
        self.entrances = nn.ModuleList(nn.Conv2d(n, own, 1) for n, own in zip(deep_first, widths, strict=True))
        self.deepest = nn.Conv2d(widths[0], widths[0], 3, padding=1)
        self.whole = nn.Conv2d(widths[0], widths[0], 1)
        self.told = nn.Embedding(classes, widths[0]) if classes else None
        self.up = nn.ModuleList(nn.Conv2d(below, own, 3, padding=1) for below, own in pairwise(widths))
        self.norms = nn.ModuleList(_norm(own) for own in widths[: max(1, len(widths) - 1)])
        self.mask = nn.Conv2d(widths[-1], max(1, bands), 3, padding=1)
        self.register_buffer("centres", torch.zeros(sum(deep_first), 1, 1))
        self.register_buffer("spreads", torch.ones(sum(deep_first), 1, 1))
        self.register_buffer("told_at_first", None, persistent=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on a CPU

    @torch.no_grad()
    def initialise(self, maps: Sequence[Tensor], *, seed: int) -> None:
        """Draw the weights, and take mean and standard deviation of each channel of the hidden maps from some clips.

        Without that, what a decoder of a MobileNet learns first, and long, are the levels that its channels always
        have. PyTorch's own generator is left alone.
        """
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                drawn = torch.randn(module.weight.shape, generator=generator) * math.sqrt(2 / fan_in)
                module.weight.copy_(drawn)
                assert module.bias is not None
                module.bias.zero_()
        self.mask.weight.mul_(0.1)  # begin near one half everywhere
        if self.told is not None:
            self.told.weight.copy_(_OF_A_CLASS * torch.randn(self.told.weight.shape, generator=generator))
            self.told_at_first = self.told.weight.clone()
        by_channel = [each.transpose(0, 1).flatten(1) for each in reversed(maps)]
        self.centres.copy_(torch.cat([each.mean(1) for each in by_channel])[:, None, None])
        spreads = [each.std(1) for each in by_channel]
        floors = [_LEAST_SPREAD * each.mean() for each in spreads]
        steady = torch.cat([each.clamp_min(floor) for each, floor in zip(spreads, floors, strict=True)])
        self.spreads.copy_(torch.where(steady > 0, steady, 1)[:, None, None])

    @torch.no_grad()
    def learnt(self) -> dict[str, Tensor]:
        """A copy of its state on the CPU that tells nothing of classes about which nothing was learnt."""
        state = {name: value.detach().cpu().clone() for name, value in self.state_dict().items()}
        if self.told is not None and self.told_at_first is not None:
            state["told.weight"] *= (self.told.weight != self.told_at_first).any(1, keepdim=True).cpu()
        return state

    def is_trained(self, target: Tensor) -> Tensor:
        """Whether it is known what to tell of classes (B,), bool; always, where nothing is told."""
        if self.told is None:
            return torch.ones_like(target, dtype=torch.bool)
        return (self.told.weight != 0).any(1)[target]

    def forward(self, maps: Sequence[Tensor], shape: tuple[int, int], target: Tensor) -> Tensor:
        """Hidden maps to the mask before its sigmoid.

        Parameters
        ----------
        maps : sequence of Tensor (B, C, H, W), float32
            In the order in which the classifier computes them.
        shape : (int, int)
            (M, N') of the coarse grid.
        target : Tensor (B,), int64
            The classes to explain, for a decoder that is told.

        Returns
        -------
        Tensor (B, M, N'), float32

        Raises
        ------
        CheckpointError
            The maps have other channels than those that the decoder was made for.
        """
        found, own = [each.shape[1] for each in maps], [each.in_channels for each in reversed(self.entrances)]
        if found != own:
            raise CheckpointError(f"The decoder is for hidden maps of {own} channels, these have {found}. Fit again.")
        shares = [torch.split(each, found[::-1]) for each in (self.centres, self.spreads)]
        deep_first = [(each - mean) / spread for each, mean, spread in zip(reversed(maps), *shares, strict=True)]
        x = functional.relu(self.norms[0](self.entrances[0](deep_first[0])))
        whole = self.whole(x.mean((2, 3), keepdim=True))
        if self.told is not None:
            whole = whole + self.told(target)[:, :, None, None]
        x = functional.relu(x + self.deepest(x) + whole)
        for number, (earlier, enter, up) in enumerate(
            zip(deep_first[1:], self.entrances[1:], self.up, strict=True), start=1
        ):
            x = _resized(up(x), earlier.shape[2:]) + enter(earlier)
            if number < len(self.up):
                x = self.norms[number](x)
            x = functional.relu(x)
        logits = self.mask(x)
        if self.bands:
            logits = logits.mean(2)[:, None]
        return _resized(logits, shape)[:, 0]


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(width, max(1, width // _CHANNELS_OF_A_GROUP)), width)


def _resized(maps: Tensor, shape: Sequence[int]) -> Tensor:
    """Maps (B, C, H, W) at another size, by linear interpolation between the centres of cells."""
    if tuple(maps.shape[2:]) == tuple(shape):
        return maps
    return functional.interpolate(maps, tuple(shape), mode="bilinear", align_corners=False)
