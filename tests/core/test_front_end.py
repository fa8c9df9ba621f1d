"""The log-mel front end, against librosa, torchaudio, the published classifiers and the formulas themselves."""

from __future__ import annotations

import json
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor

from earwitness.audio import dialects
from earwitness.audio.front_end import FrontEnd, Identity, LogMel, from_description
from earwitness.audio.mel import Compression, MelBands, Stft
from earwitness.audio.stft import ListeningSTFT
from earwitness.errors import AudioError, ClassifierError, ConfigurationError

# Min-max scalers of the published APNet models, in dB, as stored beside their weights.
SCALERS = {
    "us8k": (-100.0, 47.34378242768969),
    "medley": (-97.89821514208916, 39.7300393139176),
    "gsc": (-93.01638525295358, 36.29895261100572),
}
APNET = {
    "us8k": dialects.apnet_urbansound8k,
    "medley": dialects.apnet_medley_solos,
    "gsc": dialects.apnet_speech_commands,
}


def apnet(name: str) -> LogMel:
    low, high = SCALERS[name]
    return APNET[name](min_db=low, max_db=high)


def reflecting() -> LogMel:
    """Kept small, with a window shorter than the transform, centred, in decibels."""
    return LogMel(
        rate=8000,
        stft=Stft(256, 64, win_length=200, padding="reflect"),
        bands=MelBands(20, 50.0, 3800.0, mel_scale="slaney", norm="mean"),
        compression=Compression("db", 1e-10, top_db=60, shift=40, scale=4),
    )


FRONT_ENDS = {
    "yamnet": dialects.yamnet,
    "efficientat": dialects.efficientat,
    "apnet_us8k": lambda: apnet("us8k"),
    "apnet_medley": lambda: apnet("medley"),
    "apnet_gsc": lambda: apnet("gsc"),
    "drsa_toy": dialects.drsa_toy,
    "reflecting": reflecting,
}
every_dialect = pytest.mark.parametrize("build", FRONT_ENDS.values(), ids=FRONT_ENDS.keys())


def music(n_samples: int, rate: int, rows: int = 2, seed: int = 0) -> Tensor:
    """Decaying tones over noise, in every band.

    The noise is there for a reason: float32 rounding shows in the logarithm of a band that is far below its neighbour.
    """
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(n_samples) / rate
    pitch = 100 * (rate / 250) ** torch.rand(rows, 6, 1, generator=generator)
    tones = (torch.sin(2 * torch.pi * pitch * time) * torch.exp(-3 * time)).sum(1)
    return 0.1 * tones + 0.03 * torch.randn(rows, n_samples, generator=generator)


# -- against other implementations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [None, "slaney"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_mel_bands_are_those_of_librosa(scale, power, norm):
    rate, n_fft, hop_length = 22050, 1024, 256
    waveforms = music(20000, rate)
    front_end = LogMel(
        rate=rate,
        stft=Stft(n_fft, hop_length, win_length=800),
        bands=MelBands(64, 40.0, 9000.0, mel_scale=scale, norm=norm),
        compression=Compression("ln", 1e-6),
        power=power,
    )
    mel = librosa.feature.melspectrogram(
        y=waveforms.numpy(), sr=rate, n_fft=n_fft, hop_length=hop_length, win_length=800, power=power, n_mels=64,
        fmin=40.0, fmax=9000.0, htk=scale == "htk", norm=norm,
    )  # fmt: skip
    np.testing.assert_allclose(front_end(waveforms)[:, 0].numpy(), np.log(mel + 1e-6), atol=1e-4)


