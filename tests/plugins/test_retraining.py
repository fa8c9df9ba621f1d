"""Training anew on feature maps: what is promised of the loop, and that classes are learnt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from earwitness.errors import AudioError, ConfigurationError, DatasetError, PluginError
from earwitness.registry import registry
from earwitness_plugins.classifiers.augmentation import Augmentation, augment_features
from earwitness_plugins.classifiers.compact_cnn import CompactCNN
from earwitness_plugins.classifiers.training import TrainingRecipe, train_on_features
from earwitness_plugins.classifiers.training_data import FeatureData

RECIPE = TrainingRecipe(
    epochs=6, batch_size=8, learning_rate=0.01, augmentation=Augmentation(shift=True, mix_share=0.3)
)


def maps(n_clips: int = 24, seed: int = 0, frames: int = 12) -> tuple[Tensor, Tensor]:
    """Noise, louder in the lower or the upper bands."""
    labels = torch.arange(n_clips) % 2
    features = torch.rand(n_clips, 1, 8, frames, generator=torch.Generator().manual_seed(seed))
    for number, label in enumerate(labels.tolist()):
        features[number, 0, 4 * label : 4 * label + 4] += 1
    return features, labels


def network() -> CompactCNN:
    return CompactCNN(channels=(4, 8), n_classes=2)


def test_classes_are_learnt_from_feature_maps_and_the_same_way_each_time() -> None:
    features, labels = maps()
    untrained = network()
    before = torch.get_rng_state()
    one, again, other = (train_on_features(untrained, features, labels, recipe=RECIPE, seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, again.state_dict[name]) for name, value in one.state_dict.items())
    assert not all(torch.equal(value, other.state_dict[name]) for name, value in one.state_dict.items())
    trained = network()
    trained.load_state_dict(one.state_dict)
    unseen, wanted = maps(seed=1)
    assert float((trained.eval()(unseen).argmax(1) == wanted).float().mean()) > 0.9
    assert one.epoch == 6


def test_maps_without_evidence_teach_nothing() -> None:
    features, labels = maps()
    found = train_on_features(network(), torch.rand_like(features), labels, recipe=RECIPE, seed=0)
    trained = network()
    trained.load_state_dict(found.state_dict)
    unseen, wanted = maps(seed=1, n_clips=60)
    assert float((trained.eval()(torch.rand_like(unseen)).argmax(1) == wanted).float().mean()) < 0.75


def test_maps_are_shifted_in_time_mixed_and_cut() -> None:
    features, _ = maps()
    targets = torch.eye(2).repeat(12, 1)
    generator = torch.Generator().manual_seed(0)
    shifted, same = augment_features(features, targets, features[:1], Augmentation(shift=True), generator)
    assert torch.equal(same, targets)
    assert not torch.equal(shifted, features)
    for old, new in zip(features, shifted, strict=True):
        assert any(torch.equal(old.roll(-offset, dims=2), new) for offset in range(12))
    mixed, soft = augment_features(features, targets, features[:1], Augmentation(mix_share=1.0), generator)
    assert torch.allclose(soft.sum(1), torch.ones(24))
    level = mixed[:, 0, :4].mean((1, 2)) - mixed[:, 0, 4:].mean((1, 2))  # 1 for the first class, -1 for the second
    assert torch.allclose(level, soft[:, 0] - soft[:, 1], atol=0.3)
    cut, _ = augment_features(
        features, targets, torch.full_like(features[:1], -9), Augmentation(dropped_bands=3), generator
    )
    assert bool((cut == -9).any())


def test_what_is_dropped_becomes_the_mean_of_its_band() -> None:
    features, labels = maps()
    data = FeatureData(features, labels, None)
    assert torch.allclose(data.silence[0, 0, :, 0], features.mean((0, 1, 3)))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"features": torch.rand(4, 8, 12)}, AudioError, r"of shape \(N, 1, M, N'\)"),
        ({"features": torch.full((4, 1, 8, 12), torch.nan)}, AudioError, "NaN"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, DatasetError, "one label for each"),
        ({"augmentation": Augmentation(noise_share=0.5)}, ConfigurationError, "no gain, noise or void"),
        ({"augmentation": Augmentation(gain_db=(-6, 6))}, ConfigurationError, "no gain, noise or void"),
    ],
)
def test_what_is_no_material_is_refused(change: dict[str, object], error: type[Exception], said: str) -> None:
    given = {"features": torch.rand(4, 1, 8, 12), "labels": torch.zeros(4, dtype=torch.int64), "augmentation": None}
    with pytest.raises(error, match=said):
        FeatureData(**{**given, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "shape"), [("toy-cnn", (4, 1, 64, 64)), ("esc10-cnn", (4, 1, 64, 16))])
def test_packaged_classifiers_say_how_they_are_trained_anew(name: str, shape: tuple[int, ...]) -> None:
    retrain = registry().classifier(name).spec.load_retrain()
    said: list[tuple[int, int, str]] = []
    features = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    again = retrain(features, torch.tensor([0, 1, 0, 1]), seed=0, progress=lambda *report: said.append(report))
    assert not again.training
    assert again(features).shape == (4, 2 if name == "toy-cnn" else 10)
    assert said[-1][0] == said[-1][1]


def test_a_classifier_that_does_not_say_it_is_refused_with_what_to_do() -> None:
    with pytest.raises(PluginError, match=r"'yamnet' does not say how it is trained anew\. Use one that does"):
        registry().classifier("yamnet").spec.load_retrain()
