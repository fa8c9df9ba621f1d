"""APNet's network, front end, losses and converter: against the authors' arrays, and against the formulas."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from torch.nn import functional

from earwitness import load_classifier
from earwitness.artifacts import load_tensors
from earwitness.audio import dialects
from earwitness.cli.shell import shell
from earwitness.errors import AudioError, CheckpointError, ClassifierError, ConfigurationError
from earwitness.parameters import changed
from earwitness_plugins.apnet.configuration import PUBLISHED, Recipe, named
from earwitness_plugins.apnet.front_end import PaddedLogMel, Windows
from earwitness_plugins.apnet.network import (
    AudioPrototypeNetwork,
    Sizes,
    pooling_mask,
    similarity,
    unpool,
    with_time_of,
)
from earwitness_plugins.apnet.objective import (
    class_block_weights,
    initialise,
    losses,
    normalise_frequency_weights,
    scale_latents,
    start_from_data,
)
from earwitness_plugins.apnet.prototypes import (
    Comparison,
    classes_of_decoded,
    classes_of_latents,
    compare,
    decode_prototypes,
    neighbours,
    reconstructed,
    similarity_between,
    sounds_of,
)
from earwitness_plugins.apnet.published import arrays_of_state, state_of_published
from earwitness_plugins.apnet.training import keras_step

SCALER = {"min_db": -90.0, "max_db": 30.0}
SIZES = Sizes(n_classes=2, n_prototypes=5, n_bands=8, n_frames=12, channels=(3, 4, 2))
golden_arrays = pytest.mark.golden


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(sizes: Sizes = SIZES, seed: int = 0) -> AudioPrototypeNetwork:
    """With prototypes that are not far from what it makes of noise, and uneven weights."""
    net = AudioPrototypeNetwork(sizes)
    initialise(net, Recipe(), generator(seed))
    with torch.no_grad():
        net.prototypes.uniform_(-0.5, 0.5, generator=generator(seed + 1))
        net.frequency_weights.normal_(0.4, 0.3, generator=generator(seed + 2))
    return net.requires_grad_(False)


def maps(n_rows: int = 3, sizes: Sizes = SIZES, seed: int = 5) -> Tensor:
    shape = (n_rows, 1, sizes.n_bands, sizes.n_frames)
    return torch.rand(shape, generator=generator(seed)) * 2 - 1


@pytest.fixture(scope="module")
def arrays(request: pytest.FixtureRequest) -> Any:
    return np.load(request.getfixturevalue("golden") / "apnet.npz")


@pytest.fixture(scope="module")
def authors(arrays: Any) -> AudioPrototypeNetwork:
    """The authors' network, UrbanSound8K fold 1, pruned to 17 prototypes."""
    return AudioPrototypeNetwork.of_state(state_of_published(weights_in(arrays, "w/"))).requires_grad_(False)


def weights_in(arrays: Any, prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}


def frequency_first(array: Any) -> Tensor:
    """(N, time, frequency) to features (N, 1, F, T)."""
    return torch.from_numpy(array).transpose(1, 2)[:, None].contiguous()


def keras(maps: Tensor) -> Any:
    """(N, C, F, T) to (N, T, F, C)."""
    return maps.permute(0, 3, 2, 1).numpy()


# --- against the authors' code