@pytest.mark.parametrize("top_db", [None, 40.0])
def test_decibels_are_those_of_librosa_clip_by_clip(top_db):
    rate = 16000
    waveforms = music(12000, rate) * torch.tensor([[1.0], [0.01]])  # a loud clip must not raise a quiet one's floor
    front_end = LogMel(
        rate=rate,
        stft=Stft(512, 128, padding="reflect"),
        bands=MelBands(40, mel_scale="slaney", norm="slaney"),
        compression=Compression("db", 1e-10, top_db=top_db),
    )
    for row, features in zip(waveforms, front_end(waveforms)[:, 0], strict=True):
        mel = librosa.feature.melspectrogram(
            y=row.numpy(), sr=rate, n_fft=512, hop_length=128, n_mels=40, pad_mode="reflect"
        )
        np.testing.assert_allclose(features.numpy(), librosa.power_to_db(mel, top_db=top_db), atol=1e-4)


@pytest.mark.parametrize("power", [1, 2])
def test_mel_bands_are_those_of_torchaudio(power):
    waveforms = music(9000, 16000)
    reference = torchaudio.transforms.MelSpectrogram(
        16000, n_fft=480, hop_length=240, n_mels=64, power=float(power), pad_mode="reflect"
    )
    front_end = LogMel(
        rate=16000,
        stft=Stft(480, 240, padding="reflect"),
        bands=MelBands(64),
        compression=Compression("log10", 1e-7),
        power=power,
    )
    torch.testing.assert_close(front_end(waveforms)[:, 0], torch.log10(reference(waveforms) + 1e-7), atol=1e-4, rtol=0)


def test_the_toy_front_end_is_torchaudios_with_zero_padding():
    waveforms = music(16000, 16000)
    spectrogram = torchaudio.transforms.Spectrogram(n_fft=480, hop_length=240, power=1.0, pad_mode="constant")
    mel = torchaudio.transforms.MelScale(64, 16000, n_stft=241)(spectrogram(waveforms))
    features = dialects.drsa_toy()(waveforms)
    assert features.shape == (2, 1, 64, 67)
    torch.testing.assert_close(features[:, 0], torch.log10(mel + 1e-7), atol=1e-4, rtol=0)


def test_kaldi_filters_are_kaldis_with_an_empty_nyquist_bin():
    filters = dialects.efficientat().filters
    kaldi, _ = torchaudio.compliance.kaldi.get_mel_banks(128, 1024, 32000.0, 0.0, 15000.0, 100.0, -500.0, 1.0)
    torch.testing.assert_close(filters[:, :-1], kaldi, atol=0, rtol=0)
    assert not filters[:, -1].any()


@pytest.mark.golden
def test_efficientat_features_are_those_of_the_published_code(golden: Path):
    arrays = np.load(golden / "models.npz")
    features = dialects.efficientat()(torch.from_numpy(arrays["mn04_waveform"]))
    np.testing.assert_allclose(features[:, 0].numpy(), arrays["mn04_logmel"], atol=1e-4)


@pytest.mark.golden
def test_yamnet_patches_are_those_of_the_published_weights_port(golden: Path):
    arrays = np.load(golden / "models.npz")
    features = dialects.yamnet()(torch.from_numpy(arrays["yamnet_waveform"])[None])[0, 0]
    patches = features.unfold(1, 96, 48).permute(1, 2, 0)[:, None]  # (P, 1, frames, bands): YAMNet has time first
    np.testing.assert_allclose(patches.numpy(), arrays["yamnet_patches"], atol=1e-4)


@pytest.mark.golden
@pytest.mark.parametrize(("name", "n_samples"), [("us8k", 89088), ("medley", 134144), ("gsc", 16128)])
def test_apnet_features_are_those_of_the_authors_code(golden: Path, name, n_samples):
    arrays = np.load(golden / "apnet.npz")
    audio = torch.from_numpy(arrays[f"mel/{name}/audio"])[:n_samples]
    waveforms = torch.nn.functional.pad(audio, (0, n_samples - len(audio)))[None]
    front_end = apnet(name)
    features = front_end(waveforms)
    scaled = np.swapaxes(arrays[f"mel/{name}/scaled"], 1, 2)
    np.testing.assert_allclose(features[:, 0].numpy(), scaled, atol=1e-4)
    decibels = 10 * torch.log10(front_end.decompress(features[:, 0]))
    wanted = np.swapaxes(arrays[f"mel/{name}/mel_db"], 1, 2)
    np.testing.assert_allclose(decibels.numpy(), wanted, rtol=1e-5, atol=1e-4)


