"""The classifier: what it leaves alone, what it refuses, and that faster means equal."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earwitness.audio.dialects import drsa_toy
from earwitness.audio.front_end import Identity, LogMel
from earwitness.audio.mel import Compression, MelBands, Stft
from earwitness.audio.stft import ListeningSTFT
from earwitness.classifier import AudioClassifier
from earwitness.errors import AudioError, ClassifierError, ConfigurationError
from earwitness.folding import Folded, fold_batch_norm, normalised_layers, prepared
from earwitness.pooling import POOLS, logit_of_mean_probability
from networks import (
    LABELS,
    N_SAMPLES,
    RATE,
    Lambda,
    SmallCNN,
    WaveCNN,
    classifier_of,
    log_mel,
    noise,
    patches_of,
    randomise,
    wave_classifier_of,
)

torch.set_num_threads(1)


def segmented(**options: Any) -> AudioClassifier:
    return classifier_of(segmenter=patches_of, **options)


# --- the user's own module


def portrait(module: nn.Module) -> dict[str, Any]:
    """All that could be changed by mistake: modes, hooks, identities, flags, gradients and values."""
    return {
        "modes": {name: part.training for name, part in module.named_modules()},
        "hooks": {
            name: [list(getattr(part, kind)) for kind in vars(part) if kind.endswith("_hooks")]
            for name, part in module.named_modules()
        },
        "identities": {name: (id(p), p.data_ptr(), p.requires_grad) for name, p in module.named_parameters()},
        "gradients": {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()},
        "values": {name: value.clone() for name, value in module.state_dict().items()},
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for part in ("modes", "hooks", "identities"):
        assert one[part] == other[part]
    for part in ("gradients", "values"):
        assert one[part].keys() == other[part].keys()
        for name, value in one[part].items():
            assert (value is None and other[part][name] is None) or torch.equal(value, other[part][name]), name


def in_use() -> SmallCNN:
    """A network in the middle of training: mixed modes, a frozen layer, a hook, gradients."""
    network = SmallCNN().train()
    network.features[1].eval()
    network.features[0].weight.requires_grad_(False)
    network.register_forward_hook(lambda module, inputs, output: None)
    network(torch.randn(2, 1, 16, 8, generator=torch.Generator().manual_seed(0))).sum().backward()
    return network


class Vandal:
    """Does to a classifier whatever an explainer must not do to the user's module, and then fails."""

    def explain(self, classifier: AudioClassifier, waveforms: Tensor) -> None:
        for parameter in classifier.network.parameters():
            parameter.data.zero_()
            parameter.requires_grad_(True)
        classifier.network.train()
        classifier.network.register_forward_hook(lambda module, inputs, output: output * 0)
        classifier.logits(waveforms).sum().backward()
        raise RuntimeError("out of ideas")


@pytest.mark.parametrize("prepare", [False, True])
def test_the_users_module_is_left_exactly_as_it_was_also_after_an_exception(prepare: bool) -> None:
    network, front_end = in_use(), log_mel().train()
    before = portrait(network)
    classifier = classifier_of(network, front_end=front_end)
    used = classifier.prepare() if prepare else classifier
    used.probabilities(noise())
    used.regroup({"any": LABELS}).probabilities(noise())
    with pytest.raises(RuntimeError, match="out of ideas"):
        Vandal().explain(used, noise())
    assert_same(before, portrait(network))
    assert front_end.training


def test_a_wrapped_network_is_in_evaluation_mode_and_without_gradients_of_its_own() -> None:
    classifier = classifier_of(in_use())
    assert not any(part.training for part in classifier.network.modules())
    assert not any(p.requires_grad or p.grad is not None for p in classifier.network.parameters())


def test_a_front_end_with_weights_is_copied_and_frozen_as_the_network_is() -> None:
    class Learned(LogMel):
        def __init__(self, like: LogMel) -> None:
            super().__init__(rate=like.rate, stft=like.stft, bands=like.bands, compression=like.compression, power=1)
            self.gain = nn.Parameter(torch.ones(1))

        def forward(self, waveforms: Tensor) -> Tensor:
            return super().forward(waveforms) * self.gain

    front_end = Learned(log_mel())
    classifier = classifier_of(front_end=front_end)
    before, checksum = classifier.logits(noise()), classifier.checksum
    assert not before.requires_grad
    front_end.gain.data.fill_(3.0)
    assert torch.equal(classifier.logits(noise()), before)
    assert classifier_of(front_end=front_end).checksum != checksum


