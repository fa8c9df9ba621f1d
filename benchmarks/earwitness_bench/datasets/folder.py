"""Any tree of sound files as a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from earwitness.audio.files import Recording, open_recording
from earwitness.clips import Clip, Entry
from earwitness.errors import AudioError, DatasetError, nearest
from earwitness_bench.datasets.recordings import (
    checksum,
    fingerprint,
    length_notes,
    read_mono,
    resampled_length,
    sound_files,
)


class Folder:
    """Sound files below a folder, mono, at one rate; the first-level folders are the labels.

    Files directly in the folder have no label. Files that cannot be opened are passed over and named in ``notes``;
    one that turns out to be damaged further inside raises AudioError when it is read.

    Parameters
    ----------
    folder : path
        Searched with its sub-folders; hidden ones are left out.
    rate : int
        Every clip is resampled to this rate in Hz.
    duration_s : float, optional
        Every clip is cropped, or zero-padded at its end, to this length in seconds. Default: clips keep their lengths.
    labels : sequence of str, optional
        Take only these first-level folders, in this order. Default: all there are, by name, and files without.

    Raises
    ------
    DatasetError
        There is no such folder, a label has no folder, no file can be opened, or a parameter is out of range.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        rate: int = 44100,
        duration_s: float | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(rate, int) or rate < 1:
            raise DatasetError(f"folder: rate is a number of samples a second and cannot be {rate!r}.")
        if duration_s is not None and not 0 < duration_s <= 24 * 3600:
            raise DatasetError(f"folder: duration_s is a length in seconds and cannot be {duration_s!r}.")
        self.folder = Path(folder).expanduser()
        self.rate = rate
        paths = sound_files(self.folder)
        self.labels: tuple[str, ...] = _labels(self.folder, paths, labels)
        if labels is not None:
            paths = [path for path in paths if set(_label(path)) & set(self.labels)]
        opened, notes = _open(self.folder, paths)
        lengths = [max(1, resampled_length(found.n_frames, found.rate, rate)) for found in opened.values()]
        if duration_s is not None:
            n_samples = max(1, round(duration_s * rate))
            notes += length_notes(lengths, n_samples, rate)
            lengths = [n_samples] * len(lengths)
        self.notes: Sequence[str] = tuple(notes)
        self._recordings = list(opened.values())
        self.entries: Sequence[Entry] = tuple(
            self._entry(path, found, length) for (path, found), length in zip(opened.items(), lengths, strict=True)
        )

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Clip:
        entry = self.entries[index]
        waveform = read_mono(self._recordings[index].path, self.rate, entry.n_samples)
        return Clip(waveform, self.rate, entry.clip_id, entry.group, entry.labels)

    def _entry(self, path: Path, recording: Recording, n_samples: int) -> Entry:
        clip_id = path.as_posix()
        identity = fingerprint(checksum(recording.path), n_samples, self.rate)
        return Entry(clip_id, clip_id, _label(path), n_samples, identity)


def _label(path: Path) -> tuple[str, ...]:
    return path.parts[:1] if len(path.parts) > 1 else ()


def _labels(folder: Path, paths: Sequence[Path], asked: Sequence[str] | None) -> tuple[str, ...]:
    there = sorted({label for path in paths for label in _label(path)})
    if asked is None:
        return tuple(there)
    if isinstance(asked, str) or not asked:
        raise DatasetError(f"folder: labels is a list of folder names, got {asked!r}.")
    for label in asked:
        if label not in there:
            raise DatasetError(f"{folder} has no sound files in a folder {label!r}. {nearest(label, there)}")
    return tuple(asked)


def _open(folder: Path, paths: Sequence[Path]) -> tuple[dict[Path, Recording], list[str]]:
    """The files that open, and a sentence for each that does not."""
    opened: dict[Path, Recording] = {}
    notes: list[str] = []
    for path in paths:
        try:
            opened[path] = open_recording(folder / path)
        except AudioError as error:
            notes.append(f"Passed over: {error}")
    if not opened:
        if notes:
            raise DatasetError(f"{folder}: none of {len(notes)} sound files can be opened. {notes[0]}")
        raise DatasetError(f"{folder} holds no sound files (.wav, .flac, .ogg, .mp3, …), in its sub-folders neither.")
    return opened, notes