@golden_arrays
@pytest.mark.parametrize("inputs", ["x", "xs", "xp"])
def test_every_stage_is_that_of_the_authors_network(arrays: Any, authors: AudioPrototypeNetwork, inputs: str) -> None:
    features = frequency_first(arrays[f"{inputs}/input"])
    encoding = authors.encoder.encode(features)
    np.testing.assert_allclose(keras(encoding.latent), arrays[f"{inputs}/latent"], atol=3e-6)
    for number, mask in enumerate(encoding.masks, start=1):
        np.testing.assert_array_equal(keras(mask), arrays[f"{inputs}/mask{number}"].astype(bool))
    output = authors.outputs(features)
    similarities = similarity(output.distances)
    np.testing.assert_allclose(output.distances, arrays[f"{inputs}/dist"], atol=5e-5)
    np.testing.assert_allclose(similarities, arrays[f"{inputs}/S"], atol=4e-7)
    np.testing.assert_allclose(authors.weighted(similarities), arrays[f"{inputs}/S_hat"], atol=1e-6)
    np.testing.assert_allclose(output.logits, arrays[f"{inputs}/logits"], atol=3e-6)
    np.testing.assert_allclose(output.logits.softmax(1), arrays[f"{inputs}/probs"], atol=6e-7)
    np.testing.assert_allclose(keras(output.reconstruction)[..., 0], arrays[f"{inputs}/recon"], atol=4e-6)
    assert torch.equal(authors(features), output.logits)


@golden_arrays
def test_ties_in_a_pool_give_several_ones(arrays: Any) -> None:
    """The set `xp` is half constant, so that it is there for this."""
    assert 0.6 < arrays["xp/mask1"].mean() < 0.8 < 4 * arrays["xs/mask1"].mean() < 1.2


@golden_arrays
def test_losses_and_three_steps_are_those_of_the_authors_training(arrays: Any, authors: AudioPrototypeNetwork) -> None:
    net = copy.deepcopy(authors).requires_grad_(True)
    features, targets = frequency_first(arrays["train/X"]), torch.from_numpy(arrays["train/Y"])
    _, recipe = named("urbansound8k")
    optimiser = torch.optim.Adam(net.parameters(), lr=recipe.learning_rate)
    for step in (1, 2, 3):
        each = losses(net.outputs(features), features, targets)
        total = each.total(recipe)
        if step == 1:
            found = [float(loss.detach()) for loss in (total, each.classification, each.reconstruction, each.prototype)]
            np.testing.assert_allclose(found, arrays["train/loss_initial"], rtol=1e-6)
        optimiser.zero_grad()
        total.backward()
        keras_step(optimiser, step)
        normalise_frequency_weights(net)
        if step != 2:
            written = arrays_of_state({name: value.detach() for name, value in net.state_dict().items()})
            wanted = weights_in(arrays, f"step{step}/")
            assert written.keys() == wanted.keys()
            for name, value in wanted.items():
                np.testing.assert_allclose(written[name], value, atol=5e-6, err_msg=name)


@golden_arrays
def test_prototypes_are_inspected_as_the_authors_do(arrays: Any, authors: AudioPrototypeNetwork) -> None:
    windows, order = frequency_first(arrays["proto/Xt"]), arrays["proto/order_sorted"]
    found = compare(authors, windows)
    nearest = found.order()[0]
    np.testing.assert_array_equal(nearest, arrays["proto/nearest_idx_by_Shat"])
    np.testing.assert_allclose(found.similarity, arrays["proto/sim_Xt"], atol=1e-6)
    np.testing.assert_array_equal(classes_of_latents(authors)[order], arrays["proto/classes_sorted"])
    decoded = decode_prototypes(authors, windows[nearest])
    np.testing.assert_allclose(keras(decoded[order])[..., 0], arrays["proto/mel_sorted"], atol=2e-6)
    np.testing.assert_array_equal(classes_of_decoded(authors, decoded), arrays["proto/probs_of_decoded_mel"].argmax(1))
    between = similarity_between(authors)[order][:, order]
    np.testing.assert_allclose(between, arrays["proto/Shat_between_protos_sorted"], atol=2e-6)


