"""Between the grids of feature maps, samples and the listening STFT, in Hz and seconds.

There are two ways up, because there are two kinds of map:

- :func:`lift_mask` *averages*: a constant mask stays that constant on every bin that the features can hear; bins that
  no filter sees get 0 and go to the rest.
- :func:`lift_relevance` *preserves mass*: each cell's relevance is shared out over the bins it was made of, by filter
  weight times magnitude; the sum over the map stays what it was.

and their counterparts :func:`lower_mask` and :func:`lower_relevance` on the way down.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from earwitness.errors import ExplanationError
from earwitness.grid import Grid

_TRACE = 1e-6
"""Weight, beside a whole of 1, of what may only decide where nothing else does."""


@dataclass(frozen=True, eq=False)
class _Bridge:
    """Weights between a coarse grid (M rows, N' columns) and a fine one (F rows, N columns), all >= 0, float64.

    Attributes
    ----------
    rows : Tensor (M, F)
        Response of each coarse row to each fine one. No row is zero: one that hears no fine row has a trace of the
        nearest, so that its relevance has somewhere to go.
    averages : Tensor (M, F)
        ``rows`` over the sum of their column, zero in columns that no row hears.
    columns : Tensor (N', N)
        Share of each coarse column in each fine one; a column sums to 1, or to 0 where the coarse map sees nothing.
    """

    rows: Tensor
    averages: Tensor
    columns: Tensor


@functools.lru_cache(maxsize=16)
def _bridge(coarse: Grid, fine: Grid, device: torch.device) -> _Bridge:
    rows = coarse.response(fine.frequencies_hz)
    total = rows.sum(0)
    averages = torch.where(total > 0, rows / torch.where(total > 0, total, 1), 0)
    deaf = (rows.sum(1) <= 0).nonzero().flatten()
    distance = (coarse.frequencies_hz[deaf, None] - fine.frequencies_hz[None]).abs()
    rows[deaf, distance.argmin(1)] = _TRACE * float(rows.max().clamp_min(_TRACE))
    columns = coarse.time_weights(fine.times_s, fine.reach_s or 0.0)
    if not bool(columns.any()):
        (start, end), (fine_start, fine_end) = ((float(g.times_s[0]), float(g.times_s[-1])) for g in (coarse, fine))
        raise ExplanationError(
            f"The map lasts from {start:g} s to {end:g} s and the STFT from {fine_start:g} s to {fine_end:g} s: they "
            "share no moment. Are both axes in seconds?"
        )
    return _Bridge(rows.to(device), averages.to(device), columns.to(device))


def _weight(magnitude: Tensor) -> Tensor:
    """Magnitude with a trace of uniform weight, which decides only in cells where the recording is silent."""
    magnitude = magnitude.double()
    highest = magnitude.amax((1, 2), keepdim=True)
    return magnitude + torch.where(highest > 0, _TRACE * highest, 1)


def lift_mask(mask: Tensor, coarse: Grid, fine: Grid) -> Tensor:
    """Average a mask over features onto the listening STFT.

    Parameters
    ----------
    mask : Tensor (B, M, N'), float32
    coarse, fine : Grid
        Of the mask, and of the result.

    Returns
    -------
    Tensor (B, F, N), float32
        In the range of ``mask``; 0 where no filter or frame of ``coarse`` sees anything.

    Raises
    ------
    ExplanationError
        ``mask`` does not lie on ``coarse``.
    """
    _check("mask", mask, coarse)
    bridge = _bridge(coarse, fine, mask.device)
    return bridge.averages.T.to(mask) @ (mask @ bridge.columns.to(mask))


def lower_mask(mask: Tensor, fine: Grid, coarse: Grid, magnitude: Tensor) -> Tensor:
    """Average a mask over the listening STFT down to features, weighted by magnitude as the features are.

    Parameters
    ----------
    mask, magnitude : Tensor (B, F, N), float32
    fine, coarse : Grid
        Of the mask, and of the result.

    Returns
    -------
    Tensor (B, M, N'), float32
        In the range of ``mask``: a constant stays that constant.

    Raises
    ------
    ExplanationError
        ``mask`` or ``magnitude`` does not lie on ``fine``.
    """
    _check("mask", mask, fine)
    _check("magnitude", magnitude, fine)
    bridge = _bridge(coarse, fine, mask.device)
    weight = _weight(magnitude)
    lowered = (bridge.rows @ (mask * weight) @ bridge.columns.T) / (bridge.rows @ weight @ bridge.columns.T)
    return lowered.to(mask.dtype)


def lift_relevance(relevance: Tensor, coarse: Grid, fine: Grid, magnitude: Tensor) -> Tensor:
    """Share the relevance of feature cells out over the bins of the listening STFT.

    Parameters
    ----------
    relevance : Tensor (B, M, N'), float32, signed
    coarse, fine : Grid
        Of the relevance, and of the result.
    magnitude : Tensor (B, F, N), float32
        |S| of the recording.

    Returns
    -------
    Tensor (B, F, N), float32
        Its sum is that of ``relevance`` (to float32 rounding).

    Raises
    ------
    ExplanationError
        ``relevance`` does not lie on ``coarse``, or ``magnitude`` on ``fine``.
    """
    _check("relevance map", relevance, coarse)
    _check("magnitude", magnitude, fine)
    bridge = _bridge(coarse, fine, relevance.device)
    weight = _weight(magnitude)
    share = relevance.double() / (bridge.rows @ weight @ bridge.columns.T)
    return (weight * (bridge.rows.T @ share @ bridge.columns)).to(relevance.dtype)


def lower_relevance(relevance: Tensor, fine: Grid, coarse: Grid) -> Tensor:
    """Collect the relevance of STFT bins in feature cells, each bin shared out by filter weight.

    Parameters
    ----------
    relevance : Tensor (B, F, N), float32, signed
    fine, coarse : Grid
        Of the relevance, and of the result.

    Returns
    -------
    Tensor (B, M, N'), float32
        Its sum is that of ``relevance`` on the bins and frames that the features can hear.

    Raises
    ------
    ExplanationError
        ``relevance`` does not lie on ``fine``.
    """
    _check("relevance map", relevance, fine)
    bridge = _bridge(coarse, fine, relevance.device)
    return (bridge.averages @ relevance.double() @ bridge.columns.T).to(relevance.dtype)


def frame_relevance(relevance: Tensor, hop_length: int, n_frames: int) -> Tensor:
    """Collect the relevance of samples in frames.

    Parameters
    ----------
    relevance : Tensor (B, T), float32, signed
    hop_length, n_frames : int
        Of the listening STFT (centred frames).

    Returns
    -------
    Tensor (B, N), float32
        Each sample is shared between its two nearest frame centres, those past the last centre go to the last frame;
        the sum stays what it was.
    """
    distance = torch.arange(-hop_length + 1, hop_length, device=relevance.device, dtype=relevance.dtype).abs()
    ramp = 1 - distance / hop_length
    right = max(0, n_frames * hop_length + hop_length - relevance.shape[1])
    padded = functional.pad(relevance, (hop_length - 1, right))
    frames = functional.conv1d(padded[:, None], ramp[None, None], stride=hop_length)[:, 0]
    beyond = frames[:, n_frames:].sum(1)
    frames = frames[:, :n_frames].clone()
    frames[:, -1] += beyond
    return frames


def share_out(frames: Tensor, magnitude: Tensor) -> Tensor:
    """Share the relevance of frames, (B, N), out over their bins by magnitude, (B, F, N); the sum stays what it was."""
    weight = _weight(magnitude)
    return (frames[:, None] * weight / weight.sum(1, keepdim=True)).to(frames.dtype)


def frame_mask(mask: Tensor, hop_length: int, n_frames: int) -> Tensor:
    """Average a mask over samples, (B, T), to frames, (B, N); a constant stays that constant."""
    total = frame_relevance(torch.ones_like(mask[:1]), hop_length, n_frames)
    average = frame_relevance(mask, hop_length, n_frames) / torch.where(total > 0, total, 1)
    return torch.where(total > 0, average, mask[:, -1:])  # a frame past the end, at a hop of one sample


def _check(what: str, values: Tensor, grid: Grid) -> None:
    if values.ndim != 3 or tuple(values.shape[1:]) != grid.shape:
        raise ExplanationError(
            f"A {what} of shape {tuple(values.shape)} does not lie on a grid of {grid.shape[0]} rows (frequency) and "
            f"{grid.shape[1]} columns (time). Frequency comes before time; are the axes swapped?"
        )