def test_training_after_wrapping_does_not_reach_the_classifier() -> None:
    network = SmallCNN()
    classifier = classifier_of(network)
    before = classifier.logits(noise())
    randomise(network, seed=5)
    assert torch.equal(classifier.logits(noise()), before)


def test_a_network_that_works_in_place_on_its_input_does_not_change_the_batch() -> None:
    class Clamping(WaveCNN):
        def forward(self, samples: Tensor) -> Tensor:
            return super().forward(samples.clamp_(-0.1, 0.1))

    waveforms = noise()
    before = waveforms.clone()
    classifier = wave_classifier_of(Clamping())
    classifier.probabilities(waveforms)
    classifier.logits(waveforms.requires_grad_()).sum().backward()
    assert torch.equal(waveforms, before)
    assert waveforms.grad is not None


def test_a_network_that_cannot_be_copied_is_refused() -> None:
    class Uncopyable(SmallCNN):
        def __deepcopy__(self, memo: object) -> None:
            raise TypeError("not me")

    with pytest.raises(ClassifierError, match=r"cannot be copied \(not me\)"):
        classifier_of(Uncopyable())


# --- refused at the door


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ()}, "needs a sequence of labels"),
        ({"labels": "abc"}, "got 'abc'"),
        ({"labels": ("dog", "rain", "dog")}, r"more than once: \['dog'\]"),
        ({"pool": "logsumexpp"}, "Did you mean 'logsumexp'"),
        ({"front_end": torch.nn.Identity()}, "got SmallCNN and Identity"),
        ({"duration_s": 0}, "duration_s must be positive"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ClassifierError, match=message):
        classifier_of(**options)


def test_a_function_is_no_network() -> None:
    with pytest.raises(ClassifierError, match=r"torch\.nn\.Module"):
        classifier_of(lambda features: features)


def squashed(squash: Callable[[Tensor], Tensor]) -> nn.Module:
    network = SmallCNN()
    return nn.Sequential(network, Lambda(squash))


PROBABILITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(1),
    "softmax, clamped": lambda x: x.softmax(1).clamp(1e-6, 1 - 1e-6),
    "softmax by hand": lambda x: x.exp() / x.exp().sum(1, keepdim=True),
    "sigmoid": torch.sigmoid,
    "sigmoid, then a mean": lambda x: torch.sigmoid(torch.stack([x, x])).mean(0),
    "softmax outside the graph": lambda x: x.detach().softmax(1),
}


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("name", PROBABILITIES)
def test_a_network_that_returns_probabilities_is_refused(name: str, multilabel: bool) -> None:
    classifier = classifier_of(squashed(PROBABILITIES[name]), multilabel=multilabel)
    last = "sigmoid" if name.startswith("sigmoid") else "softmax"
    with pytest.raises(ClassifierError, match=f"probabilities, not logits. Remove its final {last}") as caught:
        classifier.logits(noise())
    assert ("Then say multilabel" in str(caught.value)) == (multilabel != (last == "sigmoid"))


def test_a_sigmoid_for_one_class_is_refused() -> None:
    network = nn.Sequential(SmallCNN(n_classes=1), nn.Sigmoid())
    with pytest.raises(ClassifierError, match="final sigmoid"):
        classifier_of(network, labels=["dog"], multilabel=True).logits(noise())


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: 0.3 + 0.1 * torch.sin(x.mean((2, 3))).expand(-1, 3),  # a network with small outputs
        lambda x: torch.tensor([0.2, 0.3, 0.4]).expand(len(x), 3) + 0 * x.mean((1, 2, 3))[:, None],
        lambda x: torch.sigmoid(x.mean((2, 3))) @ torch.tensor([[0.1, 0.2, 0.9]]),  # a sigmoid inside
    ],
)
def test_logits_that_happen_to_lie_between_0_and_1_are_no_probabilities(
    function: Callable[[Tensor], Tensor], multilabel: bool
) -> None:
    logits = classifier_of(Lambda(function), multilabel=multilabel).logits(noise())
    assert bool(((logits >= 0) & (logits <= 1)).all())


