"""SmoothGrad and GradientSHAP against loops over samples, clip by clip, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attributions import CLASSIFIERS, change, closeness, draw, explain, gradient, relevance, row_by_row
from earwitness.clips import Batch
from earwitness.errors import ConfigurationError
from earwitness_plugins.gradients.integrated_gradients import IntegratedGradients
from earwitness_plugins.gradients.saliency import InputXGradient, Saliency
from earwitness_plugins.gradients.sampled import GradientShap, SmoothGrad
from networks import Lambda, batch_of, classifier_of, doubled, log_mel

torch.set_num_threads(1)

METHODS = (SmoothGrad, GradientShap)
every_domain = pytest.mark.parametrize("domain", ["features", "waveform"])
Slow = Callable[[Tensor], Tensor]


def noise(x: Tensor, clip_id: str, number: int) -> Tensor:
    """As wide as the span of the input, from the clip's own stream."""
    axes = x.shape if x.ndim == 1 else (1, *x.shape)  # a feature map has a channel axis
    return (x.max() - x.min()) * draw(clip_id, "normal", f"noise {number}", *axes).reshape(x.shape)


@pytest.mark.parametrize("kind", CLASSIFIERS)
@every_domain
def test_smoothgrad_is_the_mean_absolute_gradient_at_noisy_inputs(kind: str, domain: str) -> None:
    def slow(x: Tensor, _silence: Tensor, function: Slow, target: int, clip_id: str) -> Tensor:
        total = torch.zeros_like(x)
        for number in range(5):
            total += gradient(function, x + 0.2 * noise(x, clip_id, number), target).abs()
        return total / 5

    classifier, batch = CLASSIFIERS[kind](), doubled(batch_of())
    fast = relevance(SmoothGrad(domain=domain, n_samples=5, noise_share=0.2), classifier, batch)  # type: ignore[arg-type]
    assert closeness(fast, row_by_row(slow, classifier, batch, domain)) < 1e-6


@pytest.mark.parametrize("kind", CLASSIFIERS)
@every_domain
def test_gradient_shap_is_the_mean_of_difference_times_gradient_at_random_points(kind: str, domain: str) -> None:
    def slow(x: Tensor, silence: Tensor, function: Slow, target: int, clip_id: str) -> Tensor:
        total = torch.zeros_like(x)
        for number in range(5):
            noisy = x + 0.1 * noise(x, clip_id, number)
            place = draw(clip_id, "uniform", f"place {number}")
            total += (noisy - silence) * gradient(function, silence + place * (noisy - silence), target)
        return total / 5

    classifier, batch = CLASSIFIERS[kind](), doubled(batch_of())
    fast = relevance(GradientShap(domain=domain, n_samples=5, noise_share=0.1), classifier, batch)  # type: ignore[arg-type]
    assert closeness(fast, row_by_row(slow, classifier, batch, domain)) < 1e-6


def test_without_noise_smoothgrad_is_saliency() -> None:
    classifier, batch = CLASSIFIERS["log-mel"](), doubled(batch_of())
    smooth = relevance(SmoothGrad(n_samples=3, noise_share=0), classifier, batch)
    assert closeness(smooth, relevance(Saliency(), classifier, batch)) < 1e-6


def test_without_noise_gradient_shap_becomes_integrated_gradients_as_samples_grow() -> None:
    classifier, batch = CLASSIFIERS["log-mel"](), doubled(batch_of(n_samples=1500))
    exact = relevance(IntegratedGradients(n_steps=64), classifier, batch)
    errors = [
        closeness(relevance(GradientShap(n_samples=n, noise_share=0), classifier, batch), exact) for n in (4, 64, 1024)
    ]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.08  # the error of a mean of n falls with the root of n


def test_of_a_linear_network_gradient_shap_is_exact_with_one_sample() -> None:
    weight = torch.linspace(-1, 1, 16, dtype=torch.float64)[:, None]
    linear = Lambda(lambda x: torch.stack([(k + 1) * (x[:, 0] * weight).sum((1, 2)) for k in range(3)], dim=1))
    classifier, batch = classifier_of(linear, front_end=log_mel().double()), doubled(batch_of())
    explanation = explain(GradientShap(n_samples=1, noise_share=0), classifier, batch)
    assert explanation.relevance is not None
    silence = relevance(InputXGradient(), classifier, Batch(0 * batch.waveforms, batch.rate, batch.clips))
    assert closeness(explanation.relevance.values, relevance(InputXGradient(), classifier, batch) - silence) < 1e-6
    assert float(explanation.diagnostics["completeness_gap"].max()) < 1e-4


def test_gradient_shap_reports_how_far_it_is_from_the_change_of_the_logit() -> None:
    classifier, batch = CLASSIFIERS["log-mel"](), doubled(batch_of())
    explanation = explain(GradientShap(n_samples=4), classifier, batch)
    assert explanation.relevance is not None
    gap = (explanation.relevance.values.double().sum((1, 2)) - change(classifier, batch)).abs()
    assert torch.allclose(explanation.diagnostics["completeness_gap"].double(), gap, atol=1e-4)
    assert float(gap.max()) > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_draws_belong_to_the_clip_wherever_it_stands(method: type[SmoothGrad | GradientShap]) -> None:
    classifier, batch = CLASSIFIERS["log-mel"](), doubled(batch_of())
    target = torch.tensor([2, 0, 1, 1])
    values = relevance(method(n_samples=3), classifier, batch, target)
    order = [2, 0, 3, 1]
    assert (
        closeness(relevance(method(n_samples=3), classifier, batch.select(order), target[order]), values[order]) < 1e-6
    )


@pytest.mark.parametrize("method", METHODS)
def test_more_samples_begin_with_the_same_ones(method: type[SmoothGrad | GradientShap]) -> None:
    classifier, batch = CLASSIFIERS["log-mel"](), doubled(batch_of())
    one, two, three = (relevance(method(n_samples=n), classifier, batch).double() for n in (1, 2, 3))
    second, third = 2 * two - one, 3 * three - 2 * two
    for a, b in ((one, second), (second, third), (one, third)):
        assert closeness(a, b) > 0.01


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 0}, "n_samples >= 1, got 0"),
        ({"n_samples": True}, "got True"),
        ({"noise_share": -0.1}, "noise_share must be 0 or more"),
        ({"noise_share": float("inf")}, "got inf"),
        ({"noise_share": float("nan")}, "got nan"),
    ],
)
def test_wrong_parameters_are_refused(
    method: type[SmoothGrad | GradientShap], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        method(**options)  # type: ignore[arg-type]
