"""The listening STFT: what goes through it comes back, and its axes are where they say."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from earwitness.audio.stft import ListeningSTFT
from earwitness.errors import AudioError, ConfigurationError

RATE = 16000
SIZES = [(512, 128), (512, 256), (480, 240), (2048, 1024), (1024, 300), (400, 160), (16, 8), (4, 1)]
SOUNDS = ["speech", "noise", "clicks", "sine", "constant", "faint"]


def sound(kind: str, n_samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, n_samples, generator=generator)
    time_s = torch.arange(n_samples) / RATE
    if kind == "speech":  # a gliding voice in syllables, with pauses of digital silence
        voice = sum(torch.sin(2 * torch.pi * k * (110 * time_s + 15 * time_s**2)) / k for k in range(1, 12))
        return torch.stack([voice, 0.3 * voice]) * torch.sin(2 * torch.pi * 4 * time_s).clamp_min(0)
    if kind == "clicks":
        clicks = torch.zeros(2, n_samples)
        clicks[:, [0, -1]] = torch.tensor([[1.0, -1.0], [-0.5, 1.0]])
        return clicks
    if kind == "sine":
        return torch.sin(2 * torch.pi * 440 * time_s).repeat(2, 1)
    if kind == "constant":
        return torch.full((2, n_samples), 0.5)
    return noise * (1e-7 if kind == "faint" else 0.3)


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("kind", SOUNDS)
@pytest.mark.parametrize(("n_fft", "hop_length"), SIZES)
def test_what_goes_in_comes_back_at_any_length(kind: str, n_fft: int, hop_length: int) -> None:
    stft = ListeningSTFT(RATE, n_fft, hop_length)
    for extra in sorted({0, 1, hop_length // 2, hop_length - 1, hop_length, hop_length + 1, 2 * hop_length - 1, 1003}):
        waveforms = sound(kind, n_fft + extra)
        back = stft.inverse(stft.forward(waveforms), n_fft + extra)
        assert back.shape == waveforms.shape
        assert relative_error(back, waveforms) < 1e-5, (n_fft + extra, kind)


@settings(max_examples=60, deadline=None)
@given(half=st.integers(2, 300), share=st.floats(0.05, 1), extra=st.integers(0, 2000), seed=st.integers(0, 99))
def test_any_allowed_frame_and_hop_come_back(half: int, share: float, extra: int, seed: int) -> None:
    stft = ListeningSTFT(RATE, 2 * half, max(1, int(share * half)))
    waveforms = sound("noise", 2 * half + extra, seed)
    waveforms[:, [0, -1]] = 1.0
    assert relative_error(stft.inverse(stft.forward(waveforms), waveforms.shape[1]), waveforms) < 1e-5


@pytest.mark.parametrize(("n_fft", "hop_length"), SIZES)
def test_heard_plus_rest_is_the_recording(n_fft: int, hop_length: int) -> None:
    stft = ListeningSTFT(RATE, n_fft, hop_length)
    n_samples = n_fft + 5 * hop_length - 1
    for kind in ("speech", "noise", "clicks"):
        waveforms = sound(kind, n_samples)
        spectrum = stft.forward(waveforms)
        mask = torch.rand(spectrum.shape, generator=torch.Generator().manual_seed(1))
        for gain in (mask, (mask > 0.5).float()):
            heard, rest = (stft.inverse(part * spectrum, n_samples) for part in (gain, 1 - gain))
            assert float((heard + rest - waveforms).abs().max()) < 1e-5 * max(
                1e-3, float(waveforms.abs().max()), float(heard.abs().max())
            )


@pytest.mark.parametrize(("n_fft", "hop_length"), SIZES)
def test_a_masked_frame_does_not_end_in_a_click(n_fft: int, hop_length: int) -> None:
    # Beyond the last frame's centre a sample must not be divided by the thin tail of one window.
    stft = ListeningSTFT(RATE, n_fft, hop_length)
    for n_samples in range(4 * n_fft, 4 * n_fft + hop_length, max(1, hop_length // 7)):
        waveforms = sound("noise", n_samples)
        spectrum = stft.forward(waveforms)
        mask = (torch.rand(spectrum.shape, generator=torch.Generator().manual_seed(2)) > 0.5).float()
        heard = stft.inverse(mask * spectrum, n_samples)
        assert heard.abs().max() < 3 * waveforms.abs().max()


def test_forward_is_the_fourier_sum_of_zero_padded_hann_frames() -> None:
    stft = ListeningSTFT(RATE, 16, 6)
    waveforms = sound("noise", 41)
    spectrum = stft.forward(waveforms)
    assert spectrum.shape == (2, stft.n_bins, stft.n_frames(41)) == (2, 9, 8)  # 41 = 6 * 6 + 5: one frame past the end
    assert spectrum.dtype == torch.complex64
    padded = [0.0] * 8 + waveforms[1].tolist() + [0.0] * 16
    for frame in range(8):
        for row in range(9):
            total = 0j
            for n in range(16):
                window = 0.5 - 0.5 * math.cos(2 * math.pi * n / 16)
                total += window * padded[6 * frame + n] * cmath.exp(-2j * math.pi * row * n / 16)
            assert abs(total - complex(spectrum[1, row, frame])) < 1e-5


def test_there_is_a_frame_each_hop_and_one_more_only_where_the_end_needs_it() -> None:
    dense, sparse = ListeningSTFT(RATE, 512, 128), ListeningSTFT(RATE, 512, 256)
    for n_samples in range(512, 1300):
        assert dense.n_frames(n_samples) == 1 + n_samples // 128
        last_centre = 256 * (sparse.n_frames(n_samples) - 1)
        assert last_centre >= n_samples - 128  # the last sample is within a quarter of a window
        assert last_centre - 256 < n_samples - 128  # and no frame less would do
        assert sparse.forward(torch.zeros(1, n_samples)).shape[2] == sparse.n_frames(n_samples)


@pytest.mark.parametrize(("n_fft", "hop_length"), [(512, 128), (512, 256), (480, 240)])
def test_a_sine_peaks_at_its_bin_and_a_click_at_its_frame(n_fft: int, hop_length: int) -> None:
    stft = ListeningSTFT(RATE, n_fft, hop_length)
    n_samples = 8000
    grid = stft.grid(n_samples)
    assert grid.shape == (stft.n_bins, stft.n_frames(n_samples))
    assert float(grid.frequencies_hz[-1]) == RATE / 2
    for frequency_hz in (500.0, 1234.5, 7000.0):
        time_s = torch.arange(n_samples, dtype=torch.float64) / RATE
        magnitude = stft.forward(torch.sin(2 * torch.pi * frequency_hz * time_s).float()[None]).abs()[0]
        peak_hz = float(grid.frequencies_hz[magnitude[:, 5].argmax()])
        assert abs(peak_hz - frequency_hz) <= RATE / n_fft / 2
    for place in (0, 777, 4000, 7999):
        click = torch.zeros(1, n_samples)
        click[0, place] = 1
        loudness = stft.forward(click).abs().sum(1)[0]
        assert abs(float(grid.times_s[loudness.argmax()]) - place / RATE) <= hop_length / RATE / 2 + 1e-9


def test_a_grid_is_the_same_object_each_time() -> None:
    # What is computed from a pair of grids is remembered by their identity.
    assert ListeningSTFT(RATE, 512, 128).grid(8000) is ListeningSTFT(RATE, 512, 128).grid(8000)
    assert ListeningSTFT(RATE, 512, 128).grid(8000) is not ListeningSTFT(RATE, 512, 128).grid(8001)


def test_double_precision_stays_double() -> None:
    stft = ListeningSTFT(RATE, 512, 256)
    waveforms = sound("noise", 1999).double()
    assert relative_error(stft.inverse(stft.forward(waveforms), 1999), waveforms) < 1e-13


def test_gradients_pass_through_both_ways() -> None:
    stft = ListeningSTFT(RATE, 64, 32)
    waveforms = sound("noise", 200).requires_grad_()
    stft.inverse(stft.forward(waveforms), 200).sum().backward()
    assert waveforms.grad is not None
    assert torch.allclose(waveforms.grad, torch.ones_like(waveforms), atol=1e-5)


def test_gradients_pass_after_a_first_use_in_inference_mode() -> None:
    stft, waveforms = ListeningSTFT(RATE, 96, 24), sound("noise", 300)  # numbers of no other test
    with torch.inference_mode():
        stft.inverse(stft.forward(waveforms), 300)
    waveforms = waveforms.clone().requires_grad_()
    stft.inverse(stft.forward(waveforms), 300).sum().backward()
    assert waveforms.grad is not None


@pytest.mark.parametrize(("rate", "n_fft"), [(8000, 256), (16000, 512), (22050, 1024), (32000, 1024), (44100, 2048)])
def test_the_default_has_frames_of_about_40_ms(rate: int, n_fft: int) -> None:
    assert ListeningSTFT.for_rate(rate) == ListeningSTFT(rate, n_fft, n_fft // 4)


def test_even_the_lowest_rate_has_a_default() -> None:
    assert ListeningSTFT.for_rate(1).n_fft == 4


@pytest.mark.parametrize(
    ("rate", "n_fft", "hop_length"), [(16000, 512, 257), (16000, 512, 0), (16000, 511, 100), (16000, 2, 1), (0, 512, 9)]
)
def test_what_cannot_be_inverted_is_refused(rate: int, n_fft: int, hop_length: int) -> None:
    with pytest.raises(ConfigurationError, match=str(n_fft)):
        ListeningSTFT(rate, n_fft, hop_length)


def test_a_recording_shorter_than_a_frame_is_refused_in_samples_and_milliseconds() -> None:
    stft = ListeningSTFT(RATE, 512, 128)
    assert stft.forward(torch.zeros(1, 512)).shape == (1, 257, 5)
    with pytest.raises(AudioError, match=r"511 samples \(32 ms\).*512 samples.*longer"):
        stft.forward(torch.zeros(1, 511))


def test_a_waveform_without_a_batch_axis_is_refused() -> None:
    with pytest.raises(AudioError, match=r"\(B, T\), got \(4000,\)"):
        ListeningSTFT(RATE, 512, 128).forward(torch.zeros(4000))


def test_a_spectrum_of_another_length_is_refused() -> None:
    stft = ListeningSTFT(RATE, 512, 128)
    spectrum = stft.forward(torch.zeros(1, 4000))
    for wrong in (spectrum[:, :, :-1], spectrum[:, :-1], spectrum[0], spectrum.transpose(1, 2)):
        with pytest.raises(AudioError, match="4000 samples"):
            stft.inverse(wrong, 4000)