def test_logits_that_look_like_probabilities_on_the_first_batch_only_are_let_through() -> None:
    waveforms = noise(2)
    first = log_mel()(waveforms).mean((1, 2, 3))

    def function(features: Tensor) -> Tensor:
        distance = features.mean((1, 2, 3)) - first.mean()
        return torch.stack([0.3 + 0 * distance, 0.5 + distance - distance, 0.2 + (distance.abs() > 1) * 5.0], dim=1)

    logits = classifier_of(Lambda(function)).logits(waveforms)
    assert torch.allclose(logits.sum(1), torch.ones(2))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (SmallCNN(n_classes=5), "has 5 outputs, but 3 labels were given"),
        (Lambda(lambda x: x.mean((2,))), r"shape \(2, 3\), got \(2, 1, 32\)"),
        (Lambda(lambda x: x.mean()), r"got \(\)"),
        (Lambda(lambda x: (x.mean((2, 3)), x)), "got tuple"),
        (Lambda(lambda x: {"logits": x}), "got dict"),
        (Lambda(lambda x: x.mean((2, 3))[:1].expand(1, 3)), r"got \(1, 3\)"),
        (Lambda(lambda x: x.mean((2, 3)).expand(-1, 3) * float("nan")), "NaN or infinite"),
        (Lambda(lambda x: x.mean((2, 3)).expand(-1, 3) / 0), "NaN or infinite"),
    ],
)
def test_a_network_that_returns_no_logits_for_these_labels_is_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(ClassifierError, match=message):
        classifier_of(network).logits(noise())


def test_a_network_that_squeezes_a_batch_of_one_is_refused_when_that_comes() -> None:
    network = SmallCNN()
    classifier = classifier_of(nn.Sequential(network, Lambda(torch.squeeze)))
    classifier.logits(noise(2))
    with pytest.raises(ClassifierError, match=r"shape \(1, 3\), got \(3,\)"):
        classifier.logits(noise(1))


def test_the_number_of_outputs_is_checked_after_regrouping_too() -> None:
    regrouped = classifier_of(SmallCNN(n_classes=5)).regroup({"dog": ["dog"]})
    with pytest.raises(ClassifierError, match="has 5 outputs, but 3 labels"):
        regrouped.logits(noise())


def test_a_recording_that_is_too_short_says_how_long_it_must_be() -> None:
    front_end = LogMel(
        rate=RATE, stft=Stft(256, 128, padding="none"), bands=MelBands(16), compression=Compression("ln", 1e-4)
    )
    classifier = classifier_of(Lambda(lambda x: x.mean((2, 3)).expand(-1, 3) - 1), front_end=front_end)
    assert classifier.min_samples == 256
    classifier.logits(noise(n_samples=256))
    with pytest.raises(AudioError, match=r"needs at least 256 samples \(0\.032 s at 8000 Hz\), got 255"):
        classifier.logits(noise(n_samples=255))
    with pytest.raises(AudioError, match=r"shape \(B, T\)"):
        classifier.logits(noise()[0])


def test_an_unknown_label_names_the_nearest() -> None:
    assert classifier_of().target_of("rain") == 1
    with pytest.raises(ClassifierError, match=r"'rian'.*Did you mean 'rain'"):
        classifier_of().target_of("rian")


# --- from waveform to probability


def test_probabilities_are_softmax_or_sigmoid_of_the_networks_outputs() -> None:
    network, waveforms = SmallCNN().eval(), noise()
    with torch.no_grad():
        outputs = network(log_mel()(waveforms))
    assert torch.equal(classifier_of(network).logits(waveforms), outputs)
    assert torch.allclose(
        classifier_of(network).probabilities(waveforms), outputs.exp() / outputs.exp().sum(1)[:, None]
    )
    multilabel = classifier_of(network, multilabel=True)
    assert torch.allclose(multilabel.probabilities(waveforms), 1 / (1 + (-outputs).exp()))
    assert not multilabel.probabilities(waveforms.requires_grad_()).requires_grad


def test_a_network_that_eats_samples_needs_no_feature_map() -> None:
    network = WaveCNN().eval()
    classifier = wave_classifier_of(network)
    assert classifier.feature_grid(N_SAMPLES) is None
    assert torch.equal(classifier.logits(noise()), network(noise()[:, None]).detach())
    assert classifier.listening == ListeningSTFT.for_rate(RATE)


def test_gradients_reach_the_waveform() -> None:
    waveforms = noise().requires_grad_()
    segmented().logits(waveforms)[:, 0].sum().backward()
    assert waveforms.grad is not None
    assert bool((waveforms.grad.abs().amax(1) > 0).all())


def test_the_listening_stft_is_the_front_ends_own_where_that_can_be_heard() -> None:
    assert classifier_of().listening == ListeningSTFT(RATE, 256, 128)
    gappy = LogMel(rate=RATE, stft=Stft(256, 200), bands=MelBands(16), compression=Compression("ln", 1e-4))
    assert gappy.shares_stft(256, 200, RATE)
    assert classifier_of(front_end=gappy).listening == ListeningSTFT.for_rate(RATE)
    uncentred = LogMel(
        rate=RATE, stft=Stft(256, 128, padding="none"), bands=MelBands(16), compression=Compression("ln", 1e-4)
    )
    assert classifier_of(front_end=uncentred).listening == ListeningSTFT.for_rate(RATE)


