"""The toy data: its primitives, its ground truth, and that a clip is the same wherever it is generated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from earwitness.clips import Dataset
from earwitness.errors import DatasetError
from earwitness_bench.datasets import toy_objects as objects
from earwitness_bench.datasets.toy import Toy

TWO_PI = 2 * np.pi


def explained(waveform: np.ndarray, columns: list[np.ndarray], low_hz: int, high_hz: int) -> float:
    """Share of a band's energy that the best linear combination of columns explains."""
    target = np.fft.rfft(waveform)[low_hz : high_hz + 1]
    basis = np.stack([np.fft.rfft(column)[low_hz : high_hz + 1] for column in columns], 1)
    basis, target = np.concatenate([basis.real, basis.imag]), np.concatenate([target.real, target.imag])
    weights = np.linalg.lstsq(basis, target, rcond=None)[0]
    return float(1 - np.sum((target - basis @ weights) ** 2) / np.sum(target**2))


def quadrature(frequency_hz: float) -> list[np.ndarray]:
    return [objects.carrier(frequency_hz=frequency_hz, amplitude=1, phase=phase) for phase in (0, np.pi / 2)]


@pytest.fixture(scope="module")
def published(golden: Path) -> np.ndarray:
    return np.load(golden / "toy.npz")["wav"]


@pytest.mark.golden
@pytest.mark.parametrize(
    ("sample", "frequency_hz", "rate_hz", "shift", "phase", "band"),
    [
        (1, 106, 4, 0, 5.3756, (60, 160)),  # class2's bass
        (3, 114, 6, 0, 2.5133, (50, 250)),
        (1, 4359, 10, 1, 3.7001, (4300, 4420)),  # class2's high tone
        (3, 4381, 10, 1, 3.6652, (4300, 4450)),
        (2, 998, 5, 0.75, 5.3058, (900, 1100)),  # class1's harmonic, fundamental and octave
        (2, 1996, 5, 0.75, 5.3058, (1900, 2100)),
    ],
)
def test_bumps_and_tremolos_are_those_of_the_published_samples(
    published, sample, frequency_hz, rate_hz, shift, phase, band
):
    envelope = objects.bumps(rate_hz=rate_hz, phase=phase, shift=shift)
    columns = [envelope * wave for wave in quadrature(frequency_hz)]
    assert explained(published[sample], columns, *band) > 0.999
    other = objects.bumps(rate_hz=rate_hz + 1, phase=phase, shift=shift)
    assert explained(published[sample], [other * wave for wave in quadrature(frequency_hz)], *band) < 0.95


@pytest.mark.golden
def test_the_rising_saw_is_that_of_the_published_sample(published):
    def share(rising: bool) -> float:
        envelope = objects.saw(rate_hz=2, phase=3.8746, rising=rising)
        return explained(published[0], [envelope * wave for wave in quadrature(503)], 400, 620)

    assert share(rising=True) > 0.9999
    assert share(rising=False) < 0.8


@pytest.mark.golden
def test_the_melody_is_that_of_the_published_sample(published):
    def share(first_bump: int) -> float:
        columns = []
        for bump in range(12):
            for phase in (0, np.pi / 2):
                amplitudes, phases = np.eye(12)[bump], np.full(12, phase)
                columns.append(
                    objects.melody(
                        base_hz=801,
                        bump_rate_hz=16,
                        bump_phase=5.086,
                        first_bump=first_bump,
                        amplitudes=amplitudes,
                        phases=phases,
                    )[0]
                )
        return explained(published[1], columns, 750, 1450)

    assert share(2) > 0.999
    assert share(1) < 0.95
    assert share(3) < 0.95


