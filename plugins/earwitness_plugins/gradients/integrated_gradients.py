"""Integrated gradients (Sundararajan, Taly and Yan, 2017)."""

from __future__ import annotations

from typing import Literal

import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ConfigurationError
from earwitness.explanation import Explanation
from earwitness.random import Random
from earwitness_plugins.gradients.inputs import AttributionInput, InputDomain, check_domain


class IntegratedGradients:
    """Gradients along the straight line from silence, times the difference, by Captum (Eq. 3 of the paper).

    Parameters
    ----------
    domain : {"features", "waveform"}
        Integrate over feature maps or over samples.
    n_steps : int
        Points of the Gauss-Legendre quadrature.
    baseline : {"silence", "zero"}
        Where the line begins: the features of digital silence (a log-mel's floor), or the value 0 (for log-mel maps
        that is a *loud* signal). Over samples both are silence.

    Notes
    -----
    The diagnostic ``completeness_gap`` is |sum of relevance - (logit(x) - logit(baseline))|, which is 0 for an exact
    integral.
    """

    def __init__(
        self, *, domain: InputDomain = "features", n_steps: int = 32, baseline: Literal["silence", "zero"] = "silence"
    ) -> None:
        if n_steps < 2:
            raise ConfigurationError(f"integrated-gradients needs n_steps >= 2, got {n_steps}.")
        if baseline not in ("silence", "zero"):
            raise ConfigurationError(f"baseline must be 'silence' or 'zero', got {baseline!r}.")
        self.domain = check_domain(domain)
        self.n_steps = n_steps
        self.baseline = baseline

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`."""
        given = AttributionInput.of(classifier, batch, self.domain)
        baseline = torch.zeros_like(given.values)
        if given.domain == "features" and self.baseline == "silence":
            with torch.no_grad():
                baseline = baseline + classifier.features(torch.zeros_like(batch.waveforms[:1]))
        relevance = CaptumIntegratedGradients(given.forward).attribute(
            given.values,
            baselines=baseline,
            target=target,
            n_steps=self.n_steps,
            internal_batch_size=len(batch),  # one step at a time: memory stays that of a plain gradient
        )
        with torch.no_grad():
            ends = given.forward(given.values) - given.forward(baseline)
        change = ends.gather(1, target[:, None])[:, 0]
        gap = (relevance.flatten(1).sum(1) - change).abs()
        return Explanation(
            target, relevance=given.relevance(relevance), diagnostics={"completeness_gap": gap.detach().float()}
        )
