"""Methods whose backward pass drops negative gradients at each ReLU: guided backprop, guided GradCAM."""

from __future__ import annotations

from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from torch import Tensor, nn

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import NotApplicableError
from earwitness.explanation import Explanation
from earwitness.random import Random
from earwitness_plugins.gradients.gradcam import Cam
from earwitness_plugins.gradients.inputs import (
    MEMORY_MB,
    AttributionInput,
    InputDomain,
    check_domain,
    check_memory,
    explained,
    own_input,
)


class GuidedBackprop:
    """Gradient that passes a ReLU only where it is positive (Springenberg et al., 2015, section 3.4), by Captum.

    Parameters
    ----------
    domain : {"features", "waveform"}
    memory_mb : float
        What the network may keep for its gradient at once.

    Notes
    -----
    Only ``nn.ReLU`` modules are guided: other activations, and ``functional.relu``, keep their plain gradient.
    """

    def __init__(self, *, domain: InputDomain = "features", memory_mb: float = MEMORY_MB) -> None:
        self.domain = check_domain(domain)
        self.memory_mb = check_memory(memory_mb)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`.

        Raises
        ------
        NotApplicableError
            The network has no ReLU module.
        """
        check_relu(classifier, "Guided backprop")
        given = AttributionInput.of(
            classifier, batch, self.domain, target=target, random=random, memory_mb=self.memory_mb
        )
        return explained(given, guided_gradient)


class GuidedGradCam:
    """Guided backprop times GradCAM (Selvaraju et al., 2017, section 3.2).

    Parameters
    ----------
    domain : {"features", "waveform"}
    layer : str, optional
        Dotted name of GradCAM's layer; see :class:`earwitness_plugins.gradients.gradcam.GradCam`.
    memory_mb : float
        What the network may keep for its gradient at once.
    """

    def __init__(
        self, *, domain: InputDomain = "features", layer: str | None = None, memory_mb: float = MEMORY_MB
    ) -> None:
        self.domain = check_domain(domain)
        self.layer = layer
        self.memory_mb = check_memory(memory_mb)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`.

        Raises
        ------
        NotApplicableError
            The network has no ReLU module, or no convolution.
        ClassifierError
            There is no such layer, or it has no time axis.
        """
        check_relu(classifier, "Guided GradCAM")
        cam = Cam.of(classifier, batch, self.layer)
        given = AttributionInput.of(
            classifier, batch, self.domain, target=target, random=random, memory_mb=self.memory_mb
        )
        return explained(given, lambda piece: guided_gradient(piece) * cam(piece))


def guided_gradient(given: AttributionInput) -> Tensor:
    """Signed guided gradient, of the shape of ``given.values``."""
    found: Tensor = _Guided(given.forward).attribute(given.leaf, target=given.target)
    return found


class _Guided(CaptumGuidedBackprop):  # type: ignore[misc]
    """Captum's guided backprop, in which a sum around an activation keeps its own gradient."""

    def _register_hooks(self, module: nn.Module) -> None:
        if isinstance(module, nn.ReLU):
            self.backward_hooks.append(module.register_forward_pre_hook(own_input))
        super()._register_hooks(module)


def check_relu(classifier: AudioClassifier, method: str) -> None:
    """NotApplicableError for a network without any ReLU module: there the method would be the plain gradient."""
    if not any(isinstance(module, nn.ReLU) for module in classifier.network.modules()):
        raise NotApplicableError(
            f"{method} needs nn.ReLU modules, and the network of {classifier.name} has none, so it would be the plain "
            "gradient by another name. Use saliency."
        )
