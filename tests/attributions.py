"""What the tests of all gradient and perturbation methods share: asking them, and slow ways to a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.explanation import Explanation
from earwitness.protocols import Explainer
from earwitness.random import Random
from networks import OneEach, WaveCNN, classifier_of, log_mel, patches_of, transposed_patches_of, wave_classifier_of

TARGET = torch.tensor([2, 0, 1, 1])
CLASSIFIERS: dict[str, Callable[..., AudioClassifier]] = {
    "log-mel": lambda **options: classifier_of(OneEach().double(), front_end=log_mel().double(), **options),
    "samples": lambda **options: wave_classifier_of(WaveCNN().double(), **options),
    "patches": lambda **options: CLASSIFIERS["log-mel"](segmenter=patches_of, multilabel=True, **options),
    "transposed patches": lambda **options: CLASSIFIERS["log-mel"](segmenter=transposed_patches_of, **options),
}
"""In float64, where an algorithm's parity can be told from rounding."""


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


def change(classifier: AudioClassifier, batch: Batch, target: Sequence[int] | Tensor = TARGET) -> Tensor:
    """logit(x) - logit(silence) of each row's target: Tensor (B,)."""
    moved = classifier.logits(batch.waveforms) - classifier.logits(torch.zeros_like(batch.waveforms))
    return moved[torch.arange(len(batch)), torch.as_tensor(target)]


def entrance(classifier: AudioClassifier, waveform: Tensor, domain: str) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What is explained, for one clip: its input x, (M, N') or (T,), and x -> logits (C,)."""
    if domain == "waveform" or classifier.feature_grid(len(waveform)) is None:
        return waveform, lambda x: classifier.logits(x[None])[0]
    return classifier.features(waveform[None])[0, 0], lambda x: classifier.logits_of_features(x[None, None])[0]


def gradient(function: Callable[[Tensor], Tensor], at: Tensor, target: int) -> Tensor:
    x = at.detach().clone().requires_grad_()
    function(x)[target].backward()
    assert x.grad is not None
    return x.grad


def row_by_row(one: Callable[..., Tensor], classifier: AudioClassifier, batch: Batch, domain: str) -> Tensor:
    """Stack ``one(x, silence, function, target, clip_id)`` over the clips."""
    rows = []
    for waveform, target, clip_id in zip(batch.waveforms, TARGET.tolist(), batch.clip_ids, strict=True):
        x, function = entrance(classifier, waveform, domain)
        silence, _ = entrance(classifier, torch.zeros_like(waveform), domain)
        rows.append(one(x, silence, function, target, clip_id))
    return torch.stack(rows)


def draw(clip_id: str, kind: str, name: str, *shape: int) -> Tensor:
    """A clip's own random numbers, in float64."""
    drawn: Any = getattr(Random(0, [clip_id]), kind)(name, *shape)
    return drawn[0].double()
