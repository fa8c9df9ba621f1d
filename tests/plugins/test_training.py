"""Training: what is promised of the loop, of the augmentation and of the compact network, on synthetic tones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from earwitness.audio.front_end import LogMel
from earwitness.audio.mel import Compression, MelBands, Stft
from earwitness.errors import AudioError, CheckpointError, ClassifierError, ConfigurationError, DatasetError
from earwitness_plugins.classifiers.augmentation import (
    Augmentation,
    augment_waveforms,
    coloured_noise,
    drop_regions,
)
from earwitness_plugins.classifiers.compact_cnn import CompactCNN, compact_front_end
from earwitness_plugins.classifiers.training import TrainingRecipe, TrainingResult, train_network

RATE = 8000
PITCHES_HZ = (300.0, 1000.0, 2500.0)
EVERYTHING = Augmentation(
    shift=True,
    gain_db=(-12, 6),
    mix_share=0.5,
    noise_share=0.5,
    void_share=0.2,
    dropped_bands=3,
    dropped_frames=4,
)
RECIPE = TrainingRecipe(
    epochs=4, batch_size=8, learning_rate=0.01, weight_decay=0.01, averaging_steps=4, augmentation=EVERYTHING
)


def front_end() -> LogMel:
    return LogMel(
        rate=RATE,
        stft=Stft(256, 128),
        bands=MelBands(16, norm="mean"),
        compression=Compression("ln", 0.01, shift=2.0, scale=2.0),
        power=1,
    )


def network() -> CompactCNN:
    return CompactCNN(channels=(4, 8), n_classes=3)


def tones(n_clips: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tones of three pitches, a quarter of a second each, at random phase and level."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_clips) % 3
    pitch = torch.tensor(PITCHES_HZ)[labels][:, None] * (1 + 0.05 * torch.randn(n_clips, 1, generator=generator))
    phase = 6.28 * torch.rand(n_clips, 1, generator=generator)
    level = 0.1 + 0.4 * torch.rand(n_clips, 1, generator=generator)
    return level * torch.sin(6.2832 * pitch * torch.arange(RATE // 4) / RATE + phase), labels


def train(recipe: TrainingRecipe = RECIPE, *, seed: int = 0, **options: object) -> TrainingResult:
    waveforms, labels = tones(21, seed=1)
    return train_network(
        network(),
        front_end(),
        waveforms,
        labels,
        recipe=recipe,
        seed=seed,
        **{"validation": tones(9, seed=2), **options},  # type: ignore[arg-type]
    )


def equal(one: TrainingResult, other: TrainingResult) -> bool:
    same = all(torch.equal(value, other.state_dict[name]) for name, value in one.state_dict.items())
    return same and one.curves == other.curves and one.epoch == other.epoch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


class InterruptedTrainingError(Exception):
    """Stands for a killed process."""


def interrupt_after(epochs: int):
    def progress(done: int, total: int, text: str) -> None:
        if done == epochs:
            raise InterruptedTrainingError

    return progress


# -- the loop ----------------------------------------------------------------------------------------------------------


def test_three_tones_are_told_apart_after_a_few_epochs():
    recipe = TrainingRecipe(epochs=15, batch_size=8, learning_rate=0.03, averaging_steps=10)
    result = train(recipe)
    trained = network()
    trained.load_state_dict(result.state_dict)
    waveforms, labels = tones(30, seed=3)
    with torch.no_grad():
        predicted = trained.eval()(front_end()(waveforms)).argmax(1)
    assert (predicted == labels).float().mean() >= 0.9
    assert result.curves.train_loss[-1] < 0.7 * result.curves.train_loss[0]


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    first = train()
    torch.randn(7)
    assert equal(first, train())


def test_another_seed_gives_other_weights():
    assert not equal(train(), train(seed=1))


@pytest.mark.parametrize("augmentation", [EVERYTHING, None], ids=["augmented", "plain"])
@pytest.mark.parametrize("interruption", [1, 3])
def test_a_resumed_training_ends_as_one_in_one_go(tmp_path: Path, interruption: int, augmentation: Augmentation | None):
    recipe = replace(RECIPE, augmentation=augmentation)
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(InterruptedTrainingError):
        train(recipe, checkpoint=checkpoint, progress=interrupt_after(interruption))
    epochs_done: list[int] = []
    resumed = train(recipe, checkpoint=checkpoint, progress=lambda done, total, text: epochs_done.append(done))
    assert epochs_done == list(range(interruption + 1, recipe.epochs + 1))
    assert equal(resumed, train(recipe))


def test_a_finished_checkpoint_gives_its_result_again_without_training(tmp_path: Path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    first = train(checkpoint=checkpoint)
    again = train(checkpoint=checkpoint, progress=lambda *_: pytest.fail("an epoch was trained"))
    assert equal(first, again)


@pytest.mark.parametrize("change", [{"seed": 1}, {"recipe": replace(RECIPE, epochs=5)}, {"validation": None}])
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, change: dict[str, object]):
    checkpoint = tmp_path / "checkpoint.safetensors"
    train(checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match="another training"):
        train(checkpoint=checkpoint, **change)  # type: ignore[arg-type]


def test_a_damaged_checkpoint_is_refused(tmp_path: Path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    train(checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        train(checkpoint=checkpoint)


def test_a_diverging_loss_stops_and_leaves_the_last_good_epoch(tmp_path: Path):
    class Fragile(CompactCNN):
        """Its outputs overflow when the third epoch begins (three steps each)."""

        calls = 0

        def forward(self, features: Tensor) -> Tensor:
            if self.training:
                type(self).calls += 1
            return super().forward(features) * (float("nan") if type(self).calls > 6 else 1.0)

    checkpoint = tmp_path / "checkpoint.safetensors"
    waveforms, labels = tones(21, seed=1)
    arguments = (Fragile(channels=(4, 8), n_classes=3), front_end(), waveforms, labels)
    with pytest.raises(ClassifierError, match=r"epoch 3 of 4.*holds the last good epoch.*learning rate"):
        train_network(*arguments, recipe=RECIPE, seed=0, checkpoint=checkpoint)
    Fragile.calls = -100
    epochs_done: list[int] = []
    train_network(
        *arguments, recipe=RECIPE, seed=0, checkpoint=checkpoint, progress=lambda done, *_: epochs_done.append(done)
    )
    assert epochs_done == [3, 4]


def test_the_epoch_of_least_validation_loss_is_kept():
    result = train(replace(RECIPE, epochs=6))
    losses = result.curves.validation_loss
    assert len(losses) == len(result.curves.validation_accuracy) == 6
    assert result.epoch == 1 + max(i for i, loss in enumerate(losses) if loss == min(losses))
    kept = network()
    kept.load_state_dict(result.state_dict)
    waveforms, labels = tones(9, seed=2)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(kept.eval()(front_end()(waveforms)), labels)
    assert loss.item() == pytest.approx(min(losses), abs=1e-6)


def test_without_validation_the_last_epoch_is_kept():
    result = train(validation=None)
    assert result.epoch == RECIPE.epochs
    assert result.curves.validation_loss == []


def test_averaged_weights_are_the_plain_mean_of_few_steps():
    class Watched(CompactCNN):
        """Notes its last layer whenever it is validated."""

        seen: tuple[Tensor, ...] = ()

        def forward(self, features: Tensor) -> Tensor:
            if not self.training:
                type(self).seen += (self.head.linear.weight.detach().clone(),)
            return super().forward(features)

    def weights_after_each_step(averaging_steps: int) -> tuple[Tensor, ...]:
        recipe = replace(RECIPE, batch_size=21, epochs=3, averaging_steps=averaging_steps)
        clips = tones(21, seed=1)
        Watched.seen = ()
        train_network(Watched((4, 8), 3), front_end(), *clips, recipe=recipe, seed=0, validation=tones(9, seed=2))
        return Watched.seen[-3:]

    mean_of_steps = torch.stack(weights_after_each_step(averaging_steps=1)).mean(0)
    torch.testing.assert_close(weights_after_each_step(averaging_steps=100)[-1], mean_of_steps, atol=1e-6, rtol=1e-5)


def test_the_network_and_the_global_generator_are_left_alone():
    untrained = network()
    before = {name: value.clone() for name, value in untrained.state_dict().items()}
    waveforms, labels = tones(21, seed=1)
    state = torch.get_rng_state()
    train_network(untrained, front_end(), waveforms, labels, recipe=RECIPE, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert untrained.training
    assert all(torch.equal(value, before[name]) for name, value in untrained.state_dict().items())


def test_the_learning_rate_rises_and_falls_once():
    rates = [RECIPE.learning_rate_at(step, 100) for step in range(100)]
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert peak == pytest.approx(15, abs=1)
    assert max(rates) == pytest.approx(RECIPE.learning_rate, rel=0.05)
    assert rates[-1] < 1e-3 * RECIPE.learning_rate


# -- the door ----------------------------------------------------------------------------------------------------------


def test_no_clips_is_an_error():
    with pytest.raises(DatasetError, match="no training clips"):
        train_network(network(), front_end(), torch.zeros(0, 2000), torch.zeros(0).long(), recipe=RECIPE, seed=0)
    with pytest.raises(DatasetError, match="no validation clips"):
        train(validation=(torch.zeros(0, 2000), torch.zeros(0, dtype=torch.int64)))


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_an_error(label: int):
    waveforms, labels = tones(9, seed=0)
    labels[4] = label
    with pytest.raises(DatasetError, match=r"3 outputs"):
        train_network(network(), front_end(), waveforms, labels, recipe=RECIPE, seed=0)
    with pytest.raises(DatasetError, match=r"Validation labels .* 3 outputs"):
        train(validation=(waveforms, labels))


def test_labels_and_clips_must_be_as_many():
    waveforms, labels = tones(9, seed=0)
    with pytest.raises(DatasetError, match="one label for each of 9"):
        train_network(network(), front_end(), waveforms, labels[:5], recipe=RECIPE, seed=0)


def test_a_broken_waveform_is_named():
    waveforms, labels = tones(9, seed=0)
    waveforms[6, 100] = float("nan")
    with pytest.raises(AudioError, match="number 6"):
        train_network(network(), front_end(), waveforms, labels, recipe=RECIPE, seed=0)
    with pytest.raises(AudioError, match="float64"):
        train_network(network(), front_end(), torch.zeros(9, 2000).double(), labels, recipe=RECIPE, seed=0)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"learning_rate": float("nan")}, {"warm_up": 0.0}, {"label_smoothing": 1.0}]
)
def test_a_recipe_that_cannot_be_followed_is_refused(wrong: dict[str, float]):
    with pytest.raises(ConfigurationError):
        replace(RECIPE, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"noise_share": 1.5}, {"gain_db": (6, -6)}, {"dropped_bands": -1}])
def test_an_augmentation_that_makes_no_sense_is_refused(wrong: dict[str, object]):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Augmentation(**wrong)  # type: ignore[arg-type]


# -- augmentation ------------------------------------------------------------------------------------------------------


def augmented(waveforms: Tensor, targets: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    augmentation = Augmentation(**options)  # type: ignore[arg-type]
    return augment_waveforms(waveforms, targets, augmentation, torch.Generator().manual_seed(0))


@pytest.fixture
def clips() -> tuple[Tensor, Tensor]:
    waveforms, labels = tones(60, seed=5)
    return waveforms, nn.functional.one_hot(labels, 3).float()


def test_by_default_nothing_is_changed(clips: tuple[Tensor, Tensor]):
    waveforms, targets = augmented(*clips)
    assert torch.equal(waveforms, clips[0])
    assert torch.equal(targets, clips[1])


def test_a_shift_rotates_each_clip_by_its_own_offset(clips: tuple[Tensor, Tensor]):
    ramps = torch.arange(50.0).expand(60, 50)
    rotated, _ = augmented(ramps, clips[1], shift=True)
    offsets = rotated[:, 0].long()
    assert offsets.unique().numel() > 20
    for row, offset in zip(rotated, offsets, strict=True):
        assert torch.equal(row, ramps[0].roll(-int(offset)))


def test_gains_fill_their_range_in_decibels(clips: tuple[Tensor, Tensor]):
    louder, _ = augmented(*clips, gain_db=(-20, -5))
    decibels = 20 * torch.log10(louder.norm(dim=1) / clips[0].norm(dim=1))
    assert -20.001 < decibels.min() < -18
    assert -7 < decibels.max() < -4.999


def test_a_mixture_of_waveforms_has_the_same_mixture_of_targets():
    waveforms = torch.eye(40)
    mixed, targets = augmented(waveforms, torch.eye(40), mix_share=0.6)
    torch.testing.assert_close(mixed, targets)
    torch.testing.assert_close(targets.sum(1), torch.ones(40))
    was_mixed = (targets > 0).sum(1) == 2
    assert 0.4 < was_mixed.float().mean() < 0.8


def test_noise_has_the_level_that_was_asked_for(clips: tuple[Tensor, Tensor]):
    noisy, targets = augmented(*clips, noise_share=0.5, noise_snr_db=(10, 20))
    noise = noisy - clips[0]
    with_noise = noise.norm(dim=1) > 0
    assert 0.3 < with_noise.float().mean() < 0.7
    snr_db = 20 * torch.log10(clips[0].norm(dim=1) / noise.norm(dim=1))[with_noise]
    assert 9.9 < snr_db.min() < 12
    assert 18 < snr_db.max() < 20.1
    assert torch.equal(targets, clips[1])


def test_nothing_at_all_has_no_class(clips: tuple[Tensor, Tensor]):
    waveforms, targets = augmented(*clips, void_share=0.5, void_level_db=(-60, -40))
    void = (targets == 1 / 3).all(1)
    assert 0.3 < void.float().mean() < 0.7
    assert torch.equal(waveforms[~void], clips[0][~void])
    assert torch.equal(targets[~void], clips[1][~void])
    levels = waveforms[void].square().mean(1).sqrt()
    assert 0.25 < (levels == 0).float().mean() < 0.75
    decibels = 20 * torch.log10(levels[levels > 0])
    assert (decibels > -60.1).all()
    assert (decibels < -39.9).all()


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_the_amplitude_of_noise_falls_with_its_slope(slope: float):
    noise = coloured_noise(torch.full((20,), slope), 16384, torch.Generator().manual_seed(0))
    torch.testing.assert_close(noise.square().mean(1), torch.ones(20))
    power = torch.fft.rfft(noise).abs().square().mean(0)
    low, high = power[200:300].mean(), power[3200:4800].mean()  # four octaves apart
    measured = float(torch.log2(low / high)) / 8
    assert measured == pytest.approx(slope, abs=0.03)


def test_dropped_regions_sound_like_silence():
    features = torch.ones(200, 1, 16, 30)
    silence = torch.full((1, 1, 16, 30), -1.0)
    augmentation = Augmentation(dropped_bands=4, dropped_frames=6)
    dropped = drop_regions(features, silence, augmentation, torch.Generator().manual_seed(0))[:, 0] < 0
    bands, frames = dropped.all(2).sum(1), dropped.all(1).sum(1)
    assert torch.equal(dropped, dropped.all(2, keepdim=True) | dropped.all(1, keepdim=True))
    assert bands.max() == 4
    assert frames.max() == 6
    assert bands.float().mean() == pytest.approx(2, abs=0.4)
    assert (features == 1).all()


# -- the compact network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [1, 300, 6615, 22050, 110250])
def test_the_compact_network_takes_clips_of_any_length(n_samples: int):
    with torch.no_grad():
        logits = CompactCNN().eval()(compact_front_end()(torch.zeros(2, n_samples)))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_every_layer_of_the_compact_network_is_a_module_used_once_in_order():
    network = CompactCNN(n_classes=4).eval()
    leaves = [module for module in network.modules() if not list(module.children())]
    features = torch.randn(2, 1, 64, 40)
    with torch.no_grad():
        torch.testing.assert_close(nn.Sequential(*leaves)(features), network(features))
    assert len(set(map(id, leaves))) == len(leaves) == 5 * 3 + 4 + 5


def test_the_weights_of_the_compact_network_stay_below_a_megabyte():
    state = CompactCNN().state_dict()
    assert sum(parameter.numel() for parameter in CompactCNN().parameters()) == 246_394
    assert sum(value.numel() * value.element_size() for value in state.values()) < 1e6


def test_silence_is_zero_to_the_compact_network_and_nothing_is_less():
    features = compact_front_end()(torch.cat([torch.zeros(1, 8000), 0.1 * torch.randn(1, 8000)]))
    torch.testing.assert_close(features[0], torch.zeros_like(features[0]), atol=1e-6, rtol=0)
    assert features[1].min() >= -1e-6


def test_an_event_counts_as_much_in_a_longer_clip():
    network, ears = CompactCNN().eval(), compact_front_end()
    event = torch.zeros(1, 32768)
    event[:, 10000:14000] = 0.1 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    longer = nn.functional.pad(event, (0, 8 * 16 * 256))
    with torch.no_grad():
        torch.testing.assert_close(network(ears(longer)), network(ears(event)), atol=1e-5, rtol=1e-4)
