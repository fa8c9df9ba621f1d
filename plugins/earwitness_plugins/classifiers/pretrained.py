"""Published networks that tag sounds with the classes of AudioSet, as classifiers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from earwitness.audio.dialects import efficientat, yamnet
from earwitness.audio.front_end import LogMel
from earwitness.classifier import AudioClassifier, Segmenter
from earwitness.cli.progress import progress_bar
from earwitness.errors import ConfigurationError, nearest
from earwitness.pooling import PoolName
from earwitness.weights import load_weights
from earwitness_plugins.classifiers.audioset import groups_of, labels_of
from earwitness_plugins.classifiers.mobilenet_v1 import MobileNetV1
from earwitness_plugins.classifiers.mobilenet_v3 import MobileNetV3
from earwitness_plugins.classifiers.published_weights import published_weights

PATCH_FRAMES = 96
PATCH_HOP = 48


Network = MobileNetV1 | MobileNetV3


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A published network and what stands around it.

    Attributes
    ----------
    network : callable int -> nn.Module
        From the number of classes. Its ``with_head`` exchanges the layers after the embedding.
    front_end : callable -> LogMel
    vocabulary : {"yamnet", "efficientat"}
        Which of AudioSet's classes it knows, in which order.
    segmenter : callable or None
        Features (B, 1, M, N') to patches (B, P, …).
    pool : str
        From the patches' logits to the clip's, as published.
    """

    network: Callable[[int], Network]
    front_end: Callable[[], LogMel]
    vocabulary: Literal["yamnet", "efficientat"]
    segmenter: Segmenter | None = None
    pool: PoolName = "logit_of_mean_probability"


def frame_patches(features: Tensor, *, n_frames: int = PATCH_FRAMES, hop: int = PATCH_HOP) -> Tensor:
    """Cut a feature map into overlapping patches with time before frequency, as YAMNet eats them.

    It only copies values, so it is linear: its vector-Jacobian product adds a map over patches up on the feature grid.
    Frames after the last whole patch belong to none.

    Parameters
    ----------
    features : Tensor (B, 1, M, N')
    n_frames, hop : int
        Length of a patch and distance between their beginnings, in frames.

    Returns
    -------
    Tensor (B, P, 1, n_frames, M)
        P = 1 + (N' - n_frames) // hop, or 0 where there are too few frames for one patch.
    """
    n_rows, n_channels, n_bands, n_columns = features.shape
    if n_columns < n_frames:
        return features.new_zeros(n_rows, 0, n_channels, n_frames, n_bands)
    return features.unfold(3, n_frames, hop).permute(0, 3, 1, 4, 2)


PRETRAINED = {
    "yamnet": Pretrained(
        network=MobileNetV1,
        front_end=yamnet,
        vocabulary="yamnet",
        segmenter=frame_patches,
    ),
    "efficientat-mn04": Pretrained(
        network=partial(MobileNetV3, width=0.4),
        front_end=efficientat,
        vocabulary="efficientat",
    ),
}


def pretrained(name: str) -> Pretrained:
    """The published network called ``name``; ConfigurationError if there is none."""
    if name not in PRETRAINED:
        raise ConfigurationError(f"There is no published network {name!r}. {nearest(name, PRETRAINED)}")
    return PRETRAINED[name]


def pretrained_network(name: str) -> Network:
    """A published network with its weights, which are fetched where they are not at hand; in evaluation mode.

    Raises
    ------
    ConfigurationError
        There is no such network.
    CheckpointError, DownloadError
        See :func:`published_weights`.
    """
    chosen = pretrained(name)
    text = f"downloading the weights of {name}"
    with progress_bar(text) as progress:
        path = published_weights(name, progress=lambda done, total: progress(done, total or 0, text))
    network = chosen.network(len(labels_of(chosen.vocabulary)))
    load_weights(network, path)
    return network.eval()


def tagger(name: str, regroup: str | None = None) -> AudioClassifier:
    """A published network as a classifier of AudioSet's classes, or of another data set's without any training.

    Parameters
    ----------
    name : str
        One of ``PRETRAINED``.
    regroup : {"esc10"}, optional
        Take the maximum over the classes of AudioSet that belong to each class of this data set.

    Returns
    -------
    AudioClassifier
        Multilabel: probabilities are by sigmoid, for each class by itself.
    """
    groups = None if regroup is None else groups_of(regroup)
    chosen = pretrained(name)
    classifier = AudioClassifier(
        pretrained_network(name),
        front_end=chosen.front_end(),
        labels=labels_of(chosen.vocabulary),
        segmenter=chosen.segmenter,
        pool=chosen.pool,
        multilabel=True,
        name=name if regroup is None else f"{name} ({regroup}, zero-shot)",
    )
    return classifier if groups is None else classifier.regroup(groups)


@torch.no_grad()
def embeddings(name: str, network: Network, waveforms: Tensor) -> Tensor:
    """What a published network knows of a clip: the inputs of its last layers, averaged over patches.

    Parameters
    ----------
    name : str
        One of ``PRETRAINED``.
    network : nn.Module
        Of :func:`pretrained_network`.
    waveforms : Tensor (B, T), float32
        At the front end's rate.

    Returns
    -------
    Tensor (B, E), float32
    """
    chosen = pretrained(name)
    body = network.with_head(nn.Identity())
    features = chosen.front_end()(waveforms)
    if chosen.segmenter is None:
        return body(features)  # type: ignore[no-any-return]
    patches = chosen.segmenter(features)
    return body(patches.flatten(0, 1)).reshape(*patches.shape[:2], -1).mean(1)  # type: ignore[no-any-return]
