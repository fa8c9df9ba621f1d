"""Mixtures and noise: levels, sources, seeds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import soundfile
import torch

from earwitness.clips import Clip, Dataset, Entry
from earwitness.errors import AudioError, DatasetError, PluginError, SilentAudioError
from earwitness_bench.datasets.mixing import dataset_of
from earwitness_bench.datasets.mixtures import Mixtures, Noisy
from earwitness_bench.datasets.noise import NOISES, NoiseFolder, at_snr, babble, pink, white
from earwitness_bench.datasets.toy import Toy

RATE = 16000


class Tones:
    """Twelve tones of three classes, four recordings each."""

    labels: tuple[str, ...] = ("low", "middle", "high")

    def __init__(self, prefix: str, *, rate: int = 8000, n_samples: int = 4000, reverse: bool = False) -> None:
        self.rate = rate
        self.notes: Sequence[str] = ()
        numbers = range(12)[::-1] if reverse else range(12)
        self.numbers = list(numbers)
        self.entries: Sequence[Entry] = [
            Entry(f"{prefix}{i}", f"{prefix}{i // 2}", (self.labels[i % 3],), n_samples, f"{prefix}{i}")
            for i in numbers
        ]

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Clip:
        entry = self.entries[index]
        seconds = torch.arange(entry.n_samples) / self.rate
        level = 0.1 + 0.05 * self.numbers[index]
        wave = level * torch.sin(2 * np.pi * (200 + 40 * self.numbers[index]) * seconds)
        return Clip(wave, self.rate, entry.clip_id, entry.group, entry.labels)


def summed(clip: Clip) -> torch.Tensor:
    return torch.stack([source.waveform for source in clip.sources.values()]).sum(0)


def db(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(10 * torch.log10(first.double().square().sum() / second.double().square().sum()))


def test_a_mixture_is_its_two_sources_at_twelve_decibels():
    data = Mixtures(foreground=Tones("f"), background=Tones("b"))
    assert isinstance(data, Dataset)
    assert len(data) == 24
    for i in range(len(data)):
        clip = data[i]
        assert (summed(clip) - clip.waveform).abs().max() < 1e-6
        assert clip.waveform.abs().max() == pytest.approx(1)
        front, back = clip.sources["foreground"], clip.sources["background"]
        assert db(front.waveform, back.waveform) == pytest.approx(20 * np.log10(4), abs=1e-4)
        assert (front.label, back.label) == clip.labels == data.entries[i].labels
        assert clip.clip_id == data.entries[i].clip_id
        assert clip.group == data.entries[i].group


def test_the_background_is_of_another_class_unless_allowed():
    other = Mixtures(foreground=Tones("f"), background=Tones("b"), pairs_per_clip=8)
    assert all(len(entry.labels) == 2 for entry in other.entries)
    any_class = Mixtures(foreground=Tones("f"), background=Tones("b"), pairs_per_clip=12, same_class=True)
    assert any(len(entry.labels) == 1 for entry in any_class.entries)


def test_a_clip_is_never_mixed_with_its_own_recording():
    data = Tones("x")
    mixed = Mixtures(foreground=data, background=data, pairs_per_clip=10, same_class=True)
    groups = {entry.clip_id: entry.group for entry in data.entries}
    for entry in mixed.entries:
        front, back = entry.clip_id.split("+")
        assert groups[front] != groups[back]
    with pytest.raises(DatasetError, match=r"needs 11 backgrounds.*has 10.*pairs_per_clip"):
        Mixtures(foreground=data, background=data, pairs_per_clip=11, same_class=True)


def test_pairs_depend_on_seed_and_clip_only():
    first = Mixtures(foreground=Tones("f"), background=Tones("b"))
    reordered = Mixtures(foreground=Tones("f", reverse=True), background=Tones("b", reverse=True))
    more = Mixtures(foreground=Tones("f"), background=Tones("b"), pairs_per_clip=3)
    assert {e.clip_id for e in first.entries} == {e.clip_id for e in reordered.entries}
    assert {e.clip_id for e in first.entries} < {e.clip_id for e in more.entries}
    assert first.entries != Mixtures(foreground=Tones("f"), background=Tones("b"), seed=1).entries
    twin = next(i for i, entry in enumerate(reordered.entries) if entry.clip_id == first.entries[5].clip_id)
    assert torch.equal(first[5].waveform, reordered[twin].waveform)
    assert first.entries[5] == reordered.entries[twin]


def test_weights_enter_sound_and_fingerprint():
    plain = Mixtures(foreground=Tones("f"), background=Tones("b"))
    even = Mixtures(foreground=Tones("f"), background=Tones("b"), weights=[0.5, 0.5])
    sources = even[0].sources
    assert db(sources["foreground"].waveform, sources["background"].waveform) == pytest.approx(0, abs=1e-4)
    assert plain.entries[0].fingerprint != even.entries[0].fingerprint


def test_a_background_of_another_rate_and_length_is_fitted_and_said_so():
    data = Mixtures(foreground=Tones("f"), background=Tones("b", rate=16000, n_samples=4000), pairs_per_clip=1)
    clip = data[0]
    assert clip.waveform.shape == (4000,)
    assert clip.sources["background"].waveform[2100:].abs().max() == 0
    assert "Backgrounds were resampled from 16000 to 8000 Hz." in data.notes
    assert any("12 zero-padded by up to 0.25 s" in note for note in data.notes)


def test_known_parts_of_the_parts_are_kept():
    data = Mixtures(
        foreground=Toy(clips=2, split="test"), background={"name": "toy", "clips": 4, "seed": 3}, pairs_per_clip=1
    )
    clip = data[0]
    assert (summed(clip) - clip.waveform).abs().max() < 1e-6
    assert clip.sources["foreground/random_sounds"].label is None
    target = clip.labels[0]
    assert any(name.startswith("foreground/") and s.label == target for name, s in clip.sources.items())


def test_data_sets_are_built_from_plain_values():
    assert len(dataset_of({"name": "toy", "clips": 3})) == 3
    assert len(dataset_of("toy")) == 200
    with pytest.raises(DatasetError, match=r"'toy' .*'clip'.*parameters are: clips, split, seed, noise"):
        dataset_of({"name": "toy", "clip": 3})
    with pytest.raises(DatasetError, match="'name'"):
        dataset_of({"clips": 3})
    with pytest.raises(DatasetError, match="got 7"):
        dataset_of(7)
    with pytest.raises(PluginError, match="Did you mean 'toy'"):
        dataset_of("toyy")


@pytest.mark.parametrize("parameters", [{"weights": (1,)}, {"weights": (0.8, 0)}, {"pairs_per_clip": 0}])
def test_mixtures_refuse_parameters_out_of_range(parameters):
    with pytest.raises(DatasetError, match=next(iter(parameters))):
        Mixtures(foreground=Tones("f"), background=Tones("b"), **parameters)


@pytest.mark.parametrize("noise", ["white", "pink", "babble"])
@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_has_the_asked_snr_and_the_clean_clip_is_kept(noise, snr_db):
    data = Noisy(clean=Tones("c"), noise=noise, snr_db=snr_db)
    clip = data[4]
    clean, added = clip.sources["clean"], clip.sources["noise_at_snr"]
    assert db(clean.waveform, added.waveform) == pytest.approx(snr_db, abs=1e-4)
    assert (summed(clip) - clip.waveform).abs().max() < 1e-6
    assert (clean.label, added.label) == (clip.labels[0], None)
    assert clip.waveform.abs().max() <= 1 + 1e-6
    assert clip.clip_id == data.entries[4].clip_id == f"c4@{noise}{snr_db:+g}dB"


def test_noise_follows_seed_and_clip_not_the_order():
    first, reordered = Noisy(clean=Tones("c")), Noisy(clean=Tones("c", reverse=True))
    assert torch.equal(first[2].waveform, reordered[9].waveform)
    assert first.entries[2] == reordered.entries[9]
    other = Noisy(clean=Tones("c"), seed=1)
    assert not torch.equal(first[2].waveform, other[2].waveform)
    assert first.entries[2].fingerprint != other.entries[2].fingerprint
    assert not torch.equal(first[2].sources["noise_at_snr"].waveform, first[3].sources["noise_at_snr"].waveform)


def test_a_quiet_clip_in_noise_keeps_its_level():
    clean = Tones("c")
    assert torch.equal(Noisy(clean=clean, snr_db=30)[0].sources["clean"].waveform, clean[0].waveform)


def test_noise_of_a_folder_is_cut_resampled_and_fingerprinted(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).uniform(-0.5, 0.5, (44100, 2)), 44100)
    soundfile.write(tmp_path / "short.flac", np.random.default_rng(1).uniform(-0.5, 0.5, 500), 8000)
    (tmp_path / "broken.wav").write_text("no sound")
    data = Noisy(clean=Tones("c"), noise=tmp_path, snr_db=3)
    for i in range(len(data)):
        sources = data[i].sources
        assert db(sources["clean"].waveform, sources["noise_at_snr"].waveform) == pytest.approx(3, abs=1e-4)
    assert any("broken.wav" in note for note in data.notes)
    before = data.entries[0].fingerprint
    soundfile.write(tmp_path / "short.flac", np.random.default_rng(2).uniform(-0.5, 0.5, 600), 8000)
    assert Noisy(clean=Tones("c"), noise=tmp_path, snr_db=3).entries[0].fingerprint != before


def test_a_noise_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="Did you mean 'pink'"):
        Noisy(clean=Tones("c"), noise="pinc")
    with pytest.raises(DatasetError, match="holds no sound file"):
        NoiseFolder(tmp_path)
    with pytest.raises(DatasetError, match="finite"):
        Noisy(clean=Tones("c"), snr_db=float("nan"))
    soundfile.write(tmp_path / "silence.wav", np.zeros(9000), 8000)
    with pytest.raises(DatasetError, match="silent"):
        NoiseFolder(tmp_path)(4000, 8000, np.random.default_rng(0))


def test_silence_has_no_snr():
    noise = torch.randn(100)
    with pytest.raises(SilentAudioError, match="signal is silent"):
        at_snr(torch.zeros(100), noise, 10)
    with pytest.raises(SilentAudioError, match="noise is silent"):
        at_snr(noise, torch.zeros(100), 10)
    with pytest.raises(AudioError, match=r"\(100,\) and \(99,\)"):
        at_snr(noise, noise[1:], 10)


@pytest.mark.parametrize("name", sorted(NOISES))
def test_noise_is_seeded_and_of_unit_rms_at_any_length_and_rate(name):
    for n_samples, rate in ((2, 8000), (4001, 8000), (44100, 44100)):
        first, again = (NOISES[name](n_samples, rate, np.random.default_rng(5)) for _ in range(2))
        assert torch.equal(first, again)
        assert first.shape == (n_samples,)
        assert first.dtype == torch.float32
        assert first.square().mean() == pytest.approx(1, rel=1e-4)
    with pytest.raises(AudioError, match="at least 2 samples"):
        NOISES[name](1, 8000, np.random.default_rng(5))


def slope_db_per_octave(noise: torch.Tensor, low_hz: float, high_hz: float) -> float:
    power = torch.fft.rfft(noise.double()).abs().square().numpy()
    hz = np.fft.rfftfreq(len(noise), 1 / RATE)
    edges = np.geomspace(low_hz, high_hz, 12)
    bands = [power[(hz >= a) & (hz < b)].mean() for a, b in itertools.pairwise(edges)]
    return float(np.polyfit(np.log2(np.sqrt(edges[:-1] * edges[1:])), 10 * np.log10(bands), 1)[0])


def test_white_noise_is_flat_and_pink_falls_three_decibels_an_octave():
    generator = np.random.default_rng(0)
    assert slope_db_per_octave(white(10 * RATE, RATE, generator), 40, 7000) == pytest.approx(0, abs=0.15)
    noise = pink(10 * RATE, RATE, generator)
    assert slope_db_per_octave(noise, 40, 7000) == pytest.approx(-3.01, abs=0.15)
    assert torch.fft.rfft(noise)[:190].abs().max() < 1  # nothing below 20 Hz (bin 200)


def syllabic_share(noise: torch.Tensor) -> float:
    """Share of the envelope's modulation below 50 Hz that lies between 2 and 8 Hz."""
    envelope = noise.double().abs().reshape(-1, 100).mean(1)  # 160 values a second
    power = torch.fft.rfft(envelope - envelope.mean()).abs().square()
    hz = torch.fft.rfftfreq(len(envelope), 100 / RATE)
    return float(power[(hz >= 2) & (hz <= 8)].sum() / power[hz <= 50].sum())


def test_babble_moves_at_the_rate_of_syllables_in_the_band_of_speech():
    generator = np.random.default_rng(0)
    noise = babble(10 * RATE, RATE, generator)
    assert syllabic_share(noise) > 2 * syllabic_share(white(10 * RATE, RATE, generator))
    power = torch.fft.rfft(noise).abs().square()
    hz = torch.fft.rfftfreq(len(noise), 1 / RATE)
    assert power[(hz > 100) & (hz < 4000)].sum() > 0.9 * power.sum()
