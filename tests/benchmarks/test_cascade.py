"""Randomising a classifier from the output down: order, seeds, folded networks, and what cannot be randomised."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from earwitness.classifier import AudioClassifier
from earwitness.errors import ConfigurationError, NotApplicableError
from earwitness_bench.cascade import cascade, stages
from networks import Lambda, SmallCNN, WaveCNN, classifier_of, noise, wave_classifier_of

LAYERS = [("head",), ("features.4",), ("features.0",)]


def features(classifier: AudioClassifier) -> Tensor:
    return classifier.features(noise(1))


def weights(classifier: AudioClassifier) -> dict[str, Tensor]:
    return classifier.network.state_dict()


def changed(one: AudioClassifier, other: AudioClassifier) -> set[str]:
    """Layers of which any tensor differs."""
    mine, others = weights(one), weights(other)
    names = [name for name in mine if name in others and not name.endswith("num_batches_tracked")]
    return {name.rpartition(".")[0] for name in names if not torch.equal(mine[name], others[name])}


def test_layers_come_from_the_output_down_each_with_its_batch_norm() -> None:
    classifier = classifier_of()
    assert stages(classifier, features(classifier), 9) == LAYERS
    found = list(cascade(classifier, features(classifier), seed=0, most=9))
    assert [stage.layers for stage in found] == LAYERS
    expected: set[str] = set()
    for stage, layers in zip(
        found, ({"head"}, {"features.4", "features.5"}, {"features.0", "features.1"}), strict=True
    ):
        expected |= layers
        assert changed(classifier, stage.classifier) == expected


def test_the_order_is_that_in_which_layers_run_and_not_that_of_their_definition() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 3), nn.Conv2d(1, 4, 3)
            self.never = nn.Linear(2, 2)

        def forward(self, maps: Tensor) -> Tensor:
            return self.last(self.first(maps).mean((2, 3)))

    classifier = classifier_of(Backwards())
    assert stages(classifier, features(classifier), 9) == [("last",), ("first",), ("never",)]
    assert stages(classifier, features(classifier), 2) == [("last", "first"), ("never",)]


def test_the_classifier_stays_as_it_is_and_so_does_the_global_generator() -> None:
    classifier = classifier_of()
    before, state = {name: value.clone() for name, value in weights(classifier).items()}, torch.get_rng_state()
    list(cascade(classifier, features(classifier), seed=0, most=9))
    assert all(torch.equal(value, before[name]) for name, value in weights(classifier).items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_pre_hooks for module in classifier.network.modules())


def test_a_layer_draws_by_the_seed_and_its_name_alone() -> None:
    classifier = classifier_of()
    once, again, other = (
        list(cascade(classifier, features(classifier), seed=seed, most=most))[-1].classifier
        for seed, most in ((0, 9), (0, 1), (1, 9))
    )
    assert changed(once, again) == set()
    assert changed(once, other) == {"head", "features.4", "features.0"}  # a batch norm draws nothing


def test_a_folded_network_loses_the_same_as_a_plain_one() -> None:
    plain = classifier_of()
    folded = plain.prepare()
    assert folded.network is not plain.network
    assert stages(folded, features(folded), 9) == LAYERS
    for one, other in zip(
        *(cascade(classifier, features(classifier), seed=0, most=9) for classifier in (plain, folded)), strict=True
    ):
        mine, others = one.classifier.logits(noise()), other.classifier.logits(noise())
        assert torch.allclose(mine, others, atol=1e-4 * float(mine.abs().max()))


def test_randomised_weights_are_of_the_layers_own_initialisation() -> None:
    classifier = classifier_of()
    *_, last = cascade(classifier, features(classifier), seed=0, most=9)
    head = last.classifier.layer("head")
    assert isinstance(head, nn.Linear)
    assert float(head.weight.abs().max()) <= 8**-0.5  # U(-1/sqrt(inputs), 1/sqrt(inputs))
    assert float(weights(classifier)["head.weight"].abs().max()) > 8**-0.5
    norm = last.classifier.layer("features.1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert torch.equal(norm.running_var, torch.ones(6))


def test_networks_that_eat_samples_can_be_randomised_too() -> None:
    classifier = wave_classifier_of(WaveCNN())
    assert stages(classifier, features(classifier), 9) == [("head",), ("features.3",), ("features.0",)]


def test_what_cannot_be_initialised_anew_is_refused_by_its_name() -> None:
    class Scaled(SmallCNN):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, features: Tensor) -> Tensor:
            return self.scale * super().forward(features)

    classifier = classifier_of(Scaled())
    with pytest.raises(NotApplicableError, match=r"no reset_parameters\(\) .*: itself \(Scaled\)"):
        stages(classifier, features(classifier), 9)

    class WithScale(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 3)
            self.scale = nn.Parameter(torch.ones(3))

    network = SmallCNN()
    network.head = WithScale()
    with pytest.raises(NotApplicableError, match=r"resets all of theirs: head \(WithScale\)"):
        stages(classifier_of(network), features(classifier), 9)
    without = classifier_of(Lambda(lambda maps: maps.mean((1, 3))[:, :3]))
    with pytest.raises(NotApplicableError, match="there are no layers"):
        stages(without, features(without), 9)


def test_a_batch_norm_without_parameters_forgets_what_it_saw_and_one_may_serve_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            norm = nn.BatchNorm2d(4)
            self.first = nn.BatchNorm2d(1, affine=False)
            self.rest = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 4, 3), norm)
            self.last = nn.Linear(4, 3)
            for module in (norm, self.first):
                module.running_mean.fill_(2.0)

        def forward(self, maps: Tensor) -> Tensor:
            return self.last(self.rest(self.first(maps)).mean((2, 3)))

    classifier = classifier_of(Twice())
    *_, last = cascade(classifier, features(classifier), seed=0, most=9)
    assert last.layers == ("first",)
    after = dict(last.classifier.network.named_modules())
    assert all(bool((after[name].running_mean == 0).all()) for name in ("first", "rest.1"))  # type: ignore[operator]


@pytest.mark.parametrize("most", [0, 2.5, True])
def test_a_cascade_has_a_whole_number_of_stages(most: object) -> None:
    classifier = classifier_of()
    with pytest.raises(ConfigurationError, match="at least 1"):
        stages(classifier, features(classifier), most)  # type: ignore[arg-type]