@golden_arrays
@pytest.mark.parametrize(
    ("name", "key", "scaler"),
    [
        ("urbansound8k", "us8k", (-100.0, 47.34378242768969)),
        ("medley-solos-db", "medley", (-97.89821514208916, 39.7300393139176)),
        ("speech-commands", "gsc", (-93.01638525295358, 36.29895261100572)),
    ],
)
def test_a_recording_becomes_the_window_of_the_published_front_end(
    arrays: Any, name: str, key: str, scaler: tuple[float, float]
) -> None:
    front_end = named(name)[0].front_end(*scaler)
    features = front_end(torch.from_numpy(arrays[f"mel/{key}/audio"])[None])
    np.testing.assert_allclose(features[:, 0].transpose(1, 2), arrays[f"mel/{key}/scaled"], atol=1e-4)


# --- against the formulas


def test_the_published_networks_have_the_published_numbers_of_parameters() -> None:
    counts = {}
    for name, n_classes in (("urbansound8k", 10), ("medley-solos-db", 8), ("speech-commands", 35)):
        net = named(name)[0].network(n_classes)
        counts[name] = sum(parameter.numel() for parameter in net.parameters())
    assert counts == {"urbansound8k": 1_181_461, "medley-solos-db": 4_168_081, "speech-commands": 1_750_816}


def test_windows_last_as_long_as_published() -> None:
    lengths = {name: configuration.n_samples for name, (configuration, _) in PUBLISHED.items()}
    assert lengths == {"urbansound8k": 89_088, "medley-solos-db": 134_144, "speech-commands": 16_128}


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("urbansound8k", dialects.apnet_urbansound8k),
        ("medley-solos-db", dialects.apnet_medley_solos),
        ("speech-commands", dialects.apnet_speech_commands),
    ],
)
def test_the_front_ends_are_the_dialects_of_core(name: str, dialect: Any) -> None:
    assert named(name)[0].front_end(-90.0, 30.0).log_mel.describe() == dialect(**SCALER).describe()


def test_distances_similarities_and_logits_are_those_of_the_equations() -> None:
    net, features = network(), maps()
    latent = net.encoder(features)
    output = net.outputs(features)
    for i in range(3):
        logits = torch.zeros(2, dtype=torch.float64)
        for j in range(5):
            s_hat = torch.zeros((), dtype=torch.float64)
            for f in range(2):
                distance = ((latent[i, :, f].double() - net.prototypes[j, :, f].double()) ** 2).sum()  # Eq. 6
                assert float(output.distances[i, j, f]) == pytest.approx(float(distance), rel=1e-6)
                s_hat += net.frequency_weights[j, f] * torch.exp(-distance)  # Eq. 7
            logits += s_hat * net.class_weights[j]  # Eq. 8
        assert torch.allclose(output.logits[i].double(), logits, atol=1e-6)


def test_a_prototype_is_at_no_distance_of_itself_even_where_it_is_large() -> None:
    net = network()
    net.prototypes *= 1000
    distances = net.distances(net.prototypes)
    assert float(distances.diagonal().max()) < 1e-9  # of squares of 10⁶
    assert float(distances.min()) >= 0


def test_the_losses_are_means_over_rows_prototypes_bands_and_cells() -> None:
    net, features = network(), maps()
    output = net.outputs(features)
    targets = torch.tensor([[1.0, 0.0], [0.3, 0.7], [0.0, 1.0]])
    found = losses(output, features, targets)
    log_p = torch.log(output.logits.exp() / output.logits.exp().sum(1, keepdim=True))
    assert float(found.classification) == pytest.approx(float(-(targets * log_p).sum() / 3), rel=1e-5)
    difference = [
        float((features[i, 0, f, t] - output.reconstruction[i, 0, f, t]) ** 2)
        for i in range(3) for f in range(8) for t in range(12)
    ]  # fmt: skip
    assert float(found.reconstruction) == pytest.approx(np.mean(difference), rel=1e-5)
    distances = [[float(output.distances[i, j].mean()) for j in range(5)] for i in range(3)]
    of_prototypes = [min(column) for column in zip(*distances, strict=True)]
    nearest = np.mean([min(row) for row in distances]) + np.mean(of_prototypes)
    assert float(found.prototype) == pytest.approx(nearest, rel=1e-5)
    weighted = 2 * float(found.classification) + 3 * float(found.prototype) + 5 * float(found.reconstruction)
    assert float(found.total(Recipe(alpha=2, beta=3, gamma=5))) == pytest.approx(weighted, rel=1e-6)


