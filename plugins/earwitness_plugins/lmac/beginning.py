"""What there must be before a decoder's first step: layers, a length, clips that were listened to, and a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from earwitness.audio.files import is_constant
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Dataset
from earwitness.errors import CheckpointError, ConfigurationError
from earwitness.fitting import load_fitted, unfinished_fit
from earwitness.protocols import Progress
from earwitness.random import stream_seed
from earwitness.registry import registry
from earwitness_plugins.hidden_maps import deepest_layers, hidden_maps
from earwitness_plugins.lmac.decoder import MaskDecoder
from earwitness_plugins.lmac.fitted import FittedDecoder
from earwitness_plugins.lmac.material import Material, of_length
from earwitness_plugins.lmac.passages import coarse_grid

N_LAYERS = 4
_CLIPS_FOR_LEVELS = 16


def first_audible(train: Dataset, classifier: AudioClassifier, n_samples: int | None, *, seed: int) -> Batch:
    """The first clip in which there is something to hear, of the length of all; else ConfigurationError."""
    for index in range(len(train)):
        clip = of_length(train[index].resampled(classifier.rate), n_samples, seed=seed)
        if not bool(is_constant(clip.waveform)):
            return Batch.of([clip], device=classifier.device)
    raise ConfigurationError(f"All {len(train)} training clips are silent: there is nothing to hear in them.")


def chosen_layers(classifier: AudioClassifier, batch: Batch, layers: Sequence[str] | None) -> tuple[str, ...]:
    """The layers to listen to, in the order in which they run; those of the four deepest resolutions by default.

    Raises
    ------
    ClassifierError, NotApplicableError
        See :func:`~earwitness_plugins.hidden_maps.hidden_maps`: a layer is missing, or has no spatial shape.
    """
    with torch.no_grad():
        features = classifier.features(batch.waveforms)
        if layers is None:
            return deepest_layers(classifier, features, N_LAYERS)
        with classifier.taps(layers) as taps:
            classifier.logits_of_features(features)
            order = tuple(taps)
    hidden_maps(classifier, features, layers, least_cells=2)  # says what is wrong with a layer
    return order


def only_length(classifier: AudioClassifier) -> int | None:
    """In samples, of a classifier that takes clips of one length only."""
    return None if classifier.duration_s is None else round(classifier.duration_s * classifier.rate)


def common_length(train: Dataset, classifier: AudioClassifier) -> int | None:
    """What the classifier takes, or else the clips' median length, at its rate; None where all clips have the same."""
    lengths = sorted(entry.n_samples for entry in train.entries)
    if classifier.duration_s is not None or lengths[0] == lengths[-1]:
        return only_length(classifier)
    return round(lengths[len(lengths) // 2] * classifier.rate / train.rate)


def listen_to_all(materials: Sequence[Material], memory_mb: float, progress: Progress) -> None:
    """Listen to all clips, and share the memory between data sets by their size."""
    total, done = sum(len(material.dataset) for material in materials), 0
    for material in materials:
        for index in range(len(material.dataset)):
            material.prepare(index, memory_mb * len(material.dataset) / total)
            done += 1
            silent = sum(len(each.silent) for each in materials)
            progress(done, total, f"listening to the clips{f', {silent} silent ones left out' if silent else ''}")


def new_decoder(material: Material, width: int, *, told: bool, seed: int) -> MaskDecoder:
    """A decoder for the classifier of some clips, which knows the levels of its hidden maps on a random few of them."""
    classifier, indices = material.classifier, max(material.chunks(_CLIPS_FOR_LEVELS, epoch=0), key=len)
    rows = material.rows(indices)
    n_samples = material.clean(indices).waveforms.shape[1]
    has_rows = any(maps.shape[2] > 1 for maps in rows.maps)
    bands = 0 if has_rows else coarse_grid(classifier, n_samples).shape[0]
    classes = len(classifier.labels) if told else 0
    decoder = MaskDecoder([maps.shape[1] for maps in rows.maps], width, bands=bands, classes=classes)
    decoder.initialise(rows.maps, seed=stream_seed(seed, "decoder"))
    return decoder


def earlier_fit(
    folder: Path, classifier: AudioClassifier, layers: Sequence[str], width: int, *, told: bool
) -> FittedDecoder:
    """A decoder of the same shape that was fitted to a classifier before; of a fit that has not finished, the best.

    Raises
    ------
    CheckpointError
        There is none, or one of another method, classifier, width or layers, or it is damaged.
    """
    unfinished = unfinished_fit(folder)
    if unfinished is None:
        earlier = getattr(load_fitted(registry(), folder, classifier), "fitted", None)
    else:
        of_it = unfinished[1].get("classifier") == classifier.checksum
        earlier = FittedDecoder.of_checkpoint(*unfinished) if of_it else None
    own = (set(layers), MaskDecoder([1], width).deepest.in_channels, told)
    if not isinstance(earlier, FittedDecoder) or own != (
        set(earlier.layers),
        earlier.decoder.deepest.in_channels,
        bool(earlier.decoder.classes),
    ):
        raise CheckpointError(
            f"{folder} holds no mask decoder for {classifier.name} of width {width} that listens to "
            f"{', '.join(layers)}{' and is told the class' if told else ''}."
        )
    return earlier
