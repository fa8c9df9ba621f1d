"""Saliency and input x gradient against plain autograd, clip by clip, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attributions import CLASSIFIERS, closeness, gradient, relevance, row_by_row
from earwitness_plugins.gradients.saliency import InputXGradient, Saliency
from networks import batch_of, doubled

torch.set_num_threads(1)


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("domain", ["features", "waveform"])
@pytest.mark.parametrize("method", [Saliency, InputXGradient])
def test_it_is_the_gradient_of_the_targets_logit_absolute_or_times_the_input(
    kind: str, domain: str, method: type[Saliency | InputXGradient]
) -> None:
    def slow(x: Tensor, _silence: Tensor, function: object, target: int, _clip_id: str) -> Tensor:
        found = gradient(function, x, target)  # type: ignore[arg-type]
        return found.abs() if method is Saliency else x * found

    classifier, batch = CLASSIFIERS[kind](), doubled(batch_of())
    fast = relevance(method(domain=domain), classifier, batch)  # type: ignore[arg-type]
    assert closeness(fast, row_by_row(slow, classifier, batch, domain)) < 1e-6
