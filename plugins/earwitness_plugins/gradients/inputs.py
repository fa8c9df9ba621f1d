"""Where a gradient is taken: the classifier's feature map, or the waveform itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ClassifierError, ConfigurationError
from earwitness.explanation import Relevance

InputDomain = Literal["features", "waveform"]


@dataclass(frozen=True, eq=False)
class AttributionInput:
    """What Captum differentiates: a function to logits and its input.

    Attributes
    ----------
    forward : nn.Module
        Input -> logits (B, C). A module, because Captum's layer methods ask for one.
    values : Tensor (B, 1, M, N') or (B, T)
    domain : {"features", "waveform"}
    """

    forward: nn.Module
    values: Tensor
    domain: InputDomain

    @classmethod
    def of(cls, classifier: AudioClassifier, batch: Batch, domain: InputDomain) -> AttributionInput:
        """Prepare a batch; a network that eats samples is always explained over them.

        Parameters
        ----------
        classifier : AudioClassifier
        batch : Batch
        domain : {"features", "waveform"}
        """
        has_features = classifier.feature_grid(batch.waveforms.shape[1]) is not None
        if domain == "waveform" or not has_features:
            return cls(_Forward(classifier, classifier.logits), batch.waveforms, "waveform")
        features = classifier.features(batch.waveforms).detach()
        return cls(_Forward(classifier, classifier.logits_of_features), features, "features")

    def relevance(self, values: Tensor) -> Relevance:
        """Wrap an attribution of the shape of ``values``, without its channel axis."""
        flat = values.detach().float()
        return Relevance(flat[:, 0] if self.domain == "features" else flat, self.domain)


class _Forward(nn.Module):
    def __init__(self, classifier: AudioClassifier, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = classifier.network
        self._name = classifier.name
        self._function = function

    def forward(self, values: Tensor) -> Tensor:
        logits = self._function(values)
        if values.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
            raise ClassifierError(
                f"{self._name} has no gradient from its logits to its input: a step in between is not differentiable. "
                "Use a method that needs none."
            )
        return logits


def check_domain(domain: str) -> InputDomain:
    """The domain itself, or a ConfigurationError."""
    if domain not in ("features", "waveform"):
        raise ConfigurationError(f"domain must be 'features' or 'waveform', got {domain!r}.")
    return domain  # type: ignore[return-value]
