"""GTZAN: 1000 excerpts of 30 s, of ten genres (Tzanetakis and Cook, IEEE TSAP 2002).

``genres/blues/blues.00000.wav`` … (``genres_original`` in the copy at Kaggle), 22,050 Hz. The recordings are
commercial, and nobody has licensed them: there is nothing to download from here. Bring your own copy, and mind the
terms that you got it under.

There is no official split. The one in use is *fault-filtered* (Kereliuk, Sturm and Larsen, IEEE TMM 2015): made by hand
to leave out repetitions and distortions that Sturm catalogued (arXiv:1306.1461), with 443, 197 and 290 excerpts. Its
lists are read from torchaudio, where they are constants.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Literal, get_args

from earwitness.errors import DatasetError
from earwitness_bench.datasets.local_copy import LocalCopy, Take, below, find_folder, partial_note, samples
from earwitness_bench.datasets.recordings import first_of

Split = Literal["training", "validation", "test"]

RATE = 22050
N_CLIPS = 1000
LABELS = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
"""The ten genres."""

_LISTS = {"training": "filtered_train", "validation": "filtered_valid", "test": "filtered_test"}
_EXTENSIONS = (".wav", ".au")
_DAMAGED = {
    f"jazz/jazz.00054{extension}": "It is known to be damaged in the copy at Kaggle." for extension in _EXTENSIONS
}
_ADVICE = (
    "It has no licence that would let us fetch it: bring your own copy, with a folder for each genre "
    "(blues/blues.00000.wav, …), and put it there."
)


def gtzan(
    *,
    folder: str | os.PathLike[str] | None = None,
    split: Split | None = None,
    duration_s: float = 30.0,
    segment_s: float | None = None,
) -> LocalCopy:
    """GTZAN, from a copy of your own.

    Parameters
    ----------
    folder : path, optional
        Where it is: the folder of the genres, or one that has it as ``genres`` or ``genres_original``. Default: the
        folder ``gtzan`` in ``EARWITNESS_DATA``, or else in earwitness' cache.
    split : ``"training"``, ``"validation"`` or ``"test"``, optional
        A part of the fault-filtered split. Default: all excerpts, faults included.
    duration_s : float
        How much of each excerpt is used, from its beginning, in seconds; what is shorter is zero-padded at its end.
    segment_s : float, optional
        Cut that into clips of this length in seconds, end to end; what is left at the end is not used. They are of one
        group, so statistics do not take them for independent. Default: one clip.

    Returns
    -------
    LocalCopy
        Clips are grouped by excerpt. The one that is known to be damaged, ``jazz.00054``, is left out where it does not
        open, and ``notes`` say so.

    Raises
    ------
    DatasetError
        It is not there, is incomplete or something else, or a parameter is out of range.
    AudioError
        Another of its files cannot be decoded.
    """
    n_samples = samples("gtzan", "duration_s", duration_s, RATE)
    n_segment = n_samples if segment_s is None else samples("gtzan", "segment_s", segment_s, RATE)
    if n_segment > n_samples:
        raise DatasetError(f"gtzan: segments of {segment_s} s do not fit into duration_s = {duration_s}.")
    found = find_folder("gtzan", folder, advice=_ADVICE, aliases=("GTZAN",))
    root, layout = below(found, "gtzan", "genres", "genres_original", *LABELS)
    root = root if layout in LABELS else root / layout
    excerpts = _excerpts(root)
    return LocalCopy(
        root,
        [take for name in _names(root, split, excerpts) for take in _takes(excerpts[name], n_samples, n_segment)],
        labels=LABELS,
        rate=RATE,
        n_samples=n_segment,
        notes=tuple(partial_note(len(excerpts), N_CLIPS)),
        known_damaged=_DAMAGED,
    )


def _excerpts(root: Path) -> dict[str, str]:
    """``genre/genre.00000.wav`` by name without extension, sorted."""
    excerpts: dict[str, str] = {}
    for genre in LABELS:
        files = sorted(os.listdir(root / genre)) if (root / genre).is_dir() else []
        for file in files:
            name, extension = os.path.splitext(file)
            if extension not in _EXTENSIONS or file.startswith("."):
                continue
            if name in excerpts:
                raise DatasetError(f"{root} has {name} twice: {excerpts[name]} and {genre}/{file}. Remove one.")
            if name.partition(".")[0] != genre:
                raise DatasetError(f"{root}: {genre}/{file} is in the wrong folder: names begin with their genre.")
            excerpts[name] = f"{genre}/{file}"
    return excerpts


def _names(root: Path, split: str | None, excerpts: dict[str, str]) -> list[str]:
    if split is None:
        return list(excerpts)
    if split not in get_args(Split):
        raise DatasetError(f"gtzan: split is one of {', '.join(get_args(Split))}; got {split!r}.")
    names: list[str] = list(getattr(importlib.import_module("torchaudio.datasets.gtzan"), _LISTS[split]))
    missing = [name for name in names if name not in excerpts]
    if missing:
        raise DatasetError(
            f"{root} lacks {len(missing)} of {len(names)} excerpts of the fault-filtered {split} split: "
            f"{first_of(missing)}. Without a split, what is there can be used."
        )
    return names


def _takes(path: str, n_samples: int, n_segment: int) -> list[Take]:
    genre, _, file = path.partition("/")
    name = os.path.splitext(file)[0]
    if n_segment == n_samples:
        return [Take(name, name, genre, path)]
    starts = range(0, n_samples - n_segment + 1, n_segment)
    return [Take(f"{name}@{start / RATE:g}s", name, genre, path, start) for start in starts]
