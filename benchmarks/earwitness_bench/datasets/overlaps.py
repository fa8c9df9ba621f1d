"""Several classes at once: multilabel data made of recordings of one class each, of which the clean parts are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from earwitness.clips import Clip, Entry, Source
from earwitness.errors import DatasetError
from earwitness.random import stream_seed
from earwitness_bench.datasets.mixing import DatasetLike, dataset_of, fitted, norm_of, scaled, sources_of
from earwitness_bench.datasets.recordings import fingerprint


class Overlaps:
    """Two or three recordings of different classes at about the same level, with all their classes.

    Every recording is joined by others of the same data set, each of a class and a group of its own. All are brought to
    the same energy, up or down by at most ``level_db``, and their sum is divided by its peak.

    Parameters
    ----------
    recordings : Dataset, mapping or str
        A data set, or ``{"name": ..., **parameters}`` of a registered one.
    folds : sequence of int, optional
        Handed on to a registered data set: recordings of other folds are neither joined nor joining.
    per_recording : int
        Clips in which each recording is the first.
    sizes : sequence of int
        How many recordings a clip may hold, each number as often as the others.
    level_db : float
        At least 0.
    seed : int
        Together with the first recording's id it decides all that is drawn.

    Raises
    ------
    DatasetError
        A parameter is out of range, or a recording finds too few others.
    """

    def __init__(
        self,
        *,
        recordings: DatasetLike,
        folds: Sequence[int] | None = None,
        per_recording: int = 2,
        sizes: Sequence[int] = (2, 3),
        level_db: float = 3.0,
        seed: int = 0,
    ) -> None:
        if not isinstance(per_recording, int) or per_recording < 1:
            raise DatasetError(f"overlaps: per_recording is at least 1, got {per_recording!r}.")
        if not sizes or not all(isinstance(size, int) and size >= 2 for size in sizes):
            raise DatasetError(f"overlaps: sizes are whole numbers of 2 or more, got {list(sizes)}.")
        if not 0 <= level_db < float("inf"):
            raise DatasetError(f"overlaps: level_db is 0 or more decibels, got {level_db!r}.")
        self.recordings = dataset_of(_of_folds(recordings, folds))
        self.level_db = float(level_db)
        self.seed = seed
        self.rate: int = self.recordings.rate
        self.labels: tuple[str, ...] = self.recordings.labels
        self._members = [
            _draw(self.recordings.entries, first, stream_seed("overlaps", seed, entry.clip_id, number), tuple(sizes))
            for first, entry in enumerate(self.recordings.entries)
            for number in range(per_recording)
        ]
        self.entries: Sequence[Entry] = tuple(map(self._entry, self._members))
        self.notes: Sequence[str] = self.recordings.notes

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Clip:
        entry, members = self.entries[index], self._members[index]
        generator = np.random.default_rng(stream_seed("overlap-levels", self.seed, entry.clip_id))
        levels = 10 ** (generator.uniform(-self.level_db, self.level_db, len(members)) / 20)
        sources: dict[str, Source] = {}
        for number, (member, level) in enumerate(zip(members, levels, strict=True), start=1):
            clip = fitted(self.recordings[member], entry.n_samples)
            sources |= scaled(sources_of(clip, f"recording {number}"), float(level) / norm_of(clip))
        mixture = torch.stack([source.waveform for source in sources.values()]).sum(0)
        gain = 1 / float(mixture.abs().max())
        return Clip(gain * mixture, self.rate, entry.clip_id, entry.group, entry.labels, scaled(sources, gain))

    def _entry(self, members: Sequence[int]) -> Entry:
        own = [self.recordings.entries[member] for member in members]
        return Entry(
            clip_id="+".join(entry.clip_id for entry in own),
            group=own[0].group,
            labels=tuple(dict.fromkeys(label for entry in own for label in entry.labels)),
            n_samples=own[0].n_samples,
            fingerprint=fingerprint("overlap", self.seed, self.level_db, *(entry.fingerprint for entry in own)),
        )


def _of_folds(recordings: DatasetLike, folds: Sequence[int] | None) -> DatasetLike:
    if folds is None:
        return recordings
    if isinstance(recordings, str):
        return {"name": recordings, "folds": list(folds)}
    if isinstance(recordings, Mapping):
        return {**recordings, "folds": list(folds)}
    raise DatasetError("overlaps: folds go to a registered data set; give `recordings` by name.")


def _draw(entries: Sequence[Entry], first: int, seed: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The recordings of one clip: indices, the first one given; whatever the order of the data set."""
    generator = np.random.default_rng(seed)
    size = sizes[int(generator.integers(len(sizes)))]
    by_id = sorted(range(len(entries)), key=lambda index: entries[index].clip_id)
    chosen = [first]
    for index in generator.permutation(by_id).tolist():
        if len(chosen) == size:
            break
        groups = {entries[member].group for member in chosen}
        labels = {label for member in chosen for label in entries[member].labels}
        if entries[index].group not in groups and not labels & set(entries[index].labels):
            chosen.append(index)
    if len(chosen) < size:
        raise DatasetError(
            f"overlaps: {entries[first].clip_id} needs {size - 1} others, each of another class and recording, and "
            f"{len(entries)} clips hold {len(chosen) - 1}. Give it more, or smaller sizes."
        )
    return tuple(chosen)
