"""GradCAM (Selvaraju et al., 2017)."""

from __future__ import annotations

from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.nn import functional

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ClassifierError
from earwitness.explanation import Explanation, Relevance
from earwitness.random import Random
from earwitness_plugins.gradients.inputs import AttributionInput, InputDomain, check_domain


class GradCam:
    """Channels of a convolutional layer, weighted by their mean gradient, rectified and interpolated, by Captum.

    Parameters
    ----------
    domain : {"features", "waveform"}
        What the map is interpolated to: the feature map, or (for networks that eat samples) the samples.
    layer : str, optional
        Dotted name of the layer. Default: the last convolution of the network.
    """

    def __init__(self, *, domain: InputDomain = "features", layer: str | None = None) -> None:
        self.domain = check_domain(domain)
        self.layer = layer

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`.

        Raises
        ------
        ClassifierError
            The network has no convolution, or the layer does not keep time and frequency apart.
        """
        if classifier.segmenter is not None:
            raise ClassifierError(
                f"GradCAM does not handle {classifier.name}, which sees a clip as several patches: the maps of its "
                "layers do not lie on the clip's time axis. Use saliency or integrated-gradients."
            )
        given = AttributionInput.of(classifier, batch, self.domain)
        layer = classifier.layer(self.layer or last_convolution(classifier))
        values = given.values.clone().requires_grad_(True)
        cam = LayerGradCam(given.forward, layer).attribute(values, target=target, relu_attributions=True).detach()
        if given.domain == "features" and cam.ndim == 4:
            size = given.values.shape[2:]
            enlarged = functional.interpolate(cam.float(), size, mode="bilinear", align_corners=False)
            return Explanation(target, relevance=Relevance(enlarged[:, 0], "features"))
        # Over samples: the map keeps time only; a layer that has frequency too is averaged over it.
        if cam.ndim == 4:
            cam = cam.mean(2)
        if cam.ndim != 3:
            raise ClassifierError(
                f"GradCAM needs a layer with a time axis; {self.layer!r} gives shape {tuple(cam.shape)}. Name another."
            )
        enlarged = functional.interpolate(cam.float(), batch.waveforms.shape[1], mode="linear", align_corners=False)
        return Explanation(target, relevance=Relevance(enlarged[:, 0], "waveform"))


def last_convolution(classifier: AudioClassifier) -> str:
    """Name of the last convolution in the network.

    Raises
    ------
    ClassifierError
        It has none.
    """
    convolutions: list[str] = [
        name for name, module in classifier.network.named_modules() if isinstance(module, nn.Conv1d | nn.Conv2d)
    ]
    if not convolutions:
        raise ClassifierError(f"GradCAM needs a convolution; the network of {classifier.name} has none. Use saliency.")
    return convolutions[-1]
