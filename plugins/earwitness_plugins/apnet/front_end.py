"""From a recording to the windows that an audio prototype network eats, and back.

B rows, T samples, M mel bands, N frames, P windows of W frames. Frequency before time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from earwitness.audio.front_end import LogMel
from earwitness.errors import AudioError, ConfigurationError
from earwitness.grid import Grid


class PaddedLogMel(nn.Module):
    """Log-mel front end of networks that look at a window: a shorter recording is followed by digital silence.

    The silence is added to the samples, as in the authors' code, so the frames at the end of the recording are the
    same as if the file had been longer. A longer recording passes as it is.

    Parameters
    ----------
    log_mel : LogMel
        In decibels; see :func:`earwitness.audio.dialects.apnet`.
    n_frames : int
        W, the fewest frames that come out.

    Raises
    ------
    ConfigurationError
        The front end pads by itself, or is not in decibels.
    """

    min_samples: int = 1

    def __init__(self, log_mel: LogMel, n_frames: int) -> None:
        super().__init__()
        if log_mel.stft.padding != "none" or log_mel.compression.log != "db" or n_frames < 1:
            raise ConfigurationError(
                f"Windows of frames are cut from uncentred decibels, got padding {log_mel.stft.padding!r}, logarithm "
                f"{log_mel.compression.log!r} and {n_frames} frames."
            )
        self.log_mel = log_mel
        self.n_frames = n_frames
        self.n_samples = (n_frames - 1) * log_mel.stft.hop_length + log_mel.min_samples

    @property
    def rate(self) -> int:
        """Sampling rate in Hz."""
        return self.log_mel.rate

    def forward(self, waveforms: Tensor) -> Tensor:
        """Waveforms (B, T), float32, T >= 1, to features (B, 1, M, N), N >= W.

        Raises
        ------
        AudioError
            See :meth:`LogMel.forward`.
        """
        if waveforms.ndim == 2 and waveforms.shape[1] == 0:
            raise AudioError("The recording has no samples. Give a longer one.")
        missing = max(0, self.n_samples - waveforms.shape[-1])
        features: Tensor = self.log_mel(functional.pad(waveforms, (0, missing)) if missing else waveforms)
        return features

    def from_stft(self, spectrum: Tensor) -> Tensor:
        """Always raises ClassifierError: the STFT is not centred, so there is no spectrogram route."""
        return self.log_mel.from_stft(spectrum)

    def shares_stft(self, n_fft: int, hop_length: int, rate: int) -> bool:
        """False: the STFT is not centred."""
        return False

    def grid(self, n_samples: int) -> Grid:
        """Axes of the features of a waveform of ``n_samples``; the silence after a short one is on them too."""
        return self.log_mel.grid(max(n_samples, self.n_samples))

    def describe(self) -> dict[str, Any]:
        """Every parameter, defaults resolved, as plain JSON."""
        return {**self.log_mel.describe(), "type": "PaddedLogMel", "n_frames": self.n_frames}

    def floor(self, features: Tensor) -> Tensor:
        """What silence is in each row: Tensor (B, 1, 1, 1).

        The level of digital silence, raised to ``top_db`` below the row's own maximum, as in its quietest cells.
        """
        compression = self.log_mel.compression
        lowest = (10 * math.log10(compression.floor) + compression.shift) / compression.scale
        loudest = features.amax((1, 2, 3), keepdim=True)
        if compression.top_db is None:
            return torch.full_like(loudest, lowest)
        return (loudest - compression.top_db / compression.scale).clamp_min(lowest)


@dataclass(frozen=True)
class Windows:
    """Cuts feature maps into overlapping windows of equal length; the last one ends with the map.

    Parameters
    ----------
    n_frames : int
        W, frames of a window.
    hop : int
        Frames from one window to the next.

    Raises
    ------
    ConfigurationError
        A number is not positive, or windows would leave gaps.
    """

    n_frames: int
    hop: int

    def __post_init__(self) -> None:
        if not 1 <= self.hop <= self.n_frames:
            raise ConfigurationError(f"Windows need 1 <= hop <= n_frames, got {self.hop} and {self.n_frames} frames.")

    def starts(self, n_frames: int) -> list[int]:
        """First frame of each window of a map of ``n_frames``; AudioError where it is shorter than a window."""
        last = n_frames - self.n_frames
        if last < 0:
            raise AudioError(f"A map of {n_frames} frames is shorter than a window of {self.n_frames} frames.")
        return [*range(0, last, self.hop), last]

    def __call__(self, features: Tensor) -> Tensor:
        """Features (B, 1, M, N), N >= W, to windows (B, P, 1, M, W); any other axes before the last stay too."""
        starts = self.starts(features.shape[-1])
        return torch.stack([features[..., start : start + self.n_frames] for start in starts], dim=1)

    def overlap_add(self, maps: Tensor, n_frames: int) -> Tensor:
        """Maps of windows, (B, P, M, W), summed where they lie: (B, M, N). The sum over all cells is kept."""
        whole = maps.new_zeros(maps.shape[0], maps.shape[2], n_frames)
        for place, start in enumerate(self.starts(n_frames)):
            whole[..., start : start + self.n_frames] += maps[:, place]
        return whole
