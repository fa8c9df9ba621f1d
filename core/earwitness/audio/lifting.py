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


@dataclass(frozen=True, eq=False)
class _Bridge:
    """Weights between a coarse grid (rows x columns) and a fine one.

    rows: Tensor (M, F), response of coarse row m to fine row f. columns: Tensor (N', N), share of coarse column n' in
    fine column n. Both >= 0; a column of ``columns`` sums to 1, or to 0 where the coarse map sees nothing.
    """

    rows: Tensor
    columns: Tensor


@functools.lru_cache(maxsize=64)
def _bridge(coarse: Grid, fine: Grid, device: torch.device) -> _Bridge:
    rows = coarse.response(fine.frequencies_hz)
    columns = coarse.time_weights(fine.times_s)
    # A band narrower than the fine grid's spacing responds to no bin at all: give it to the nearest one.
    deaf = rows.sum(1) <= 0
    if bool(deaf.any()):
        distance = (coarse.frequencies_hz[:, None] - fine.frequencies_hz[None]).abs()
        rows[deaf] = functional.one_hot(distance.argmin(1), rows.shape[1]).to(rows)[deaf]
    lost = columns.sum(1) <= 0
    if bool(lost.any()):
        distance = (coarse.times_s[:, None] - fine.times_s[None]).abs()
        columns[lost] = functional.one_hot(distance.argmin(1), columns.shape[1]).to(columns)[lost]
    return _Bridge(rows.float().to(device), columns.float().to(device))


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
    """
    _check(mask, coarse)
    bridge = _bridge(coarse, fine, mask.device)
    audible = bridge.rows.sum(0)
    weights = bridge.rows / audible.clamp_min(1e-30) * (audible > 1e-12)
    return weights.T @ (mask @ bridge.columns)


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
        A constant stays that constant.
    """
    _check(mask, fine)
    bridge = _bridge(coarse, fine, mask.device)
    # A trace of uniform weight decides only in cells where the recording is silent.
    weight = magnitude + 1e-6 * magnitude.amax((1, 2), keepdim=True) + 1e-12
    return (bridge.rows @ (mask * weight) @ bridge.columns.T) / (bridge.rows @ weight @ bridge.columns.T)


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
    """
    _check(relevance, coarse)
    bridge = _bridge(coarse, fine, relevance.device)
    weight = magnitude.double() + 1e-6 * magnitude.double().amax((1, 2), keepdim=True) + 1e-12
    rows, columns = bridge.rows.double(), bridge.columns.double()
    share = relevance.double() / (rows @ weight @ columns.T)
    return (weight * (rows.T @ share @ columns)).float()


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
    """
    _check(relevance, fine)
    bridge = _bridge(coarse, fine, relevance.device)
    audible = bridge.rows.sum(0)
    rows = bridge.rows / audible.clamp_min(1e-30) * (audible > 1e-12)
    return rows @ relevance @ bridge.columns.T


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
        Each sample is shared between its two nearest frame centres; the sum stays what it was.
    """
    ramp = (
        1 - torch.arange(-hop_length + 1, hop_length, device=relevance.device, dtype=relevance.dtype).abs() / hop_length
    )
    right = max(0, n_frames * hop_length + hop_length - relevance.shape[1])
    padded = functional.pad(relevance, (hop_length - 1, right))
    frames = functional.conv1d(padded[:, None], ramp[None, None], stride=hop_length)[:, 0]
    beyond = frames[:, n_frames:].sum(1)
    frames = frames[:, :n_frames].clone()
    frames[:, -1] += beyond
    return frames


def frame_mask(mask: Tensor, hop_length: int, n_frames: int) -> Tensor:
    """Average a mask over samples, (B, T), to frames, (B, N); a constant stays that constant."""
    ones = torch.ones_like(mask[:1])
    return frame_relevance(mask, hop_length, n_frames) / frame_relevance(ones, hop_length, n_frames)


def _check(values: Tensor, grid: Grid) -> None:
    if values.ndim != 3 or tuple(values.shape[1:]) != grid.shape:
        raise ExplanationError(
            f"A map of shape {tuple(values.shape)} does not lie on a grid of {grid.shape[0]} rows (frequency) and "
            f"{grid.shape[1]} columns (time). Frequency comes before time; are the axes swapped?"
        )
