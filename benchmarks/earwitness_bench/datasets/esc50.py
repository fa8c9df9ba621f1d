"""ESC-50: 2000 environmental recordings of fifty classes in five folds (K. J. Piczak, ACM Multimedia 2015).

As published at https://github.com/karolpiczak/ESC-50, CC BY-NC 3.0: ``meta/esc50.csv`` with the columns filename, fold,
target, category, esc10, src_file and take, and ``audio/1-100032-A-0.wav``, five seconds each at 44.1 kHz. Clips of one
class that were cut from one Freesound recording (``src_file``) are all in one fold: use the folds, never reshuffle.
Four recordings have clips of two classes, in two folds.

GitHub makes its archives anew, so theirs have no checksum that lasts: at least two MD5s of ``master.zip`` are in use.
What is downloaded is checked file by file instead, by the MD5s of soundata's index.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from earwitness.downloads import Received, cache_folder
from earwitness_bench.datasets import fetch
from earwitness_bench.datasets.folds import fold_notes, in_folds
from earwitness_bench.datasets.local_copy import LocalCopy, Take, below, choice, find_folder, partial_note, samples
from earwitness_bench.datasets.soundata_index import file_checksums
from earwitness_bench.datasets.tables import Line, read_table

URL = "https://github.com/karolpiczak/ESC-50/archive/master.zip"
TABLE = "meta/esc50.csv"
RATE = 44100
N_CLIPS = 2000
FOLDS = (1, 2, 3, 4, 5)
COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
LABELS = (
    *("dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow"),
    *("rain", "sea_waves", "crackling_fire", "crickets", "chirping_birds"),
    *("water_drops", "wind", "pouring_water", "toilet_flush", "thunderstorm"),
    *("crying_baby", "sneezing", "clapping", "breathing", "coughing"),
    *("footsteps", "laughing", "brushing_teeth", "snoring", "drinking_sipping"),
    *("door_wood_knock", "mouse_click", "keyboard_typing", "door_wood_creaks", "can_opening"),
    *("washing_machine", "vacuum_cleaner", "clock_alarm", "clock_tick", "glass_breaking"),
    *("helicopter", "chainsaw", "siren", "car_horn", "engine"),
    *("train", "church_bells", "airplane", "fireworks", "hand_saw"),
)
"""The fifty classes, by their number in the column ``target``."""


@dataclass(frozen=True)
class Row:
    """A clip, as ``meta/esc50.csv`` has it.

    Attributes
    ----------
    clip_id : str
        ``fold-source-take-target``, the same as in ESC-10.
    path : str
        Below the data set's folder.
    fold : int
        1 to 5.
    category : str
        One of ``LABELS``.
    source : str
        Number of the Freesound recording it was cut from.
    esc10 : bool
        Whether it is one of ESC-10 too.
    """

    clip_id: str
    path: str
    fold: int
    category: str
    source: str
    esc10: bool


def esc50(
    *,
    folder: str | os.PathLike[str] | None = None,
    folds: Sequence[int] = FOLDS,
    duration_s: float = 5.0,
    download: bool = False,
) -> LocalCopy:
    """ESC-50.

    Parameters
    ----------
    folder : path, optional
        Where it is. Default: the folder ``esc50`` in ``EARWITNESS_DATA``, or else in earwitness' cache.
    folds : sequence of int
        Which folds, 1 to 5.
    duration_s : float
        Every clip is cropped, or zero-padded at its end, to this length in seconds; ``notes`` say how many were.
    download : bool
        Fetch it first where it is not there (about 650 MB; needs the extra ``datasets``).

    Returns
    -------
    LocalCopy

    Raises
    ------
    DatasetError
        It is not there, is incomplete or something else, or a parameter is out of range.
    AudioError
        One of its files cannot be decoded.
    """
    n_samples = samples("esc50", "duration_s", duration_s, RATE)
    wanted = choice("esc50", "folds", folds, FOLDS)
    found = find_folder(
        "esc50",
        folder,
        advice="Fetch it with: earwitness download esc50",
        aliases=("ESC-50", "ESC-50-master"),
        fetch=_fetch if download else None,
    )
    root, table = below(found, "esc50", TABLE)
    rows = read_rows(root / table)
    takes = [(row.fold, Take(row.clip_id, row.source, row.category, row.path)) for row in rows]
    notes = (*partial_note(len(rows), N_CLIPS), *fold_notes(root / table, takes))
    return LocalCopy(root, in_folds(takes, wanted), labels=LABELS, rate=RATE, n_samples=n_samples, notes=notes)


def read_rows(table: Path) -> tuple[Row, ...]:
    """The clips that ``meta/esc50.csv`` lists, in its order.

    Raises
    ------
    DatasetError
        It is damaged, or names an unknown class or fold.
    """
    return tuple(map(_row, read_table(table, COLUMNS)))


def download(folder: str | os.PathLike[str] | None = None, *, url: str = URL, progress: Received | None = None) -> Path:
    """Fetch ESC-50, check every file against soundata's index, and move it into place whole or not at all.

    Parameters
    ----------
    folder : path, optional
        Where to: new or empty. Default: its folder in earwitness' cache. One that holds the published files is kept.
    url : str
        An archive with the published layout.
    progress : callable, optional

    Raises
    ------
    DatasetError
        Soundata is not installed; or see ``fetch.archive``.
    """
    target = Path(folder).expanduser() if folder is not None else cache_folder("esc50")
    checksums = file_checksums("esc50")
    if fetch.is_kept(target, checksums, title="ESC-50"):
        return target
    return fetch.archive(url, target, checksums, progress=progress)


def _fetch(folder: Path) -> Path:
    return download(folder)


def _row(line: Line) -> Row:
    category, target = line.one_of("category", LABELS), line.integer("target", range(len(LABELS)))
    if LABELS[target] != category:
        raise line.error(f"target {target} is {LABELS[target]!r}, not {category!r}")
    fold, source = line.integer("fold", range(1, 6)), line["src_file"]
    return Row(
        clip_id=f"{fold}-{source}-{line['take']}-{target}",
        path=f"audio/{line.file_name('filename')}",
        fold=fold,
        category=category,
        source=source,
        esc10=line["esc10"].lower() == "true",
    )