def test_without_ties_unpooling_by_mask_is_unpooling_by_index() -> None:
    values = torch.rand(2, 3, 6, 8, generator=generator())
    pooled, index = functional.max_pool2d(values, 2, return_indices=True)
    wanted = functional.max_unpool2d(pooled, index, 2)
    assert torch.equal(unpool(pooled, pooling_mask(values, pooled)), wanted)
    constant = torch.ones(1, 1, 2, 2)
    assert torch.equal(unpool(torch.tensor([[[[7.0]]]]), pooling_mask(constant, torch.ones(1, 1, 1, 1))), 7 * constant)


def test_adam_in_keras_form_adds_epsilon_before_the_correction() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimiser = torch.optim.Adam([weight], lr=1e-3)
    gradients = torch.tensor([[3e-7, 2.0], [-1e-7, 0.5], [2e-7, -1.0]], dtype=torch.float64)
    expected, m, v = weight.detach().clone(), torch.zeros(2), torch.zeros(2)
    for step, gradient in enumerate(gradients, start=1):
        weight.grad = gradient.clone()
        keras_step(optimiser, step)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 1e-3 * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
        expected = expected - rate * m / (v.sqrt() + 1e-7)
    assert torch.allclose(weight.detach(), expected, rtol=0, atol=1e-12)


def test_the_weights_of_each_band_have_unit_norm_over_the_prototypes() -> None:
    net = network()
    before = net.frequency_weights.clone()
    normalise_frequency_weights(net)
    assert torch.allclose(net.frequency_weights.norm(dim=0), torch.ones(2), atol=1e-6)
    assert torch.allclose(net.frequency_weights * before.norm(dim=0), before, atol=1e-6)


def test_a_network_starts_as_the_published_code_has_it() -> None:
    net = AudioPrototypeNetwork(Sizes(n_classes=3, n_prototypes=7, n_bands=16, n_frames=16, channels=(8, 8, 8)))
    initialise(net, Recipe(class_blocks=True), generator())
    limit = (6 / (25 * (8 + 8))) ** 0.5  # Glorot uniform
    weights = net.encoder.conv2.weight
    assert 0.95 * limit < float(weights.detach().abs().max()) <= limit
    assert not float(net.encoder.conv2.bias.detach().abs().max())
    assert 0.045 < float(net.prototypes.detach().abs().max()) <= 0.05
    assert torch.equal(net.frequency_weights.detach(), torch.full((7, 4), 0.25))
    signs = [[1, -1, -1]] * 2 + [[-1, 1, -1]] * 2 + [[-1, -1, 1]] * 2 + [[-1, -1, -1]]
    noise = net.class_weights.detach() - torch.tensor(signs) / 2  # a class has two prototypes, and one is left over
    assert 0.04 < float(noise.abs().max()) <= 0.05
    initialise(net, Recipe(class_blocks=True, block_weight=1.0), generator())
    assert torch.allclose(net.class_weights.abs(), torch.ones(()), atol=0.0501)
    initialise(net, Recipe(class_blocks=True), generator())
    again = copy.deepcopy(net)
    initialise(again, Recipe(class_blocks=True), generator())
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), net.parameters(), strict=True))


def test_prototypes_can_start_from_recordings_of_their_class() -> None:
    net = network(Sizes(n_classes=2, n_prototypes=6, n_bands=8, n_frames=12, channels=(3, 4, 2)))
    features, classes = maps(5), torch.tensor([0, 1, 0, 0, 1])
    start_from_data(net, features, classes, generator())
    latent = net.encoder(features)
    nearest = torch.cdist(net.prototypes.flatten(1), latent.flatten(1)).min(1)
    assert torch.allclose(nearest.values, torch.zeros(6), atol=1e-3)
    assert classes[nearest.indices].tolist() == [0, 0, 0, 1, 1, 1]
    assert nearest.indices[:3].unique().tolist() == [0, 2, 3]  # none twice while there are others


