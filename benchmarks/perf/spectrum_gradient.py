"""Gradients through a power spectrogram, and through its inverse, against PyTorch's own functions.

    python benchmarks/perf/spectrum_gradient.py

Sixteen clips of five seconds at 32 kHz, frames of 1024 samples each 320, forward and backward.
"""

from __future__ import annotations

import sys

import torch
from side_by_side import gate, ratios
from torch import Tensor

from earwitness.audio.frames import power_of, spectrum_of_frames
from earwitness.audio.stft import ListeningSTFT

N_CLIPS, RATE, N_FFT, HOP = 16, 32000, 1024, 320


def main() -> int:
    """Print the table; 1 if a bound is missed."""
    draw = torch.Generator().manual_seed(0)
    waveforms = 0.1 * torch.randn(N_CLIPS, 5 * RATE, generator=draw)
    window, listening = torch.hann_window(N_FFT), ListeningSTFT(RATE, N_FFT, HOP)
    spectrum = listening.forward(waveforms)

    def ours() -> Tensor:
        leaf = waveforms.clone().requires_grad_()
        return slope(power_of(spectrum_of_frames(leaf, window, HOP)), leaf)

    def theirs() -> Tensor:
        leaf = waveforms.clone().requires_grad_()
        found = torch.stft(leaf, N_FFT, HOP, window=window, center=False, return_complex=True)
        return slope(found.abs().square(), leaf)

    def our_inverse() -> Tensor:
        leaf = spectrum.clone().requires_grad_()
        return slope(listening.inverse(leaf, waveforms.shape[1]), leaf)

    def their_inverse() -> Tensor:
        leaf = spectrum.clone().requires_grad_()
        return slope(torch.istft(leaf, N_FFT, HOP, window=window, length=waveforms.shape[1]), leaf)

    assert torch.allclose(ours(), theirs(), atol=1e-4)
    assert torch.allclose(our_inverse(), their_inverse(), atol=1e-4)
    faster, _ = ratios(theirs, ours, rounds=8)
    inverse_faster, _ = ratios(their_inverse, our_inverse, rounds=8)
    kept = [
        gate("Power spectrogram and its gradient: times as fast as torch.stft", faster, at_least=1.5),
        gate("Listening STFT's inverse and its gradient: times as fast as torch.istft", inverse_faster, at_least=1.5),
    ]
    return 0 if all(kept) else 1


def slope(values: Tensor, leaf: Tensor) -> Tensor:
    """Gradient of a sum."""
    return torch.autograd.grad(values.sum(), leaf)[0]


if __name__ == "__main__":
    sys.exit(main())
