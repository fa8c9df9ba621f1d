"""Sounds and pictures of reports, decoded again."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from earwitness_bench import media


def noise(duration_s: float, level: float = 0.3) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal(int(duration_s * media.RATE))).astype(np.float32)


def decoded(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("kbps", [media.LOWEST_KBPS, 24.0, media.HIGHEST_KBPS])
@pytest.mark.parametrize("duration_s", [0.25, 5.0])
def test_a_sound_keeps_its_length_and_stays_within_its_share(kbps: float, duration_s: float) -> None:
    content = media.mp3(noise(duration_s), kbps)
    samples, rate = soundfile.read(io.BytesIO(content))
    assert rate == media.RATE
    assert len(samples) == duration_s * media.RATE
    assert len(content) <= media.mp3_bytes(duration_s, kbps)
    if duration_s > 1:
        assert len(content) > 0.8 * duration_s * kbps * 125  # it is not simply poor


def test_frequencies_are_named_where_their_bands_lie() -> None:
    frequencies_hz = torch.linspace(0, 8000, 1025)
    for hz, (height, _) in zip((100, 500, 2000), media.ticks(8000.0), strict=True):
        magnitude = torch.zeros(1, 1025, 4)
        magnitude[0, round(hz / 8000 * 1024)] = 1
        picture = np.array(decoded(media.spectrogram_png(magnitude, frequencies_hz)[0]))
        lit = media.HEIGHT - 1 - picture[:, 0].argmax()
        assert lit == pytest.approx(height * media.HEIGHT - 0.5, abs=1)


def test_a_sound_comes_back_as_it_was_but_for_what_nobody_hears() -> None:
    tone = (0.4 * np.sin(2 * np.pi * 440 * np.arange(media.RATE) / media.RATE)).astype(np.float32)
    samples, _ = soundfile.read(io.BytesIO(media.mp3(tone, 32.0)))
    middle = slice(2000, -2000)
    assert np.corrcoef(samples[middle], tone[middle])[0, 1] > 0.999


def test_all_sounds_of_a_clip_share_the_gain_that_its_recording_needs() -> None:
    recordings = np.array([[0.1, -0.2, 0.05], [0.0, 0.0, 0.0]], dtype=np.float32)
    gain = media.loudness_gain(recordings)
    assert np.abs(gain * recordings).max(1) == pytest.approx([0.9, 0.0])
    assert np.isfinite(gain).all()


def test_waveforms_of_a_batch_are_resampled_as_each_would_be_alone() -> None:
    waveforms = torch.randn(3, 800, generator=torch.Generator().manual_seed(0))
    together = media.resampled(waveforms, 8000)
    assert together.shape == (3, 1600)
    assert together[1] == pytest.approx(media.resampled(waveforms[1:2], 8000)[0], abs=1e-6)


def test_low_frequencies_are_at_the_bottom_and_time_goes_to_the_right() -> None:
    frequencies = torch.linspace(0, 8000, 257, dtype=torch.float64)
    gain = torch.zeros(2, 257, 300)
    gain[0, :20] = 1  # low, all the time
    gain[1, :, 200:] = 1  # everything, late
    low, late = (np.asarray(decoded(one)) for one in media.mask_png(gain, frequencies))
    assert low.shape == (media.HEIGHT, media.WIDTH)
    assert low[-1].min() == 31
    assert low[0].max() == 0
    assert late[:, : media.WIDTH // 2].max() == 0
    assert late[:, -10:].min() == 31


def test_a_short_map_keeps_its_frames_and_each_band_has_a_bin() -> None:
    frequencies = torch.linspace(0, 4000, 33, dtype=torch.float64)  # coarser than the lowest bands
    (picture,) = media.mask_png(torch.full((1, 33, 10), 0.25), frequencies)
    values = np.asarray(decoded(picture))
    assert values.shape == (media.HEIGHT, 10)
    assert np.unique(values).tolist() == [round(31 * 0.5)]


def test_a_spectrogram_is_relative_to_its_own_loudest_cell() -> None:
    frequencies = torch.linspace(0, 8000, 257, dtype=torch.float64)
    magnitude = torch.rand(1, 257, 64, generator=torch.Generator().manual_seed(0))
    quiet, loud = media.spectrogram_png(torch.cat([magnitude, 50 * magnitude]), frequencies)
    assert quiet == loud
    assert np.asarray(decoded(quiet)).max() == 31
    (silent,) = media.spectrogram_png(torch.zeros(1, 257, 64), frequencies)
    assert np.isfinite(np.asarray(decoded(silent))).all()


def test_the_noisiest_picture_stays_within_its_share() -> None:
    frequencies = torch.linspace(0, 8000, 257, dtype=torch.float64)
    noisy = torch.rand(1, 257, 1000, generator=torch.Generator().manual_seed(0))
    sparse = (torch.rand(1, 64, 128, generator=torch.Generator().manual_seed(1)) ** 4).float()
    (a,), (b,) = media.mask_png(noisy, frequencies), media.mask_png(sparse, torch.linspace(0, 8000, 64).double())
    assert max(len(a), len(b)) < 6000