def test_the_feature_grid_is_one_object_for_a_length_in_all_twins_of_a_classifier() -> None:
    classifier = classifier_of()
    grid = classifier.feature_grid(N_SAMPLES)
    assert grid is not None
    assert grid.shape == tuple(classifier.features(noise()).shape[2:])
    for length in range(N_SAMPLES + 1, N_SAMPLES + 20):
        classifier.feature_grid(length)
    assert classifier.prepare().feature_grid(N_SAMPLES) is grid
    assert classifier.feature_grid(2 * N_SAMPLES) is not grid


# --- patches


def slow_pool(name: str, logits: Tensor, *, multilabel: bool) -> Tensor:
    """The pools once more, patch by patch, with plain formulas in float64."""
    rows = []
    for clip in logits.double():
        if name == "max":
            rows.append(torch.stack([max(column) for column in clip.T]))
        elif name == "mean":
            rows.append(sum(clip) / len(clip))
        elif name == "logsumexp":
            rows.append((sum(patch.exp() for patch in clip) / len(clip)).log())
        elif multilabel:
            p = sum(1 / (1 + (-patch).exp()) for patch in clip) / len(clip)
            rows.append((p / (1 - p)).log())
        else:
            rows.append((sum(patch.exp() / patch.exp().sum() for patch in clip) / len(clip)).log())
    return torch.stack(rows)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("name", POOLS)
def test_each_pool_is_its_formula(name: str, multilabel: bool) -> None:
    logits = 3 * torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    pooled = POOLS[name](logits, multilabel=multilabel)
    assert torch.allclose(pooled.double(), slow_pool(name, logits, multilabel=multilabel), atol=1e-5)
    one = POOLS[name](logits[:, :1], multilabel=multilabel)
    apart = logits[:, 0] if multilabel or name != "logit_of_mean_probability" else logits[:, 0].log_softmax(1)
    assert torch.allclose(one, apart, atol=1e-5)


@pytest.mark.parametrize("multilabel", [False, True])
def test_probabilities_of_a_clip_are_the_mean_of_those_of_its_patches(multilabel: bool) -> None:
    network, waveforms = SmallCNN().eval(), noise()
    classifier = segmented(network=network, multilabel=multilabel)
    features = log_mel()(waveforms)
    starts = range(0, features.shape[3] - 7, 4)
    with torch.no_grad():
        each = [network(features[..., start : start + 8]) for start in starts]
    wanted = sum(x.sigmoid() if multilabel else x.softmax(1) for x in each) / len(starts)
    assert len(starts) > 3
    assert torch.allclose(classifier.probabilities(waveforms), wanted, atol=1e-6)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("size", [30.0, 100.0, 1e4])
def test_saturated_patches_have_finite_logits_and_gradients(size: float, multilabel: bool) -> None:
    logits = torch.tensor([[[size, -size], [size, -size]], [[-size, size], [size, 0.0]]], requires_grad=True)
    pooled = logit_of_mean_probability(logits, multilabel=multilabel)
    assert bool(torch.isfinite(pooled).all())
    (gradient,) = torch.autograd.grad(pooled[:, 0].sum(), logits)
    assert bool(torch.isfinite(gradient).all())
    if multilabel:  # where every patch is saturated alike, the clip's logit moves as theirs do
        assert gradient[0, :, 0].sum() == pytest.approx(1.0, abs=1e-3)
        assert pooled[0, 0].item() == pytest.approx(size, rel=1e-5)


def test_a_clip_too_short_for_a_patch_is_refused() -> None:
    short = noise(n_samples=300)
    with pytest.raises(AudioError, match="makes no patch of features of shape"):
        classifier_of(segmenter=lambda x: x[:, None].expand(-1, -1, 1, 16, -1)[:, :0]).logits(short)


def test_a_segmenter_must_return_patches() -> None:
    with pytest.raises(ClassifierError, match=r"patches of shape \(4, P, …\), got \(20, 1, 16, 8\)"):
        classifier_of(segmenter=lambda x: patches_of(x).flatten(0, 1)[:20]).logits(noise())


# --- layers and taps


def test_an_unknown_layer_names_the_nearest() -> None:
    with pytest.raises(ClassifierError, match=r"no layer 'feature\.4'. Did you mean 'features\.4'"):
        classifier_of().layer("feature.4")
    with pytest.raises(ClassifierError, match="no layer ''"):
        classifier_of().layer("")


