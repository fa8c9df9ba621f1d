"""Mel bands to magnitudes by the precomputed pseudo-inverse, against librosa's non-negative least squares.

    python benchmarks/perf/mel_inversion.py [FILE]

Three seconds, 128 bands; heard with the recording's own phases. FILE is any recording; without one,
two synthetic ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from side_by_side import gate, ratios
from torch import Tensor

from earwitness.audio.inversion import mel_to_magnitude
from earwitness.audio.mel import MelBands
from earwitness_bench.datasets.noise import babble
from earwitness_bench.datasets.recordings import read_mono
from earwitness_bench.datasets.toy import Toy

RATE, N_FFT, HOP, N_MELS, SECONDS = 16000, 800, 360, 128, 3


def main() -> int:
    """Print the table; 1 if a bound is not kept."""
    if len(sys.argv) > 1:
        return 0 if compare(sys.argv[1], read_mono(Path(sys.argv[1]), RATE, SECONDS * RATE)) else 1
    kept = compare("babble-like noise", babble(SECONDS * RATE, RATE, np.random.default_rng(0)))
    toy = Toy(clips=SECONDS)
    tones = torch.cat([toy[index].waveform for index in range(SECONDS)])
    compare("pure tones, where it is weakest", tones, promised=False)
    return 0 if kept else 1


def compare(name: str, waveform: Tensor, *, promised: bool = True) -> bool:
    """Two lines of the table, for one recording (T,) at 16 kHz."""
    window = torch.hann_window(N_FFT)
    spectrum = torch.stft(waveform, N_FFT, HOP, window=window, return_complex=True)
    filters = MelBands(N_MELS).filters(N_FFT, RATE).float()
    mel = filters @ spectrum.abs()

    def ours() -> Tensor:
        return mel_to_magnitude(mel, filters)

    def librosa() -> Tensor:
        return mel_to_magnitude(mel, filters, method="librosa")

    median, _ = ratios(librosa, ours, rounds=5)
    reference = sound(spectrum.abs(), spectrum, window)
    level, other = (sdr_db(reference, sound(method(), spectrum, window)) for method in (ours, librosa))
    speed, quality = (100, -1) if promised else (None, None)
    kept = [
        gate(f"mel to magnitude, 3 s of {name}: times faster than librosa", median, at_least=speed),
        gate(f"  SDR of ours ({level:.1f} dB) minus that of librosa, in dB", level - other, at_least=quality),
    ]
    return all(kept)


def sound(magnitude: Tensor, spectrum: Tensor, window: Tensor) -> Tensor:
    """The waveform of a magnitude with the phases of a spectrum."""
    return torch.istft(magnitude * torch.sgn(spectrum), N_FFT, HOP, window=window)


def sdr_db(reference: Tensor, estimate: Tensor) -> float:
    """Signal-to-distortion ratio in dB."""
    return float(10 * torch.log10(reference.square().sum() / (reference - estimate).square().sum()))


if __name__ == "__main__":
    sys.exit(main())
