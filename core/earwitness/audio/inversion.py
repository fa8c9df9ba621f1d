"""From mel bands back to magnitudes, and from magnitudes back to sound.

Only for features that no recording stands behind, such as a decoded prototype: an explanation of a recording masks its
own STFT, which loses nothing.

Conventions: B rows, M mel bands, F STFT bins, N frames.
"""

from __future__ import annotations

import functools
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from earwitness.errors import AudioError, ConfigurationError, nearest

InversionMethod = Literal["pinv", "nnls", "librosa"]

NNLS_UPDATES = 100
"""Multiplicative updates of method ``"nnls"``: mel residual 0.0004, against 0.009 at the start."""


def mel_to_magnitude(
    mel: Tensor, filters: Tensor, *, method: InversionMethod = "pinv", power: Literal[1, 2] = 1
) -> Tensor:
    """Magnitudes that a mel spectrogram may have come from: x >= 0 with ``filters @ x ** power`` close to ``mel``.

    Parameters
    ----------
    mel : Tensor (..., M, N), float, >= 0
        Mel spectrogram, not its logarithm: see :meth:`earwitness.audio.front_end.LogMel.decompress`.
    filters : Tensor (M, F), float, >= 0
        Response of the bands to the STFT bins.
    method : {"pinv", "nnls", "librosa"}
        ``"pinv"``: pseudo-inverse (float64, computed once a filter bank), negative values set to zero; the fastest by
        two orders of magnitude. ``"nnls"``: from there, 100 multiplicative updates of non-negative least squares (Lee
        and Seung, NIPS 2001), all frames at once. ``"librosa"``: ``librosa.util.nnls``, on the CPU, without gradient.
    power : {1, 2}
        What the bands sum: magnitudes, or powers, whose square root is returned.

    Returns
    -------
    Tensor (..., F, N), like ``mel``, >= 0

    Raises
    ------
    AudioError
        The number of bands in ``mel`` and ``filters`` differs.
    ConfigurationError
        ``method`` or ``power`` is unknown.
    """
    if method not in get_args(InversionMethod):
        raise ConfigurationError(f"Unknown mel inversion {method!r}. {nearest(str(method), get_args(InversionMethod))}")
    if power not in (1, 2):
        raise ConfigurationError(f"Expected power 1 (bands sum magnitudes) or 2 (powers), got {power}.")
    if mel.ndim < 2 or filters.ndim != 2 or mel.shape[-2] != filters.shape[0]:
        raise AudioError(
            f"Expected a mel spectrogram (..., M, N) and filters (M, F), got {tuple(mel.shape)} and "
            f"{tuple(filters.shape)}. Is time before frequency?"
        )
    invert = {"pinv": _pinv, "nnls": _nnls, "librosa": _librosa_nnls}[method]
    spectrum = invert(mel, filters)
    return spectrum if power == 1 else spectrum.sqrt()


def griffin_lim(
    magnitude: Tensor,
    *,
    n_fft: int,
    hop_length: int,
    length: int,
    n_iter: int = 32,
    momentum: float = 0.99,
    seed: int,
) -> Tensor:
    """A waveform whose STFT has about this magnitude: the fast Griffin-Lim algorithm.

    Random phases to begin with, the same for each row, so that a row does not depend on its place in a batch. STFTs
    are centred and zero padded, with a periodic Hann window of ``n_fft`` samples.

    Parameters
    ----------
    magnitude : Tensor (B, F, N), float32, >= 0
    n_fft, hop_length : int
        Frame length and hop in samples.
    length : int
        T, samples wanted; N must be ``1 + length // hop_length``.
    n_iter : int
        Number of iterations.
    momentum : float, in [0, 1)
        Acceleration alpha; 0 is the algorithm of Griffin and Lim.
    seed : int
        Of the first phases.

    Returns
    -------
    Tensor (B, T), float32

    Raises
    ------
    AudioError
        Shape, ``n_fft``, ``hop_length`` and ``length`` do not agree.
    ConfigurationError
        ``momentum`` is outside [0, 1).

    References
    ----------
    Griffin and Lim, "Signal estimation from modified short-time Fourier transform", IEEE TASSP 1984. Perraudin, Balazs
    and Søndergaard, "A fast Griffin-Lim algorithm", WASPAA 2013, algorithm 2.
    """
    expected = (n_fft // 2 + 1, 1 + length // hop_length)
    if magnitude.ndim != 3 or tuple(magnitude.shape[1:]) != expected:
        raise AudioError(
            f"Expected magnitudes of shape (B, {expected[0]}, {expected[1]}) for n_fft {n_fft}, hop_length "
            f"{hop_length} and {length} samples, got {tuple(magnitude.shape)}."
        )
    if not 0 <= momentum < 1:
        raise ConfigurationError(f"Griffin-Lim's momentum must be in [0, 1), got {momentum}.")
    window = torch.hann_window(n_fft, dtype=magnitude.dtype, device=magnitude.device)
    turns = torch.rand(expected, generator=torch.Generator().manual_seed(seed)).to(magnitude)
    phase = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
    previous = torch.zeros_like(magnitude, dtype=phase.dtype)
    for _ in range(n_iter):
        sound = torch.istft(magnitude * phase, n_fft, hop_length, window=window, length=length)
        consistent = torch.stft(sound, n_fft, hop_length, window=window, pad_mode="constant", return_complex=True)
        phase = torch.sgn(consistent + momentum * (consistent - previous))  # z / |z|, and 0 at 0
        previous = consistent
    return torch.istft(magnitude * phase, n_fft, hop_length, window=window, length=length)


def _pinv(mel: Tensor, filters: Tensor) -> Tensor:
    table = filters.detach().to("cpu", torch.float64).contiguous().numpy()
    return (_pseudo_inverse(table.tobytes(), table.shape).to(mel) @ mel).clamp_min(0)


@functools.lru_cache(maxsize=16)
def _pseudo_inverse(table: bytes, shape: tuple[int, ...]) -> Tensor:
    """Keyed by content, so that a filter bank changed in place is not taken for the old one."""
    return torch.from_numpy(np.linalg.pinv(np.frombuffer(table, dtype=np.float64).reshape(shape)))


def _nnls(mel: Tensor, filters: Tensor) -> Tensor:
    bands = filters.to(mel)
    start = _pinv(mel, filters)
    # A multiplicative update never leaves zero. So no bin starts there: 1e-3 of its frame's mean is the way back.
    spectrum = start.clamp_min(1e-3 * start.mean(-2, keepdim=True))
    tiny = torch.finfo(mel.dtype).tiny
    target = bands.T @ mel
    for _ in range(NNLS_UPDATES):
        spectrum = spectrum * target / (bands.T @ (bands @ spectrum)).clamp_min(tiny)
    return spectrum


def _librosa_nnls(mel: Tensor, filters: Tensor) -> Tensor:
    import librosa

    bands = filters.detach().cpu().numpy()
    frames = mel.detach().flatten(0, -3).cpu().numpy() if mel.ndim > 2 else mel.detach()[None].cpu().numpy()
    # One map at a time: its solver treats what it is given as one problem, and a row must not depend on the others.
    spectra = np.stack([librosa.util.nnls(bands, one) for one in frames])
    return torch.from_numpy(spectra).to(mel).reshape(*mel.shape[:-2], *spectra.shape[-2:])
