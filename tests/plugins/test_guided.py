"""Guided backprop and guided GradCAM against a ReLU whose derivative is written by hand, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attributions import CLASSIFIERS, closeness, explain, gradient, relevance, row_by_row
from earwitness.classifier import AudioClassifier
from earwitness.errors import ClassifierError, NotApplicableError
from earwitness_plugins.gradients.gradcam import GradCam
from earwitness_plugins.gradients.guided import GuidedBackprop, GuidedGradCam
from earwitness_plugins.gradients.saliency import Saliency
from networks import SmallCNN, batch_of, classifier_of, doubled, log_mel, randomise

torch.set_num_threads(1)

every_domain = pytest.mark.parametrize("domain", ["features", "waveform"])


class GuidedReLU(torch.autograd.Function):
    """R_in = (f > 0) (R_out > 0) R_out (section 3.4 of the paper)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (x > 0) * (grad > 0) * grad


class GuidedModule(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return GuidedReLU.apply(x)


def guided(classifier: AudioClassifier) -> AudioClassifier:
    """The same classifier with other ReLUs."""
    network = copy.deepcopy(classifier.network)
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, GuidedModule())
    return classifier.with_network(network)


def slow_guided_gradient(
    x: Tensor, _silence: Tensor, function: Callable[[Tensor], Tensor], target: int, _clip_id: str
) -> Tensor:
    return gradient(function, x, target)


class PreActivation(nn.Module):
    """A residual network whose sum reads what the ReLU reads."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.relu, self.last = nn.ReLU(), nn.ReLU(inplace=inplace)
        self.head = nn.Linear(5, 3)
        randomise(self, seed=3)

    def forward(self, features: Tensor) -> Tensor:
        maps = self.stem(features)
        maps = maps + self.inner(self.relu(maps))
        return self.head(self.last(maps).mean((2, 3)))


BUILDS: dict[str, Callable[[], AudioClassifier]] = {
    **CLASSIFIERS,
    "one ReLU in place for all layers": lambda: classifier_of(SmallCNN().double(), front_end=log_mel().double()),
    "residual": lambda: classifier_of(PreActivation(inplace=True).double(), front_end=log_mel().double()),
}


@pytest.mark.parametrize("kind", BUILDS)
@every_domain
def test_guided_backprop_passes_a_relu_only_where_both_input_and_gradient_are_positive(kind: str, domain: str) -> None:
    classifier, batch = BUILDS[kind](), doubled(batch_of())
    slow = row_by_row(slow_guided_gradient, guided(classifier), batch, domain)
    assert closeness(relevance(GuidedBackprop(domain=domain), classifier, batch), slow) < 1e-6  # type: ignore[arg-type]
    assert closeness(relevance(Saliency(domain=domain), classifier, batch), slow.abs()) > 0.01  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", BUILDS)
@every_domain
def test_guided_gradcam_is_their_product(kind: str, domain: str) -> None:
    classifier, batch = BUILDS[kind](), doubled(batch_of())
    product = relevance(GradCam(domain=domain), classifier, batch).double()  # type: ignore[arg-type]
    product = product * row_by_row(slow_guided_gradient, guided(classifier), batch, domain)
    assert closeness(relevance(GuidedGradCam(domain=domain), classifier, batch), product) < 1e-5  # type: ignore[arg-type]


def test_guided_gradcam_looks_where_it_is_told() -> None:
    classifier, batch = classifier_of(), batch_of()
    product = relevance(GradCam(layer="features.0"), classifier, batch) * relevance(GuidedBackprop(), classifier, batch)
    assert closeness(relevance(GuidedGradCam(layer="features.0"), classifier, batch), product) < 1e-5


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)
        randomise(self, seed=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.conv(features).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("method", "network", "message"),
    [
        (GuidedBackprop(), Functional(), "Guided backprop needs nn.ReLU modules, and the network of odd has none"),
        (GuidedGradCam(), Functional(), "Guided GradCAM needs nn.ReLU modules"),
        (
            GuidedGradCam(),
            nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3)),
            "needs a convolution with a time axis; the network of odd has none",
        ),
    ],
)
def test_networks_without_relu_or_convolution_are_skipped_with_the_reason(
    method: GuidedBackprop | GuidedGradCam, network: nn.Module, message: str
) -> None:
    with pytest.raises(NotApplicableError, match=message):
        explain(method, classifier_of(network, name="odd"), batch_of())


def test_an_unknown_layer_is_an_error() -> None:
    with pytest.raises(ClassifierError, match=r"Did you mean 'features\.4'"):
        explain(GuidedGradCam(layer="feature.4"), classifier_of(), batch_of())