def test_a_rising_saw_swells_and_a_falling_one_dies_away():
    for rising, sign in ((True, 1), (False, -1)):
        envelope = objects.saw(rate_hz=2, phase=1.0, rising=rising)
        steps = np.diff(envelope)
        assert np.mean(np.sign(steps) == sign) > 0.95
        assert np.abs(steps).max() < 0.02  # without its ramp the edge would be a step of almost 1
        assert envelope.min() >= 0
        assert envelope.max() <= 1


def test_the_gate_opens_and_closes_where_the_bass_is_silent():
    for seed in range(20):
        sound = objects.draw_gated_bass(np.random.default_rng(seed))
        ungated = objects.bumps(rate_hz=16, phase=sound.parameters["bump_phase"], shift=0)
        changed = np.flatnonzero(np.diff((sound.envelope > 0) != (ungated > 0)))
        assert 0.2 < (sound.envelope > 0).mean() < 0.3  # half of the time bumps, half of these gated away
        assert np.all(ungated[changed] < 0.01)


def test_the_harmonic_has_its_fundamental_twice_and_its_octave_once():
    tone = objects.harmonic_tone(frequency_hz=900, amplitude=0.8, phases=(0, 0, 0))
    spectrum = np.abs(np.fft.rfft(tone)) / 8000
    assert spectrum[[900, 1800]] == pytest.approx([0.8 * 1.5, 0.8 * 0.25])
    opposed = objects.harmonic_tone(frequency_hz=900, amplitude=0.8, phases=(0, np.pi, 0))
    assert np.abs(np.fft.rfft(opposed))[900] / 8000 == pytest.approx(0.8 * 0.5)


def test_a_melody_that_begins_before_the_clip_plays_what_lies_inside_it():
    flat = {"amplitudes": np.ones(12), "phases": np.zeros(12)}
    wave, envelope = objects.melody(base_hz=900, bump_rate_hz=16, bump_phase=1.0, first_bump=0, **flat)
    assert envelope[0] == pytest.approx(np.sin(1.0))
    assert np.abs(wave[:200]).max() > 0.5
    assert np.flatnonzero(envelope)[-1] < 12000  # the twelfth bump has ended


def test_a_melody_plays_six_steps_up_and_down():
    wave, _ = objects.melody(
        base_hz=900, bump_rate_hz=16, bump_phase=0, first_bump=0, amplitudes=np.ones(12), phases=np.zeros(12)
    )
    heard = [int(np.argmax(np.abs(np.fft.rfft(wave[1000 * i : 1000 * i + 1000], 16000)))) for i in range(6)]
    assert heard == pytest.approx([900, 1100, 1300, 1500, 1300, 1100], abs=3)


def test_sources_sum_to_the_mixture_and_objects_carry_its_class():
    data = Toy(clips=60, split="all")
    for index in range(60):
        clip = data[index]
        total = torch.stack([source.waveform for source in clip.sources.values()]).sum(0)
        assert (total - clip.waveform).abs().max() < 1e-6
        assert clip.waveform.abs().max() == pytest.approx(1)
        assert clip.waveform.dtype == torch.float32
        labels = {name: source.label for name, source in clip.sources.items()}
        assert labels.pop("random_sounds") is None
        assert labels.pop("noise") is None
        assert 1 <= len(labels) <= 4
        assert set(labels.values()) == set(clip.labels)
        assert set(labels) <= set(objects.CLASS_OBJECTS[clip.labels[0]])


def test_an_object_is_silent_where_its_envelope_is_zero():
    data = Toy(clips=40)
    for index in range(40):
        for sound in data.scene(index).objects.values():
            assert np.all(sound.waveform[sound.envelope == 0] == 0)
            assert 0 <= sound.envelope.min() <= sound.envelope.max() <= 1


def test_random_sounds_keep_away_from_both_classes_and_do_not_alias():
    generator = np.random.default_rng(0)
    drawn = np.array([objects.draw_random_frequency(generator) for _ in range(5000)])
    assert drawn.min() >= 1
    assert drawn.max() <= 7900
    for low, high in ((50, 201), (450, 651), (750, 2052), (3450, 4551)):
        assert not np.any((drawn >= low) & (drawn <= high))


