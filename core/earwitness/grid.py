"""Where the cells of a map lie: rows in Hz, columns in seconds.

Maps on different grids are joined in Hz and seconds, never by index: two STFTs of different length, or an STFT and a
log-mel map, share no index, but they share the axes of the physical world.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from earwitness.errors import ExplanationError


@dataclass(frozen=True, eq=False)
class Grid:
    """The axes of a time-frequency map.

    Attributes
    ----------
    frequencies_hz : Tensor (F,), float64
        Centre frequency of each row in Hz, ascending.
    times_s : Tensor (N,), float64
        Centre time of each column (frame) in seconds, ascending.
    filters : Tensor (F, K) or None, float64, >= 0
        For feature maps: the response of each row (band) to the bins of the front end's own STFT. ``None`` for an
        STFT, whose rows respond to their own frequency.
    filter_frequencies_hz : Tensor (K,) or None, float64
        Frequencies at which ``filters`` is sampled, in Hz, ascending.
    reach_s : float or None
        How far a column sees to either side of its centre, in seconds: half a window. ``None``: one hop.
    """

    frequencies_hz: Tensor
    times_s: Tensor
    filters: Tensor | None = None
    filter_frequencies_hz: Tensor | None = None
    reach_s: float | None = None

    def __post_init__(self) -> None:
        for name, axis in (("frequencies_hz", self.frequencies_hz), ("times_s", self.times_s)):
            if axis.ndim != 1 or axis.numel() == 0:
                raise ExplanationError(f"A grid's {name} must be a non-empty vector, got shape {tuple(axis.shape)}.")
            if bool((axis.diff() <= 0).any()):
                raise ExplanationError(f"A grid's {name} must ascend strictly. Were two axes swapped?")
        if (self.filters is None) != (self.filter_frequencies_hz is None):
            raise ExplanationError("A grid needs both `filters` and `filter_frequencies_hz`, or neither.")
        if self.filters is not None and self.filter_frequencies_hz is not None:
            expected = (len(self.frequencies_hz), len(self.filter_frequencies_hz))
            if tuple(self.filters.shape) != expected:
                raise ExplanationError(f"A grid's filters must have shape {expected}, got {tuple(self.filters.shape)}.")

    @property
    def shape(self) -> tuple[int, int]:
        """(F, N): number of rows and columns."""
        return len(self.frequencies_hz), len(self.times_s)

    def response(self, frequencies_hz: Tensor) -> Tensor:
        """Response of each row at other frequencies.

        Parameters
        ----------
        frequencies_hz : Tensor (K',)
            Where to sample, in Hz, ascending.

        Returns
        -------
        Tensor (F, K'), float64, >= 0
            Band filters are brought from their own bins to the frequencies asked for (see :func:`_between`) and are
            zero outside their support; rows without a filter are brought there themselves.
        """
        if self.filters is None or self.filter_frequencies_hz is None:
            return _between(self.frequencies_hz, frequencies_hz)
        return self.filters.to("cpu", torch.float64) @ _between(self.filter_frequencies_hz, frequencies_hz)

    def time_weights(self, times_s: Tensor, reach_s: float = 0.0) -> Tensor:
        """What each of this grid's columns contributes to other times (see :func:`_between`).

        A time before the first or after the last column takes that column's value as far as both see something of the
        same samples; further out the weights are zero.

        Parameters
        ----------
        times_s : Tensor (N',)
            In seconds, ascending.
        reach_s : float
            How far what stands at these times sees to either side, in seconds.

        Returns
        -------
        Tensor (N, N'), float64
            Each column sums to 1, or to 0 where this grid saw nothing.
        """
        own, wanted = _axis(self.times_s), _axis(times_s)
        hop = float(own.diff().mean()) if len(own) > 1 else 0.0
        reach = (max(hop, self.reach_s or 0.0) + reach_s) * (1 + 1e-6)
        seen = (wanted >= own[0] - reach) & (wanted <= own[-1] + reach)
        weights = torch.zeros(len(own), len(wanted), dtype=torch.float64)
        if bool(seen.any()):
            near = wanted[seen]
            inner = near.clamp(own[0], own[-1])
            collected = _hats(near, own.clamp(near[0], near[-1])).T
            weights[:, seen] = _normalised(torch.maximum(_hats(own, inner), collected))
        return weights


def _between(knots: Tensor, points: Tensor) -> Tensor:
    """Weights (len(knots), len(points)) from one axis to another; each column sums to 1, or to 0 outside the knots.

    Onto a finer axis they interpolate linearly; onto a coarser one they average, so that no knot is passed over: a
    weight is the wider of two triangles, that of the knot over its neighbours and that of the point over its own.
    """
    knots, points = _axis(knots), _axis(points)
    return _normalised(torch.maximum(_hats(knots, points), _hats(points, knots).T))


def _hats(knots: Tensor, points: Tensor) -> Tensor:
    """Weights (len(knots), len(points)) of linear interpolation; zero outside the knots."""
    if len(knots) == 1:
        return torch.ones(1, len(points), dtype=torch.float64)
    inside = (points >= knots[0]) & (points <= knots[-1])
    right = torch.searchsorted(knots, points).clamp(1, len(knots) - 1)
    left = right - 1
    share = ((points - knots[left]) / (knots[right] - knots[left])).clamp(0, 1)
    weights = torch.zeros(len(knots), len(points), dtype=torch.float64)
    columns = torch.arange(len(points))
    weights[left, columns] = 1 - share
    weights[right, columns] = share
    return weights * inside


def _normalised(weights: Tensor) -> Tensor:
    total = weights.sum(0)
    return weights / torch.where(total > 0, total, 1)


def _axis(values: Tensor) -> Tensor:
    return values.to("cpu", torch.float64).contiguous()