def test_a_layer_is_known_by_each_of_its_names() -> None:
    classifier = classifier_of()
    assert classifier.layer("features.6") is classifier.layer("features.2")


def test_taps_yield_hidden_maps_with_gradients() -> None:
    network = SmallCNN().eval()
    classifier, waveforms = classifier_of(network), noise()
    with classifier.taps(["features.4", "features.0"]) as maps:
        logits = classifier.logits(waveforms)
    by_hand = network.features[:4](log_mel()(waveforms)).detach()
    hidden = network.features[4](by_hand).detach().requires_grad_()
    wanted = network.head(network.features[5:](hidden.clone()).mean((2, 3)))
    assert torch.equal(maps["features.4"], hidden)  # not what the in-place ReLU made of it
    assert torch.allclose(logits, wanted, atol=1e-6)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), maps["features.4"], retain_graph=True)
    assert torch.allclose(gradient, torch.autograd.grad(wanted[:, 1].sum(), hidden)[0], atol=1e-7)
    (earlier,) = torch.autograd.grad(logits[:, 1].sum(), maps["features.0"])
    assert bool((earlier != 0).any())


def test_taps_let_the_gradient_through_to_the_waveform() -> None:
    classifier, waveforms = classifier_of(), noise().requires_grad_()
    (plain,) = torch.autograd.grad(classifier.logits(waveforms)[:, 0].sum(), waveforms)
    with classifier.taps(["features.1"]):
        (tapped,) = torch.autograd.grad(classifier.logits(waveforms)[:, 0].sum(), waveforms)
    assert torch.equal(plain, tapped)


