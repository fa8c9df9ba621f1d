"""Ψ: from three hidden maps of the classifier to the activations of spectral patterns (Parekh et al., section 3.1).

The layers are those of the authors' code; there maps are cropped, and doubled and halved, from one classifier's sizes
to one clip's length. Here they are brought to the same common sizes by interpolation, so that maps may have any size
and a clip any length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS = (16, 8, 4)
"""Over frequency, of the early, the middle and the late map, as in the published classifier."""


class Psi(nn.Module):
    """Hidden maps to non-negative activations; 2,866,200 parameters with 128, 256 and 512 channels and 100 patterns.

    Parameters
    ----------
    channels : (int, int, int)
        Of the early, the middle and the late map.
    n_patterns : int
        K.
    width : int
        Channels of the joint map, even; 256 as published.
    """

    def __init__(self, channels: Sequence[int], n_patterns: int, *, width: int = 256) -> None:
        super().__init__()
        early, middle, late = channels
        self.early = nn.Conv2d(early, width // 2, (4, 1), stride=(4, 1))
        self.middle = nn.Conv2d(middle, width, 3, padding=1)
        self.late = nn.Conv2d(late, width // 2, 3, padding=1)
        self.joint = nn.Conv2d(2 * width, width, 3, padding=1)
        self.over_frequency = nn.Conv2d(width, width, (4, 1))
        self.patterns = nn.Conv1d(width, n_patterns, 5, padding=2)
        self.activations = nn.Conv1d(n_patterns, n_patterns, 5, padding=2)

    def forward(self, maps: Sequence[Tensor], n_frames: int) -> Tensor:
        """Activations of the patterns.

        Parameters
        ----------
        maps : three Tensors (B, C, H, W)
            Early, middle, late; frequency before time, each from the clip's start to its end.
        n_frames : int
            N, of the listening STFT.

        Returns
        -------
        Tensor (B, K, N), >= 0
        """
        # Nowhere finer than the frames that are asked for.
        fine, coarse, *finer = (
            min(columns, n_frames)
            for columns in (maps[0].shape[3], maps[1].shape[3], 2 * maps[0].shape[3], 4 * maps[0].shape[3])
        )
        early = functional.relu(self.early(resized(maps[0], ROWS[0], fine)))
        middle = functional.relu(self.middle(resized(maps[1], ROWS[1], fine)))
        late = functional.relu(self.late(resized(maps[2], ROWS[2], coarse)))
        rows = early.shape[2]
        joint = torch.cat([resized(middle, rows, fine), resized(late, rows, fine), early], dim=1)
        joint = functional.relu(self.joint(resized(joint, rows, finer[0])))
        joint = functional.relu(self.over_frequency(resized(joint, rows, finer[1])))
        frames = resized(joint, 1, n_frames)[:, :, 0]
        return functional.relu(self.activations(functional.relu(self.patterns(frames))))


def resized(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Maps (B, C, H, W) at another size: averaged where they shrink, interpolated (first on first, last on last) where
    they grow. At their own size they stay as they are."""
    shrunk = (min(rows, maps.shape[2]), min(columns, maps.shape[3]))
    if shrunk != tuple(maps.shape[2:]):
        maps = functional.adaptive_avg_pool2d(maps, shrunk)
    if shrunk != (rows, columns):
        maps = functional.interpolate(maps, (rows, columns), mode="bilinear", align_corners=True)
    return maps
