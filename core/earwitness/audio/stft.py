"""The listening STFT: where masks live, and the only STFT that is turned back into sound.

It belongs to the core and is the same for all methods in a run: raw waveform, periodic Hann window, centred, zero
padded, length stored. A classifier's own STFT may be uncentred, windowed otherwise or taken after pre-emphasis, and is
then not invertible or not the sound that was recorded.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from earwitness.errors import AudioError, ConfigurationError
from earwitness.grid import Grid


@dataclass(frozen=True)
class ListeningSTFT:
    """An invertible short-time Fourier transform of the raw waveform.

    Parameters
    ----------
    rate : int
        Sampling rate in Hz.
    n_fft : int
        Frame length in samples, also the window's length.
    hop_length : int
        Samples between frames. The Hann window must overlap-add without a gap (at most ``n_fft // 2``).

    Raises
    ------
    ConfigurationError
        The frames cannot be inverted.
    """

    rate: int
    n_fft: int
    hop_length: int

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.n_fft < 4:
            raise ConfigurationError(f"A listening STFT needs rate > 0 and n_fft >= 4, got {self}.")
        if not 0 < self.hop_length <= self.n_fft // 2:
            raise ConfigurationError(
                f"hop_length {self.hop_length} does not invert with a Hann window of {self.n_fft} samples. "
                f"Choose at most {self.n_fft // 2}; {self.n_fft // 4} is usual."
            )

    @classmethod
    def for_rate(cls, rate: int) -> ListeningSTFT:
        """The default for a sampling rate in Hz: frames of about 40 ms (a power of two), three quarters overlapping."""
        n_fft = 2 ** round(math.log2(0.04 * rate))
        return cls(rate=rate, n_fft=n_fft, hop_length=n_fft // 4)

    @property
    def n_bins(self) -> int:
        """F, the number of frequency bins."""
        return self.n_fft // 2 + 1

    def n_frames(self, n_samples: int) -> int:
        """N, the number of frames of a waveform of ``n_samples``."""
        return 1 + n_samples // self.hop_length

    def grid(self, n_samples: int) -> Grid:
        """Bin frequencies in Hz and frame centres in seconds."""
        return Grid(
            frequencies_hz=torch.arange(self.n_bins, dtype=torch.float64) * self.rate / self.n_fft,
            times_s=torch.arange(self.n_frames(n_samples), dtype=torch.float64) * self.hop_length / self.rate,
        )

    def forward(self, waveforms: Tensor) -> Tensor:
        """Analyse.

        Parameters
        ----------
        waveforms : Tensor (B, T), float32
            T at least ``n_fft`` samples.

        Returns
        -------
        Tensor (B, F, N), complex64

        Raises
        ------
        AudioError
            The shape is not (B, T), or the waveforms are shorter than one frame.
        """
        if waveforms.ndim != 2:
            raise AudioError(f"Expected waveforms of shape (B, T), got {tuple(waveforms.shape)}.")
        if waveforms.shape[1] < self.n_fft:
            given, frame = (1000 * n_samples / self.rate for n_samples in (waveforms.shape[1], self.n_fft))
            raise AudioError(
                f"The recording has {waveforms.shape[1]} samples ({given:.0f} ms), less than one frame of the listening "
                f"STFT ({self.n_fft} samples, {frame:.0f} ms at {self.rate} Hz). Give a longer recording."
            )
        return torch.stft(
            waveforms,
            self.n_fft,
            self.hop_length,
            window=self._window(waveforms),
            center=True,
            pad_mode="constant",
            return_complex=True,
        )

    def inverse(self, spectrum: Tensor, n_samples: int) -> Tensor:
        """Synthesise.

        Parameters
        ----------
        spectrum : Tensor (B, F, N), complex64
        n_samples : int
            Length T of the waveform that was analysed.

        Returns
        -------
        Tensor (B, T), float32
            ``inverse(forward(x), T)`` is ``x`` to 1e-5 of its peak.
        """
        return torch.istft(
            spectrum,
            self.n_fft,
            self.hop_length,
            window=self._window(spectrum.real),
            center=True,
            length=n_samples,
        )

    def _window(self, like: Tensor) -> Tensor:
        return _hann(self.n_fft, like.dtype, like.device)


@functools.lru_cache(maxsize=32)
def _hann(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.hann_window(length, periodic=True, dtype=dtype, device=device)
