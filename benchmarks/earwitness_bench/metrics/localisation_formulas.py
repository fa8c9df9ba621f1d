"""Does an explanation point to the sound that is evidence for the class? Pure functions on batches.

Goal
----
Where the clean sources of a mixture are known, so is the right answer: the cells of the listening STFT in which the
target's own sound outweighs the rest, and its own waveform. A map is scored by how much of it lies there, the heard
sound by how much nearer it is to the target than the mixture was.

Conventions
-----------
* Maps are (B, F, N), frequency before time, on the listening STFT. Waveforms are (B, T).
* The *ideal mask* holds in each cell the target's share of the energy, 0 to 1; a binary mask (0 and 1, or bool) is
  accepted in its place. Cells above one half are the target's.
* Every function returns one value per row and aggregates nothing. **NaN means undefined, never bad**: there is no
  target to be found (silent reference, empty ideal mask), or the map has no mass.
* Unit: mass and rank are shares, 0 to 1; SI-SDR is in dB.

Metrics
-------
:func:`relevance_mass`
    Share of the map's mass that lies on the target (higher is better).
:func:`relevance_rank`
    Share of the target's cells that are among the map's highest (higher).
:func:`si_sdr`, :func:`si_sdr_improvement`
    How much of the heard sound is the target, and how much more than of the mixture (higher).

:func:`ideal_ratio_mask` gives the right answer.

References
----------
.. [1] L. Arras, A. Osman, W. Samek: "CLEVR-XAI: A benchmark dataset for the ground truth evaluation of neural network
   explanations", Information Fusion 81, 2022 (relevance mass and rank accuracy).
.. [2] Y. Wang, A. Narayanan, D. Wang: "On Training Targets for Supervised Speech Separation", IEEE/ACM TASLP 22, 2014
   (ideal binary and ratio masks).
.. [3] J. Le Roux, S. Wisdom, H. Erdogan, J. R. Hershey: "SDR - half-baked or well done?", ICASSP 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from earwitness.errors import AudioError, ExplanationError

IDEAL_THRESHOLD = 0.5
"""A cell belongs to the target where more than this share of its energy is the target's."""

SI_SDR_LIMIT_DB = 60.0
"""SI-SDR is cut at plus and minus this: a perfect copy would be infinite and silence minus infinite, and either would
decide any mean. 60 dB is a thousandth of the amplitude, beyond what is heard beside it."""


def ideal_ratio_mask(target: Tensor, rest: Tensor) -> Tensor:
    """The target's share of each cell's energy, |S|² / (|S|² + |R|²).

    Wang et al. [2]_, ideal ratio mask with exponent 1: the masks of target and rest add up to 1, and a cell
    is above one half exactly where the ideal binary mask is 1.

    Parameters
    ----------
    target : Tensor (B, F, N), float, >= 0
        Magnitude of the target's STFT.
    rest : Tensor (B, F, N), float, >= 0
        Magnitude of the STFT of everything else.

    Returns
    -------
    Tensor (B, F, N), float, in [0, 1]
        0 where both are silent: no evidence lies there.

    Raises
    ------
    ExplanationError
        Shapes differ, or values are negative or not finite.
    """
    _check_maps(target, rest, ("target", "rest"))
    _check_not_negative(target, "target")
    _check_not_negative(rest, "rest")
    # hypot neither overflows nor underflows, as the squares of float32 magnitudes would.
    total = torch.hypot(target, rest)
    return torch.where(total > 0, target / total, 0.0).square().clamp_max(1)


