"""From a data set to frames of log(1 + |S|), clip after clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from earwitness.audio.stft import ListeningSTFT
from earwitness.batching import load_batch, plan_chunks
from earwitness.clips import Batch, Dataset
from earwitness.errors import AudioError, ConfigurationError
from earwitness.random import Random

_CLIPS_AT_ONCE = 8


@dataclass(frozen=True)
class Sampling:
    """Which frames are learnt from.

    Attributes
    ----------
    average : int
        Frames of a clip that are averaged into one; what is left over at its end is averaged too.
    max_frames : int or None
        About as many, after averaging: each clip gives its share, drawn at random.
    seed : int

    Raises
    ------
    ConfigurationError
        A number is not positive.
    """

    average: int = 1
    max_frames: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.average < 1 or (self.max_frames is not None and self.max_frames < 1):
            raise ConfigurationError(
                f"average and max_frames must be positive, got {self.average} and {self.max_frames}."
            )


def read_frames(
    dataset: Dataset,
    indices: Sequence[int],
    stft: ListeningSTFT,
    sampling: Sampling,
    read: Callable[[int], None] = lambda done: None,
) -> Iterator[Tensor]:
    """Spectrograms log(1 + |S|) of some clips of a data set, each clip read once.

    Parameters
    ----------
    dataset : Dataset
    indices : sequence of int
        Which clips.
    stft : ListeningSTFT
        Clips are resampled to its rate.
    sampling : Sampling
    read : callable
        Told how many clips were read.

    Yields
    ------
    Tensor (F, n), float32, >= 0

    Raises
    ------
    AudioError
        A clip is shorter than one frame.
    """
    done = 0
    quotas = _quotas(len(indices), sampling.max_frames)
    for chunk in plan_chunks([dataset.entries[index] for index in indices], _CLIPS_AT_ONCE):
        batch = load_batch(dataset, [indices[place] for place in chunk], stft.rate)
        for spectrogram, place, clip_id in zip(_averaged(batch, stft, sampling), chunk, batch.clip_ids, strict=True):
            yield _drawn(spectrogram, quotas[place], Random(sampling.seed, [clip_id]))
        done += len(chunk)
        read(done)


def averaged(spectrograms: Tensor, count: int) -> Tensor:
    """Means of ``count`` frames after another: (B, F, N) -> (B, F, ceil(N / count)); the last may be of fewer."""
    if count == 1:
        return spectrograms
    n_frames = spectrograms.shape[-1]
    means = functional.avg_pool1d(functional.pad(spectrograms, (0, -n_frames % count)), count)
    rest = n_frames % count
    if rest:
        means[..., -1] *= count / rest
    return means


def _averaged(batch: Batch, stft: ListeningSTFT, sampling: Sampling) -> Tensor:
    try:
        spectrograms = torch.log1p(stft.forward(batch.waveforms).abs())
    except AudioError as error:
        raise AudioError(f"Clip {batch.clip_ids[0]!r}: {error}") from error
    return averaged(spectrograms, sampling.average)


def _quotas(n_clips: int, max_frames: int | None) -> list[int | None]:
    """Frames that each clip may give; they sum to ``max_frames``."""
    if max_frames is None:
        return [None] * n_clips
    ends = [max_frames * (number + 1) // n_clips for number in range(n_clips)]
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _drawn(spectrogram: Tensor, quota: int | None, random: Random) -> Tensor:
    n_frames = spectrogram.shape[1]
    if quota is None or quota >= n_frames:
        return spectrogram
    chosen = random.uniform("frames", n_frames)[0].topk(quota).indices.sort().values
    return spectrogram[:, chosen]
