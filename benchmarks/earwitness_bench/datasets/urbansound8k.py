"""UrbanSound8K: 8732 urban sounds of ten classes in ten folds (Salamon, Jacoby and Bello, ACM Multimedia 2014).

As published at https://zenodo.org/records/1203745, CC BY-NC 3.0: ``metadata/UrbanSound8K.csv`` with the columns
slice_file_name, fsID, start, end, salience, fold, classID and class, and ``audio/fold1/101415-3-0-2.wav`` …, at most
four seconds each, at the rate and with the channels of the Freesound recording they were cut from (``fsID``).

The authors ask not to reshuffle: a fold has all clips of one class from a recording, and scores on other splits are too
good. Five recordings have clips of two classes, in two folds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from earwitness_bench.datasets.fetch import Remote
from earwitness_bench.datasets.folds import fold_notes, in_folds
from earwitness_bench.datasets.local_copy import LocalCopy, Take, below, choice, partial_note, samples
from earwitness_bench.datasets.publication import Publication
from earwitness_bench.datasets.tables import Line, read_table

TABLE = "metadata/UrbanSound8K.csv"
RATE = 44100
N_CLIPS = 8732
FOLDS = tuple(range(1, 11))
LABELS = (
    "air_conditioner",
    "car_horn",
    "children_playing",
    "dog_bark",
    "drilling",
    "engine_idling",
    "gun_shot",
    "jackhammer",
    "siren",
    "street_music",
)
"""The ten classes, by ``classID``."""

PUBLISHED = Publication(
    "urbansound8k",
    (
        Remote(
            "https://zenodo.org/records/1203745/files/UrbanSound8K.tar.gz",
            "md5:9aa69802bbf37fb986f71ec1483a196e",  # Zenodo gives no other; soundata 1.0 has the same
            "UrbanSound8K.tar.gz",
        ),
    ),
    aliases=("UrbanSound8K",),
)


def urbansound8k(
    *,
    folder: str | os.PathLike[str] | None = None,
    folds: Sequence[int] = FOLDS,
    duration_s: float = 4.0,
    download: bool = False,
) -> LocalCopy:
    """UrbanSound8K, mono at 44.1 kHz.

    Parameters
    ----------
    folder : path, optional
        Where it is. Default: the folder ``urbansound8k`` or ``UrbanSound8K`` in ``EARWITNESS_DATA``, or else in
        earwitness' cache.
    folds : sequence of int
        Which of the official folds, 1 to 10.
    duration_s : float
        Every clip is cropped, or zero-padded at its end, to this length in seconds; ``notes`` say how many were.
    download : bool
        Fetch it first where it is not there (6 GB, checked by MD5: its publisher gives no other checksum).

    Returns
    -------
    LocalCopy
        Clips are grouped by ``fsID``.

    Raises
    ------
    DatasetError
        It is not there, is incomplete or something else, or a parameter is out of range.
    AudioError
        One of its files cannot be decoded.
    """
    n_samples = samples("urbansound8k", "duration_s", duration_s, RATE)
    wanted = choice("urbansound8k", "folds", folds, FOLDS)
    root, table = below(PUBLISHED.find(folder, download=download), "urbansound8k", TABLE)
    lines = read_table(root / table, ("slice_file_name", "fsID", "fold", "classID", "class"))
    takes = [(_fold(line), _take(line)) for line in lines]
    return LocalCopy(
        root,
        in_folds(takes, wanted),
        labels=LABELS,
        rate=RATE,
        n_samples=n_samples,
        notes=(*partial_note(len(takes), N_CLIPS), *fold_notes(root / table, takes)),
    )


def _fold(line: Line) -> int:
    return line.integer("fold", range(1, 11))


def _take(line: Line) -> Take:
    label, number = line.one_of("class", LABELS), line.integer("classID", range(len(LABELS)))
    name = line.file_name("slice_file_name")
    if LABELS[number] != label:
        raise line.error(f"classID {number} is {LABELS[number]!r}, not {label!r}")
    return Take(name.removesuffix(".wav"), line["fsID"], label, f"audio/fold{_fold(line)}/{name}")
