"""Activations and contexts at random places of the clips of a class: what subspaces are fitted to.

A clip is evidence for a class if it carries the class's label and the classifier decides for it. Its places (bins of
the layer's map, of all its patches) are drawn without replacement from the clip's own stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.random import Random
from earwitness_plugins.drsa.attribution import contexts_of, pieces
from earwitness_plugins.drsa.layers import check_rectified
from earwitness_plugins.lrp.propagation import Propagation


@dataclass(frozen=True, eq=False)
class Evidence:
    """Vectors of all classes.

    Attributes
    ----------
    activations, contexts : Tensor (N, D), float32, on the CPU
    classes : Tensor (N,), int64
        The class that each is evidence for.
    clips : Tensor (C,), int64
        How many clips of each class they are from.
    """

    activations: Tensor
    contexts: Tensor
    classes: Tensor
    clips: Tensor

    @classmethod
    def none(cls, n_classes: int) -> Self:
        """Nothing yet."""
        no_class = torch.zeros(0, dtype=torch.int64)
        return cls(torch.zeros(0, 0), torch.zeros(0, 0), no_class, torch.zeros(n_classes, dtype=torch.int64))

    def __add__(self, other: Evidence) -> Evidence:
        if not len(self.classes):
            return Evidence(other.activations, other.contexts, other.classes, self.clips + other.clips)
        if not len(other.classes):
            return self
        return Evidence(
            torch.cat([self.activations, other.activations]),
            torch.cat([self.contexts, other.contexts]),
            torch.cat([self.classes, other.classes]),
            self.clips + other.clips,
        )

    def of_class(self, index: int) -> tuple[Tensor, Tensor]:
        """Activations and contexts, (N, D) each."""
        own = self.classes == index
        return self.activations[own], self.contexts[own]

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of :meth:`tensors`."""
        return cls(**{name: tensors[name] for name in cls.__dataclass_fields__})


def collect(
    propagation: Propagation, classifier: AudioClassifier, batch: Batch, *, layer: str, locations: int, seed: int
) -> Evidence:
    """The evidence in a batch.

    Parameters
    ----------
    propagation : Propagation
        The rules of LRP.
    classifier : AudioClassifier
    batch : Batch
    layer : str
    locations : int
        Places per clip; all of them where the map has fewer.
    seed : int
        The places depend on it and on the clip's identity.

    Raises
    ------
    ClassifierError
        The layer is not rectified, or no relevance reaches it.
    """
    with torch.no_grad():
        features = classifier.features(batch.waveforms)
        decisions = torch.cat(
            [classifier.logits_of_features(features[rows]).argmax(1) for rows in pieces(classifier, features)]
        )
    labels = classifier.labels
    right = [row for row, (clip, d) in enumerate(zip(batch.clips, decisions, strict=True)) if labels[d] in clip.labels]
    random = Random(seed, [batch.clip_ids[row] for row in right])
    generators = random.generators("drsa-locations")
    features, target = features[right], decisions[right]
    found = Evidence.none(len(labels))
    for rows in pieces(classifier, features) if right else ():
        with propagation.hidden(classifier, features[rows], target[rows], layer) as hidden:
            check_rectified(classifier, layer, hidden.activation)
            activations = _by_place(hidden.activation, len(target[rows]))
            relevance = _by_place(hidden.relevance, len(target[rows]))
        places = draw_places(activations.shape[1], locations, generators[rows])[:, :, None].to(target.device)
        places = places.expand(-1, -1, activations.shape[2])
        a, r = activations.gather(1, places).flatten(0, 1), relevance.gather(1, places).flatten(0, 1)
        own = target[rows].repeat_interleave(places.shape[1]).cpu()
        counts = torch.bincount(target[rows].cpu(), minlength=len(labels))
        found = found + Evidence(a.float().cpu(), contexts_of(a, r).float().cpu(), own, counts)
    return found


def draw_places(n_places: int, locations: int, generators: list[torch.Generator]) -> Tensor:
    """Indices of min(locations, n_places) different places for each clip: Tensor (B, ·), int64."""
    return torch.stack([torch.randperm(n_places, generator=generator)[:locations] for generator in generators])


def _by_place(values: Tensor, n_clips: int) -> Tensor:
    """(B·P, D, ...) -> (B, P · places, D)."""
    flat = values.flatten(2) if values.ndim > 2 else values[:, :, None]
    return flat.mT.reshape(n_clips, -1, values.shape[1])
