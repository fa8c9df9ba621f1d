"""ESC-10: 400 environmental recordings of ten classes in five folds (K. J. Piczak, ACM Multimedia 2015; CC BY 3.0).

The published clips are listed in ``esc10_manifest.csv``: name, place in the published archive, fold, class, Freesound
recording, SHA-256. Three layouts are understood, and give the same clips under the same ids:

- ESC-10 as published: ``001 - Dog bark/1-30226-A.ogg`` …;
- ESC-50: ``meta/esc50.csv`` with its ``esc10`` column, and ``audio/1-30226-A-0.wav`` …;
- flat: ``esc10.csv`` and ``audio/1-30226-A-0.ogg`` ….
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from earwitness import downloads
from earwitness.audio.files import open_recording
from earwitness.clips import Clip, Entry
from earwitness.errors import DatasetError
from earwitness_bench.datasets import fetch
from earwitness_bench.datasets.esc50 import read_rows
from earwitness_bench.datasets.local_copy import find_folder
from earwitness_bench.datasets.recordings import (
    checksum,
    fingerprint,
    first_of,
    length_notes,
    read_mono,
    resampled_length,
)

MANIFEST = Path(__file__).with_name("esc10_manifest.csv")
COMMIT = "553c8f1743b9dba6b282e1323c3ca8fa76923448"
URL = f"https://github.com/karolpiczak/ESC-10/archive/{COMMIT}.zip"
RATE = 44100
LABELS = (
    "dog",
    "rain",
    "sea_waves",
    "crying_baby",
    "clock_tick",
    "sneezing",
    "helicopter",
    "chainsaw",
    "rooster",
    "crackling_fire",
)
"""The ten classes, in the published order."""


@dataclass(frozen=True)
class Row:
    """A published clip.

    Attributes
    ----------
    filename : str
        In the naming scheme of ESC-50: ``fold-source-take-target.ogg``.
    path : str
        In the published archive.
    fold : int
        1 to 5.
    category : str
        One of ``LABELS``.
    source : str
        Number of the Freesound recording it was cut from; none is in two folds.
    sha256 : str
        Of the published file.
    """

    filename: str
    path: str
    fold: int
    category: str
    source: str
    sha256: str

    @property
    def clip_id(self) -> str:
        """``fold-source-take-target``: the same in every layout."""
        return Path(self.filename).stem


def read_manifest(path: Path | None = None) -> tuple[Row, ...]:
    """The published clips, by fold and class.

    Parameters
    ----------
    path : Path, optional
        A table like the packaged one, which is the default.
    """
    with (path or MANIFEST).open(newline="", encoding="utf-8") as file:
        return tuple(
            Row(row["filename"], row["path"], int(row["fold"]), row["category"], row["source"], row["sha256"])
            for row in csv.DictReader(file)
        )


class ESC10:
    """ESC-10 in any of its published layouts.

    Parameters
    ----------
    folder : path, optional
        Where it is. Default: the folder ``esc10`` in ``EARWITNESS_DATA``, or else in earwitness' cache.
    folds : sequence of int
        Which folds, 1 to 5. Clips of one recording are never in two folds.
    duration_s : float
        Every clip is cropped, or zero-padded at its end, to this length in seconds; ``notes`` say how many were.
    download : bool
        Fetch it first where it is not there (about 40 MB, checked by SHA-256).

    Raises
    ------
    DatasetError
        It is not there, is incomplete or something else, or a parameter is out of range.
    AudioError
        One of its files cannot be decoded.
    """

    labels: tuple[str, ...] = LABELS
    rate: int = RATE

    def __init__(
        self,
        *,
        folder: str | os.PathLike[str] | None = None,
        folds: Sequence[int] = (1, 2, 3, 4, 5),
        duration_s: float = 5.0,
        download: bool = False,
    ) -> None:
        if not isinstance(folds, Sequence) or not folds or not set(folds) <= {1, 2, 3, 4, 5}:
            raise DatasetError(f"esc10: folds is a list of some of 1, 2, 3, 4, 5; got {folds!r}.")
        if not 0 < duration_s <= 3600:
            raise DatasetError(f"esc10: duration_s is a length in seconds and cannot be {duration_s!r}.")
        self.folder = find_folder(
            "esc10",
            folder,
            advice="Fetch it with: earwitness download esc10",
            fetch=_fetch if download else None,
        )
        rows = read_manifest()
        files = _locate(self.folder, rows)
        rows = tuple(row for row in rows if row.fold in set(folds))
        self._paths = [files[row.clip_id] for row in rows]
        self._n_samples = round(duration_s * RATE)
        self.entries: Sequence[Entry] = tuple(map(self._entry, rows, self._paths))
        lengths = []
        for path in self._paths:
            recording = open_recording(path)
            lengths.append(resampled_length(recording.n_frames, recording.rate, RATE))
        self.notes: Sequence[str] = (
            *length_notes(lengths, self._n_samples, RATE),
            *_unpublished_note(rows, self._paths),
        )

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Clip:
        entry = self.entries[index]
        waveform = read_mono(self._paths[index], RATE, self._n_samples)
        return Clip(waveform, RATE, entry.clip_id, entry.group, entry.labels)

    def _entry(self, row: Row, path: Path) -> Entry:
        identity = fingerprint(checksum(path), self._n_samples, RATE)
        return Entry(row.clip_id, row.source, (row.category,), self._n_samples, identity)


def cache_folder() -> Path:
    """Where earwitness keeps downloaded ESC-10; see :func:`earwitness.downloads.cache_folder`."""
    return downloads.cache_folder("esc10")


def download(
    folder: str | os.PathLike[str] | None = None,
    *,
    url: str = URL,
    manifest: Path | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Fetch ESC-10, check every clip against the manifest, and move it into place whole or not at all.

    Parameters
    ----------
    folder : path, optional
        Where to: new or empty. Default: :func:`cache_folder`. One that already holds the published clips is kept.
    url : str
        A zip archive with the published layout.
    manifest : Path, optional
        A table of clips like the packaged one, which is the default.
    progress : callable, optional
        Called with the bytes received and, where the server tells, the bytes to come in all.

    Returns
    -------
    Path
        The folder, with its clips, its README and its licence.

    Raises
    ------
    DatasetError
        The folder is in use or cannot be written, the server does not answer, or the archive is damaged or not the
        published one. Nothing is left behind then.
    """
    target = Path(folder) if folder is not None else cache_folder()
    checksums = {row.path: f"sha256:{row.sha256}" for row in read_manifest(manifest)}
    if fetch.is_kept(target, checksums, title="ESC-10"):
        return target
    return fetch.archive(url, target, checksums, progress=progress)


