"""What a training leaves: the network, its scaler, and the prototypes as recordings, pictures and sounds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.errors import CheckpointError, ClassifierError, ConfigurationError
from earwitness_plugins.apnet.configuration import Configuration
from earwitness_plugins.apnet.network import AudioPrototypeNetwork
from earwitness_plugins.apnet.prototypes import (
    Neighbour,
    classes_of_latents,
    compare,
    decode_prototypes,
    neighbours,
    sounds_of,
)
from earwitness_plugins.apnet.training import Curves

NEIGHBOURS = 5
"""As many of the nearest training clips are remembered of each prototype."""

_NETWORK = "network/"


def classifier_of(
    network: AudioPrototypeNetwork, configuration: Configuration, scaler: tuple[float, float], labels: Sequence[str]
) -> AudioClassifier:
    """A network with its front end: recordings of any length, by the mean probability of their windows.

    The paper sums the probabilities of windows, which decides the same.
    """
    return AudioClassifier(
        network,
        front_end=configuration.front_end(*scaler),
        labels=labels,
        segmenter=configuration.windows,
        pool="logit_of_mean_probability",
        name="apnet",
    )


@dataclass(frozen=True, eq=False)
class Gallery:
    """The prototypes of a network, for people.

    Attributes
    ----------
    classes : Tensor (M,), int64
        What each stands for: what the classifier says to it; for a recording that was made a prototype, its class.
    nearest : tuple (length M) of tuples of Neighbour
        The training clips that are most similar, the most similar first. It was decoded with the pooling masks of the
        first.
    features : Tensor (M, 1, F, T), float32, in (-1, 1)
        Decoded.
    sounds : Tensor (M, T'), float32, in [-1, 1]
        At the network's rate.
    """

    classes: Tensor
    nearest: tuple[tuple[Neighbour, ...], ...]
    features: Tensor
    sounds: Tensor

    def __len__(self) -> int:
        return len(self.nearest)

    def select(self, rows: Tensor) -> Gallery:
        """Some of them, in the order of ``rows`` (int64)."""
        nearest = tuple(self.nearest[row] for row in rows.tolist())
        return Gallery(self.classes[rows], nearest, self.features[rows], self.sounds[rows])

    def followed_by(self, other: Gallery) -> Gallery:
        """These, then those of another."""
        tensors = [torch.cat([getattr(self, n), getattr(other, n)]) for n in ("classes", "features", "sounds")]
        return Gallery(tensors[0], (*self.nearest, *other.nearest), tensors[1], tensors[2])

    def name(self, index: int, labels: Sequence[str]) -> str:
        """How a prototype is called: its number, from 1, and its class."""
        return f"prototype {index + 1}: {labels[int(self.classes[index])]}"

    def unrepresented(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The labels that no prototype stands for, which may happen in training."""
        return tuple(label for index, label in enumerate(labels) if not bool((self.classes == index).any()))


def make_gallery(classifier: AudioClassifier, windows: Tensor, clip_ids: Sequence[str], *, seed: int) -> Gallery:
    """Decode the prototypes of a classifier's network.

    Parameters
    ----------
    classifier : AudioClassifier
        Of :meth:`TrainedAPNet.as_classifier`.
    windows : Tensor (N, 1, F, T)
        Of training clips; each prototype is decoded with the masks of its most similar one.
    clip_ids : sequence of str, length N
        Of each window.
    seed : int
        Of Griffin-Lim's phases.
    """
    network = classifier.network
    assert isinstance(network, AudioPrototypeNetwork)
    comparison = compare(network, windows)
    decoded = decode_prototypes(network, windows[comparison.order()[0].to(windows.device)])
    log_mel: Any = classifier.front_end.log_mel  # type: ignore[attr-defined]
    return Gallery(
        classes=classes_of_latents(network).cpu(),
        nearest=neighbours(comparison, clip_ids, NEIGHBOURS),
        features=decoded.cpu(),
        sounds=sounds_of(decoded, log_mel, seed=seed).cpu(),
    )


@dataclass(frozen=True, eq=False)
class TrainedAPNet:
    """A trained network and all that belongs to it.

    Attributes
    ----------
    network : AudioPrototypeNetwork
    min_db, max_db : float
        The scaler.
    labels : tuple of str, length K
    epoch : int
        The epoch that the weights were taken after, from 1.
    curves : Curves
    gallery : Gallery or None
        None until the prototypes are decoded.
    """

    network: AudioPrototypeNetwork
    min_db: float
    max_db: float
    labels: tuple[str, ...]
    epoch: int
    curves: Curves
    gallery: Gallery | None = None

    @property
    def n_parameters(self) -> int:
        """Of the network."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def as_classifier(self, configuration: Configuration) -> AudioClassifier:
        """See :func:`classifier_of`."""
        return classifier_of(self.network, configuration, (self.min_db, self.max_db), self.labels)

    def with_gallery(self, gallery: Gallery) -> TrainedAPNet:
        """The same, with its prototypes decoded."""
        return replace(self, gallery=gallery)

    def tensors(self) -> dict[str, Tensor]:
        """As tensors, by name; what is no tensor goes into one, as JSON."""
        assert self.gallery is not None
        nearest = [[list(astuple(neighbour)) for neighbour in row] for row in self.gallery.nearest]
        document = {"epoch": self.epoch, "curves": asdict(self.curves), "nearest": nearest}
        return {
            **{f"{_NETWORK}{name}": value for name, value in self.network.state_dict().items()},
            "scaler": torch.tensor([self.min_db, self.max_db], dtype=torch.float64),
            "prototypes/classes": self.gallery.classes,
            "prototypes/features": self.gallery.features,
            "prototypes/sounds": self.gallery.sounds,
            "document": torch.tensor(list(json.dumps(document).encode()), dtype=torch.uint8),
        }

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], labels: Sequence[str]) -> TrainedAPNet:
        """The inverse of :meth:`tensors`.

        Raises
        ------
        CheckpointError
            Something is missing, or does not fit.
        """
        try:
            state = {name.removeprefix(_NETWORK): t for name, t in tensors.items() if name.startswith(_NETWORK)}
            document = json.loads(bytes(tensors["document"].tolist()))
            parts = {name: tensors[f"prototypes/{name}"] for name in ("classes", "features", "sounds")}
            network = AudioPrototypeNetwork.of_state(state, n_frames=parts["features"].shape[-1])
            nearest = tuple(tuple(Neighbour(*neighbour) for neighbour in row) for row in document["nearest"])
            gallery = Gallery(nearest=nearest, **parts)
            low, high = tensors["scaler"].tolist()
            curves = Curves(**document["curves"])
        except (KeyError, IndexError, ValueError, TypeError, ClassifierError, ConfigurationError) as error:
            raise CheckpointError(f"These are not the tensors of a trained APNet: {error} Train again.") from error
        if network.sizes.n_classes != len(labels):
            raise CheckpointError(f"A network of {network.sizes.n_classes} classes does not fit {len(labels)} labels.")
        return cls(network, low, high, tuple(labels), document["epoch"], curves, gallery)
