"""Att-CRNN: convolutions, recurrent layers and attention over time (de Andrade et al., arXiv:1808.08929)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class AttentionCRNN(nn.Module):
    """Two convolutions along time, two bidirectional LSTMs, attention, three linear layers.

    As published: ten filters of five frames, then one; 64 units in each direction of each LSTM; the middle frame asks
    (a linear layer makes the query), all frames answer, weighted by softmax. 225,967 parameters for 128 bands and ten
    classes. For maps over any number of frames. LSTMs have no rule in layer-wise relevance propagation.

    Parameters
    ----------
    n_bands : int
        M.
    n_classes : int
        C.
    """

    def __init__(self, n_bands: int = 128, n_classes: int = 10) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 10, (1, 5), padding=(0, 2)),
            nn.BatchNorm2d(10),
            nn.ReLU(),
            nn.Conv2d(10, 1, (1, 5), padding=(0, 2)),
            nn.BatchNorm2d(1),
            nn.ReLU(),
        )
        self.recurrence = nn.LSTM(n_bands, 64, num_layers=2, bidirectional=True, batch_first=True)
        self.query = nn.Linear(128, 128)
        self.classifier = nn.Sequential(
            nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, n_classes)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, 1, M, N'), float32, to logits (B, C)."""
        frames, _ = self.recurrence(self.convolutions(features)[:, 0].transpose(1, 2))  # (B, N', 128)
        query = self.query(frames[:, frames.shape[1] // 2])
        attention = functional.softmax(torch.einsum("bnd,bd->bn", frames, query), dim=1)
        return self.classifier(torch.einsum("bn,bnd->bd", attention, frames))  # type: ignore[no-any-return]
