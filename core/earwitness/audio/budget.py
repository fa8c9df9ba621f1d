"""Maps at equal budgets of signal energy: the only fair way to compare masks.

Signal energy lives on the listening STFT, so maps are brought there first. A map is analysed once and then cut to any
number of budgets.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from torch import Tensor

from earwitness.errors import ExplanationError

WarpForm = Literal["soft", "hard"]

_LEVELS = 1024
"""Bins of the level histogram on which the exponent of a warp is found. What it misses (1e-3 of the budget at most, on
all but contrived maps) is closed by a common factor."""

_BISECTIONS = 40
_NO_ENERGY = 1e-30
_LOG_EXPONENTS = 24.0
"""Exponents lie between 2 ** -24 (which takes every positive float32 level to 1) and 2 ** 24 (all but 1 to 0)."""


class EnergyBudget:
    """Normalised maps and the energy beneath them.

    Parameters
    ----------
    masks : Tensor (B, F, N), float32, in [0, 1]
        Maps on the listening STFT.
    magnitude : Tensor (B, F, N), float32, >= 0
        |S| of the recording.

    Raises
    ------
    ExplanationError
        The shapes differ.
    """

    def __init__(self, masks: Tensor, magnitude: Tensor) -> None:
        if masks.ndim != 3 or masks.shape != magnitude.shape:
            raise ExplanationError(
                f"Maps of shape {tuple(masks.shape)} cannot be weighed with magnitudes of shape "
                f"{tuple(magnitude.shape)}: both must be (B, F, N), on the listening STFT. Lift the maps first."
            )
        self._shape = masks.shape
        self._masks = masks.flatten(1)
        flat = magnitude.flatten(1)
        highest = flat.amax(1, keepdim=True)
        # In units of the loudest bin's: squared as they are, small magnitudes underflow.
        self._energy = (flat / torch.where(highest > 0, highest, 1)).square()
        self._total = self._energy.sum(1, keepdim=True, dtype=torch.float64)

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
        wanted = wanted.expand(len(self._masks))[:, None] * self._total
        gain = self._soft(wanted) if form == "soft" else self._hard(wanted)
        return gain.reshape(self._shape)

    @functools.cached_property
    def _log_masks(self) -> Tensor:
        return self._masks.clamp_min(torch.finfo(self._masks.dtype).tiny).log()

    @functools.cached_property
    def _histogram(self) -> tuple[Tensor, Tensor]:
        """Mean log level, weighted by energy, and energy of each of about ``_LEVELS`` level bins: two Tensors, float64.

        Half of the edges are levels at a geometric series of ranks, so that every map is resolved, whatever its range,
        the finer the nearer to its maximum, where small budgets are decided. The others are the levels of the bins
        with most energy, so that none of these shares a place with another level.
        """
        mass = (self._energy * self._support[0]).double()
        n_edges = min(_LEVELS // 2, mass.shape[1])
        sample = self._log_masks[:, :: max(1, mass.shape[1] // 32768)].sort(dim=1, descending=True).values
        places = torch.logspace(0, math.log10(sample.shape[1]), n_edges, device=sample.device).long() - 1
        loudest = self._log_masks.gather(1, mass.topk(n_edges, dim=1).indices)
        edges = torch.cat([sample[:, places], loudest], dim=1).sort(dim=1).values
        index = torch.searchsorted(edges, self._log_masks)
        weights = torch.zeros(len(mass), 2 * n_edges + 1, dtype=torch.float64, device=mass.device)
        totals = weights.scatter_add(1, index, mass * self._log_masks)
        weights.scatter_add_(1, index, mass)
        return totals / torch.where(weights > 0, weights, 1), weights

    @functools.cached_property
    def _descending(self) -> tuple[Tensor, Tensor]:
        """Levels from the highest down, and the energy up to each: Tensors (B, F * N)."""
        values, order = self._masks.sort(dim=1, descending=True, stable=True)
        return values, self._energy.gather(1, order).double().cumsum(1)

    @functools.cached_property
    def _support(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where the map is positive: Tensor (B, F * N), bool; and the energy there and elsewhere: Tensors (B, 1)."""
        support = self._masks > 0
        inside = self._energy_of(support)
        return support, inside, self._energy_of(~support)

    def _soft(self, budget: Tensor) -> Tensor:
        support, inside, outside = self._support
        warped = torch.exp(self._exponent(budget).to(self._log_masks.dtype) * self._log_masks) * support
        # A common factor closes what rounding, or a maximum that holds too much, left open.
        factor = (budget / self._energy_of(warped.square()).clamp_min(_NO_ENERGY)).sqrt().to(warped.dtype)
        within = (warped * factor).clamp_max(1)
        fill = ((budget - inside) / outside.clamp_min(_NO_ENERGY)).clamp(0, 1).sqrt().to(warped.dtype)
        return torch.where(budget < inside, within, torch.where(support, 1.0, fill))

    def _exponent(self, budget: Tensor) -> Tensor:
        """The g at which M ** g keeps the budget, as near as the histogram knows: Tensor (B, 1), float64."""
        levels, weights = self._histogram
        low = torch.full_like(budget, -_LOG_EXPONENTS).contiguous()
        high = -low
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            too_much = (weights * torch.exp(2 * torch.exp2(middle) * levels)).sum(1, keepdim=True) > budget
            low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
        return torch.exp2((low + high) / 2)

    def _hard(self, budget: Tensor) -> Tensor:
        values, cumulated = self._descending
        edge = (cumulated < budget).sum(1, keepdim=True).clamp_max(values.shape[1] - 1)
        threshold = values.gather(1, edge)
        above, tied = self._masks > threshold, self._masks == threshold
        share = (budget - self._energy_of(above)) / self._energy_of(tied).clamp_min(_NO_ENERGY)
        return torch.where(above, 1.0, torch.where(tied, share.clamp(0, 1).sqrt().to(values.dtype), 0.0))

    def _energy_of(self, weights: Tensor) -> Tensor:
        """Energy under weights (B, F * N): Tensor (B, 1), float64."""
        return (self._energy * weights).sum(1, keepdim=True, dtype=torch.float64)