def test_a_scaled_latent_space_puts_windows_at_a_distance_and_decodes_as_before() -> None:
    net = network(Sizes(n_classes=2, n_prototypes=4, n_bands=8, n_frames=12, channels=(3, 4, 2)))
    initialise(net, Recipe(), generator())
    features, classes = maps(40), torch.arange(40) % 2
    before = net.outputs(features).reconstruction
    start_from_data(net, features, classes, generator())
    scale_latents(net, features, 2.0)
    assert float(net.distances(net.encoder(features)).amin(1).mean()) == pytest.approx(2, rel=1e-4)
    assert torch.allclose(net.outputs(features).reconstruction, before, atol=1e-5)
    few = maps(4)
    start_from_data(net, few, torch.arange(4) % 2, generator())
    weights = net.encoder.conv3.weight.clone()
    scale_latents(net, few, 2.0)  # every window is a prototype
    assert torch.equal(net.encoder.conv3.weight, weights)


# --- prototypes


def test_the_nearest_window_is_the_most_similar_or_the_least_distant() -> None:
    net, windows = network(), maps(40)
    latent = net.encoder(windows)
    similarities = torch.stack([net.weighted(similarity(net.distances(row[None])))[0] for row in latent])
    found = compare(net, windows)
    assert torch.equal(found.order()[0], similarities.argmax(0))
    assert torch.allclose(found.similarity, similarities)
    difference = (latent[:, None] - net.prototypes[None]).square().sum((2, 3, 4))
    assert torch.allclose(found.distance, difference, rtol=1e-4)
    assert torch.equal(found.order("distance"), found.distance.argsort(dim=0, stable=True))
    with pytest.raises(ConfigurationError, match="there is none"):
        compare(net, windows[:0])


def test_where_no_recording_is_similar_the_least_distant_one_is_the_nearest() -> None:
    found = Comparison(torch.zeros(3, 2), torch.tensor([[900.0, 800.0], [500.0, 950.0], [700.0, 300.0]]))
    assert found.order()[0].tolist() == [1, 2]


def test_neighbours_are_clips_in_their_nearest_window_each_once() -> None:
    similarity_to_one = torch.tensor([[0.1], [0.9], [0.5], [0.7], [0.2], [0.3]])
    comparison = Comparison(similarity_to_one, 1 - similarity_to_one)
    (found,) = neighbours(comparison, ["a", "a", "b", "b", "c", "c"], 2)
    assert [(near.clip_id, round(near.similarity, 3), round(near.distance, 3)) for near in found] == [
        ("a", 0.9, 0.1),
        ("b", 0.7, 0.3),
    ]
    assert [near.clip_id for near in neighbours(comparison, ["a", "a", "b", "b", "c", "c"], 9)[0]] == ["a", "b", "c"]


def test_a_decoded_prototype_sounds_at_its_pitch() -> None:
    log_mel = dialects.apnet_speech_commands(**SCALER)
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16_128) / 16_000)[None]
    sound = sounds_of(log_mel(tone), log_mel, seed=0)
    assert sound.shape == (1, 59 * 256)
    assert float(sound.abs().max()) <= 1
    spectrum = torch.fft.rfft(sound[0]).abs()
    assert float(spectrum.argmax()) * 16_000 / sound.shape[1] == pytest.approx(1000, abs=40)
    assert torch.equal(sound, sounds_of(log_mel(tone), log_mel, seed=0))


# --- front end and windows


def small_front_end(n_frames: int = 8) -> PaddedLogMel:
    return PaddedLogMel(
        dialects.apnet(rate=8000, n_fft=256, hop_length=128, n_mels=8, min_db=-60.0, max_db=20.0), n_frames
    )


