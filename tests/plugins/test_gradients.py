"""Saliency, integrated gradients and GradCAM against slow derivations by plain autograd, in float64."""

from __future__ import annotations

import gc
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from numpy.polynomial.legendre import leggauss
from scipy.stats import spearmanr
from torch import Tensor, nn

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ClassifierError, ConfigurationError
from earwitness.explanation import Explanation
from earwitness.protocols import Explainer
from earwitness.random import Random
from earwitness_plugins.gradients.gradcam import GradCam, last_convolution
from earwitness_plugins.gradients.integrated_gradients import IntegratedGradients
from earwitness_plugins.gradients.saliency import Saliency
from networks import (
    N_SAMPLES,
    Lambda,
    SmallCNN,
    WaveCNN,
    batch_of,
    classifier_of,
    doubled,
    log_mel,
    patches_of,
    randomise,
    wave_classifier_of,
)

torch.set_num_threads(1)

TARGET = torch.tensor([2, 0, 1, 1])
METHODS: dict[str, Callable[..., Explainer]] = {
    "saliency": Saliency,
    "integrated-gradients": lambda **options: IntegratedGradients(n_steps=6, **options),
    "gradcam": GradCam,
}
CLASSIFIERS: dict[str, Callable[..., AudioClassifier]] = {
    "log-mel": lambda **options: classifier_of(SmallCNN().double(), front_end=log_mel().double(), **options),
    "samples": lambda **options: wave_classifier_of(WaveCNN().double(), **options),
    "patches": lambda **options: classifier_of(
        SmallCNN().double(), front_end=log_mel().double(), segmenter=patches_of, multilabel=True, **options
    ),
}


def explain(method: Explainer, classifier: AudioClassifier, batch: Batch, target: Tensor = TARGET) -> Explanation:
    return method.explain(classifier, batch, target=target, random=Random(0, batch.clip_ids))


def relevance(method: Explainer, classifier: AudioClassifier, batch: Batch, target: Tensor = TARGET) -> Tensor:
    found = explain(method, classifier, batch, target).relevance
    assert found is not None
    return found.values


def closeness(one: Tensor, other: Tensor) -> float:
    """Largest difference relative to the largest value."""
    assert one.shape == other.shape
    assert float(other.abs().max()) > 0
    return float((one.double() - other.double()).abs().max() / other.double().abs().max())


# --- the same once more, slowly: row by row, with plain autograd