def _fetch(folder: Path) -> Path:
    return download(folder)


def _locate(folder: Path, rows: Sequence[Row]) -> dict[str, Path]:
    """The file of every clip: {clip_id: path}."""
    layout, files = _layout(folder, rows)
    missing = [path for path in files.values() if not path.is_file()]
    absent = [row.clip_id for row in rows if row.clip_id not in files]
    if missing or absent:
        names = [str(path.relative_to(folder)) for path in missing] + absent
        raise DatasetError(
            f"esc10: {folder} has the layout of {layout}, but {len(rows) - len(names)} of {len(rows)} clips: "
            f"{first_of(names)} missing. Fetch it again with: earwitness download esc10"
        )
    return files


def _layout(folder: Path, rows: Sequence[Row]) -> tuple[str, dict[str, Path]]:
    table = folder / "meta" / "esc50.csv"
    if table.is_file():
        return "ESC-50", {row.clip_id: folder / row.path for row in read_rows(table) if row.esc10}
    if (folder / "esc10.csv").is_file():
        return "esc10.csv and audio/", {row.clip_id: folder / "audio" / row.filename for row in rows}
    if any((folder / row.path).parent.is_dir() for row in rows):
        return "ESC-10 as published", {row.clip_id: folder / row.path for row in rows}
    inside = Counter("folders" if path.is_dir() else path.suffix or "files" for path in folder.iterdir())
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(inside.items())) or "nothing"
    raise DatasetError(
        f"esc10: {folder} has none of the published layouts. Expected folders such as '{Path(rows[0].path).parent}' "
        "(ESC-10), or meta/esc50.csv and audio/ (ESC-50), or esc10.csv and audio/; "
        f"found {found}."
    )


def _unpublished_note(rows: Sequence[Row], paths: Sequence[Path]) -> list[str]:
    """A sentence where Ogg files differ from the published ones; of ESC-50's WAV files no checksum is known here."""
    pairs = [(row, path) for row, path in zip(rows, paths, strict=True) if path.suffix == ".ogg"]
    differing = [path.name for row, path in pairs if checksum(path) != row.sha256]
    if not differing:
        return []
    return [f"{len(differing)} of {len(rows)} clips differ from the published files: {first_of(differing)}."]