def relevance_mass(relevance: Tensor, ideal: Tensor) -> Tensor:
    """Relevance mass accuracy: the share of a map's mass that lies on the target, sum(R · I) / sum(R).

    Arras et al. [1]_, with their binary ground truth replaced by a share per cell: a cell counts as far as the target
    sounds in it. A map that is constant scores the mean of the ideal mask.

    Parameters
    ----------
    relevance : Tensor (B, F, N), float, >= 0
        A mask, or the positive part of a relevance map; its scale does not matter.
    ideal : Tensor (B, F, N), float in [0, 1] or bool
        See :func:`ideal_ratio_mask`.

    Returns
    -------
    Tensor (B,), dtype of ``relevance``, in [0, 1]
        NaN where the map or the ideal mask is all zero.

    Raises
    ------
    ExplanationError
        Shapes differ, relevance is negative, the ideal mask leaves [0, 1], or values are not finite.
    """
    _check_map_and_ideal(relevance, ideal)
    _check_not_negative(relevance, "relevance")
    weights, shares = relevance.flatten(1).to(torch.float64), ideal.flatten(1).to(torch.float64)
    mass = (weights * shares).sum(1) / weights.sum(1)
    return mass.clamp_max(1).masked_fill(~(shares > 0).any(1), torch.nan).to(relevance.dtype)