def test_a_short_recording_is_followed_by_silence_and_a_long_one_is_left_alone() -> None:
    front_end = small_front_end()
    waveform = torch.rand(2, 700, generator=generator()) - 0.5
    assert front_end.n_samples == 7 * 128 + 256
    padded = functional.pad(waveform, (0, front_end.n_samples - 700))
    assert torch.equal(front_end(waveform), front_end.log_mel(padded))
    assert front_end(waveform).shape == (2, 1, 8, 8)
    assert front_end(waveform.repeat(1, 3)).shape == (2, 1, 8, len(front_end.grid(2100).times_s))
    assert front_end.grid(700).shape == (8, 8)
    assert front_end.describe()["n_frames"] == 8
    assert not front_end.shares_stft(256, 128, 8000)
    with pytest.raises(AudioError, match="no samples"):
        front_end(waveform[:, :0])
    with pytest.raises(ClassifierError, match="not centred"):
        front_end.from_stft(torch.zeros(1, 129, 8, dtype=torch.complex64))


def test_the_floor_is_what_silence_is_in_a_recording() -> None:
    front_end = small_front_end()
    waveform = torch.rand(2, 700, generator=generator()) - 0.5
    waveform[1] *= 1e-3  # its floor is digital silence
    features = front_end(waveform)
    assert torch.allclose(front_end.floor(features)[:, 0, 0, 0], features[:, 0, :, -1].amax(1), atol=1e-5)
    assert float(front_end.floor(features)[1]) == pytest.approx((-100 + 20) / 40)


@pytest.mark.parametrize(("n_frames", "starts"), [(8, [0]), (9, [0, 1]), (16, [0, 4, 8]), (17, [0, 4, 8, 9])])
def test_windows_overlap_and_the_last_ends_with_the_recording(n_frames: int, starts: list[int]) -> None:
    windows = Windows(8, 4)
    features = torch.rand(2, 1, 3, n_frames, generator=generator())
    pieces = windows(features)
    assert windows.starts(n_frames) == starts
    assert pieces.shape == (2, len(starts), 1, 3, 8)
    assert all(torch.equal(pieces[:, i], features[..., start : start + 8]) for i, start in enumerate(starts))
    summed = windows.overlap_add(pieces[:, :, 0], n_frames)
    assert torch.allclose(summed.sum((1, 2)), pieces.sum((1, 2, 3, 4)))
    count = windows.overlap_add(torch.ones_like(pieces[:, :, 0]), n_frames)
    assert torch.allclose(summed, count * features[:, 0])


# --- what is refused


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: changed(named("urbansound8k")[0], {"n_frames": 103}, "model"), "103 frames.*Take 100 or 104"),
        (lambda: changed(named("urbansound8k")[0], {"n_mels": 66}, "model"), "66 bands.*Take 64 or 68"),
        (lambda: changed(named("urbansound8k")[0], {"n_frame": 80}, "model"), "Did you mean 'n_frames'"),
        (lambda: changed(named("urbansound8k")[0], {"prototypes_per_class": 0}, "model"), "needs a prototype"),
        (lambda: changed(named("urbansound8k")[0], {"n_mels": "many"}, "model"), "wrong type"),
        (lambda: changed(named("urbansound8k")[0], {"timeless": "False"}, "model"), "expected True or False"),
        (lambda: changed(Recipe(), 3, "training"), "must be a dict"),
        (lambda: changed(Recipe(), {"prototypes": "dat"}, "training"), "Did you mean 'data'"),
        (lambda: changed(Recipe(), {"augmentation": {"shft": True}}, "training"), "Did you mean 'shift'"),
        (lambda: changed(Recipe(), {"schedule": "one-cyle"}, "training"), "Did you mean 'one-cycle'"),
        (lambda: changed(Recipe(), {"windows": "some"}, "training"), "windows cannot be 'some'"),
        (lambda: changed(Recipe(), {"averaging_steps": 0}, "training"), "must be positive"),
        (lambda: changed(Recipe(), {"epochs": 0}, "training"), "must be positive"),
        (lambda: changed(Recipe(), {"beta": -1}, "training"), "must not be negative"),
        (lambda: changed(Recipe(), {"block_weight": 0.0}, "training"), "block_weight must be positive"),
        (lambda: named("urbansound"), "Did you mean 'urbansound8k'"),
        (lambda: Sizes(n_classes=2, n_prototypes=0, n_bands=8, n_frames=8, channels=(1, 1, 1)), "must be positive"),
        (lambda: class_block_weights(2, 3, generator()), "leave classes without any"),
        (lambda: Windows(8, 9), "hop"),
        (lambda: PaddedLogMel(dialects.yamnet(), 8), "decibels"),
    ],
)
def test_settings_that_cannot_be_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build()


