"""From a mask to the classifier: each passage against the long way, and decoders over maps of any size."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from earwitness.audio.dialects import efficientat
from earwitness.audio.front_end import LogMel
from earwitness.audio.lifting import lift_mask
from earwitness.audio.masking import mask_to_gain, rest_gain
from earwitness.audio.mel import Compression, MelBands, Stft
from earwitness.classifier import AudioClassifier
from earwitness.errors import AudioError, CheckpointError, ConfigurationError
from earwitness.explanation import Scale
from earwitness.random import Random
from earwitness.render import Scene
from earwitness_plugins.lmac.decoder import MaskDecoder
from earwitness_plugins.lmac.masks import answer
from earwitness_plugins.lmac.noise import GeneratedNoise, NoiseFolder, OtherClips, find_noise, with_noise
from earwitness_plugins.lmac.passages import (
    BandPassage,
    FeaturePassage,
    SpectrumPassage,
    WaveformPassage,
    coarse_grid,
    passage_of,
)
from earwitness_plugins.lmac.swift import swift
from networks import N_SAMPLES, RATE, OneEach, batch_of, classifier_of, noise, wave_classifier_of


def front_end(power: int) -> LogMel:
    compression = Compression("ln", 1e-4, shift=3.0)
    return LogMel(rate=RATE, stft=Stft(256, 128), bands=MelBands(16), compression=compression, power=power)  # type: ignore[arg-type]


def coarse_masks(classifier: AudioClassifier, n_rows: int = 4, n_samples: int = N_SAMPLES) -> Tensor:
    shape = coarse_grid(classifier, n_samples).shape
    return torch.rand(n_rows, *shape, generator=torch.Generator().manual_seed(3))


def lifted(mask: Tensor, classifier: AudioClassifier, n_samples: int = N_SAMPLES) -> Tensor:
    return lift_mask(mask, coarse_grid(classifier, n_samples), classifier.listening.grid(n_samples))


# --- passages


@pytest.mark.parametrize(("power", "n_samples"), product((1, 2), (N_SAMPLES, 3000, 5003)))
def test_gains_over_bands_are_gains_on_the_listening_stft(power: int, n_samples: int) -> None:
    own = classifier_of(OneEach(), front_end=front_end(power))
    waveforms, mask = noise(4, n_samples=n_samples), coarse_masks(own, n_samples=n_samples)
    passage = passage_of(own, n_samples, domain="stft", scale="magnitude", binarize=False)
    assert isinstance(passage, BandPassage)
    clips, n_frames = passage.analysed(waveforms), coarse_grid(own, n_samples).shape[1]
    spectrum, gain = own.listening.forward(waveforms), lifted(mask, own, n_samples)
    for of_bands, of_bins in ((mask, gain), (1 - mask, 1 - gain)):
        wanted = own.front_end.from_stft((of_bins * spectrum)[:, :, :n_frames])
        assert torch.allclose(passage.features(of_bands, clips), wanted, atol=1e-4)
    assert passage.extent(mask).tolist() == pytest.approx(gain[:, :, :n_frames].mean((1, 2)).tolist(), rel=1e-5)


def test_the_gradient_of_a_band_passage_is_that_of_the_long_way() -> None:
    own = classifier_of(OneEach())
    waveforms, mask = noise(2), coarse_masks(own, 2)
    ways = BandPassage(own, N_SAMPLES), SpectrumPassage(own, N_SAMPLES, "magnitude")
    gradients = []
    for way in ways:
        leaf = mask.clone().requires_grad_()
        features = way.features(way.spread(leaf), way.analysed(waveforms))
        gradients.append(torch.autograd.grad(own.logits_of_features(features)[:, 0].sum(), leaf)[0])
    assert torch.allclose(*gradients, atol=1e-3 * float(gradients[1].abs().max()))
    assert float(gradients[0].abs().max()) > 0


def test_energy_on_bands_is_all_the_energy_that_they_hear() -> None:
    own = classifier_of()
    passage = BandPassage(own, N_SAMPLES, budgets=True)
    waveforms = noise(2)
    heard = lifted(torch.ones_like(coarse_masks(own, 2)), own) * own.listening.forward(waveforms).abs().square()
    found = passage.energy(passage.analysed(waveforms)).sum((1, 2))
    assert found.tolist() == pytest.approx(heard.sum((1, 2)).tolist(), rel=1e-4)


@pytest.mark.parametrize("binarize", [False, True])
def test_exponents_and_binary_masks_take_the_long_way(binarize: bool) -> None:
    own, scale = classifier_of(), "magnitude" if binarize else "log1p"
    passage = passage_of(own, N_SAMPLES, domain="stft", scale=scale, binarize=binarize)  # type: ignore[arg-type]
    assert isinstance(passage, SpectrumPassage)
    batch = batch_of(2)
    clips, mask = passage.analysed(batch.waveforms), passage.spread(coarse_masks(own, 2))
    gain = mask_to_gain(mask, clips, scale)  # type: ignore[arg-type]
    scene = Scene(own, batch, own.listening, "spectrogram")
    for given, wanted in ((mask, gain), (1 - mask, rest_gain(gain, clips, scale))):  # type: ignore[arg-type]
        found = own.probabilities_of(own.logits_of_features(passage.features(given, clips)))
        assert torch.allclose(found, scene.probabilities(wanted), atol=1e-4)


def test_a_classifier_with_another_stft_hears_the_sound() -> None:
    own = classifier_of(front_end=efficientat())
    n_samples = own.rate // 2
    passage = passage_of(own, n_samples, domain="stft", scale="magnitude", binarize=True)
    assert isinstance(passage, WaveformPassage)
    waveforms = noise(2, n_samples=n_samples)
    mask = passage.spread(coarse_masks(own, 2, n_samples))
    heard = own.listening.inverse(mask * own.listening.forward(waveforms), n_samples)
    clips = passage.analysed(waveforms)
    assert torch.allclose(passage.features(mask, clips), own.features(heard), atol=1e-4)
    assert torch.allclose(passage.energy(clips), clips.abs().square(), rtol=1e-4)


def test_gains_over_the_bands_of_another_stft_are_nearly_what_is_heard_of_the_sound() -> None:
    own = classifier_of(front_end=efficientat())
    n_samples = own.rate // 2
    near, sound = BandPassage(own, n_samples), WaveformPassage(own, n_samples, "magnitude")
    assert isinstance(passage_of(own, n_samples, domain="stft", scale="magnitude"), BandPassage)
    waveforms = noise(2, n_samples=n_samples)
    masks = coarse_masks(own, 2, n_samples)
    smooth = torch.nn.functional.avg_pool2d(masks[:, None], (9, 9), 1, 4, count_include_pad=False)[:, 0]
    whole = near.features(torch.ones_like(masks), near.analysed(waveforms))
    assert torch.allclose(whole, own.features(waveforms), atol=1e-4)
    found = near.features(smooth, near.analysed(waveforms))
    heard = sound.features(sound.spread(smooth), sound.analysed(waveforms))
    assert float((found - heard).abs().mean()) < 0.03 * float((whole - heard).abs().mean())
    assert near.extent(smooth).tolist() == pytest.approx(sound.extent(sound.spread(smooth)).tolist(), rel=0.01)


@pytest.mark.parametrize("scale", ["magnitude", "log1p"])
def test_heard_and_rest_of_a_sound_are_the_features_of_a_mask_and_its_remainder(scale: Scale) -> None:
    own = classifier_of(front_end=efficientat())
    n_samples = own.rate // 2
    passage = WaveformPassage(own, n_samples, scale)
    mask = passage.spread(coarse_masks(own, 2, n_samples)).requires_grad_()
    clips = passage.analysed(noise(2, n_samples=n_samples))
    short = torch.cat(passage.heard_and_rest(mask, clips))
    long = torch.cat([passage.features(mask, clips), passage.features(1 - mask, clips)])
    assert torch.allclose(short, long, atol=1e-4)
    direction = torch.randn(long.shape, generator=torch.Generator().manual_seed(4))
    gradients = [torch.autograd.grad(each, mask, direction)[0] for each in (short, long)]
    assert torch.allclose(*gradients, atol=1e-3 * float(gradients[1].abs().max()))


@pytest.mark.parametrize("power", [1, 2])
def test_a_mask_over_features_is_a_gain_of_bands(power: int) -> None:
    own = classifier_of(front_end=front_end(power))
    passage = passage_of(own, N_SAMPLES, domain="features", scale="magnitude", binarize=False)
    assert isinstance(passage, FeaturePassage)
    waveforms, mask = noise(2), coarse_masks(own, 2)
    clips = passage.analysed(waveforms)
    assert torch.allclose(passage.features(torch.ones_like(mask), clips), own.features(waveforms), atol=1e-4)
    halved = own.features(waveforms / 2)
    assert torch.allclose(passage.features(torch.full_like(mask, 0.5), clips), halved, atol=1e-4)


def test_samples_have_no_features_to_mask() -> None:
    with pytest.raises(ConfigurationError, match="log-mel front end; small has Identity"):
        passage_of(wave_classifier_of(), N_SAMPLES, domain="features", scale="magnitude", binarize=False)


def test_the_swift_classifier_says_the_same() -> None:
    own = classifier_of(OneEach())
    features = own.features(noise(3))
    swifter = swift(own, features)
    assert swifter is not own
    assert [type(module).__name__ for module in swifter.network.features[2:4]] == ["MaxPool2d", "ReLU"]
    assert [type(module).__name__ for module in own.network.features[2:4]] == ["ReLU", "MaxPool2d"]
    assert torch.equal(swifter.logits_of_features(features), own.logits_of_features(features))


# --- the decoder


CLASSES = torch.tensor([2, 0])


def decoder_of(maps: list[Tensor], *, width: int = 16, bands: int = 0, classes: int = 0, seed: int = 0) -> MaskDecoder:
    decoder = MaskDecoder([each.shape[1] for each in maps], width, bands=bands, classes=classes)
    decoder.initialise(maps, seed=seed)
    return decoder


def maps_of(*shapes: tuple[int, int, int], n_rows: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(n_rows, *shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize(
    "shapes",
    [
        [(3, 32, 51), (4, 16, 26), (6, 8, 13), (6, 8, 13)],
        [(3, 9, 7)],
        [(4, 1, 40), (6, 1, 11)],
        [(3, 5, 5), (4, 64, 99)],
    ],
)
@pytest.mark.parametrize("grid", [(64, 101), (16, 7)])
def test_a_decoder_takes_maps_of_any_size_to_any_grid(
    shapes: list[tuple[int, int, int]], grid: tuple[int, int]
) -> None:
    maps = maps_of(*shapes)
    bands = grid[0] if shapes[0][1] == 1 else 0
    logits = decoder_of(maps, bands=bands)(maps, grid, CLASSES).detach()
    assert tuple(logits.shape) == (2, *grid)
    assert float(logits.std()) > 0
    if bands:
        assert float(logits.std(dim=1).max()) > 0  # frequency is there, though no map has it


def test_a_decoder_sees_each_row_alone_whatever_the_level_of_its_maps() -> None:
    maps = maps_of((3, 16, 20), (4, 8, 10))
    loud = [1000 * each for each in maps]
    decoder = decoder_of(maps, classes=3)
    found = decoder(maps, (16, 20), CLASSES)
    assert torch.allclose(found[1:], decoder([each[1:] for each in maps], (16, 20), CLASSES[1:]), atol=1e-5)
    assert torch.allclose(decoder_of(loud, classes=3)(loud, (16, 20), CLASSES), found, atol=1e-4)


def test_a_decoder_sees_the_whole_clip_and_the_class_it_is_told() -> None:
    maps = maps_of((3, 16, 40), (4, 8, 20), n_rows=1)
    elsewhere = [each.clone() for each in maps]
    for each in elsewhere:
        each[..., -each.shape[3] // 4 :] = 0
    told, untold = decoder_of(maps, classes=3), decoder_of(maps)
    first, other = torch.tensor([0]), torch.tensor([1])
    start = (..., slice(0, 4))
    assert not torch.allclose(untold(maps, (16, 40), first)[start], untold(elsewhere, (16, 40), first)[start])
    assert torch.equal(untold(maps, (16, 40), first), untold(maps, (16, 40), other))
    assert not torch.allclose(told(maps, (16, 40), first), told(maps, (16, 40), other))
    own = classifier_of()
    with pytest.raises(CheckpointError, match=f"for {len(own.labels) + 1} classes"):
        answer(decoder_of(maps, classes=len(own.labels) + 1), maps, first, own, own.rate)


def test_initial_weights_are_drawn_from_the_seed_alone() -> None:
    maps, before = maps_of((3, 16, 20), (4, 8, 10)), torch.get_rng_state()
    decoder = decoder_of(maps, classes=3)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    one, same, other = [], [], []
    for seed, found in ((1, one), (1, same), (2, other)):
        decoder.initialise(maps, seed=seed)
        found.append(decoder(maps, (16, 20), CLASSES))
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(after)
    assert torch.equal(one[0], same[0])
    assert not torch.equal(one[0], other[0])


def test_maps_of_other_channels_are_refused() -> None:
    decoder = decoder_of(maps_of((3, 16, 20), (4, 8, 10)))
    with pytest.raises(CheckpointError, match="Fit again"):
        decoder(maps_of((4, 16, 20), (4, 8, 10)), (16, 20), CLASSES)


# --- noise


def write_noise(path: Path, rate: int = 44100, seconds: float = 0.9, level: float = 0.1) -> None:
    samples = level * np.random.default_rng(0).standard_normal((round(rate * seconds), 2))
    soundfile.write(path, samples, rate, subtype="FLOAT")


def test_noise_lies_as_far_below_the_clip_as_asked(tmp_path: Path) -> None:
    write_noise(tmp_path / "stereo.wav")
    waveforms = 0.1 * noise(3)
    waveforms[2] = 0
    for name in ("white", "pink", "brown", str(tmp_path)):
        source = find_noise(name)
        random = Random(0, ["a", "b", "c"])
        noisy, clean = with_noise(waveforms, [source] * 3, 6.0, rate=RATE, random=random, draw="0")
        added = noisy - clean
        ratio = 10 * torch.log10(waveforms[:2].square().sum(1) / added[:2].square().sum(1))
        assert ratio.tolist() == pytest.approx([6.0, 6.0], abs=1e-2), name
        assert float(noisy[2].abs().max()) == 0
        again, _ = with_noise(waveforms[1:2], [source], 6.0, rate=RATE, random=Random(0, ["b"]), draw="0")
        assert torch.equal(again[0], noisy[1])
        assert not torch.equal(with_noise(waveforms, [source] * 3, 6.0, rate=RATE, random=random, draw="1")[0], noisy)


def test_other_clips_are_noise_too() -> None:
    waveforms = {3: torch.arange(1.0, 41.0), 8: torch.full((40,), -1.0)}
    source = OtherClips([3, 5, 8], 5, waveforms.__getitem__)  # of the clip that gets the noise, nothing is asked for
    drawn = [source(100, RATE, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert {float(each[0]) for each in drawn} == {1.0, -1.0}
    assert all(each.shape == (100,) for each in drawn)
    rising = [source(10, RATE, torch.Generator().manual_seed(seed)) for seed in range(20)]
    starts = {float(each[0]) for each in rising} - {-1.0}
    assert len(starts) > 3, "excerpts begin anywhere"
    assert max(starts) <= 31


def test_loud_sums_are_scaled_down() -> None:
    loud, random = 3 * noise(1), Random(0, ["a"])
    noisy, clean = with_noise(loud, [GeneratedNoise(0.0)], 0.0, rate=RATE, random=random, draw="0")
    assert float(noisy.abs().max()) == pytest.approx(1.0)
    ratio = 10 * torch.log10(clean.square().sum() / (noisy - clean).square().sum())
    assert float(ratio) == pytest.approx(0.0, abs=1e-2), "the clip is scaled down with it"
    assert torch.allclose(clean / clean.abs().max(), loud / loud.abs().max(), atol=1e-6)


def test_noise_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no 'purple'"):
        find_noise("purple")
    with pytest.raises(ConfigurationError, match="there is no ''"):
        find_noise("")  # and not the folder in which the fit was started
    with pytest.raises(ConfigurationError, match="no sound file"):
        find_noise(str(tmp_path))
    write_noise(tmp_path / "silent.wav", level=0.0)
    with pytest.raises(ConfigurationError, match=r"silent\.wav is silent"):
        find_noise(str(tmp_path))
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    write_noise(tmp_path / "good.wav")
    found = find_noise(str(tmp_path))
    assert isinstance(found, NoiseFolder)
    assert [recording.path.name for recording in found.recordings] == ["good.wav"]


def test_a_noise_file_that_vanishes_is_named(tmp_path: Path) -> None:
    write_noise(tmp_path / "good.wav")
    found = find_noise(str(tmp_path))
    assert found is not None
    (tmp_path / "good.wav").unlink()
    with pytest.raises(AudioError, match=r"good\.wav cannot be decoded"):
        found(100, RATE, torch.Generator())