def entrance(classifier: AudioClassifier, waveform: Tensor, domain: str) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What is differentiated, for one clip: its input x, and x -> logits (C,)."""
    if domain == "waveform" or isinstance(classifier.network, WaveCNN):
        return waveform, lambda x: classifier.logits(x[None])[0]
    return classifier.features(waveform[None])[0, 0], lambda x: classifier.logits_of_features(x[None, None])[0]


def gradient(function: Callable[[Tensor], Tensor], at: Tensor, target: int) -> Tensor:
    x = at.detach().clone().requires_grad_()
    function(x)[target].backward()
    assert x.grad is not None
    return x.grad


def slow_saliency(classifier: AudioClassifier, batch: Batch, domain: str) -> Tensor:
    rows = []
    for waveform, target in zip(batch.waveforms, TARGET.tolist(), strict=True):
        x, function = entrance(classifier, waveform, domain)
        rows.append(gradient(function, x, target).abs())
    return torch.stack(rows)


def slow_integrated_gradients(classifier: AudioClassifier, batch: Batch, domain: str, n_steps: int) -> Tensor:
    """(x - x') times the integral over alpha of the gradient at x' + alpha (x - x')."""
    points, weights = leggauss(n_steps)
    rows = []
    for waveform, target in zip(batch.waveforms, TARGET.tolist(), strict=True):
        x, function = entrance(classifier, waveform, domain)
        silence, _ = entrance(classifier, torch.zeros_like(waveform), domain)
        integral = torch.zeros_like(x)
        for point, weight in zip(points, weights, strict=True):
            integral += weight / 2 * gradient(function, silence + (point + 1) / 2 * (x - silence), target)
        rows.append((x - silence) * integral)
    return torch.stack(rows)


def interpolation(n_in: int, n_out: int) -> Tensor:
    """Matrix of linear interpolation between cell centres, held at the ends."""
    matrix = torch.zeros(n_out, n_in, dtype=torch.float64)
    for i in range(n_out):
        place = min(max((i + 0.5) * n_in / n_out - 0.5, 0.0), n_in - 1.0)
        left = min(int(place), max(n_in - 2, 0))
        matrix[i, left] += 1 - (place - left)
        if n_in > 1:
            matrix[i, left + 1] += place - left
    return matrix


def slow_gradcam(classifier: AudioClassifier, batch: Batch, domain: str, layer: str) -> Tensor:
    """relu(sum_k a_k A_k), a_k the mean gradient of channel k (Eq. 1 and 2 of the paper), at the input's size."""
    kept: dict[str, Tensor] = {}

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept["A"] = output.detach().clone().requires_grad_()
        return kept["A"].clone()  # for the in-place ReLU

    rows = []
    handle = classifier.network.get_submodule(layer).register_forward_hook(hook)
    for waveform, target in zip(batch.waveforms, TARGET.tolist(), strict=True):
        x, function = entrance(classifier, waveform, domain)
        function(x.requires_grad_())[target].backward()
        activation, grad = kept["A"][0].detach(), kept["A"].grad[0]
        cam = torch.zeros(activation.shape[1:], dtype=torch.float64)
        for channel, slope in zip(activation, grad, strict=True):
            cam += slope.sum() / slope.numel() * channel
        cam = cam.clamp_min(0)
        if x.ndim == 2:
            rows.append(interpolation(cam.shape[0], x.shape[0]) @ cam @ interpolation(cam.shape[1], x.shape[1]).T)
        else:
            rows.append(interpolation(cam.shape[-1], x.shape[0]) @ (cam.mean(0) if cam.ndim == 2 else cam))
        x.requires_grad_(False)
    handle.remove()
    return torch.stack(rows)


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("domain", ["features", "waveform"])
def test_saliency_is_the_absolute_gradient_of_the_targets_logit(kind: str, domain: str) -> None:
    classifier, batch = CLASSIFIERS[kind](), doubled(batch_of())
    assert (
        closeness(relevance(Saliency(domain=domain), classifier, batch), slow_saliency(classifier, batch, domain))
        < 1e-6
    )


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("domain", ["features", "waveform"])
def test_integrated_gradients_are_a_gauss_legendre_sum_from_silence(kind: str, domain: str) -> None:
    classifier, batch = CLASSIFIERS[kind](), doubled(batch_of())
    for n_steps in (2, 7):
        values = relevance(IntegratedGradients(domain=domain, n_steps=n_steps), classifier, batch)
        assert closeness(values, slow_integrated_gradients(classifier, batch, domain, n_steps)) < 1e-6


@pytest.mark.parametrize(
    ("kind", "domain", "layer"),
    [
        ("log-mel", "features", "features.0"),
        ("log-mel", "features", "features.4"),
        ("log-mel", "features", "features.5"),
        ("log-mel", "waveform", "features.4"),
        ("samples", "features", "features.0"),
        ("samples", "waveform", "features.3"),
    ],
)
def test_gradcam_is_the_rectified_sum_of_channels_weighted_by_their_mean_gradient(
    kind: str, domain: str, layer: str
) -> None:
    classifier, batch = CLASSIFIERS[kind](), doubled(batch_of())
    values = relevance(GradCam(domain=domain, layer=layer), classifier, batch)
    assert closeness(values, slow_gradcam(classifier, batch, domain, layer)) < 1e-6


def test_a_network_that_convolves_features_over_time_only_gets_the_same_map_in_every_band() -> None:
    class OverTime(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(16, 5, 3)
            self.head = nn.Linear(5, 3)
            randomise(self, seed=2)

        def forward(self, features: Tensor) -> Tensor:
            return self.head(self.conv(features[:, 0]).relu().mean(2))

    classifier = classifier_of(OverTime())
    values = relevance(GradCam(), classifier, batch_of())
    assert values.shape == (4, 16, 32)
    assert torch.equal(values, values[:, :1].expand_as(values))
    assert float(values.abs().max()) > 0


# --- what the numbers must obey


@pytest.mark.parametrize("kind", ["log-mel", "samples"])
def test_integrated_gradients_sum_to_the_change_of_the_logit_as_steps_grow(kind: str) -> None:
    classifier, batch = CLASSIFIERS[kind](), doubled(batch_of())
    gaps = []
    for n_steps in (2, 16, 128):
        explanation = explain(IntegratedGradients(n_steps=n_steps), classifier, batch)
        assert explanation.relevance is not None
        change = classifier.logits(batch.waveforms) - classifier.logits(torch.zeros_like(batch.waveforms))
        wanted = (explanation.relevance.values.flatten(1).double().sum(1) - change[torch.arange(4), TARGET]).abs()
        assert torch.allclose(explanation.diagnostics["completeness_gap"].double(), wanted, atol=1e-5)
        gaps.append(float(wanted.max() / change[torch.arange(4), TARGET].abs().max()))
    assert gaps[2] < 0.01 < gaps[0]
    assert gaps[2] < gaps[1] < gaps[0]


def test_the_baseline_is_silence_unless_it_is_zero() -> None:
    classifier, batch = CLASSIFIERS["log-mel"](), doubled(batch_of())
    silent = Batch(torch.zeros_like(batch.waveforms), batch.rate, batch.clips)
    assert float(relevance(IntegratedGradients(), classifier, silent).abs().max()) == 0
    from_zero = IntegratedGradients(baseline="zero", n_steps=64)
    features = classifier.features(silent.waveforms)
    change = classifier.logits_of_features(features) - classifier.logits_of_features(torch.zeros_like(features))
    total = relevance(from_zero, classifier, silent).flatten(1).sum(1).double()
    assert torch.allclose(total, change[torch.arange(4), TARGET], atol=0.02)
    assert float(total.abs().max()) > 0.1


def test_it_is_the_logit_that_is_explained_not_the_probability() -> None:
    for multilabel in (False, True):
        classifier, batch = CLASSIFIERS["log-mel"](multilabel=multilabel), doubled(batch_of())
        assert closeness(relevance(Saliency(), classifier, batch), slow_saliency(classifier, batch, "features")) < 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_one_clip_may_be_explained_for_several_targets(name: str) -> None:
    classifier = classifier_of(multilabel=True)
    one = batch_of(1)
    three = Batch.of(one.clips * 3)
    together = relevance(METHODS[name](), classifier, three, torch.tensor([0, 1, 2]))
    for target, row in enumerate(together):
        alone = relevance(METHODS[name](), classifier, one, torch.tensor([target]))[0]
        assert torch.allclose(row, alone, atol=1e-5 * float(alone.abs().max() + 1e-6))
    assert not torch.allclose(together[0], together[1], atol=1e-3 * float(together[0].abs().max()))


@pytest.mark.parametrize("name", ["saliency", "integrated-gradients"])
def test_one_relu_in_place_for_all_layers_is_no_different_from_one_each(name: str) -> None:
    class OneEach(SmallCNN):
        def __init__(self) -> None:
            super().__init__()
            self.features[2], self.features[6] = nn.ReLU(), nn.ReLU()

    batch, network = batch_of(), classifier_of().network
    assert network.features[2] is network.features[6]
    assert network.features[2].inplace
    shared = relevance(METHODS[name](), classifier_of(), batch)
    assert torch.equal(shared, relevance(METHODS[name](), classifier_of(OneEach()), batch))


# --- shapes, batches, and what must not change


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("build", "domain", "shape", "in_domain"),
    [
        (classifier_of, "features", (4, 16, 32), "features"),
        (classifier_of, "waveform", (4, N_SAMPLES), "waveform"),
        (wave_classifier_of, "features", (4, N_SAMPLES), "waveform"),
        (wave_classifier_of, "waveform", (4, N_SAMPLES), "waveform"),
    ],
)
def test_relevance_has_the_shape_of_its_domain(
    name: str, build: Callable[[], AudioClassifier], domain: str, shape: tuple[int, ...], in_domain: str
) -> None:
    found = explain(METHODS[name](domain=domain), build(), batch_of()).relevance
    assert found is not None
    assert (tuple(found.values.shape), found.domain, found.values.dtype) == (shape, in_domain, torch.float32)
    assert not found.values.requires_grad


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("domain", ["features", "waveform"])
def test_a_batch_of_one_gives_its_row_of_the_batch_and_the_same_again(name: str, domain: str) -> None:
    method, classifier, batch = METHODS[name](domain=domain), classifier_of().prepare(), batch_of()
    together = relevance(method, classifier, batch)
    assert torch.equal(relevance(method, classifier, batch), together)
    for row in range(4):
        alone = relevance(method, classifier, Batch.of(batch.clips[row : row + 1]), TARGET[row : row + 1])
        assert closeness(alone[0], together[row]) < 1e-5


def hooks_of(network: nn.Module) -> list[list[Any]]:
    return [list(getattr(part, kind)) for part in network.modules() for kind in vars(part) if kind.endswith("_hooks")]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("domain", ["features", "waveform"])
@pytest.mark.parametrize("build", [classifier_of, wave_classifier_of])
def test_classifier_and_batch_are_not_changed_and_nobody_is_warned(
    name: str, domain: str, build: Callable[[], AudioClassifier]
) -> None:
    classifier, batch = build(), batch_of()
    waveforms, state = batch.waveforms.clone(), {n: v.clone() for n, v in classifier.network.state_dict().items()}
    hooks, rng = hooks_of(classifier.network), torch.get_rng_state()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        explain(METHODS[name](domain=domain), classifier, batch)
    assert torch.equal(batch.waveforms, waveforms)
    assert batch.waveforms.requires_grad is False
    assert batch.waveforms.grad is None
    assert all(torch.equal(value, state[n]) for n, value in classifier.network.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in classifier.network.parameters())
    assert not any(part.training for part in classifier.network.modules())
    assert hooks_of(classifier.network) == hooks
    assert torch.equal(torch.get_rng_state(), rng)


def test_the_first_explanation_is_like_the_second_though_the_network_is_tried_out_in_between() -> None:
    for name, build in METHODS.items():
        classifier = classifier_of()
        first = relevance(build(), classifier, batch_of())
        assert torch.equal(first, relevance(build(), classifier, batch_of())), name


def live() -> tuple[int, int]:
    """How many tensors, modules and functions there are, and how many bytes in the tensors."""
    gc.collect()
    objects = [x for x in gc.get_objects() if issubclass(type(x), Tensor | nn.Module | types.FunctionType)]
    tensors = {x.data_ptr(): x.untyped_storage().nbytes() for x in objects if issubclass(type(x), Tensor)}
    return len(objects), sum(tensors.values())


@pytest.mark.parametrize("name", METHODS)
def test_ten_calls_leave_nothing_behind(name: str) -> None:
    method, classifier, batch = METHODS[name](), classifier_of().prepare(), batch_of()
    for _ in range(2):
        explain(method, classifier, batch)
    objects, n_bytes = live()
    for _ in range(10):
        explain(method, classifier, batch)
    more_objects, more_bytes = live()
    assert more_bytes <= n_bytes
    assert more_objects - objects < 10  # one for each call would be ten


@pytest.mark.parametrize("domain", ["features", "waveform"])
@pytest.mark.parametrize("name", METHODS)
def test_the_prepared_network_ranks_the_cells_as_the_plain_one_does(name: str, domain: str) -> None:
    classifier, batch, method = classifier_of(), batch_of(8), METHODS[name](domain=domain)
    target = torch.arange(8) % 3
    fast = classifier.prepare()
    assert fast.network is not classifier.network
    plain, folded = relevance(method, classifier, batch, target), relevance(method, fast, batch, target)
    for one, other in zip(plain, folded, strict=True):
        assert float(one.std()) > 0
        assert spearmanr(one.flatten().numpy(), other.flatten().numpy()).statistic >= 0.99


# --- refused


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Saliency(domain="stft"), "domain must be 'features' or 'waveform', got 'stft'"),  # type: ignore[arg-type]
        (lambda: GradCam(domain="mel"), "got 'mel'"),  # type: ignore[arg-type]
        (lambda: IntegratedGradients(domain=""), "got ''"),  # type: ignore[arg-type]
        (lambda: IntegratedGradients(n_steps=1), "n_steps >= 2, got 1"),
        (lambda: IntegratedGradients(baseline="mean"), "'silence' or 'zero', got 'mean'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_parameters_are_refused(build: Callable[[], Explainer], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build()


def pooled_linear() -> AudioClassifier:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 3))
    return classifier_of(network, name="flat")


