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
from torch.nn import functional

from earwitness.audio.frames import overlap_add, spectrum_of_frames
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
        Frame length in samples, even; also the window's length.
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
        if self.rate <= 0 or self.n_fft < 4 or self.n_fft % 2:
            raise ConfigurationError(f"A listening STFT needs rate > 0 and an even n_fft of 4 or more, got {self}.")
        if not 0 < self.hop_length <= self.n_fft // 2:
            raise ConfigurationError(
                f"hop_length {self.hop_length} does not invert with a Hann window of {self.n_fft} samples. "
                f"Choose at most {self.n_fft // 2}; {self.n_fft // 4} is usual."
            )

    @classmethod
    def for_rate(cls, rate: int) -> ListeningSTFT:
        """The default for a sampling rate in Hz: frames of about 40 ms (a power of two), three quarters overlapping."""
        n_fft = 2 ** round(math.log2(max(4, 0.04 * rate)))
        return cls(rate=rate, n_fft=n_fft, hop_length=n_fft // 4)

    @property
    def n_bins(self) -> int:
        """F, the number of frequency bins."""
        return self.n_fft // 2 + 1

    def n_frames(self, n_samples: int) -> int:
        """N, the number of frames of a waveform of ``n_samples``: one each hop, from sample 0 on.

        No sample lies further than a quarter of a window from a frame's centre. Where a hop longer than that would
        leave the end of the waveform under the thin tail of one window, there is one more frame, past the end: dividing
        by that tail would not come back to 1e-5, and would turn a masked frame into a loud click.
        """
        whole, beyond = divmod(n_samples, self.hop_length)
        return 1 + whole + (beyond > self.n_fft // 4)

    def grid(self, n_samples: int) -> Grid:
        """Bin frequencies in Hz and frame centres in seconds; the same object each time."""
        return _grid(self, n_samples)

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
        n_samples = waveforms.shape[1]
        if n_samples < self.n_fft:
            given, frame = 1000 * n_samples / self.rate, 1000 * self.n_fft / self.rate
            raise AudioError(
                f"The recording has {n_samples} samples ({given:.0f} ms), less than one frame of the listening "
                f"STFT ({self.n_fft} samples, {frame:.0f} ms at {self.rate} Hz). Give a longer recording."
            )
        last_centre = (self.n_frames(n_samples) - 1) * self.hop_length
        margin = self.n_fft // 2
        padded = functional.pad(waveforms, (margin, margin + max(0, last_centre - n_samples)))
        return spectrum_of_frames(padded, self._window(waveforms), self.hop_length)

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

        Raises
        ------
        AudioError
            The spectrum is not that of a waveform of ``n_samples``.
        """
        expected = (self.n_bins, self.n_frames(n_samples))
        if spectrum.ndim != 3 or tuple(spectrum.shape[1:]) != expected:
            raise AudioError(
                f"The spectrum of {n_samples} samples has shape (B, {expected[0]}, {expected[1]}), "
                f"got {tuple(spectrum.shape)}."
            )
        # torch.istft does the same sums, and takes more than twice as long.
        frames = torch.fft.irfft(spectrum.transpose(1, 2), n=self.n_fft) * self._window(spectrum.real)
        inside = slice(self.n_fft // 2, self.n_fft // 2 + n_samples)
        return overlap_add(frames, self.hop_length)[:, inside] / _envelope(self, n_samples, frames.dtype, frames.device)

    def _window(self, like: Tensor) -> Tensor:
        return _hann(self.n_fft, like.dtype, like.device)


@functools.lru_cache(maxsize=32)
def _grid(stft: ListeningSTFT, n_samples: int) -> Grid:
    return Grid(
        frequencies_hz=torch.arange(stft.n_bins, dtype=torch.float64) * stft.rate / stft.n_fft,
        times_s=torch.arange(stft.n_frames(n_samples), dtype=torch.float64) * stft.hop_length / stft.rate,
        reach_s=stft.n_fft / 2 / stft.rate,
    )


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept from there could not serve a gradient later
def _hann(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.hann_window(length, periodic=True, dtype=dtype, device=device)


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)
def _envelope(stft: ListeningSTFT, n_samples: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What the squared windows of all frames sum to at each sample: Tensor (T,)."""
    squared = _hann(stft.n_fft, dtype, device).square().expand(1, stft.n_frames(n_samples), -1)
    return overlap_add(squared, stft.hop_length)[0, stft.n_fft // 2 : stft.n_fft // 2 + n_samples]