def relevance_rank(relevance: Tensor, ideal: Tensor) -> Tensor:
    """Relevance rank accuracy: of the K highest cells, the share that belongs to the target, which has K cells.

    Arras et al. [1]_. Only the order of the cells matters. Where equal cells straddle place K, the result is the mean
    over all ways to order them: an all-equal map (zeros included) scores K / n, as a random one does on average, and no
    cell is favoured for its place in memory.

    Parameters
    ----------
    relevance : Tensor (B, F, N), float
        A mask or a relevance map; may be negative.
    ideal : Tensor (B, F, N), float in [0, 1] or bool
        See :func:`ideal_ratio_mask`; cells above :data:`IDEAL_THRESHOLD` are the target's.

    Returns
    -------
    Tensor (B,), dtype of ``relevance``, in [0, 1]
        NaN where no cell belongs to the target.

    Raises
    ------
    ExplanationError
        Shapes differ, the ideal mask leaves [0, 1], or values are not finite.
    """
    _check_map_and_ideal(relevance, ideal)
    cells, inside = relevance.flatten(1), ideal.flatten(1) > IDEAL_THRESHOLD
    n_inside = inside.sum(1, keepdim=True)
    descending = cells.sort(dim=1, descending=True).values
    threshold = descending.gather(1, (n_inside - 1).clamp_min(0))
    above, tied = cells > threshold, cells == threshold
    places_left = n_inside - above.sum(1, keepdim=True)
    sure = (above & inside).sum(1, keepdim=True).to(torch.float64)
    drawn = places_left * (tied & inside).sum(1, keepdim=True).to(torch.float64) / tied.sum(1, keepdim=True)
    return ((sure + drawn) / n_inside).squeeze(1).masked_fill(n_inside.squeeze(1) == 0, torch.nan).to(relevance.dtype)


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio, 10 log10(|a s|² / |a s - e|²) with a = <e, s> / |s|², in dB.

    Le Roux et al. [3]_, after subtracting the mean of each signal.

    Parameters
    ----------
    estimate : Tensor (B, T), float
        What is heard; its level does not matter.
    reference : Tensor (B, T), float
        The target's own sound.

    Returns
    -------
    Tensor (B,), dtype of ``estimate``, dB, within ±60
        Cut at :data:`SI_SDR_LIMIT_DB`. NaN where the reference is constant (silent): nothing can be like it. Where only
        the estimate is constant, the lower limit: it holds nothing of the target, and leaving it out would favour
        explanations that keep nothing.

    Raises
    ------
    AudioError
        Shapes differ, or samples are not finite.
    """
    _check_waveforms(estimate, reference)
    heard, wanted = _centred(estimate), _centred(reference)
    gain = (heard * wanted).sum(1, keepdim=True) / wanted.square().sum(1, keepdim=True)
    projection = gain * wanted
    signal, distortion = projection.square().sum(1), (projection - heard).square().sum(1)
    ratio_db = (10 * (signal.log10() - distortion.log10())).clamp(-SI_SDR_LIMIT_DB, SI_SDR_LIMIT_DB)
    ratio_db = ratio_db.masked_fill(_is_constant(estimate), -SI_SDR_LIMIT_DB)
    return ratio_db.masked_fill(_is_constant(reference), torch.nan).to(estimate.dtype)


def si_sdr_improvement(heard: Tensor, mixture: Tensor, reference: Tensor) -> Tensor:
    """How much more the heard sound is like the target than the mixture was: SI-SDR(heard) - SI-SDR(mixture), in dB.

    Parameters
    ----------
    heard : Tensor (B, T), float
    mixture : Tensor (B, T), float
        The recording that was explained.
    reference : Tensor (B, T), float
        The target's own sound, a component of the mixture.

    Returns
    -------
    Tensor (B,), dtype of ``heard``, dB, within ±120
        0 where the mixture itself is heard, at any level. NaN where the reference is constant (silent).

    Raises
    ------
    AudioError
        Shapes differ, or samples are not finite.
    """
    return si_sdr(heard, reference) - si_sdr(mixture, reference).to(heard.dtype)


def _centred(waveforms: Tensor) -> Tensor:
    """Zero mean, in float64: there the square of even the faintest float32 sample is not lost."""
    samples = waveforms.to(torch.float64)
    return samples - samples.mean(1, keepdim=True)


def _is_constant(waveforms: Tensor) -> Tensor:
    """Rows (B,) without any sound. Subtracting the mean leaves rounding noise of a constant, so look before."""
    return waveforms.amax(1) == waveforms.amin(1)


def _check_waveforms(estimate: Tensor, reference: Tensor) -> None:
    if estimate.ndim != 2 or estimate.shape[1] == 0 or estimate.shape != reference.shape:
        raise AudioError(
            "Estimate and reference must be waveforms of one shape (B, T), got "
            f"{tuple(estimate.shape)} and {tuple(reference.shape)}. Cut both to the same samples."
        )
    for name, waveforms in (("estimate", estimate), ("reference", reference)):
        if not waveforms.is_floating_point() or not bool(waveforms.isfinite().all()):
            raise AudioError(
                f"The {name} ({waveforms.dtype}) must hold finite float samples. Convert integers to [-1, 1], and "
                "leave out rows with NaN."
            )


def _check_maps(first: Tensor, second: Tensor, names: tuple[str, str]) -> None:
    if first.ndim != 3 or first.shape != second.shape:
        raise ExplanationError(
            f"{names[0]} and {names[1]} must be maps of one shape (B, F, N), got {tuple(first.shape)} and "
            f"{tuple(second.shape)}. Lift both to the listening STFT first."
        )
    for name, values in zip(names, (first, second), strict=True):
        if not bool(values.isfinite().all()):
            bad = (~values.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
            raise ExplanationError(f"{name} has NaN or infinite values in rows {bad}. Leave these rows out.")


def _check_map_and_ideal(relevance: Tensor, ideal: Tensor) -> None:
    _check_maps(relevance, ideal, ("relevance", "ideal"))
    if not relevance.is_floating_point():
        raise ExplanationError(f"relevance must be of a float type, got {relevance.dtype}. Convert it with `.float()`.")
    if bool(((ideal < 0) | (ideal > 1)).any()):
        raise ExplanationError(
            f"The ideal mask must lie in [0, 1], got values from {float(ideal.min()):.4g} to {float(ideal.max()):.4g}. "
            "Pass the result of ideal_ratio_mask, not magnitudes."
        )


def _check_not_negative(values: Tensor, name: str) -> None:
    if bool((values < 0).any()):
        raise ExplanationError(
            f"{name} must not be negative, got a minimum of {float(values.min()):.4g}. Pass the magnitude of an STFT, "
            "or the positive part of a relevance map."
        )