TIMELESS = replace(SIZES, n_frames=48, timeless=True)


def test_a_timeless_network_compares_the_same_whenever_a_sound_comes() -> None:
    net = network(TIMELESS)
    assert net.prototypes.shape == (5, 2, 2, 1)
    assert net.sizes == TIMELESS
    event = torch.full((1, 1, 8, 48), -1.0)
    event[..., 12:20] = maps(1)[..., :8]
    early, late = net.outputs(event), net.outputs(event.roll(12, dims=3))
    assert torch.allclose(early.distances, late.distances, rtol=1e-4)
    assert torch.equal(early.logits, net(event))
    assert float(net.outputs(-event).distances.sub(early.distances).abs().max()) > 1e-2
    changes = (early.reconstruction - late.reconstruction).abs().amax((0, 1, 2))
    assert float(changes[12:20].max()) > 1e-2  # what is decoded has its time


def test_weights_of_a_timeless_network_are_told_apart_by_the_window() -> None:
    state = network(TIMELESS).state_dict()
    assert AudioPrototypeNetwork.of_state(state, n_frames=48).sizes == TIMELESS
    assert AudioPrototypeNetwork.of_state(state).sizes == replace(SIZES, n_frames=4)
    with pytest.raises(ConfigurationError, match="50 frames does not divide"):
        AudioPrototypeNetwork.of_state(state, n_frames=50)


@pytest.mark.parametrize("sizes", [SIZES, TIMELESS])
def test_a_prototype_that_is_a_recording_is_decoded_as_the_recording(sizes: Sizes) -> None:
    net, windows = network(sizes), maps(5, sizes)
    net.prototypes.copy_(net.encoder(windows))
    assert torch.allclose(decode_prototypes(net, windows), reconstructed(net, windows), atol=1e-5)
    net.prototypes.add_(0.5)
    assert float(decode_prototypes(net, windows).sub(reconstructed(net, windows)).abs().max()) > 0.01


def test_each_prototype_is_decoded_with_its_own_window_and_few_at_a_time() -> None:
    sizes = replace(TIMELESS, n_prototypes=40)
    net, windows, at_once = network(sizes), maps(40, sizes), []
    net.encoder.conv1.register_forward_hook(lambda _layer, inputs, _output: at_once.append(len(inputs[0])))
    decoded = decode_prototypes(net, windows)
    assert len(decoded) == 40 > 2 * max(at_once)  # memory is bounded, however many there are
    for j in (0, 17, 39):
        alone = copy.deepcopy(net)
        alone.prototypes = torch.nn.Parameter(net.prototypes[j : j + 1])
        assert torch.allclose(decode_prototypes(alone, windows[j : j + 1]), decoded[j : j + 1], atol=1e-6)


def test_a_prototype_with_a_time_of_its_own_takes_none_of_another() -> None:
    net = network()
    encoding = net.encoder.encode(maps(5))
    encoding.latent.fill_(torch.inf)  # it overflowed
    assert with_time_of(net.prototypes, encoding) is net.prototypes