# -- against the formulas ---------------------------------------------------------------------------------------------


def hz_to_mel(hz):
    return 2595 * np.log10(1 + np.asarray(hz) / 700)


def mel_to_hz(mel):
    return 700 * (10 ** (np.asarray(mel) / 2595) - 1)


def triangle(x, left, peak, right):
    if left < x <= peak:
        return (x - left) / (peak - left)
    return (right - x) / (right - peak) if peak < x < right else 0.0


@pytest.mark.parametrize("rate", [16000, 11025])
@pytest.mark.parametrize(("scale", "norm"), [("htk", None), ("htk", "slaney"), ("kaldi", None), ("htk", "mean")])
def test_each_filter_is_a_triangle_over_equal_steps_in_mel(scale, norm, rate):
    n_fft, n_mels, f_min, f_max = 512, 24, 60.0, 5000.0
    edges = np.linspace(hz_to_mel(f_min), hz_to_mel(f_max), n_mels + 2)
    expected = np.zeros((n_mels, n_fft // 2 + 1))
    for band in range(n_mels):
        corners = edges[band : band + 3] if scale == "kaldi" else mel_to_hz(edges[band : band + 3])
        for k in range(n_fft // 2 + 1):
            hz = k * rate / n_fft
            expected[band, k] = triangle(hz_to_mel(hz) if scale == "kaldi" else hz, *corners)
        if norm == "slaney":
            expected[band] *= 2 / (corners[2] - corners[0])
        if norm == "mean":
            expected[band] /= expected[band].sum()
    filters = MelBands(n_mels, f_min, f_max, mel_scale=scale, norm=norm).filters(n_fft, rate)
    np.testing.assert_allclose(filters.numpy(), expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("scale", ["htk", "slaney", "kaldi"])
def test_a_band_that_is_a_mean_sees_a_flat_spectrum_as_it_is(scale):
    filters = MelBands(30, mel_scale=scale, norm="mean").filters(1024, 16000)
    torch.testing.assert_close(filters @ torch.full((513,), 3.0), torch.full((30,), 3.0))


def test_a_single_uncentred_frame_is_the_windowed_transform_of_the_first_samples():
    waveforms = music(400, 16000, rows=1)
    frame = np.zeros(512)
    frame[:400] = waveforms[0].numpy() * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400))
    front_end = dialects.yamnet()
    expected = np.log(front_end.filters.double().numpy() @ np.abs(np.fft.rfft(frame)) + 1e-3)
    np.testing.assert_allclose(front_end(waveforms)[0, 0, :, 0].numpy(), expected, atol=1e-4)


# -- properties -------------------------------------------------------------------------------------------------------


@every_dialect
def test_a_batch_of_one_equals_a_row_of_a_batch(build):
    front_end = build()
    waveforms = music(2 * front_end.min_samples + 6000, front_end.rate, rows=3)
    whole = front_end(waveforms)
    for row in range(3):
        torch.testing.assert_close(front_end(waveforms[row : row + 1]), whole[row : row + 1], atol=1e-5, rtol=1e-5)


@every_dialect
@pytest.mark.parametrize("level", [0.0, 1e-20, 1.0])
def test_the_gradient_is_finite_from_silence_to_full_scale(build, level):
    front_end = build()
    waveforms = (level * music(front_end.min_samples + 3000, front_end.rate)).requires_grad_()
    features = front_end(waveforms)
    features.square().sum().backward()
    assert features.isfinite().all()
    assert waveforms.grad.isfinite().all()


@every_dialect
def test_the_gradient_is_that_of_finite_differences(build):
    front_end = build().double()
    waveforms = music(front_end.min_samples + 1500, front_end.rate, rows=1).double().requires_grad_()
    weights = torch.randn(front_end(waveforms).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((weights * front_end(waveforms)).sum(), waveforms)
    direction = torch.randn(waveforms.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    step = 1e-7
    with torch.no_grad():
        up, down = ((weights * front_end(waveforms + sign * step * direction)).sum() for sign in (1, -1))
    torch.testing.assert_close((gradient * direction).sum(), (up - down) / (2 * step), rtol=1e-4, atol=1e-4)


@every_dialect
def test_the_shortest_waveform_gives_one_frame_and_one_sample_less_is_refused(build):
    front_end = build()
    shortest = music(front_end.min_samples, front_end.rate)
    assert front_end(shortest).shape == (2, 1, front_end.bands.n_mels, front_end.n_frames(front_end.min_samples))
    with pytest.raises(AudioError, match=f"needs {front_end.min_samples} "):
        front_end(shortest[:, 1:])
    with pytest.raises(AudioError, match=f"needs {front_end.min_samples} "):
        front_end.grid(front_end.min_samples - 1)


def test_the_shortest_waveforms_follow_from_window_and_padding():
    shortest = {name: build().min_samples for name, build in FRONT_ENDS.items()}
    assert shortest == {
        "yamnet": 400, "efficientat": 514, "apnet_us8k": 4096, "apnet_medley": 4096, "apnet_gsc": 1024,
        "drsa_toy": 1, "reflecting": 129,
    }  # fmt: skip


@pytest.mark.parametrize("front_end", [dialects.yamnet(), Identity(rate=16000)], ids=["log-mel", "samples"])
def test_what_is_no_batch_of_float_waveforms_is_refused(front_end):
    with pytest.raises(AudioError, match=r"\(B, T\).*\(5000,\)"):
        front_end(torch.zeros(5000))
    with pytest.raises(AudioError, match="int16"):
        front_end(torch.zeros(1, 5000, dtype=torch.int16))
    with pytest.raises(AudioError, match="0 samples"):
        front_end(torch.zeros(1, 0))


@every_dialect
def test_decompress_undoes_the_logarithm_above_its_floor(build):
    front_end = build().double()
    mel = 10 ** torch.linspace(-2, 2, 60, dtype=torch.float64).reshape(1, 6, 10)
    torch.testing.assert_close(front_end.decompress(front_end.compression.apply(mel)), mel)
    assert (front_end.decompress(torch.full((1, 2, 3), -100.0)) >= 0).all()


@every_dialect
def test_state_dicts_hold_weights_only(build):
    assert not build().state_dict()


# -- axes -------------------------------------------------------------------------------------------------------------


@every_dialect
def test_the_grid_has_the_shape_of_the_features(build):
    front_end = build()
    for extra in (0, 1, 700, 5000):
        n_samples = front_end.min_samples + extra
        assert front_end.grid(n_samples).shape == tuple(front_end(torch.zeros(1, n_samples)).shape[2:])


@every_dialect
def test_a_click_peaks_in_the_frame_whose_time_is_nearest(build):
    front_end = build()
    n_samples = front_end.win_length + 12 * front_end.stft.hop_length
    grid = front_end.grid(n_samples)
    for frame in (4, 7):
        for offset in (-0.2, 0.0, 0.3):
            sample = round(float(grid.times_s[frame]) * front_end.rate + offset * front_end.stft.hop_length)
            click = torch.zeros(1, n_samples)
            click[0, sample] = 1.0
            loudness = front_end.decompress(front_end(click)[0, 0]).sum(0)
            assert loudness.argmax() == frame


@every_dialect
def test_a_sine_peaks_in_the_band_whose_centre_is_nearest(build):
    front_end = build()
    n_samples = front_end.win_length + 8 * front_end.stft.hop_length
    grid = front_end.grid(n_samples)
    # Upper half only: below, bands are narrower than the main lobe of the window. Peaks of 1 make bands comparable.
    peaks = grid.filters.amax(1)
    for band in range(front_end.bands.n_mels // 2, front_end.bands.n_mels, 5):
        time = torch.arange(n_samples, dtype=torch.float64) / front_end.rate
        sine = torch.sin(2 * torch.pi * grid.frequencies_hz[band] * time).float()[None]
        energy = front_end.decompress(front_end(sine)[0, 0, :, 4].double()) / peaks
        assert energy.argmax() == band


@every_dialect
def test_the_grid_carries_the_filters_in_hz(build):
    front_end = build()
    grid = front_end.grid(front_end.min_samples)
    bin_hz = front_end.rate / front_end.stft.n_fft
    assert grid.filter_frequencies_hz[-1] == front_end.rate / 2
    torch.testing.assert_close(grid.filters, front_end.filters.double())
    seen = grid.filters.sum(1) > 0
    centroids = (grid.filters @ grid.filter_frequencies_hz / grid.filters.sum(1))[seen]
    edges = torch.diff(grid.frequencies_hz).max()
    assert ((centroids - grid.frequencies_hz[seen]).abs() < bin_hz + edges / 2).all()


def test_frames_are_placed_by_the_peak_of_the_window():
    assert dialects.drsa_toy().grid(16000).times_s[:2].tolist() == [0.0, 0.015]
    assert dialects.yamnet().grid(16000).times_s[:2].tolist() == [0.0125, 0.0225]
    # a symmetric window peaks half a sample early, pre-emphasis comes half a sample late
    assert dialects.efficientat().grid(16000).times_s[:2].tolist() == [0.0, 0.01]


# -- the spectrogram route --------------------------------------------------------------------------------------------


def test_the_listening_stft_gives_the_same_features_where_the_stft_is_shared():
    front_end = dialects.drsa_toy()
    waveforms = music(9000, 16000)
    assert front_end.shares_stft(n_fft=480, hop_length=240, rate=16000)
    spectrum = ListeningSTFT(16000, 480, 240).forward(waveforms)
    torch.testing.assert_close(front_end.from_stft(spectrum), front_end(waveforms), atol=1e-6, rtol=0)


@pytest.mark.parametrize("numbers", [(512, 240, 16000), (480, 120, 16000), (480, 240, 22050)])
def test_an_stft_with_other_numbers_is_not_shared(numbers):
    assert not dialects.drsa_toy().shares_stft(*numbers)


@pytest.mark.parametrize(
    "stft",
    [
        Stft(480, 240, win_length=400),
        Stft(480, 240, window="hann_symmetric"),
        Stft(480, 240, padding="reflect"),
        Stft(480, 240, padding="none"),
    ],
)
def test_an_stft_that_is_cut_otherwise_is_not_shared(stft):
    toy = dialects.drsa_toy()
    front_end = LogMel(rate=16000, stft=stft, bands=toy.bands, compression=toy.compression, power=1)
    assert not front_end.shares_stft(480, 240, 16000)


def test_an_stft_after_pre_emphasis_is_not_shared():
    toy = dialects.drsa_toy()
    front_end = LogMel(rate=16000, stft=toy.stft, bands=toy.bands, compression=toy.compression, preemphasis=0.97)
    assert not front_end.shares_stft(480, 240, 16000)


@pytest.mark.parametrize(
    ("front_end", "reason"),
    [(dialects.yamnet(), "not centred"), (dialects.efficientat(), "pre-emphasis"), (Identity(rate=16000), "samples")],
)
def test_the_spectrogram_route_is_closed_with_a_reason(front_end, reason):
    with pytest.raises(ClassifierError, match=reason):
        front_end.from_stft(torch.zeros(1, 257, 10, dtype=torch.complex64))


@pytest.mark.parametrize("spectrum", [torch.zeros(1, 257, 5, dtype=torch.complex64), torch.zeros(1, 241, 5)])
def test_a_spectrum_of_another_shape_or_type_is_refused(spectrum):
    with pytest.raises(ClassifierError, match=r"\(B, 241, N\)"):
        dialects.drsa_toy().from_stft(spectrum)


# -- descriptions -----------------------------------------------------------------------------------------------------


@every_dialect
def test_a_description_survives_json_and_rebuilds_the_front_end(build):
    front_end = build()
    twin = from_description(json.loads(json.dumps(front_end.describe())))
    waveforms = music(front_end.min_samples + 2000, front_end.rate)
    assert twin.describe() == front_end.describe()
    torch.testing.assert_close(twin(waveforms), front_end(waveforms), atol=0, rtol=0)


def test_defaults_and_integers_are_described_as_their_values():
    common = {"rate": 16000, "power": 1}
    short = LogMel(stft=Stft(480, 240), bands=MelBands(64), compression=Compression("ln", 1), **common)
    full = LogMel(
        stft=Stft(480, 240, win_length=480),
        bands=MelBands(64, 0, 8000),
        compression=Compression("ln", 1.0, shift=0, scale=1),
        **common,
    )
    assert json.dumps(short.describe()) == json.dumps(full.describe())


@pytest.mark.parametrize("change", [{"type": "LogMle"}, {"n_fttf": 3}, {"window": "hamming"}, {"top_db": 80.0}])
def test_a_description_that_is_no_front_end_is_refused(change):
    with pytest.raises(ConfigurationError):
        from_description(dialects.yamnet().describe() | change)


def test_a_description_with_a_missing_parameter_is_refused():
    description = dialects.yamnet().describe()
    del description["n_mels"]
    with pytest.raises(ConfigurationError, match="n_mels"):
        from_description(description)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Stft(511, 128),
        lambda: Stft(512, 0),
        lambda: Stft(512, 128, win_length=513),
        lambda: Stft(512, 128, padding="edge"),
        lambda: MelBands(0),
        lambda: MelBands(10, 500, 400),
        lambda: MelBands(10, mel_scale="bark"),
        lambda: MelBands(10, mel_scale="kaldi", norm="slaney"),
        lambda: Compression("log2", 1e-5),
        lambda: Compression("ln", 0.0),
        lambda: Compression("ln", 1e-5, scale=0.0),
        lambda: dialects.apnet_urbansound8k(min_db=3.0, max_db=3.0),
        lambda: LogMel(rate=8000, stft=Stft(64, 32), bands=MelBands(8, 0, 4001), compression=Compression("ln", 1)),
        lambda: LogMel(rate=8000, stft=Stft(64, 32), bands=MelBands(8), compression=Compression("db", 1), power=1),
        lambda: LogMel(rate=8000, stft=Stft(64, 32), bands=MelBands(8), compression=Compression("ln", 1), power=3),
        lambda: Identity(rate=0),
    ],
)
def test_settings_that_cannot_be_are_refused(build):
    with pytest.raises(ConfigurationError):
        build()


# -- samples ----------------------------------------------------------------------------------------------------------


def test_a_network_that_eats_samples_gets_them_unchanged():
    front_end = Identity(rate=16000)
    waveforms = music(1000, 16000)
    assert torch.equal(front_end(waveforms), waveforms[:, None])
    assert front_end.grid(1000) is None
    assert not front_end.shares_stft(480, 240, 16000)
    assert from_description(front_end.describe()).rate == 16000


@pytest.mark.parametrize("front_end", [dialects.yamnet(), Identity(rate=16000)], ids=["log-mel", "samples"])
def test_both_front_ends_fulfil_the_protocol(front_end):
    assert isinstance(front_end, FrontEnd)
