"""Maps at equal budgets of signal energy: the only fair way to compare masks.

Signal energy lives on the listening STFT, so maps are brought there first. A map is analysed once and then cut to any
number of budgets.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

WarpForm = Literal["soft", "hard"]

_LEVELS = 1024
"""Bins of the level histogram: with energy-weighted means the kept energy is right to 1e-4 before the last step."""

_BISECTIONS = 40


class EnergyBudget:
    """Normalised maps and the energy beneath them.

    Parameters
    ----------
    masks : Tensor (B, F, N), float32, in [0, 1]
        Maps on the listening STFT.
    magnitude : Tensor (B, F, N), float32, >= 0
        |S| of the recording.
    """

    def __init__(self, masks: Tensor, magnitude: Tensor) -> None:
        energy = magnitude.square().flatten(1)
        self._shape = masks.shape
        self._masks = masks.flatten(1)
        self._energy = energy / energy.sum(1, keepdim=True).clamp_min(1e-30)

    def gain(self, budget: float | Tensor, form: WarpForm = "soft") -> Tensor:
        """A gain that keeps a share of the recording's energy.

        Parameters
        ----------
        budget : float or Tensor (B,)
            Share of energy to keep, in [0, 1]; one for all rows, or one for each.
        form : {"soft", "hard"}
            ``soft`` warps a map M by a power, M ** g; ``hard`` keeps its top bins (those tied at the edge share alike).

        Returns
        -------
        Tensor (B, F, N), float32, in [0, 1]
            Keeps the budget to 1e-4. Where a warp alone cannot reach it, the map says nothing about the order of the
            cells concerned, and they are treated alike: if its support holds too little energy, the cells outside get
            one common gain; if its maximum alone holds too much, the map is scaled down. A silent row has no energy
            to keep: its gains have no meaning.
        """
        wanted = torch.as_tensor(budget, dtype=torch.float64, device=self._masks.device)
        wanted = wanted.expand(len(self._masks))[:, None]
        gain = self._soft(wanted) if form == "soft" else self._hard(wanted)
        return gain.to(self._masks.dtype).reshape(self._shape)

    @functools.cached_property
    def _log_masks(self) -> Tensor:
        return self._masks.clamp_min(1e-30).log()

    @functools.cached_property
    def _histogram(self) -> tuple[Tensor, Tensor]:
        """Mean log level, weighted by energy, and energy of each level bin: Tensors (B, _LEVELS), float64.

        The bins are equally full rather than equally wide, so that every map is resolved, whatever its range.
        """
        mass = (self._energy * (self._masks > 0)).double()
        sample = self._log_masks[:, :: max(1, self._log_masks.shape[1] // 32768)].sort(dim=1).values
        places = torch.linspace(0, sample.shape[1] - 1, _LEVELS - 1, device=sample.device).long()
        index = torch.searchsorted(sample[:, places].contiguous(), self._log_masks)
        weights = torch.zeros(len(mass), _LEVELS, dtype=torch.float64, device=mass.device)
        totals = weights.scatter_add(1, index, mass * self._log_masks)
        weights.scatter_add_(1, index, mass)
        return totals / weights.clamp_min(1e-30), weights

    @functools.cached_property
    def _descending(self) -> tuple[Tensor, Tensor]:
        """Levels from the highest down, and the energy up to each: Tensors (B, F * N)."""
        values, order = self._masks.sort(dim=1, descending=True, stable=True)
        return values, self._energy.gather(1, order).double().cumsum(1)

    def _soft(self, budget: Tensor) -> Tensor:
        levels, weights = self._histogram
        low = torch.full_like(budget, -16.0).contiguous()  # exponents from 2 ** low to 2 ** high
        high = -low
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            too_much = (weights * torch.exp(2 * torch.exp2(middle) * levels)).sum(1, keepdim=True) > budget
            low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
        exponent = torch.exp2((low + high) / 2).to(self._masks.dtype)
        support = self._masks > 0
        return self._meet(torch.exp(exponent * self._log_masks) * support, support, budget)

    def _hard(self, budget: Tensor) -> Tensor:
        values, cumulated = self._descending
        edge = (cumulated < budget).sum(1, keepdim=True).clamp_max(values.shape[1] - 1)
        threshold = values.gather(1, edge)
        above, tied = self._masks > threshold, self._masks == threshold
        missing = budget - (self._energy * above).sum(1, keepdim=True, dtype=torch.float64)
        shared = (self._energy * tied).sum(1, keepdim=True, dtype=torch.float64).clamp_min(1e-30)
        return torch.where(above, 1.0, torch.where(tied, (missing / shared).clamp(0, 1).sqrt(), 0.0))

    def _meet(self, gain: Tensor, support: Tensor, budget: Tensor) -> Tensor:
        """Close what the warp left open: rounding, or a budget beyond its reach."""
        kept = (gain.square() * self._energy).sum(1, keepdim=True, dtype=torch.float64)
        outside = (self._energy * ~support).sum(1, keepdim=True, dtype=torch.float64)
        too_little = (kept < 0.999 * budget) & (outside > 1e-9)
        fill = ((budget - kept).clamp_min(0) / outside.clamp_min(1e-30)).clamp_max(1).sqrt()
        scale = (budget / kept.clamp_min(1e-30)).sqrt()
        scaled = (gain * scale.to(gain.dtype)).clamp_max(1)
        return torch.where(too_little, torch.where(support, gain, fill.to(gain.dtype)), scaled)
