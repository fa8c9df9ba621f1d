"""Recordings to train an audio prototype network on: read, cut to one length, scaled.

N clips, T samples, F bands, W frames of a window, P windows of a clip, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from earwitness.audio.files import CONSTANT_RANGE
from earwitness.clips import Clip, Dataset
from earwitness.errors import AudioError, ConfigurationError, DatasetError, SilentAudioError
from earwitness.protocols import Progress
from earwitness_plugins.apnet.configuration import Configuration
from earwitness_plugins.apnet.front_end import PaddedLogMel
from earwitness_plugins.classifiers.evaluation import check_classes
from earwitness_plugins.classifiers.training_data import features_of

_UNSCALED = (-1.0, 1.0)  # dB: features under this scaler are decibels
_REPORT_EVERY = 50


@dataclass(frozen=True, eq=False)
class Recordings:
    """Clips in memory.

    Attributes
    ----------
    waveforms : Tensor (N, T), float32
    classes : Tensor (N,), int64
    clip_ids : tuple of str, length N
    """

    waveforms: Tensor
    classes: Tensor
    clip_ids: tuple[str, ...]


def read_recordings(
    dataset: Dataset, labels: Sequence[str], configuration: Configuration, progress: Progress
) -> Recordings:
    """Read a data set at the configuration's rate.

    Clips of one length stay as they are. Of different lengths, all are cut to the window of the network or followed by
    silence up to it, as in the paper.

    Parameters
    ----------
    dataset : Dataset
    labels : sequence of str, length K
        What the classes' numbers refer to.
    configuration : Configuration
    progress : callable (clips read, clips in all, text)

    Raises
    ------
    ClassifierError
        A clip has no class, or one that is not among ``labels``.
    DatasetError
        A clip has several classes, or there is no clip.
    """
    if not len(dataset):
        raise DatasetError("There are no clips. Which folds, or which split, were asked for?")
    check_classes(labels, dataset)
    several = [entry.clip_id for entry in dataset.entries if len(entry.labels) > 1]
    if several:
        raise DatasetError(
            f"{len(several)} clips have several classes, such as {several[0]!r}. APNet decides for one: leave them out."
        )
    rows = []
    for index in range(len(dataset)):
        rows.append(dataset[index].resampled(configuration.rate).waveform)
        if index % _REPORT_EVERY == 0:
            progress(index, len(dataset), "reading")
    if len({len(row) for row in rows}) > 1:
        rows = [_cut(row, configuration.n_samples) for row in rows]
    classes = torch.tensor([labels.index(entry.labels[0]) for entry in dataset.entries])
    return Recordings(torch.stack(rows).float(), classes, tuple(entry.clip_id for entry in dataset.entries))


def check_complete(labels: Sequence[str], dataset: Dataset) -> None:
    """Raise ConfigurationError where a class has no clip: its prototypes would be of nothing."""
    present = {label for entry in dataset.entries for label in entry.labels}
    absent = [label for label in labels if label not in present]
    if absent:
        raise ConfigurationError(
            f"The training data have no clip of {', '.join(absent[:5])}: no prototype could stand for it. Every class "
            "needs a clip."
        )


def fit_scaler(clips: Recordings, configuration: Configuration, device: torch.device) -> tuple[float, float]:
    """Smallest and largest value in dB over all cells of all training clips: one global min-max scaler.

    Parameters
    ----------
    clips : Recordings
    configuration : Configuration
    device : torch.device

    Raises
    ------
    ConfigurationError
        They are the same: the clips are silent.
    AudioError
        See :func:`checked_features`.
    """
    front_end = configuration.front_end(*_UNSCALED).to(device)
    ranges = [checked_features(chunk, front_end, device).aminmax() for chunk in _in_chunks(clips, 256)]
    low, high = min(float(r.min) for r in ranges), max(float(r.max) for r in ranges)
    if not low < high:
        raise ConfigurationError(
            f"A scaler cannot be fitted to {len(clips.clip_ids)} training clips of {low:g} dB throughout: they are "
            "silent. Were the files decoded?"
        )
    return low, high


def checked_features(clips: Recordings, front_end: PaddedLogMel, device: torch.device) -> Tensor:
    """Features (N, 1, F, N') of recordings, on the device, without gradient.

    Raises
    ------
    AudioError
        Some are NaN or infinite: samples so large that their power is no float32 any more.
    """
    features = features_of(front_end, clips.waveforms, device)
    broken = (~features.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        first = broken[0]
        raise AudioError(
            f"The features of {len(broken)} clips are NaN or infinite. The first is {clips.clip_ids[first]!r}, with "
            f"samples up to {float(clips.waveforms[first].abs().max()):.3g}; expected [-1, 1]. Scale such clips down, "
            "or leave them out."
        )
    return features


def windows_of(features: Tensor, configuration: Configuration) -> Tensor:
    """Features (N, 1, F, N') to all their windows, clip by clip: (N · P, 1, F, W)."""
    return configuration.windows(features).flatten(0, 1)


def labelled_windows(
    clips: Recordings, front_end: PaddedLogMel, configuration: Configuration, device: torch.device
) -> tuple[Tensor, tuple[str, ...]]:
    """All windows of recordings, clip by clip, and the clip that each is from: Tensor (N · P, 1, F, W), clip_ids.

    Raises
    ------
    AudioError
        See :func:`checked_features`.
    """
    windows = windows_of(checked_features(clips, front_end, device), configuration)
    each = len(windows) // len(clips.clip_ids)
    return windows, tuple(clip_id for clip_id in clips.clip_ids for _ in range(each))


def loudest_window(clip: Clip, front_end: PaddedLogMel, configuration: Configuration) -> Tensor:
    """The window of a recording whose mean level in dB is highest: features (1, F, W).

    Raises
    ------
    SilentAudioError
        The recording is constant: there is nothing in it to compare others with.
    """
    waveform = clip.resampled(configuration.rate).waveform
    if float(waveform.max() - waveform.min()) < CONSTANT_RANGE:
        raise SilentAudioError(f"The clip {clip.clip_id!r} is silent: nothing could be like it. Choose another.")
    with torch.no_grad():
        windows = windows_of(front_end(waveform[None]), configuration)
    return windows[int(windows.mean((1, 2, 3)).argmax())]


def _in_chunks(clips: Recordings, size: int) -> Iterator[Recordings]:
    for first in range(0, len(clips.clip_ids), size):
        rows = slice(first, first + size)
        yield Recordings(clips.waveforms[rows], clips.classes[rows], clips.clip_ids[rows])


def _cut(waveform: Tensor, n_samples: int) -> Tensor:
    return functional.pad(waveform[:n_samples], (0, max(0, n_samples - len(waveform))))
