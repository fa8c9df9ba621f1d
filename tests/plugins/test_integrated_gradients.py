"""Integrated gradients against a sum over quadrature points, clip by clip, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from attributions import CLASSIFIERS, TARGET, change, closeness, explain, gradient, relevance, row_by_row
from earwitness.clips import Batch
from earwitness.errors import ConfigurationError
from earwitness_plugins.gradients.integrated_gradients import IntegratedGradients
from networks import batch_of, doubled

torch.set_num_threads(1)


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("domain", ["features", "waveform"])
@pytest.mark.parametrize("n_steps", [2, 7])
def test_integrated_gradients_are_a_gauss_legendre_sum_from_silence(kind: str, domain: str, n_steps: int) -> None:
    def slow(x: Tensor, silence: Tensor, function: Callable[[Tensor], Tensor], target: int, _clip_id: str) -> Tensor:
        """(x - x') times the integral over alpha of the gradient at x' + alpha (x - x')."""
        integral = torch.zeros_like(x)
        for point, weight in zip(*leggauss(n_steps), strict=True):
            integral += weight / 2 * gradient(function, silence + (point + 1) / 2 * (x - silence), target)
        return (x - silence) * integral

    classifier, batch = CLASSIFIERS[kind](), doubled(batch_of())
    for memory_mb in (1e-6, 0.2, 100):  # points that go through one by one, a few at a time, many
        fast = relevance(IntegratedGradients(domain=domain, n_steps=n_steps, memory_mb=memory_mb), classifier, batch)  # type: ignore[arg-type]
        assert closeness(fast, row_by_row(slow, classifier, batch, domain)) < 1e-6


@pytest.mark.parametrize("kind", ["log-mel", "samples"])
def test_integrated_gradients_sum_to_the_change_of_the_logit_as_steps_grow(kind: str) -> None:
    classifier, batch = CLASSIFIERS[kind](), doubled(batch_of())
    wanted, gaps = change(classifier, batch), []
    for n_steps in (2, 16, 128):
        explanation = explain(IntegratedGradients(n_steps=n_steps), classifier, batch)
        assert explanation.relevance is not None
        gap = (explanation.relevance.values.flatten(1).double().sum(1) - wanted).abs()
        assert torch.allclose(explanation.diagnostics["completeness_gap"].double(), gap, atol=1e-5)
        gaps.append(float(gap.max() / wanted.abs().max()))
    assert gaps[2] < 0.01 < gaps[0]
    assert gaps[2] < gaps[1] < gaps[0]


def test_the_baseline_is_silence_unless_it_is_zero() -> None:
    classifier, batch = CLASSIFIERS["log-mel"](), doubled(batch_of())
    silent = Batch(torch.zeros_like(batch.waveforms), batch.rate, batch.clips)
    assert float(relevance(IntegratedGradients(), classifier, silent).abs().max()) == 0
    features = classifier.features(silent.waveforms)
    moved = classifier.logits_of_features(features) - classifier.logits_of_features(torch.zeros_like(features))
    explanation = explain(IntegratedGradients(baseline="zero", n_steps=64), classifier, silent)
    assert explanation.relevance is not None
    total = explanation.relevance.values.flatten(1).sum(1).double()
    assert torch.allclose(total, moved[torch.arange(4), TARGET], atol=0.02)
    assert float(total.abs().max()) > 0.1
    assert float(explanation.diagnostics["completeness_gap"].max()) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 1}, "integrated-gradients needs n_steps >= 2, got 1"),
        ({"n_steps": 8.0}, "got 8.0"),
        ({"baseline": "mean"}, "'silence' or 'zero', got 'mean'"),
    ],
)
def test_wrong_parameters_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        IntegratedGradients(**options)  # type: ignore[arg-type]