def hooks_in(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_taps_remove_their_hooks_after_an_exception_and_after_an_unknown_name() -> None:
    classifier = classifier_of()
    hooks = []

    def pass_too_little() -> None:
        with classifier.taps(["features.0"]):
            hooks.append(hooks_in(classifier.network))
            classifier.logits(noise()[0])

    with pytest.raises(AudioError):
        pass_too_little()
    assert hooks == [2]
    with pytest.raises(ClassifierError), classifier.taps(["features.0", "nowhere"]):
        pass
    assert hooks_in(classifier.network) == 0


def test_taps_hold_the_last_pass_also_when_the_network_is_tried_out_first() -> None:
    classifier, waveforms = classifier_of(), noise()
    with classifier.taps(["features.0"]) as maps:
        classifier.logits(noise(seed=9))
        classifier.logits(waveforms)
    wanted = classifier.network.features[0](log_mel()(waveforms))
    assert torch.equal(maps["features.0"], wanted)


def test_a_tap_on_a_layer_that_runs_twice_or_returns_a_tuple_is_refused() -> None:
    classifier = classifier_of()
    with pytest.raises(ClassifierError, match=r"'features\.2' runs more than once"), classifier.taps(["features.2"]):
        classifier.logits(noise())

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(16, 3, batch_first=True)

        def forward(self, features: Tensor) -> Tensor:
            return self.gru(features[:, 0].transpose(1, 2))[0][:, -1]

    recurrent = classifier_of(Recurrent())
    with pytest.raises(ClassifierError, match="'gru' returns tuple"), recurrent.taps(["gru"]):
        recurrent.logits(noise())


# --- regrouping


def test_a_new_label_has_the_largest_logit_of_its_old_ones() -> None:
    classifier = classifier_of()
    old, new = classifier.logits(noise()), classifier.regroup({"loud": ["rain", "dog"], "quiet": ["clock"]})
    assert new.labels == ("loud", "quiet")
    assert torch.equal(new.logits(noise()), torch.stack([torch.maximum(old[:, 0], old[:, 1]), old[:, 2]], 1))
    assert classifier.labels == LABELS
    assert new.network is classifier.network


@pytest.mark.parametrize(
    ("groups", "message"),
    [({"a": ["dgo"]}, "Did you mean 'dog'"), ({"a": []}, r"have none: \['a'\]"), ({}, "there is no group")],
)
def test_groups_of_unknown_labels_or_of_none_are_refused(groups: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ClassifierError, match=message):
        classifier_of().regroup(groups)


def test_regrouping_twice_is_refused() -> None:
    with pytest.raises(ClassifierError, match="regroup the original"):
        classifier_of().regroup({"a": ["dog"]}).regroup({"b": ["a"]})


def test_the_outputs_behind_a_label_are_those_whose_largest_is_its_logit() -> None:
    plain = classifier_of()
    regrouped = plain.regroup({"animal": ["dog"], "other": ["clock", "rain"]})
    assert [plain.outputs_of(target) for target in range(3)] == [(0,), (1,), (2,)]
    outputs, logits = plain.logits(noise()), regrouped.logits(noise())
    for target in range(2):
        assert torch.equal(outputs[:, list(regrouped.outputs_of(target))].amax(1), logits[:, target])
    with pytest.raises(ClassifierError, match="index into the 2 labels of small, got 2"):
        regrouped.outputs_of(2)


# --- identity


def perturbed(name: str) -> SmallCNN:
    network = SmallCNN()
    tensor = network.state_dict()[name]
    tensor.view(-1)[-1] += 1e-3 if tensor.is_floating_point() else 1
    return network


@pytest.mark.parametrize("name", SmallCNN().state_dict())
def test_the_checksum_changes_with_every_weight(name: str) -> None:
    assert classifier_of(perturbed(name)).checksum != classifier_of().checksum


class Tempered(SmallCNN):
    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature


DIFFERENT: dict[str, Callable[[], AudioClassifier]] = {
    "plain": classifier_of,
    "labels": lambda: classifier_of(labels=("cat", "rain", "clock")),
    "order of labels": lambda: classifier_of(labels=("rain", "dog", "clock")),
    "multilabel": lambda: classifier_of(multilabel=True),
    "pool": lambda: classifier_of(pool="mean"),
    "segmenter": segmented,
    "parameters of the segmenter": lambda: classifier_of(segmenter=functools.partial(patches_of, hop=2)),
    "other parameters of the segmenter": lambda: classifier_of(segmenter=functools.partial(patches_of, hop=3)),
    "a nameless segmenter": lambda: classifier_of(segmenter=lambda x: patches_of(x, hop=5)),
    "another nameless segmenter": lambda: classifier_of(segmenter=lambda x: patches_of(x, hop=6)),
    "front end": lambda: classifier_of(front_end=drsa_toy()),
    "regrouped": lambda: classifier_of().regroup({"a": ["dog"], "b": ["rain"], "c": ["clock"]}),
    "regrouped otherwise": lambda: classifier_of().regroup({"a": ["rain"], "b": ["dog"], "c": ["clock"]}),
    "modules without weights": lambda: classifier_of(nn.Sequential(SmallCNN(), nn.Hardtanh(-9, 9))),
    "settings of those": lambda: classifier_of(nn.Sequential(SmallCNN(), nn.Hardtanh(-8, 9))),
    "a temperature": lambda: classifier_of(Tempered(1.0)),
    "another temperature": lambda: classifier_of(Tempered(2.0)),
}


def test_the_checksum_changes_with_all_that_changes_the_outputs() -> None:
    checksums = {name: build().checksum for name, build in DIFFERENT.items()}
    assert len(set(checksums.values())) == len(DIFFERENT), checksums
    assert {name: build().checksum for name, build in DIFFERENT.items()} == checksums


def test_the_checksum_is_that_of_the_plain_network_whatever_the_copy() -> None:
    classifier = classifier_of(SmallCNN().train(), name="one")
    same = classifier_of(SmallCNN(), name="another", duration_s=0.5)
    groups = {"a": ["dog", "rain"]}
    for twin in (same, classifier.prepare(), classifier.to("cpu"), copy.deepcopy(classifier), same.prepare().prepare()):
        assert twin.checksum == classifier.checksum
        assert twin.regroup(groups).checksum == classifier.regroup(groups).checksum
    assert classifier.prepare().network is not classifier.network
    classifier.logits(noise())
    assert classifier.checksum == same.checksum


def test_the_checksum_is_the_same_in_another_process() -> None:
    code = (
        "import functools, sys; sys.path[:] = sys.argv[1:]; from networks import classifier_of, patches_of\n"
        "print(classifier_of(segmenter=functools.partial(patches_of, hop=2)).checksum)"
    )
    done = subprocess.run([sys.executable, "-c", code, *sys.path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == classifier_of(segmenter=functools.partial(patches_of, hop=2)).checksum


# --- prepared: faster, and equal


def assert_equal_outputs(classifier: AudioClassifier, waveforms: Tensor) -> None:
    plain, fast = classifier.logits(waveforms), classifier.prepare().logits(waveforms)
    assert float((plain - fast).abs().max()) <= 1e-4 * float(plain.abs().max())


@pytest.mark.parametrize("build", [classifier_of, segmented, wave_classifier_of])
def test_a_prepared_classifier_is_folded_and_equal(build: Callable[[], AudioClassifier]) -> None:
    classifier = build()
    fast = classifier.prepare().network
    assert sum(isinstance(part, Folded) for part in fast.modules()) == len(normalised_layers(classifier.network))
    assert not any(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in fast.modules())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in classifier.network.named_modules()]
    for seed in range(5):
        assert_equal_outputs(classifier, noise(seed=seed))


def test_a_network_in_float64_stays_there() -> None:
    fast = classifier_of(SmallCNN().double(), front_end=log_mel().double()).prepare()
    assert fast.network.features[0].weight.dtype == torch.float64
    assert isinstance(fast.network.features[1], Folded)
    wave = wave_classifier_of(WaveCNN().double()).prepare()
    assert wave.logits(noise().double()).dtype == torch.float64


def test_a_network_without_batch_norm_is_its_own_fast_twin() -> None:
    classifier = classifier_of(nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert classifier.prepare().network is classifier.network


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class SkipsTheNorm(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return self[0](x)


class DoublesItsWeight(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, 2 * self.weight, self.bias)


class Head(nn.Module):
    """Maps (B, 4, M, N') to three logits."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))[:, :3] * torch.tensor([1.0, -2.0, 3.0])


class ConvElsewhereToo(nn.Module):
    """The convolution of a Sequential serves once more, without its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.block = nn.Sequential(self.conv, nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.expand(-1, 4, -1, -1)) + self.conv(x.expand(-1, 4, -1, -1))


class PartsOfASequential(nn.Module):
    """Its convolution is also called out of the Sequential: what folding cannot see."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) * self.block[0](x)


class Flattens(nn.Module):
    """Reads the memory of its maps, which channels-last maps do not allow."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], 4, -1).mean(2)[:, :3] + x.view(x.shape[0], -1)[:, 5:6]


def conv(n_in: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(n_in, 4, 3, padding=1, **options)


def one_norm_for_both() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    return nn.Sequential(conv(), norm, nn.ReLU(), conv(4), norm, Head())


def one_conv_for_both() -> nn.Module:
    shared = conv(4)
    return nn.Sequential(conv(), shared, nn.BatchNorm2d(4), nn.ReLU(), shared, nn.BatchNorm2d(4), Head())


def one_relu_between() -> nn.Module:
    relu = nn.ReLU()
    return nn.Sequential(conv(), relu, conv(4), relu, nn.BatchNorm2d(4), Head())


def hooked() -> nn.Module:
    network = nn.Sequential(conv(), nn.BatchNorm2d(4), conv(4), nn.BatchNorm2d(4), Head())
    network[3].register_forward_hook(lambda module, inputs, output: 2 * output)
    return network


def parametrised() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(conv()), nn.BatchNorm2d(4), Head())


STRANGE: dict[str, tuple[Callable[[], nn.Module], int | None]] = {
    # how to build it, and how many batch norms folding may take: None is "not this network at all"
    "norm before conv": (lambda: nn.Sequential(nn.BatchNorm2d(1), conv(), Head()), None),
    "something between": (lambda: nn.Sequential(conv(), nn.ReLU(), nn.BatchNorm2d(4), Head()), None),
    "one ReLU between, elsewhere too": (one_relu_between, None),
    "one norm for two convolutions": (one_norm_for_both, 2),
    "one convolution with two norms": (one_conv_for_both, 2),
    "a convolution that serves elsewhere": (lambda: nn.Sequential(ConvElsewhereToo(), Head()), 1),
    "a convolution called out of its Sequential": (lambda: nn.Sequential(PartsOfASequential(), Head()), None),
    "a Sequential with its own forward": (
        lambda: nn.Sequential(conv(), Residual(conv(4), nn.BatchNorm2d(4)), Head()),
        None,
    ),
    "a Sequential that skips the norm": (lambda: nn.Sequential(SkipsTheNorm(conv(), nn.BatchNorm2d(4)), Head()), None),
    "a convolution with its own forward": (
        lambda: nn.Sequential(DoublesItsWeight(1, 4, 3), nn.BatchNorm2d(4), Head()),
        None,
    ),
    "one foldable beside one that is not": (
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(4), Residual(conv(4), nn.BatchNorm2d(4)), Head()),
        1,
    ),
    "a hook on the second norm": (hooked, 1),
    "a parametrised weight": (parametrised, None),
    "no running statistics": (
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(4, track_running_stats=False), Head()),
        None,
    ),
    "no affine": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(4, affine=False), Head()), 1),
    "grouped and dilated": (
        lambda: nn.Sequential(conv(), conv(4, groups=2, dilation=2), nn.BatchNorm2d(4), Head()),
        1,
    ),
    "a view of the memory": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(4), Flattens()), 1),
    "linear": (
        lambda: nn.Sequential(conv(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3)),
        1,
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_folding_takes_what_it_may_and_leaves_the_outputs_equal(name: str) -> None:
    build, n_folded = STRANGE[name]
    network = build()
    randomise(network, seed=3)
    classifier = classifier_of(network)
    fast = classifier.prepare().network
    assert_equal_outputs(classifier, noise())
    if n_folded is None:
        assert fast is classifier.network
    else:
        assert sum(isinstance(part, Folded) for part in fast.modules()) == n_folded


def test_a_folded_network_with_other_outputs_is_not_used() -> None:
    network = nn.Sequential(PartsOfASequential(), Head()).eval().requires_grad_(False)
    randomise(network, seed=3)
    probe = torch.randn(2, 1, 16, 8, generator=torch.Generator().manual_seed(0))
    folded = fold_batch_norm(network)
    assert isinstance(folded[0].block[1], Folded)
    assert float((folded(probe) - network(probe)).abs().max()) > 1e-2
    assert prepared(network, probe) is network


def test_a_layer_that_was_folded_is_not_handed_out_for_the_plain_one() -> None:
    classifier, waveforms = classifier_of(), noise()
    fast = classifier.prepare()
    with pytest.raises(ClassifierError, match=r"'features\.1' of small was folded into its layer 'features\.0'"):
        fast.layer("features.0")
    with classifier.taps(["features.1"]) as plain:
        classifier.logits(waveforms)
    with fast.taps(["features.1"]) as folded:
        fast.logits(waveforms)
    assert torch.allclose(plain["features.1"], folded["features.1"], atol=1e-5)


def test_prepare_refuses_a_wrong_network() -> None:
    with pytest.raises(ClassifierError, match="probabilities"):
        classifier_of(squashed(torch.sigmoid)).prepare()


def test_a_fixed_length_is_what_prepare_tries() -> None:
    seen: list[int] = []

    class Fixed(SmallCNN):
        def forward(self, features: Tensor) -> Tensor:
            seen.append(features.shape[-1])
            return super().forward(features)

    classifier_of(Fixed(), duration_s=0.25).prepare()
    assert set(seen) == {log_mel().n_frames(RATE // 4)}


def test_an_identity_front_end_takes_one_sample_or_more() -> None:
    classifier = wave_classifier_of(Lambda(lambda x: x.mean(2).expand(-1, 3) * torch.tensor([1.0, -1.0, 2.0])))
    assert classifier.min_samples == Identity(rate=RATE).min_samples == 1
    assert classifier.logits(noise(n_samples=1)).shape == (4, 3)
    with pytest.raises(AudioError, match="at least 1 samples"):
        classifier.logits(noise(n_samples=0))


# --- precision


def test_bfloat16_changes_the_logits_a_little_and_says_by_how_much() -> None:
    exact = classifier_of().prepare()
    coarse = exact.at_precision("bfloat16")
    waveforms = noise(3)
    logits, wanted = coarse.logits(waveforms), exact.logits(waveforms)
    assert logits.dtype == torch.float32
    difference = float((logits - wanted).abs().max() / wanted.abs().max())
    assert 1e-5 < difference < 0.05
    assert 1e-5 < coarse.precision_deviation < 0.05
    assert exact.precision_deviation == 0
    assert coarse.checksum != exact.checksum
    assert coarse.at_precision("float32").checksum == exact.checksum


def test_bfloat16_has_gradients_in_float32() -> None:
    coarse = classifier_of().prepare().at_precision("bfloat16")
    waveforms = noise(2).requires_grad_()
    coarse.logits(waveforms)[:, 0].sum().backward()
    assert waveforms.grad is not None
    assert waveforms.grad.dtype == torch.float32
    assert float(waveforms.grad.abs().max()) > 0


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no precision 'float16'"):
        classifier_of().at_precision("float16")  # type: ignore[arg-type]


def test_the_same_classifier_around_another_network_has_its_logits_and_its_checksum() -> None:
    first, other = classifier_of(), classifier_of(SmallCNN(seed=1))
    waveforms = noise()
    assert first.checksum != other.checksum
    swapped = first.with_network(other.network)
    assert torch.equal(swapped.logits(waveforms), other.logits(waveforms))
    assert swapped.checksum == other.checksum
    assert first.checksum == classifier_of().checksum
    assert swapped.with_network(first.network).checksum == first.checksum


def test_a_network_of_other_outputs_cannot_take_the_place_of_the_own_one() -> None:
    with pytest.raises(ClassifierError, match="3"):
        classifier_of().with_network(SmallCNN(n_classes=5).eval()).logits(noise())
