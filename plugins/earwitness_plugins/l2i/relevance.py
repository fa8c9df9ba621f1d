"""Which patterns speak for a class, and what they cover (Parekh et al., section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_EPS = 1e-6
"""Beside WH in a soft mask, as coded: bins in which no pattern is active belong to none."""


def relevance(contributions: Tensor) -> Tensor:
    """r_k = z_k θ_ck / max_l |z_l θ_cl|.

    The authors' code divides by the maximum instead, which turns the sign where every contribution is negative.

    Parameters
    ----------
    contributions : Tensor (B, K)
        z_k θ_ck, the terms of the class's logit.

    Returns
    -------
    Tensor (B, K), in [-1, 1]
        0 in rows of zeros.
    """
    largest = contributions.abs().amax(1, keepdim=True)
    return contributions / torch.where(largest > 0, largest, 1)


@dataclass(frozen=True, eq=False)
class SoftMasks:
    """How the patterns share out each bin: W_k H_k / (WH + 1e-6).

    Attributes
    ----------
    patterns : Tensor (F, K), >= 0
        W.
    activations : Tensor (B, K, N), >= 0
        H.
    """

    patterns: Tensor
    activations: Tensor

    @cached_property
    def _whole(self) -> Tensor:
        return self.patterns @ self.activations + _EPS

    def of(self, selected: Tensor) -> Tensor:
        """What the patterns selected in (B, K), bool, cover together: Tensor (B, F, N), in [0, 1]."""
        return (self.patterns @ (self.activations * selected[:, :, None]) / self._whole).clamp(0, 1)

    def of_pattern(self, number: int) -> Tensor:
        """What one pattern covers: Tensor (B, F, N), in [0, 1]."""
        own = self.patterns[:, number, None] * self.activations[:, None, number]
        return (own / self._whole).clamp(0, 1)