def test_objects_stay_inside_the_bands_that_random_sounds_avoid():
    margin = 60  # side bands of the modulation
    allowed = np.zeros(8001, bool)
    for low, high in objects.OBJECT_BANDS_HZ:
        allowed[low - margin : high + margin + 1] = True
    for label, makers in objects.CLASS_OBJECTS.items():
        for name, make in makers.items():
            for seed in range(10):
                power = np.abs(np.fft.rfft(make(np.random.default_rng(seed)).waveform)) ** 2
                assert power[allowed].sum() > 0.995 * power.sum(), (label, name)


def test_a_clip_is_the_same_whatever_the_order_and_the_number():
    few, many = Toy(clips=6, split="test"), Toy(clips=40, split="test")
    last = many[39]
    for index in (5, 0, 3):
        assert few.entries[index] == many.entries[index]
        assert torch.equal(few[index].waveform, many[index].waveform)
    assert torch.equal(many[39].waveform, last.waveform)
    everything = Toy(clips=200, split="all")
    by_id = {entry.clip_id: index for index, entry in enumerate(everything.entries)}
    assert torch.equal(everything[by_id[few.entries[4].clip_id]].waveform, few[4].waveform)


def test_splits_are_disjoint_balanced_and_seven_to_one_to_two():
    everything = {entry.clip_id for entry in Toy(clips=200, split="all").entries}
    parts = [
        {entry.clip_id for entry in Toy(clips=n, split=split).entries}
        for split, n in (("train", 140), ("validation", 20), ("test", 40))
    ]
    assert set.union(*parts) == everything
    assert sum(map(len, parts)) == len(everything) == 200
    labels = [entry.labels[0] for entry in Toy(clips=50, split="validation").entries]
    assert labels.count("class1") == labels.count("class2") == 25


def test_seeds_and_noise_change_the_samples_and_the_fingerprint():
    first, second, louder = Toy(clips=1), Toy(clips=1, seed=1), Toy(clips=1, noise=0.1)
    fingerprints = {data.entries[0].fingerprint for data in (first, second, louder)}
    assert len(fingerprints) == 3
    assert not torch.equal(first[0].waveform, second[0].waveform)
    ratio = louder[0].sources["noise"].waveform.norm() / first[0].sources["noise"].waveform.norm()
    assert 5 < ratio < 11
    assert "noise" not in Toy(clips=1, noise=0)[0].sources


def test_the_number_of_objects_can_be_asked_for():
    full, two = Toy(clips=6, objects=4), Toy(clips=6, objects=2)
    for data, count in ((full, 4), (two, 2)):
        for index in range(6):
            clip = data[index]
            own = [source for source in clip.sources.values() if source.label == clip.labels[0]]
            assert len(own) == count
            assert torch.allclose(sum(source.waveform for source in clip.sources.values()), clip.waveform, atol=1e-5)
    prints = {data.entries[0].fingerprint for data in (full, two, Toy(clips=6))}
    assert len(prints) == 3


def test_it_is_a_dataset_and_lists_its_entries_without_generating(monkeypatch):
    monkeypatch.setattr(objects, "carrier", None)
    data = Toy(clips=30)
    assert isinstance(data, Dataset)
    assert len(data) == len(data.entries) == 30
    assert {entry.n_samples for entry in data.entries} == {16000}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"split": "tests"}, "one of train, validation, test, all, got 'tests'"),
        ({"clips": 0}, "at least 1 clip"),
        ({"noise": -1.0}, "standard deviation"),
        ({"noise": float("nan")}, "standard deviation"),
        ({"objects": 5}, "1 to 4 objects, got objects=5"),
        ({"objects": True}, "1 to 4 objects"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, message):
    with pytest.raises(DatasetError, match=message):
        Toy(**parameters)
