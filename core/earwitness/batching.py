"""From a data set to rectangular batches: buckets of equal length, never padded."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch

from earwitness.clips import Batch, Clip, Dataset, Entry
from earwitness.errors import AudioError, ConfigurationError
from earwitness.random import stream_seed


def plan_chunks(entries: Sequence[Entry], chunk_size: int, *, seed: int | None = None) -> list[tuple[int, ...]]:
    """Split a data set into chunks of clips of equal length.

    Parameters
    ----------
    entries : sequence of Entry
    chunk_size : int
        The most clips in a chunk.
    seed : int, optional
        Shuffle the clips of each length, by the hashes of their identities: the chunks do not depend on the order of
        ``entries``. Default: keep the order.

    Returns
    -------
    list of tuple of int
        Indices into ``entries``; each index once.

    Raises
    ------
    ConfigurationError
        ``chunk_size`` is not positive.
    """
    if chunk_size < 1:
        raise ConfigurationError(f"chunk_size must be positive, got {chunk_size}.")
    order = list(range(len(entries)))
    if seed is not None:
        order.sort(key=lambda index: (stream_seed(seed, entries[index].clip_id), index))
    buckets: dict[int, list[int]] = defaultdict(list)
    for index in order:
        buckets[entries[index].n_samples].append(index)
    return [
        tuple(bucket[first : first + chunk_size])
        for _, bucket in sorted(buckets.items())
        for first in range(0, len(bucket), chunk_size)
    ]


def load_batch(dataset: Dataset, indices: Sequence[int], rate: int, *, device: torch.device | str = "cpu") -> Batch:
    """Read the clips of one chunk, at ``rate`` Hz."""
    return Batch.of([dataset[index].resampled(rate) for index in indices], device=device)


def iterate(
    dataset: Dataset, rate: int, chunk_size: int, *, start: int = 0, device: torch.device | str = "cpu"
) -> Iterator[tuple[int, Batch]]:
    """Batches of a whole data set at ``rate`` Hz, as planned without a seed, from chunk ``start`` on, numbered."""
    chunks = plan_chunks(dataset.entries, chunk_size)
    for number in range(start, len(chunks)):
        yield number, load_batch(dataset, chunks[number], rate, device=device)


class ClipList:
    """Clips in memory as a :class:`~earwitness.clips.Dataset`.

    Parameters
    ----------
    clips : sequence of Clip
        Of one rate.
    labels : sequence of str, optional
        All classes in order. Default: those of the clips, sorted.

    Raises
    ------
    AudioError
        The clips have different rates.
    """

    def __init__(self, clips: Sequence[Clip], labels: Sequence[str] | None = None) -> None:
        self._clips = tuple(clips)
        rates = {clip.rate for clip in clips}
        if len(rates) > 1:
            raise AudioError(f"The clips of a data set need one rate, got {sorted(rates)} Hz. Resample them first.")
        self.rate = rates.pop() if rates else 0
        self.labels = tuple(sorted({label for clip in clips for label in clip.labels}) if labels is None else labels)
        self.entries: Sequence[Entry] = [
            Entry(clip.clip_id, clip.group, clip.labels, clip.waveform.shape[0], _fingerprint(clip)) for clip in clips
        ]
        self.notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Clip:
        return self._clips[index]


def _fingerprint(clip: Clip) -> str:
    return hashlib.sha256(clip.waveform.cpu().contiguous().numpy().tobytes()).hexdigest()
