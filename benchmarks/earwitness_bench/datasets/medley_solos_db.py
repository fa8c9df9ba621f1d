"""Medley-solos-DB: 21571 clips of eight instruments (Lostanlen and Cella, ISMIR 2016), version 1.2.

As published at https://zenodo.org/records/3464194, CC BY 4.0: ``Medley-solos-DB_metadata.csv`` with the columns subset,
instrument, instrument_id, song_id and uuid4, and ``Medley-solos-DB_test-0_<uuid4>.wav`` …, 65536 samples (2972 ms) each
at 44.1 kHz. Training and validation clips are from MedleyDB, test clips from solosDB.
"""

from __future__ import annotations

import os
from typing import Literal, get_args

from earwitness.errors import DatasetError
from earwitness_bench.datasets.fetch import Remote
from earwitness_bench.datasets.local_copy import LocalCopy, Take, below, partial_note
from earwitness_bench.datasets.publication import Publication
from earwitness_bench.datasets.tables import Line, read_table

Split = Literal["training", "validation", "test"]

TABLE = "Medley-solos-DB_metadata.csv"
RATE = 44100
N_SAMPLES = 65536
N_CLIPS = 21571
LABELS = (
    "clarinet",
    "distorted electric guitar",
    "female singer",
    "flute",
    "piano",
    "tenor saxophone",
    "trumpet",
    "violin",
)
"""The eight instruments, by ``instrument_id``."""

_ZENODO = "https://zenodo.org/records/3464194/files"
PUBLISHED = Publication(
    "medley-solos-db",
    (  # Zenodo gives no checksums but MD5; mirdata has the same
        Remote(f"{_ZENODO}/{TABLE}", "md5:fda6a589c56785f2195c9227809c521a", TABLE),
        Remote(f"{_ZENODO}/Medley-solos-DB.tar.gz", "md5:f5facf398793ef5c1f80c013afdf3e5f", "Medley-solos-DB.tar.gz"),
    ),
    aliases=("medley_solos_db", "Medley-solos-DB"),
)

_TABLES = (TABLE, f"annotation/{TABLE}")  # the second is where mirdata puts it
_FOLDERS = ("", "audio", "Medley-solos-DB")


def medley_solos_db(
    *,
    folder: str | os.PathLike[str] | None = None,
    split: Split | None = None,
    download: bool = False,
) -> LocalCopy:
    """Medley-solos-DB.

    Parameters
    ----------
    folder : path, optional
        Where it is, with the clips beside the table or in ``audio``. Default: the folder ``medley-solos-db`` in
        ``EARWITNESS_DATA``, or else in earwitness' cache.
    split : ``"training"``, ``"validation"`` or ``"test"``, optional
        An official subset. Default: all three.
    download : bool
        Fetch it first where it is not there (some GB, checked by MD5: its publisher gives no other checksum).

    Returns
    -------
    LocalCopy
        Clips of 2.97 s, grouped by ``song_id``.

    Raises
    ------
    DatasetError
        It is not there, is incomplete or something else, or there is no such split.
    AudioError
        One of its files cannot be decoded.
    """
    if split is not None and split not in get_args(Split):
        raise DatasetError(f"medley-solos-db: split is one of {', '.join(get_args(Split))}; got {split!r}.")
    root, table = below(PUBLISHED.find(folder, download=download), "medley-solos-db", *_TABLES)
    lines = read_table(root / table, ("subset", "instrument_id", "song_id", "uuid4"))
    present = {name: os.path.join(below_root, name) for below_root in _FOLDERS for name in _names(root, below_root)}
    takes = [(line.one_of("subset", get_args(Split)), _take(line, present)) for line in lines]
    return LocalCopy(
        root,
        [take for subset, take in takes if split in (None, subset)],
        labels=LABELS,
        rate=RATE,
        n_samples=N_SAMPLES,
        notes=tuple(partial_note(len(takes), N_CLIPS)),
    )


def _names(root: str | os.PathLike[str], below_root: str) -> list[str]:
    place = os.path.join(root, below_root)
    return [name for name in os.listdir(place) if name.endswith(".wav")] if os.path.isdir(place) else []


def _take(line: Line, present: dict[str, str]) -> Take:
    number = line.integer("instrument_id", range(len(LABELS)))
    clip_id = f"Medley-solos-DB_{line['subset']}-{number}_{line.file_name('uuid4')}"
    name = f"{clip_id}.wav"
    path = present.get(name) or present.get(f"{name}.wav") or name  # the first version had .wav twice
    return Take(clip_id, line["song_id"], LABELS[number], path)
