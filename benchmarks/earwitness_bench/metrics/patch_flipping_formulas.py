"""The arithmetic of patch flipping: which cell goes when, and what the answers add up to. No classifier in sight.

Goal
----
A map ranks the patches of a time-frequency plane. They are removed one after another, and the classifier is asked again
and again: if the map is right, its answer falls early. Everything here is about the order and about the horizontal
axis, which is where published scores went wrong.

Conventions
-----------
* B rows, M bands (or bins), N frames, P patches, K parts, S points. Frequency before time.
* A patch has ``bands`` × ``frames`` cells; where these do not divide the plane, the patches at the upper and the last
  rim are smaller. Patches are numbered row by row (frequency before time).
* A *rank* is a place in the order of removal, 0 first, a permutation of 0 to P - 1 in each row (of cells: to MN - 1).

Functions
---------
:func:`patch_sums`, :func:`patch_means`
    Score of a patch.
:func:`ranked`
    Patches by descending score, ties by a random key.
:func:`united`
    One order out of the orders of K parts: whoever asks for a patch first, gets it removed.
:func:`cell_ranks`
    From patches to cells, so that any number of cells can be removed, and all rows share one exact axis.
:func:`thesis_schedule`, :func:`thesis_steps`, :func:`thesis_area`
    The score as the DRSA thesis' code computes it, trap included.

References
----------
.. [1] S. Bach et al.: "On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance
   propagation", PLoS ONE 10(7), 2015; W. Samek et al., IEEE TNNLS 28(11), 2017 (patches).
.. [2] V. Petsiuk, A. Das, K. Saenko: "RISE", BMVC 2018 (deletion and insertion).
.. [3] P. Chormai et al.: "Disentangled explanations of neural network predictions by finding relevant subspaces",
   IEEE TPAMI 2024 (DRSA; patch flipping of several parts).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_TIE_LEVELS = 2**20
"""Scores nearer than this fraction of the row's largest are tied: rounding must not order a constant map."""


