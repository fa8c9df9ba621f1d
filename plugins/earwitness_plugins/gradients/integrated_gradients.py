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
from earwitness_plugins.gradients.inputs import (
    MEMORY_MB,
    AttributionInput,
    InputDomain,
    check_count,
    check_domain,
    check_memory,
    explained,
)


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
    memory_mb : float
        What the network may keep for its gradient at once; it decides how many points go through in one pass.

    Notes
    -----
    The diagnostic ``completeness_gap`` is |sum of relevance - (logit(x) - logit(baseline))|, which is 0 for an exact
    integral.
    """

    def __init__(
        self,
        *,
        domain: InputDomain = "features",
        n_steps: int = 32,
        baseline: Literal["silence", "zero"] = "silence",
        memory_mb: float = MEMORY_MB,
    ) -> None:
        if baseline not in ("silence", "zero"):
            raise ConfigurationError(f"baseline must be 'silence' or 'zero', got {baseline!r}.")
        self.domain = check_domain(domain)
        self.n_steps = check_count("integrated-gradients", "n_steps", n_steps, 2)
        self.baseline = baseline
        self.memory_mb = check_memory(memory_mb)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`."""
        given = AttributionInput.of(
            classifier, batch, self.domain, target=target, random=random, memory_mb=self.memory_mb
        )
        baseline = given.silence if self.baseline == "silence" else torch.zeros_like(given.silence)

        def attribute(piece: AttributionInput) -> Tensor:
            found: Tensor = CaptumIntegratedGradients(piece.forward).attribute(
                piece.values,
                baselines=baseline.expand_as(piece.values),
                target=piece.target,
                n_steps=self.n_steps,
                internal_batch_size=piece.rows_at_once,
            )
            return found

        return explained(given, attribute, baseline=baseline)
