"""What Quantus is shown of a batch: inputs, attributions on their grid, a network, and how to explain again.

==================================  ==========================  ==================================================
category                            inputs                      attributions
==================================  ==========================  ==================================================
faithfulness, axiomatic,            feature map (B, 1, M, N')   on the feature map
randomisation, and Consistency
robustness                          recording (B, 1, T)         on the feature map, laid flat
localisation                        magnitude (B, 1, F, N)      positive relevance on the listening STFT
complexity                          magnitude (B, 1, F, N)      the mask on the listening STFT
==================================  ==========================  ==================================================

A network that eats samples has (B, 1, T) in the place of a feature map. Robustness is about disturbed *recordings*,
because that is what an explainer is given. Quantus wants a map of its input's shape there: the feature map is laid flat
into the first M·N' of the T cells, and the rest stays zero, which changes no norm and no distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from earwitness.classifier import AudioClassifier
from earwitness.context import Context
from earwitness.errors import ExplanationError
from earwitness.explanation import Explanation
from earwitness.render import Scene
from earwitness_bench.metrics.localisation_formulas import IDEAL_THRESHOLD, ideal_ratio_mask
from earwitness_bench.metrics.mask_shape import constant_rows
from earwitness_bench.quantus.catalogue import OFFERED


class Network(nn.Module):
    """A classifier as the plain module that Quantus asks for: (B, 1, …) -> logits or probabilities (B, C).

    The classifier's own network is its only child with layers, so that Quantus finds and randomises that; a deep copy
    of this module has a classifier of its own around its copy of the network.

    Parameters
    ----------
    classifier : AudioClassifier
    eats_waveforms : bool
        Inputs are recordings, not features.
    probabilities : bool
        Softmax or sigmoid, whichever is the classifier's, instead of logits.
    """

    def __init__(self, classifier: AudioClassifier, *, eats_waveforms: bool, probabilities: bool) -> None:
        super().__init__()
        self.classifier = classifier
        self.network = classifier.network
        self.eats_waveforms = eats_waveforms
        self.probabilities = probabilities
        # Quantus replaces a softmax (of attention, say) that happens to be the last module. This one is the last.
        self.end = nn.Identity()
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        classifier = self.classifier
        logits = classifier.logits(inputs.flatten(1)) if self.eats_waveforms else classifier.logits_of_features(inputs)
        return classifier.probabilities_of(logits) if self.probabilities else logits


@dataclass(frozen=True, eq=False)
class View:
    """What Quantus is shown.

    Attributes
    ----------
    inputs : Tensor (B, 1, …), float32
    maps : Tensor (B, 1, …), float32
        Attributions before they are normalised and laid out by :meth:`laid_out`.
    segments : Tensor (B, 1, F, N), bool, or None
        Where the target's own sound is louder than the rest.
    eats_waveforms : bool
        The inputs are recordings.
    """

    inputs: Tensor
    maps: Tensor
    segments: Tensor | None = None
    eats_waveforms: bool = False

    def laid_out(self, maps: np.ndarray) -> np.ndarray:
        """Maps (R, 1, …) in the shape that Quantus wants beside ``inputs``.

        Raises
        ------
        ExplanationError
            The map has more cells than the recording has samples.
        """
        if not self.eats_waveforms or maps.shape[1:] == tuple(self.inputs.shape[1:]):
            return maps
        flat, n_samples = maps.reshape(len(maps), 1, -1), self.inputs.shape[2]
        if flat.shape[2] > n_samples:
            raise ExplanationError(
                f"Quantus wants a map of the recording's shape, and one of {flat.shape[2]} cells does not fit into "
                f"{n_samples} samples. Give a longer recording, or a network with fewer features."
            )
        return np.pad(flat, ((0, 0), (0, 0), (0, n_samples - flat.shape[2])))


def view_of(name: str, explanation: Explanation, context: Context) -> View:
    """What the metric ``name`` of Quantus is shown; see the module's table."""
    category, scene = OFFERED[name].category, context.scene
    if category == "complexity":
        return View(scene.magnitude[:, None], context.rendering.gain[:, None])
    if category == "localisation":
        relevance = scene.relevance_map(explanation).clamp_min(0)
        return View(scene.magnitude[:, None], relevance[:, None], segments=_own_cells(context))
    maps = on_input(scene, explanation)
    if category == "robustness" and name != "Consistency":
        return View(context.batch.waveforms[:, None], maps, eats_waveforms=True)
    with torch.no_grad():
        return View(context.classifier.features(context.batch.waveforms), maps)


def on_input(scene: Scene, explanation: Explanation) -> Tensor:
    """An explanation where the network's input is: (B, 1, M, N'), or (B, 1, T) where it eats samples."""
    if scene.classifier.feature_grid(scene.n_samples) is not None:
        return scene.on_features(explanation)[:, None]
    own = explanation.relevance if explanation.mask is None else explanation.mask
    if own is not None and own.domain == "waveform":
        return own.values[:, None]
    stft_map = scene.on_stft(explanation)
    hop_length = scene.listening.hop_length
    if explanation.mask is None and explanation.relevance is not None:
        return _over_samples(stft_map.sum(1) / hop_length, hop_length, scene.n_samples)
    weight = scene.magnitude + 1e-6 * scene.magnitude.amax((1, 2), keepdim=True).clamp_min(1e-12)
    return _over_samples((stft_map * weight).sum(1) / weight.sum(1), hop_length, scene.n_samples)


def _over_samples(frames: Tensor, hop_length: int, n_samples: int) -> Tensor:
    """Values of frames (B, N), interpolated between their centres: (B, 1, T)."""
    place = torch.arange(n_samples, device=frames.device) / hop_length
    before = place.long().clamp_max(frames.shape[1] - 1)
    after = (before + 1).clamp_max(frames.shape[1] - 1)
    share = (place - before).to(frames).clamp_max(1)
    return torch.lerp(frames[:, before], frames[:, after], share)[:, None]


def _own_cells(context: Context) -> Tensor:
    source = context.batch.target_sources(context.target_labels)
    if source is None:
        raise ExplanationError("localisation needs clips whose clean sources are known")
    stft = context.scene.listening
    rest = context.batch.waveforms - source
    return (ideal_ratio_mask(stft.forward(source).abs(), stft.forward(rest).abs()) > IDEAL_THRESHOLD)[:, None]


def undefined_rows(maps: Tensor, segments: Tensor | None) -> list[str]:
    """Why a row cannot be scored (empty where it can): Quantus refuses such maps, and a whole batch for one of them.

    Parameters
    ----------
    maps : Tensor (R, 1, …), float32
    segments : Tensor (R, 1, …), bool, or None
    """
    reasons = {
        "the map is constant": constant_rows(maps),
        "the map is negative everywhere": maps.flatten(1).amax(1) < 0,
    }
    if segments is not None:
        reasons["nothing of the target is to be heard in this clip"] = ~segments.flatten(1).any(1)
    return [next((reason for reason, rows in reasons.items() if bool(rows[row])), "") for row in range(len(maps))]