@dataclass(frozen=True)
class PatchGrid:
    """A plane of cells, cut into patches.

    Parameters
    ----------
    n_bands, n_frames : int
        M and N, the plane.
    bands, frames : int
        A patch, in cells.
    """

    n_bands: int
    n_frames: int
    bands: int
    frames: int

    @property
    def shape(self) -> tuple[int, int]:
        """How many patches lie along frequency and along time; the last of each may be smaller."""
        return -(-self.n_bands // self.bands), -(-self.n_frames // self.frames)

    @property
    def n_patches(self) -> int:
        """P."""
        return self.shape[0] * self.shape[1]

    @property
    def n_cells(self) -> int:
        """MN."""
        return self.n_bands * self.n_frames

    @functools.cached_property
    def index(self) -> Tensor:
        """The patch of each cell: Tensor (M, N), int64."""
        rows = torch.arange(self.n_bands) // self.bands
        columns = torch.arange(self.n_frames) // self.frames
        return rows[:, None] * self.shape[1] + columns

    @functools.cached_property
    def sizes(self) -> Tensor:
        """Cells of each patch: Tensor (P,), int64."""
        return torch.bincount(self.index.flatten(), minlength=self.n_patches)

    @functools.cached_property
    def place(self) -> Tensor:
        """The place of each cell in its patch, frame by frame: Tensor (M, N), int64, 0 to size - 1."""
        rows, columns = torch.arange(self.n_bands), torch.arange(self.n_frames)
        height = (self.n_bands - rows // self.bands * self.bands).clamp_max(self.bands)
        return (rows % self.bands)[:, None] + (columns % self.frames) * height[:, None]


def patch_sums(maps: Tensor, grid: PatchGrid) -> Tensor:
    """Signed sum of each patch's cells.

    Parameters
    ----------
    maps : Tensor (B, M, N), float
    grid : PatchGrid

    Returns
    -------
    Tensor (B, P), float64
    """
    n_high, n_wide = grid.shape
    missing = (0, n_wide * grid.frames - grid.n_frames, 0, n_high * grid.bands - grid.n_bands)
    padded = functional.pad(maps.double(), missing)
    return padded.reshape(len(maps), n_high, grid.bands, n_wide, grid.frames).sum((2, 4)).flatten(1)


def patch_means(maps: Tensor, grid: PatchGrid) -> Tensor:
    """Signed relevance *per cell* of each patch.

    A patch at the rim has fewer cells, so less can be gained by removing it, but it costs less of the axis too. What
    makes a curve fall fastest is relevance per removed cell; on equal patches the order is that of the sums. It also
    leaves a constant map without preference, rim included.

    Parameters, Returns
    -------------------
    See :func:`patch_sums`.
    """
    return patch_sums(maps, grid) / grid.sizes.to(maps.device)


def ranked(scores: Tensor, ties: Tensor) -> Tensor:
    """The place of each patch in descending order of score.

    Parameters
    ----------
    scores : Tensor (B, P), float64
        Finite. A positive factor changes nothing.
    ties : Tensor (B, P), float, in [0, 1)
        Decides, lowest first, between scores that differ by less than a millionth of the row's largest absolute score.

    Returns
    -------
    Tensor (B, P), int64
    """
    largest = scores.abs().amax(1, keepdim=True)
    levels = torch.round(scores / torch.where(largest > 0, largest, 1) * _TIE_LEVELS)
    return _inverse((ties - levels).argsort(dim=1, stable=True))  # a level is a whole number, a tie less than one


def united(ranks: Tensor, selected: Tensor, ties: Tensor) -> Tensor:
    """One order out of several: a patch goes as soon as the first selected part asks for it.

    The first n patches of the result are those that all parts together have asked for after as many turns as it takes
    to fill n places; the last turn, in which up to K patches are asked for at once, is taken in the order of ``ties``.

    Parameters
    ----------
    ranks : Tensor (B, K, P), int64
        Each part's own order.
    selected : Tensor (B, K), bool
        The parts that count. A row without one has no order: it comes out in that of ``ties``.
    ties : Tensor (B, P), float, in [0, 1)

    Returns
    -------
    Tensor (B, P), int64
    """
    first = torch.where(selected[:, :, None], ranks, ranks.shape[2]).amin(1)
    return _inverse((ties.double() + first).argsort(dim=1, stable=True))


def cell_ranks(ranks: Tensor, grid: PatchGrid) -> Tensor:
    """The place of each cell in the order of removal: patch after patch, and within a patch frame by frame.

    Removing the first n cells removes whole patches and, where n falls into one, the beginning of a last one. So n / MN
    is the fraction that is removed, exactly, and the same in all rows, whatever the sizes of their first patches.

    Parameters
    ----------
    ranks : Tensor (B, P), int64
    grid : PatchGrid

    Returns
    -------
    Tensor (B, M, N), int32
    """
    sizes = grid.sizes.to(ranks.device).expand(ranks.shape)
    order = _inverse(ranks)
    in_order = sizes.gather(1, order)
    before = (in_order.cumsum(1) - in_order).gather(1, ranks)
    places = before[:, grid.index.to(ranks.device).flatten()] + grid.place.to(ranks.device).flatten()
    return places.reshape(len(ranks), grid.n_bands, grid.n_frames).int()


def equal_steps(n_cells: int, n_steps: int) -> list[int]:
    """How many cells are gone after 0, 1, … ``n_steps`` equal steps (to the nearest cell), from 0 to ``n_cells``."""
    return [(2 * step * n_cells + n_steps) // (2 * n_steps) for step in range(n_steps + 1)]


def thesis_schedule(n_patches: int) -> list[int]:
    """How many patches of *one* part's order have been asked for after each step: 1, 1 + 4, 1 + 4 + 9, … P.

    Step τ takes τ² patches, the last step what remains: 1, 4, 9, 16, 25 and 9 of 64.
    """
    totals = [0]
    while totals[-1] < n_patches:
        totals.append(min(n_patches, totals[-1] + len(totals) ** 2))
    return totals[1:]


def thesis_steps(ranks: Tensor, selected: Tensor, schedule: list[int]) -> Tensor:
    """The step, from 0, in which the union over the parts flips each patch.

    Parameters
    ----------
    ranks : Tensor (B, K, P), int64
        Each part's own order.
    selected : Tensor (B, K), bool
    schedule : list of int
        See :func:`thesis_schedule`.

    Returns
    -------
    Tensor (B, P), int64
        ``len(schedule)``, which is never, in rows without a selected part.
    """
    steps = torch.searchsorted(torch.tensor(schedule, device=ranks.device), ranks.contiguous(), right=True)
    return torch.where(selected[:, :, None], steps, len(schedule)).amin(1)


def thesis_area(scores: Tensor, schedule: list[int]) -> Tensor:
    """Σ ω_τ (f_{τ-1} - f_τ) / 2, with ω_τ the share of patches that *one* part has asked for; lower counts as better.

    The thesis (eq. 4.4) calls it the area under the perturbation curve. It is (left Riemann area - f_T) / 2, no
    trapezoid, and ω is not the share that is flipped: K parts flip up to K τ² patches while ω counts τ².

    Parameters
    ----------
    scores : Tensor (B, T + 1), float
        f_0 to f_T: rectified logit of the target after each step, the unflipped map first.
    schedule : list of int, length T

    Returns
    -------
    Tensor (B,), float, in the unit of ``scores``
    """
    omega = torch.tensor(schedule, dtype=torch.float64, device=scores.device) / schedule[-1]
    drops = scores[:, :-1].double() - scores[:, 1:].double()
    return ((omega * drops).sum(1) / 2).to(scores.dtype)


def _inverse(permutations: Tensor) -> Tensor:
    """Of permutations (B, P), int64, row by row."""
    places = torch.arange(permutations.shape[1], device=permutations.device).expand(permutations.shape)
    return torch.empty_like(permutations).scatter_(1, permutations, places)
