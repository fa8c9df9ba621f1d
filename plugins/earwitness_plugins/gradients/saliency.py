"""Methods of one gradient: saliency, and its product with the input."""

from __future__ import annotations

from captum.attr import InputXGradient as CaptumInputXGradient
from captum.attr import Saliency as CaptumSaliency
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.explanation import Explanation
from earwitness.random import Random
from earwitness_plugins.gradients.inputs import (
    MEMORY_MB,
    AttributionInput,
    InputDomain,
    check_domain,
    check_memory,
    explained,
)


class Saliency:
    """|d logit / d input| (Simonyan, Vedaldi and Zisserman, 2014, section 3), by Captum.

    Parameters
    ----------
    domain : {"features", "waveform"}
        Differentiate by feature map or by samples.
    memory_mb : float
        What the network may keep for its gradient at once; larger batches are explained in pieces.
    """

    def __init__(self, *, domain: InputDomain = "features", memory_mb: float = MEMORY_MB) -> None:
        self.domain = check_domain(domain)
        self.memory_mb = check_memory(memory_mb)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`."""

        def attribute(piece: AttributionInput) -> Tensor:
            found: Tensor = CaptumSaliency(piece.forward).attribute(piece.leaf, target=piece.target, abs=True)
            return found

        given = AttributionInput.of(
            classifier, batch, self.domain, target=target, random=random, memory_mb=self.memory_mb
        )
        return explained(given, attribute)


class InputXGradient:
    """Input times gradient (Shrikumar et al., 2016), by Captum.

    For log-mel maps the input's zero is an arbitrary level, so over features this is a method to beat, not to trust.

    Parameters
    ----------
    domain : {"features", "waveform"}
    memory_mb : float
        What the network may keep for its gradient at once; larger batches are explained in pieces.
    """

    def __init__(self, *, domain: InputDomain = "features", memory_mb: float = MEMORY_MB) -> None:
        self.domain = check_domain(domain)
        self.memory_mb = check_memory(memory_mb)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`."""

        def attribute(piece: AttributionInput) -> Tensor:
            found: Tensor = CaptumInputXGradient(piece.forward).attribute(piece.leaf, target=piece.target)
            return found

        given = AttributionInput.of(
            classifier, batch, self.domain, target=target, random=random, memory_mb=self.memory_mb
        )
        return explained(given, attribute)
