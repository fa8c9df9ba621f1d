"""GradCAM (Selvaraju et al., 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.nn import functional

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ClassifierError, NotApplicableError
from earwitness.explanation import Explanation
from earwitness.folding import normalised_layers
from earwitness.random import Random
from earwitness_plugins.gradients.inputs import (
    MEMORY_MB,
    AttributionInput,
    InputDomain,
    check_domain,
    check_memory,
    explained,
    pulled_back,
)


class GradCam:
    """Channels of a convolutional layer, weighted by their mean gradient, summed and rectified (Eq. 1-2), by Captum.

    A network that sees a clip as patches gets a map for each patch, which are averaged where patches overlap.

    Parameters
    ----------
    domain : {"features", "waveform"}
        What the map is interpolated to: the feature map, or the samples. Over samples the mean over frequency counts.
    layer : str, optional
        Dotted name of the layer. Default: the last convolution that keeps a time axis, after its batch norm if it has
        one (so that the classifier and its faster twin, in which the two are one, give the same map).
    memory_mb : float
        What the network may keep for its gradient at once; larger batches are explained in pieces.
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
            The network has no convolution, or its patches are no maps.
        ClassifierError
            There is no such layer, or it has no time axis.
        """
        cam = Cam.of(classifier, batch, self.layer)
        given = AttributionInput.of(
            classifier, batch, self.domain, target=target, random=random, memory_mb=self.memory_mb
        )
        return explained(given, cam)


@dataclass(frozen=True, eq=False)
class Cam:
    """The class activation map of one layer, at the size of the input.

    Attributes
    ----------
    classifier : AudioClassifier
    layer : str
    """

    classifier: AudioClassifier
    layer: str

    @classmethod
    def of(cls, classifier: AudioClassifier, batch: Batch, layer: str | None) -> Cam:
        """Choose the layer where none is named, and look whether the classifier can be handled."""
        if classifier.segmenter is not None:
            patches = classifier.segmenter(classifier.features(batch.waveforms[:1]))
            if patches.ndim != 5:
                raise NotApplicableError(
                    f"GradCAM needs patches that are maps, (B, P, 1, rows, columns); {classifier.name} makes patches "
                    f"of shape {tuple(patches.shape)}. Use saliency or integrated-gradients."
                )
        return cls(classifier, layer or last_convolution(classifier, batch))

    def __call__(self, given: AttributionInput) -> Tensor:
        """Tensor of the shape of ``given.values``, >= 0."""
        with self.classifier.taps([self.layer]):  # refuses a layer that runs twice, of which Captum takes either
            cam = LayerGradCam(given.forward, self.classifier.layer(self.layer)).attribute(
                given.leaf, target=given.target, relu_attributions=True
            )
        if cam.ndim not in (3, 4):
            raise ClassifierError(
                f"GradCAM needs a layer with a time axis; {self.layer!r} of {self.classifier.name} gives one value per "
                "channel. Name a convolution."
            )
        cam = cam.detach()
        if self.classifier.segmenter is not None:
            cam = self._joined(cam, given)
        if given.domain == "features":
            return _resized(cam, given.values.shape[2:])
        over_time = cam if cam.ndim == 3 else cam.mean(2)
        return _resized(over_time, given.values.shape[1:])[:, 0]

    def _joined(self, cams: Tensor, given: AttributionInput) -> Tensor:
        """Maps of patches, (B·P, 1, H, W), brought to the feature map (B, 1, M, N'), averaged where they overlap."""
        segment = self.classifier.segmenter
        assert segment is not None
        features = given.values if given.domain == "features" else self.classifier.features(given.values)
        with torch.no_grad():
            patches = segment(features)
        maps = _resized(cams, patches.shape[3:]).reshape(*patches.shape[:2], 1, *patches.shape[3:])
        total, seen = pulled_back(segment, features, maps.expand_as(patches), torch.ones_like(patches))
        return total / torch.where(seen > 0, seen, 1)


def last_convolution(classifier: AudioClassifier, batch: Batch) -> str:
    """Name of the last convolution that runs and does not squeeze time to one value, or of its batch norm.

    The order in which a network runs its layers may be another than that in which it names them.

    Raises
    ------
    NotApplicableError
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
    # Patches may have time along either axis, so the best is a map with something along both.
    first = -1 if classifier.segmenter is None else 2
    names = [name for name, shape in shapes.items() if min(shape[first:]) > 1]
    names = names or [name for name, shape in shapes.items() if max(shape[first:]) > 1]
    if not names:
        raise NotApplicableError(
            f"GradCAM needs a convolution with a time axis; the network of {classifier.name} has none. Use saliency."
        )
    return normalised_layers(classifier.network).get(names[-1], names[-1])


def _resized(cam: Tensor, shape: torch.Size) -> Tensor:
    """A map (B, 1, H, W) or (B, 1, W) at another size; from (B, 1, W) to a map of two axes it is the same in all rows.

    Parameters
    ----------
    cam : Tensor
    shape : torch.Size
        The last one or two axes of the answer, (W,) or (H, W).
    """
    if cam.ndim == 4:
        return functional.interpolate(cam, shape, mode="bilinear", align_corners=False)
    columns = functional.interpolate(cam, shape[-1], mode="linear", align_corners=False)
    return columns if len(shape) == 1 else columns[:, :, None].expand(-1, -1, *shape)
