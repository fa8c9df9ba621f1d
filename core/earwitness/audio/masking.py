"""Masks over the listening STFT: their two scales, what they keep, and how they sound.

At ``magnitude`` scale a mask is a gain: heard = ISTFT(m S) and rest = ISTFT((1 - m) S) sum to the recording. At
``log1p`` scale, which the published code of L-MAC and L2I uses, a mask multiplies log(1 + |S|): it is an exponent, and
heard and rest do not sum to the recording. The two are converted exactly, bin by bin.
"""

from __future__ import annotations

import torch
from torch import Tensor

from earwitness.explanation import Scale

_INAUDIBLE = 1e-12
"""Magnitude up to which the two scales are the same to float32's last bit, and 0 / 0 is near."""


def mask_to_gain(mask: Tensor, magnitude: Tensor, scale: Scale) -> Tensor:
    """The factor by which a mask changes each bin's magnitude.

    Parameters
    ----------
    mask : Tensor (B, F, N), float32, in [0, 1]
    magnitude : Tensor (B, F, N), float32, >= 0
        |S| of the recording.
    scale : {"magnitude", "log1p"}

    Returns
    -------
    Tensor (B, F, N), float32, in [0, 1]
        The mask itself, or expm1(m log1p|S|) / |S| (whose limit at |S| = 0 is m).
    """
    if scale == "magnitude":
        return mask
    gain = torch.expm1(mask * torch.log1p(magnitude)) / magnitude.clamp_min(_INAUDIBLE)
    return torch.where(magnitude > _INAUDIBLE, gain.clamp_max(1), mask)


def gain_to_mask(gain: Tensor, magnitude: Tensor, scale: Scale) -> Tensor:
    """The mask that has this gain; the inverse of :func:`mask_to_gain`, same shapes and ranges."""
    if scale == "magnitude":
        return gain
    mask = torch.log1p(gain * magnitude) / torch.log1p(magnitude).clamp_min(_INAUDIBLE)
    return torch.where(magnitude > _INAUDIBLE, mask.clamp_max(1), gain)


def rest_gain(gain: Tensor, magnitude: Tensor, scale: Scale) -> Tensor:
    """The gain of what a mask leaves over, at its scale: 1 - gain, or the gain of the exponent 1 - m.

    Same shapes as :func:`mask_to_gain`.
    """
    if scale == "magnitude":
        return 1 - gain
    return mask_to_gain(1 - gain_to_mask(gain, magnitude, scale), magnitude, scale)


def apply_gain(gain: Tensor, spectrum: Tensor) -> Tensor:
    """Change the magnitude of each bin, and leave its phase.

    Parameters
    ----------
    gain : Tensor (B, F, N), float32
    spectrum : Tensor (B, F, N), complex64

    Returns
    -------
    Tensor (B, F, N), complex64
        In the memory layout of ``spectrum``, which the inverse transform reads fastest.
    """
    like_spectrum = gain.transpose(1, 2).contiguous().transpose(1, 2)  # elsewhere the product would lie like the gain
    return spectrum * like_spectrum


def energy(spectrum: Tensor) -> Tensor:
    """Sum of squared magnitudes: Tensor (B,), float64. Magnitudes below 1e-19 count as silence.

    Parameters
    ----------
    spectrum : Tensor (B, F, N), complex64, or its magnitude, float32
    """
    values = torch.view_as_real(spectrum) if spectrum.is_complex() else spectrum[..., None]
    # Frame by frame in single precision, which is fast, and over frames in double, so that nothing is lost.
    of_frames: Tensor = torch.linalg.vector_norm(values, dim=(1, 3))
    return of_frames.double().square().sum(1)


def kept_energy(gain: Tensor, magnitude: Tensor) -> Tensor:
    """Share of the recording's energy that a gain keeps: Tensor (B,), in [0, 1]; NaN for a silent row.

    Parameters
    ----------
    gain, magnitude : Tensor (B, F, N), float32
    """
    return (energy(gain * magnitude) / energy(magnitude)).float()


def match_loudness(waveforms: Tensor, reference: Tensor, *, peak: float = 1.0) -> Tensor:
    """Scale each waveform to the RMS level of its reference, as far as the peak allows.

    Parameters
    ----------
    waveforms, reference : Tensor (B, T), float32
    peak : float
        The largest absolute sample afterwards: scaled down rather than clipped.

    Returns
    -------
    Tensor (B, T), float32
        A silent row (level below 1e-8, -160 dB) stays as it is: there is nothing to amplify.
    """
    level = waveforms.square().mean(1, keepdim=True).sqrt()
    wanted = reference.square().mean(1, keepdim=True).sqrt()
    highest = waveforms.abs().amax(1, keepdim=True)
    gain = torch.minimum(wanted / level.clamp_min(1e-12), peak / highest.clamp_min(1e-12))
    return torch.where(level > 1e-8, waveforms * gain, waveforms)
