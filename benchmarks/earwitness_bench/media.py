"""Small files for a page in a browser: sounds as MP3, maps as PNG with few colours."""

from __future__ import annotations

import functools
import io
import math

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

RATE = 16_000
"""Of all sounds, in Hz: what MP3 does well at these bitrates."""

LOWEST_KBPS, HIGHEST_KBPS = 16.0, 40.0
"""Average bitrates, at 16 kHz: a telephone's quality, and more than enough."""

HEIGHT, WIDTH = 64, 128
"""Of pictures, in bands and frames at most."""

RANGE_DB = 70.0
"""Dynamic range of spectrograms, below the recording's loudest cell."""

_COLOURS = 32
_PEAK = 0.9


def resampled(waveforms: Tensor, rate: int) -> NDArray[np.float32]:
    """Waveforms (B, T) at ``rate`` Hz, all at once, to (B, T') at 16 kHz."""
    samples = waveforms.detach().float().cpu().numpy()
    if rate == RATE:
        return samples
    return np.ascontiguousarray(soxr.resample(samples.T, rate, RATE, quality="HQ").T, dtype=np.float32)


def loudness_gain(recordings: NDArray[np.float32]) -> NDArray[np.float32]:
    """What brings the peak of each recording (B, T) to 0.9: (B, 1). What was made of it takes the same gain, so that
    heard + rest stays the recording."""
    peak = np.abs(recordings).max(1, keepdims=True)
    gain: NDArray[np.float32] = np.where(peak > 0, _PEAK / np.maximum(peak, 1e-9), 1.0).astype(np.float32)
    return gain


def mp3(samples: NDArray[np.float32], kbps: float) -> bytes:
    """One sound, (T,) at 16 kHz, as MP3 of about ``kbps`` kbit/s on average; it keeps its length to the sample."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer,
        "w",
        samplerate=RATE,
        channels=1,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=_compression(kbps),
        bitrate_mode="AVERAGE",
    ) as file:
        file.write(np.clip(samples, -1.0, 1.0))
    return buffer.getvalue()


def mp3_bytes(duration_s: float, kbps: float) -> float:
    """The most that a sound takes, in bytes: averages are kept within a tenth, and there is a header."""
    return duration_s * kbps * 125 * 1.1 + 1200


def spectrogram_png(magnitude: Tensor, frequencies_hz: Tensor) -> list[bytes]:
    """Level of each recording, over mel-like bands: magnitudes (B, F, N) to B pictures."""
    power = _coarse(magnitude.square(), frequencies_hz)
    peak = power.flatten(1).amax(1).clamp_min(1e-20)[:, None, None]
    level = 1 + 10 * torch.log10((power / peak).clamp_min(1e-20)) / RANGE_DB
    return [_png(row, "magma") for row in level.clamp(0, 1)]


def mask_png(gain: Tensor, frequencies_hz: Tensor) -> list[bytes]:
    """Square root of each gain, so that quiet parts show: gains (B, F, N) in [0, 1] to B pictures of one scale."""
    return [_png(row, "viridis") for row in _coarse(gain, frequencies_hz).clamp(0, 1).sqrt()]


def ticks(highest_hz: float) -> list[tuple[float, str]]:
    """Where some frequencies lie on a picture whose upper end is ``highest_hz``: share of its height, and name."""
    named = ((100.0, "100 Hz"), (500.0, "500 Hz"), (2000.0, "2 kHz"), (8000.0, "8 kHz"))
    return [(math.log1p(hz / 700) / math.log1p(highest_hz / 700), name) for hz, name in named if hz < 0.95 * highest_hz]


def _compression(kbps: float) -> float:
    """libsndfile's compression level for an average bitrate: MP3 at 16 kHz has 160 kbit/s at level 0 and 8 at 1."""
    return (160.0 - kbps) / 152.0


def _coarse(maps: Tensor, frequencies_hz: Tensor) -> Tensor:
    """Means over mel-like bands and frames: (B, F, N) to (B, 64, at most 128), lowest band first."""
    bands = _bands(tuple(frequencies_hz.tolist())).to(maps)
    shown = torch.einsum("mf,bfn->bmn", bands, maps)
    return functional.adaptive_avg_pool1d(shown, WIDTH) if shown.shape[2] > WIDTH else shown


@functools.lru_cache(maxsize=8)
def _bands(frequencies_hz: tuple[float, ...]) -> Tensor:
    """Which bins a band takes the mean of, (64, F): those nearest to it in mel; a band below the bins' spacing takes
    the nearest one."""
    mel = torch.log1p(torch.tensor(frequencies_hz, dtype=torch.float64) / 700)
    centres = (torch.arange(HEIGHT, dtype=torch.float64) + 0.5) / HEIGHT * float(mel[-1])
    inside = (mel[None] - centres[:, None]).abs() <= float(mel[-1]) / HEIGHT / 2
    nearest = functional.one_hot((mel[None] - centres[:, None]).abs().argmin(1), len(mel)).bool()
    chosen = torch.where(inside.any(1, keepdim=True), inside, nearest).double()
    return (chosen / chosen.sum(1, keepdim=True)).float()


def _png(shares: Tensor, colour_map: str) -> bytes:
    """A map (M, N) in [0, 1], row 0 at the bottom."""
    index = (shares.flip(0) * (_COLOURS - 1)).round().to(torch.uint8).cpu().numpy()
    image = Image.fromarray(index, mode="P")
    image.putpalette(_palette(colour_map))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@functools.cache
def _palette(name: str) -> list[int]:
    from matplotlib import colormaps

    colours = colormaps[name](np.linspace(0, 1, _COLOURS))[:, :3]
    return [int(value) for value in np.rint(colours * 255).ravel()]