@pytest.mark.parametrize(
    ("build", "layer", "message"),
    [
        (pooled_linear, None, "the network of flat has none. Use saliency"),
        (lambda: classifier_of(name="cut", segmenter=patches_of), None, "does not handle cut, which sees a clip as"),
        (classifier_of, "feature.4", "Did you mean 'features.4'"),
        (classifier_of, "head", "'head' of small gives one value per channel. Name a convolution"),
        (lambda: classifier_of().prepare(), "features.4", "'features.5' of small was folded"),
    ],
)
def test_gradcam_refuses_what_has_no_map(build: Callable[[], AudioClassifier], layer: str | None, message: str) -> None:
    with pytest.raises(ClassifierError, match=message):
        explain(GradCam(layer=layer), build(), batch_of())


# --- the last convolution


class HeadFirst(nn.Module):
    """Names its layers in another order than it runs them, and ends in a convolution over one cell."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, 3, 1)
        self.second = nn.Conv2d(4, 4, 3)
        self.first = nn.Conv2d(1, 4, 3)
        self.unused = nn.Conv2d(1, 4, 3)
        randomise(self, seed=1)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.second(self.first(features).relu()).relu()
        return self.head(hidden.mean((2, 3), keepdim=True))[:, :, 0, 0]


def test_the_last_convolution_is_the_last_that_runs_and_has_a_time_axis() -> None:
    batch = batch_of()
    assert last_convolution(classifier_of(HeadFirst()), batch) == "second"
    assert last_convolution(wave_classifier_of(), batch) == "features.3"
    default = relevance(GradCam(), classifier_of(HeadFirst()), batch)
    assert torch.equal(default, relevance(GradCam(layer="second"), classifier_of(HeadFirst()), batch))


def test_the_last_convolution_is_taken_after_its_batch_norm_folded_or_not() -> None:
    classifier = classifier_of()
    for one in (classifier, classifier.prepare()):
        assert last_convolution(one, batch_of()) == "features.5"
        assert hooks_of(one.network) == hooks_of(SmallCNN())


def test_a_black_box_has_no_gradient_and_says_so() -> None:
    classifier = classifier_of(Lambda(lambda x: x.detach().mean((2, 3)).expand(-1, 3) - 1))
    with pytest.raises(ClassifierError, match="no gradient"):
        explain(Saliency(), classifier, batch_of())
