"""Θ: from the activations of patterns to the classifier's decision, through a linear layer whose terms can be read.

Parekh et al., section 3.1. The activations are pooled over time, by attention or by their maximum; one linear layer
without bias follows, so that a class's logit is the sum of the patterns' contributions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Pooling = Literal["attention", "max"]

_DROPOUT: dict[Pooling, float] = {"attention": 0.4, "max": 0.3}
"""As coded: of what the attention looks at, and of the pooled maxima."""


class Theta(nn.Module):
    """Pooling over time and a linear layer.

    Parameters
    ----------
    n_patterns : int
        K.
    n_classes : int
        C.
    pooling : {"attention", "max"}
        The attention is gated, w · (tanh(V h) * relu(U h)) and a softmax over time, as coded: the gate of Ilse et al.,
        ICML 2018, which the paper cites, is a sigmoid.
    hidden : int
        Units of the attention; 256 as published.
    """

    def __init__(self, n_patterns: int, n_classes: int, *, pooling: Pooling, hidden: int = 256) -> None:
        super().__init__()
        self.pooling = pooling
        self.dropout = nn.Dropout(_DROPOUT[pooling])
        if pooling == "attention":
            self.content = nn.Linear(n_patterns, hidden)
            self.gate = nn.Linear(n_patterns, hidden)
            self.score = nn.Linear(hidden, 1, bias=False)
        self.linear = nn.Linear(n_patterns, n_classes, bias=False)

    def attention(self, activations: Tensor) -> Tensor:
        """How much each frame counts: (B, K, N) to (B, N), >= 0, sum 1."""
        frames = self.dropout(activations.transpose(1, 2))
        scores = self.score(torch.tanh(self.content(frames)) * torch.relu(self.gate(frames)))
        return torch.softmax(scores[:, :, 0], dim=1)

    def pooled(self, activations: Tensor) -> Tensor:
        """z: activations (B, K, N) pooled over time to (B, K), >= 0."""
        if self.pooling == "max":
            return activations.amax(2)
        return torch.einsum("bkn,bn->bk", activations, self.attention(activations))

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled activations (B, K) to logits (B, C)."""
        return self.linear(self.dropout(pooled) if self.pooling == "max" else pooled)  # type: ignore[no-any-return]
