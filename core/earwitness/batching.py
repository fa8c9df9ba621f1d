"""From a data set to rectangular batches: buckets of equal length, never padded."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch

from earwitness.clips import Batch, Clip, Dataset, Entry
from earwitness.random import stream_seed


def plan_chunks(entries: Sequence[Entry], chunk_size: int, *, seed: int | None = None) -> list[tuple[int, ...]]:
    """Split a data set into chunks of clips of equal length.

    Parameters
    ----------
    entries : sequence of Entry
    chunk_size : int
        The most clips in a chunk.
    seed : int, optional
        Shuffle the clips first, each by its own hash: the order does not depend on the order of ``entries``. Default:
        keep the order.

    Returns
    -------
    list of tuple of int
        Indices into ``entries``; each index once.
    """
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


def iterate(dataset: Dataset, rate: int, chunk_size: int, *, start: int = 0) -> Iterator[tuple[int, Batch]]:
    """Batches of a whole data set in its own order, from chunk ``start`` on, with their number."""
    for number, indices in enumerate(plan_chunks(dataset.entries, chunk_size)):
        if number >= start:
            yield number, load_batch(dataset, indices, rate)


class ClipList:
    """Clips in memory as a :class:`~earwitness.clips.Dataset`.

    Parameters
    ----------
    clips : sequence of Clip
        Of one rate.
    labels : sequence of str, optional
        All classes in order. Default: those of the clips, sorted.
    """

    def __init__(self, clips: Sequence[Clip], labels: Sequence[str] | None = None) -> None:
        self._clips = tuple(clips)
        self.rate = self._clips[0].rate if self._clips else 0
        self.labels = tuple(labels or sorted({label for clip in clips for label in clip.labels}))
        self.entries = [
            Entry(clip.clip_id, clip.group, clip.labels, clip.waveform.shape[0], _fingerprint(clip)) for clip in clips
        ]
        self.notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Clip:
        return self._clips[index]


def _fingerprint(clip: Clip) -> str:
    return hashlib.sha256(clip.waveform.cpu().contiguous().numpy().tobytes()).hexdigest()