def test_maps_of_another_size_are_refused_with_both_sizes() -> None:
    with pytest.raises(ClassifierError, match=r"\(N, 1, 8, 12\), got \(3, 1, 8, 13\)"):
        network()(torch.zeros(3, 1, 8, 13))
    with pytest.raises(AudioError, match="7 frames is shorter"):
        Windows(8, 4)(torch.zeros(1, 1, 3, 7))


def test_weights_that_do_not_fit_or_are_not_finite_are_refused() -> None:
    state = network().state_dict()
    with pytest.raises(ClassifierError, match="deconv1"):
        AudioPrototypeNetwork.of_state({n: t for n, t in state.items() if "deconv1" not in n})
    with pytest.raises(ClassifierError, match="frequency_weights"):
        AudioPrototypeNetwork.of_state({**state, "frequency_weights": torch.zeros(5, 3)})
    broken = state["prototypes"].clone()
    broken[2, 0, 0, 0] = torch.nan
    with pytest.raises(ClassifierError, match="NaN or infinity: prototypes"):
        AudioPrototypeNetwork.of_state({**state, "prototypes": broken})


# --- the converter


def test_arrays_go_there_and_back() -> None:
    state = network().state_dict()
    back = state_of_published({f"{name}:0": array for name, array in arrays_of_state(state).items()})
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_foreign_arrays_are_refused_by_name() -> None:
    arrays = arrays_of_state(network().state_dict())
    with pytest.raises(CheckpointError, match=r"missing \['mean/kernel'\], unknown \['mean/weights'\]"):
        state_of_published({n.replace("mean/kernel", "mean/weights"): a for n, a in arrays.items()})
    with pytest.raises(CheckpointError, match="4 axes"):
        state_of_published({**arrays, "prototype_distances/kernel": arrays["mean/kernel"]})


def test_converted_weights_are_a_classifier_by_name(tmp_path: Path) -> None:
    sizes = Sizes(n_classes=2, n_prototypes=3, n_bands=80, n_frames=60, channels=(2, 2, 2))
    net = network(sizes)
    np.savez(tmp_path / "weights.npz", **arrays_of_state(net.state_dict()))
    options = ["--min-db", "-90", "--max-db", "30", "--configuration", "speech-commands", "--out", tmp_path / "w"]
    command = ["convert-apnet", str(tmp_path / "weights.npz"), "--labels", "yes, no", *map(str, options)]
    done = CliRunner().invoke(shell, command)
    assert done.exit_code == 0, done.output
    assert "3 prototypes" in done.output
    classifier = load_classifier("apnet", parameters={"weights": str(tmp_path / "w")})
    assert (classifier.labels, classifier.rate) == (("yes", "no"), 16_000)
    waveform = torch.rand(1, 16_128, generator=generator()) - 0.5
    features = dialects.apnet_speech_commands(**SCALER)(waveform)
    assert torch.allclose(classifier.probabilities(waveform), net(features).softmax(1), atol=1e-6)
    assert load_tensors(tmp_path / "w")[1]["apnet"]["scaler"] == [-90.0, 30.0]
    refused = CliRunner().invoke(shell, [*command[:3], "yes,no,stop", *command[4:]])
    assert refused.exit_code != 0
    assert "3 labels" in refused.output


def test_what_is_no_npz_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.npz").write_text("no archive")
    options = ["--labels", "a,b", "--min-db", "-90", "--max-db", "30", "--out", str(tmp_path / "w")]
    np.save(tmp_path / "weights.npy", np.zeros(3))
    for name in ("weights.npz", "weights.npy", "nothing.npz"):
        done = CliRunner().invoke(shell, ["convert-apnet", str(tmp_path / name), *options])
        assert done.exit_code == 1
        assert "not a readable NPZ" in done.output
