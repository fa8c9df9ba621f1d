"""Saliency: the absolute gradient of the target's logit (Simonyan et al., 2014)."""

from __future__ import annotations

from captum.attr import Saliency as CaptumSaliency
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.explanation import Explanation
from earwitness.random import Random
from earwitness_plugins.gradients.inputs import AttributionInput, InputDomain, check_domain


class Saliency:
    """|d logit / d input|, by Captum.

    Parameters
    ----------
    domain : {"features", "waveform"}
        Differentiate by feature map or by samples.
    """

    def __init__(self, *, domain: InputDomain = "features") -> None:
        self.domain = check_domain(domain)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`."""
        given = AttributionInput.of(classifier, batch, self.domain)
        values = given.values.clone().requires_grad_(True)
        gradient = CaptumSaliency(given.forward).attribute(values, target=target, abs=True)
        return Explanation(target, relevance=given.relevance(gradient))
