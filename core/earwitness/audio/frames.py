"""Frames of a signal and their spectra, with gradients that cost no more than the way there.

The values are those of :func:`torch.stft` and of plain sums. What is written out here are the derivatives: PyTorch's
own take complex transforms of the full length for a real signal, and add up overlapping frames sample by sample.

B rows, T samples, N frames of L samples, F = L / 2 + 1 bins.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def spectrum_of_frames(signal: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Fourier transforms of the windowed frames of a signal; nothing is padded.

    Parameters
    ----------
    signal : Tensor (B, T), float
        T >= L.
    window : Tensor (L,), float
        L even. No gradient is taken of it.
    hop_length : int
        Samples from one frame to the next.

    Returns
    -------
    Tensor (B, F, N), complex
    """
    by_frame: Tensor = _SpectrumOfFrames.apply(signal, window, hop_length)  # type: ignore[no-untyped-call]
    return by_frame.transpose(1, 2)  # out here, because what a function returns as a view cannot be changed in place


def power_of(spectrum: Tensor) -> Tensor:
    """|z|² of complex numbers, real, of the same shape. Smooth everywhere: |z| has gradient 0 at 0."""
    power: Tensor = _Power.apply(spectrum)  # type: ignore[no-untyped-call]
    return power


def overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    """Frames (B, N, L), one each hop, summed where they overlap: Tensor (B, at least (N - 1) * hop + L)."""
    by_hop: Tensor = _OverlapAdd.apply(frames, hop_length)  # type: ignore[no-untyped-call]
    return by_hop.flatten(1)


class _SpectrumOfFrames(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, signal: Tensor, window: Tensor, hop_length: int) -> Tensor:
        ctx.save_for_backward(window)
        ctx.hop_length, ctx.n_samples = hop_length, signal.shape[1]
        spectrum: Tensor = torch.fft.rfft(signal.unfold(1, len(window), hop_length) * window)
        return spectrum

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (window,) = ctx.saved_tensors
        # Re Σ_k G_k exp(2πikn/L) over the L/2 + 1 bins. An inverse transform counts all but the outer ones twice.
        halves = torch.full((len(window) // 2 + 1,), 0.5, dtype=window.dtype, device=window.device)
        halves[0] = halves[-1] = 1
        frames = torch.fft.irfft(gradients[0] * halves, n=len(window), norm="forward") * window
        signal = overlap_add(frames, ctx.hop_length)
        unheard = ctx.n_samples - signal.shape[1]  # behind the last frame
        return functional.pad(signal, (0, unheard)), None, None


class _Power(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spectrum: Tensor) -> Tensor:
        ctx.save_for_backward(spectrum)
        return spectrum.real.square() + spectrum.imag.square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (spectrum,) = ctx.saved_tensors
        return torch.view_as_complex(torch.view_as_real(spectrum.resolve_conj()) * (2 * gradients[0])[..., None])


class _OverlapAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: Tensor, hop_length: int) -> Tensor:
        ctx.shape, ctx.hop_length = frames.shape, hop_length
        n_rows, n_frames, length = frames.shape
        n_pieces = -(-length // hop_length)
        if length % hop_length:
            frames = functional.pad(frames, (0, n_pieces * hop_length - length))
        pieces = frames.reshape(n_rows, n_frames, n_pieces, hop_length)
        added = frames.new_zeros(n_rows, n_frames + n_pieces - 1, hop_length)
        for number in range(n_pieces):
            added[:, number : number + n_frames] += pieces[:, :, number]
        return added

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        _, n_frames, length = ctx.shape
        return gradients[0].flatten(1).unfold(1, length, ctx.hop_length)[:, :n_frames], None
