"""GradCAM (Selvaraju et al., 2017)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.nn import functional

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ClassifierError
from earwitness.explanation import Explanation
from earwitness.folding import normalised_layers
from earwitness.random import Random
from earwitness_plugins.gradients.inputs import AttributionInput, InputDomain, check_domain


class GradCam:
    """Channels of a convolutional layer, weighted by their mean gradient, summed and rectified (Eq. 1-2), by Captum.

    Parameters
    ----------
    domain : {"features", "waveform"}
        What the map is interpolated to: the feature map, or the samples. Over samples the mean over frequency counts.
    layer : str, optional
        Dotted name of the layer. Default: the last convolution that keeps a time axis, after its batch norm if it has
        one (so that the classifier and its faster twin, in which the two are one, give the same map).
    """

    def __init__(self, *, domain: InputDomain = "features", layer: str | None = None) -> None:
        self.domain = check_domain(domain)
        self.layer = layer

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`.

        Raises
        ------
        ClassifierError
            The network has no convolution, the layer has no time axis, or the classifier sees a clip as patches.
        """
        if classifier.segmenter is not None:
            raise ClassifierError(
                f"GradCAM does not handle {classifier.name}, which sees a clip as several patches: the maps of its "
                "layers do not lie on the clip's time axis. Use saliency or integrated-gradients."
            )
        given = AttributionInput.of(classifier, batch, self.domain)
        name = self.layer or last_convolution(classifier, batch)
        values = given.values.clone().requires_grad_(True)
        cam = LayerGradCam(given.forward, classifier.layer(name)).attribute(
            values, target=target, relu_attributions=True
        )
        if cam.ndim not in (3, 4):
            raise ClassifierError(
                f"GradCAM needs a layer with a time axis; {name!r} of {classifier.name} gives one value per channel. "
                "Name a convolution."
            )
        return Explanation(target, relevance=given.relevance(_enlarged(cam.detach(), given)))


def last_convolution(classifier: AudioClassifier, batch: Batch) -> str:
    """Name of the last convolution that runs and does not squeeze time to one value, or of its batch norm.

    The order in which a network runs its layers may be another than that in which it names them.

    Raises
    ------
    ClassifierError
        The network has none.
    """
    shapes: dict[str, torch.Size] = {}

    def note(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            shapes.pop(name, None)
            shapes[name] = output.shape

        return hook

    convolutions = {n: m for n, m in classifier.network.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d)}
    handles = [module.register_forward_hook(note(name)) for name, module in convolutions.items()]
    try:
        classifier.probabilities(batch.waveforms[:1])
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, shape in shapes.items() if shape[-1] > 1]
    if not names:
        raise ClassifierError(
            f"GradCAM needs a convolution with a time axis; the network of {classifier.name} has none. Use saliency."
        )
    return normalised_layers(classifier.network).get(names[-1], names[-1])


def _enlarged(cam: Tensor, given: AttributionInput) -> Tensor:
    """A map (B, 1, H, W), or (B, 1, W) of a network that convolves over time only, at the size of the input."""
    if given.domain == "features" and cam.ndim == 4:
        return functional.interpolate(cam, given.values.shape[2:], mode="bilinear", align_corners=False)
    over_time = cam if cam.ndim == 3 else cam.mean(2)
    columns = functional.interpolate(over_time, given.values.shape[-1], mode="linear", align_corners=False)
    return columns[:, :, None].expand_as(given.values) if given.domain == "features" else columns[:, 0]
