"""Which part of an explanation is which sound? Pure functions on batches.

Goal
----
A method takes a decision apart, and the clean sounds of the recording are known. A part is good if its relevance lies
on one sound, and a set of parts if each sound has a part of its own.

Conventions
-----------
* B rows, K parts, O objects (the sounds that one wants to find), F bins, N frames. Frequency before time.
* The *ideal masks* of a row's objects and the one of everything else share out the energy of each cell: they add up
  to 1. An object that a row does not have is silent: its mask is 0, and it is not *present*.
* The *share* of a part on an object, 0 to 1, is the part of its positive relevance that lies in the object's ideal
  mask. A part lies on nothing, and cannot be matched, if it has no positive relevance.
* Sums over the objects of a row leave out those that are not present. **NaN means undefined, never bad**: the row has
  no object at all.

Functions
---------
:func:`ideal_masks`, :func:`shares_of`
    The right answer, and how much of a map agrees with each piece of it.
:func:`match`, :func:`is_main`
    Which part is which object: the best one-to-one assignment; and whether the part prefers it to the others.
:func:`mean_over_objects`
    From objects to a row.
:func:`held_by_one`
    Whether one part holds a sound, and nothing else: precision, recall and their harmonic mean.

References
----------
.. [1] H. W. Kuhn: "The Hungarian method for the assignment problem", Naval Research Logistics 2, 1955.
.. [2] L. Arras, A. Osman, W. Samek: "CLEVR-XAI", Information Fusion 81, 2022 (relevance mass).
.. [3] Y. Wang, A. Narayanan, D. Wang: "On Training Targets for Supervised Speech Separation", IEEE/ACM TASLP 22, 2014
   (ideal ratio mask).
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

NO_PART = -1
"""In place of a part's number, for an object that has none."""


def ideal_masks(objects: Tensor, rest: Tensor) -> Tensor:
    """Each object's share of each cell's energy, |S_o|² / (Σ_p |S_p|² + |S_rest|²): the ideal ratio mask [3]_.

    Parameters
    ----------
    objects : Tensor (B, O, F, N), float, >= 0
        Magnitudes of the objects' STFTs; 0 for an object that a row does not have.
    rest : Tensor (B, F, N), float, >= 0
        Magnitude of the STFT of everything else.

    Returns
    -------
    Tensor (B, O, F, N), float32, in [0, 1]
        0 in cells that are silent.
    """
    energies = objects.double().square()
    total = energies.sum(1, keepdim=True) + rest.double().square()[:, None]
    return (energies / torch.where(total > 0, total, 1)).float()


def shares_of(relevance: Tensor, ideal: Tensor) -> Tensor:
    """Share of a map's positive relevance that lies in each ideal mask (relevance mass accuracy [2]_).

    Parameters
    ----------
    relevance : Tensor (B, F, N), float
        Signed; what is negative does not count. Its scale does not matter.
    ideal : Tensor (B, O, F, N), float, in [0, 1]

    Returns
    -------
    Tensor (B, O), float64, in [0, 1]
        0 where nothing is positive.
    """
    positive = relevance.double().clamp_min(0)
    peak = positive.amax((1, 2), keepdim=True)
    positive = positive / torch.where(peak > 0, peak, 1)  # the sum of the largest float32 numbers stays finite, too
    mass = positive.sum((1, 2))
    inside = torch.einsum("bfn,bofn->bo", positive, ideal.double())
    return (inside / torch.where(mass > 0, mass, 1)[:, None]).clamp(0, 1)


def match(shares: Tensor, parts: Tensor, present: Tensor) -> Tensor:
    """Which part is which object: the one-to-one assignment with the largest sum of shares (Kuhn [1]_).

    Parameters
    ----------
    shares : Tensor (B, K, O), float
        Of each part on each object.
    parts : Tensor (B, K), bool
        The parts that count: those that the row selects and that have positive relevance.
    present : Tensor (B, O), bool

    Returns
    -------
    Tensor (B, O), int64
        The part of each object; :data:`NO_PART` where it has none: there are fewer parts than objects, all shares of
        the part that is left over are 0, or the object is not present.
    """
    eligible = parts[:, :, None] & present[:, None, :]
    gains = torch.where(eligible, shares, 0.0).cpu()
    found = torch.full(present.shape, NO_PART, dtype=torch.int64)
    for row, gain in enumerate(gains.numpy()):  # a few parts by a few objects: SciPy has no batch
        part_numbers, object_numbers = linear_sum_assignment(gain, maximize=True)
        found[row, torch.from_numpy(object_numbers)] = torch.from_numpy(part_numbers)
    nothing = gains.gather(1, found.clamp_min(0)[:, None])[:, 0] <= 0
    return found.masked_fill(nothing, NO_PART).to(shares.device)


def of_matched(values: Tensor, matched: Tensor, otherwise: float) -> Tensor:
    """Pick each object's value of its part.

    Parameters
    ----------
    values : Tensor (B, K, O), float
    matched : Tensor (B, O), int64
        See :func:`match`.
    otherwise : float
        For objects without a part.

    Returns
    -------
    Tensor (B, O), float
    """
    picked = values.gather(1, matched.clamp_min(0)[:, None])[:, 0]
    return torch.where(matched == NO_PART, otherwise, picked)


def is_main(shares: Tensor) -> Tensor:
    """Whether an object has more of a part than any other object has.

    Parameters
    ----------
    shares : Tensor (B, K, O), float

    Returns
    -------
    Tensor (B, K, O), float64, 0 or 1
        0 for all objects that share the first place.
    """
    first, place = shares.max(2, keepdim=True)
    second = shares.scatter(2, place, -torch.inf).amax(2, keepdim=True)
    return ((shares == first) & (first > second)).double()


def mean_over_objects(values: Tensor, present: Tensor) -> Tensor:
    """Mean over the objects that a row has.

    Parameters
    ----------
    values : Tensor (B, O), float
    present : Tensor (B, O), bool

    Returns
    -------
    Tensor (B,), float32
        NaN where a row has none.
    """
    total = torch.where(present, values, 0.0).sum(1)
    return (total / present.sum(1)).float()


def held_by_one(mass: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How well a single part holds a sound, of the part that does so best.

    Of each part two numbers count: its *purity* (the share of its relevance that lies on the sound: precision) and its
    *concentration* (the share of all relevance on the sound that it holds: recall). Either alone is easily had, by a
    part of one lucky cell or by the whole map as one part. The best part has the largest harmonic mean (F1).

    Parameters
    ----------
    mass : Tensor (B, K), float, >= 0
        Positive relevance of each part; 0 for parts that do not count.
    share : Tensor (B, K), float, in [0, 1]
        See :func:`shares_of`.

    Returns
    -------
    f1, purity, concentration : Tensor (B,), float32, in [0, 1]
        All 0 where no relevance lies on the sound.
    """
    held = mass.double() * share.double()
    total = held.sum(1, keepdim=True)
    purity = torch.where(held > 0, share.double(), 0.0)
    concentration = held / torch.where(total > 0, total, 1)
    both = purity + concentration
    f1 = 2 * purity * concentration / torch.where(both > 0, both, 1)
    best = f1.argmax(1, keepdim=True)
    return tuple(each.gather(1, best)[:, 0].float() for each in (f1, purity, concentration))  # type: ignore[return-value]
