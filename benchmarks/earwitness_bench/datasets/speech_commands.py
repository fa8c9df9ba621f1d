"""Speech Commands: one-second words from thousands of speakers (P. Warden, arXiv:1804.03209).

As published by TensorFlow, CC BY 4.0: a folder for each word with ``0a7c2a8d_nohash_0.wav`` …, at most one second at
16 kHz, and ``validation_list.txt`` and ``testing_list.txt``; what neither lists is for training. Version 0.02 has
105,829 recordings of 35 words, version 0.01 64,727 of 30. What stands before ``_nohash_`` is a hash of the speaker, so
all words of a speaker are in one split. Where a copy has lost its lists, the rule that they were made by is applied:
:func:`which_set`. ``_background_noise_`` holds minutes of noise and is no class: its files can serve ``noisy``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from earwitness.downloads import Received
from earwitness.errors import DatasetError, nearest
from earwitness_bench.datasets.fetch import Remote
from earwitness_bench.datasets.local_copy import LocalCopy, Take, below, partial_note, samples
from earwitness_bench.datasets.publication import Publication
from earwitness_bench.datasets.recordings import first_of

Split = Literal["training", "validation", "testing"]
Version = Literal["0.01", "0.02"]

RATE = 16000
VALIDATION_PERCENT = 10.0
TESTING_PERCENT = 10.0
LISTS = {"validation": "validation_list.txt", "testing": "testing_list.txt"}
N_CLIPS = {"0.01": 64721, "0.02": 105829}
"""Recordings of words. The 64,727 of version 0.01's README are with its six of background noise."""

_FIRST_WORDS = (
    *("bed", "bird", "cat", "dog", "down", "eight", "five", "four", "go", "happy", "house", "left", "marvin", "nine"),
    *("no", "off", "on", "one", "right", "seven", "sheila", "six", "stop", "three", "tree", "two", "up", "wow", "yes"),
    "zero",
)
_ADDED_WORDS = ("backward", "follow", "forward", "learn", "visual")
WORDS = {"0.01": _FIRST_WORDS, "0.02": tuple(sorted((*_FIRST_WORDS, *_ADDED_WORDS)))}
"""The classes of each version, in alphabetical order."""

_SPEAKER_END = "_nohash_"
_LARGEST_HASH = 2**27 - 1
_ADDRESS = "http://download.tensorflow.org/data"
_SHA256 = {  # those of torchaudio.datasets.speechcommands, and of TensorFlow Datasets
    "0.01": "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
    "0.02": "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
}


def _published(version: str, name: str) -> Publication:
    archive = f"speech_commands_v{version}"
    remote = Remote(f"{_ADDRESS}/{archive}.tar.gz", f"sha256:{_SHA256[version]}", f"{archive}.tar.gz")
    return Publication(name, (remote,), aliases=(archive, f"SpeechCommands/{archive}"))


PUBLISHED = {
    "0.01": _published("0.01", "speech-commands-0.01"),
    "0.02": _published("0.02", "speech-commands"),
}


def speech_commands(
    *,
    folder: str | os.PathLike[str] | None = None,
    split: Split | None = None,
    words: Sequence[str] | None = None,
    version: Version = "0.02",
    duration_s: float = 1.0,
    download: bool = False,
) -> LocalCopy:
    """Speech Commands.

    Parameters
    ----------
    folder : path, optional
        Where it is. Default: ``speech-commands``, ``speech_commands_v0.02`` or, as torchaudio has it,
        ``SpeechCommands/speech_commands_v0.02`` in ``EARWITNESS_DATA``, or else ``speech-commands`` in earwitness'
        cache. Version 0.01 has folders of its own, ``speech-commands-0.01`` ….
    split : ``"training"``, ``"validation"`` or ``"testing"``, optional
        Default: all three.
    words : sequence of str, optional
        Take only these words; they are the labels, in this order. Default: all of the version, by name.
    version : ``"0.01"`` or ``"0.02"``
    duration_s : float
        Every clip is cropped, or zero-padded at its end, to this length in seconds; ``notes`` say how many were.
    download : bool
        Fetch it first where it is not there (2.4 GB, version 0.01 1.5 GB; checked by SHA-256).

    Returns
    -------
    LocalCopy
        Clips are grouped by speaker.

    Raises
    ------
    DatasetError
        It is not there, is incomplete or something else, or a parameter is not one of those above.
    AudioError
        One of its files cannot be decoded.
    """
    n_samples = samples("speech-commands", "duration_s", duration_s, RATE)
    labels = _labels(words, version)
    if split is not None and split not in get_args(Split):
        raise DatasetError(f"speech-commands: split is one of {', '.join(get_args(Split))}; got {split!r}.")
    found = PUBLISHED[version].find(folder, download=download)
    root, _ = below(found, "speech-commands", *LISTS.values(), *WORDS[version])
    recordings = _recordings(root, WORDS[version])
    splits, how = _splits(root, recordings)
    takes = [_take(path) for path in recordings if split in (None, splits[path]) and path.partition("/")[0] in labels]
    return LocalCopy(
        root,
        takes,
        labels=labels,
        rate=RATE,
        n_samples=n_samples,
        notes=(*how, *partial_note(len(recordings), N_CLIPS[version]), *_unknown_folders(root, version)),
    )


def download(folder: str | os.PathLike[str] | None = None, *, progress: Received | None = None) -> Path:
    """Fetch version 0.02, check it, and move it into place whole or not at all; see ``Publication.download``."""
    return PUBLISHED["0.02"].download(folder, progress=progress)


def which_set(name: str, *, validation: float = VALIDATION_PERCENT, testing: float = TESTING_PERCENT) -> Split:
    """The split that a recording belongs to, by the rule of the data set's README.

    The SHA-1 of the speaker's name, as a number, is taken modulo 2^27 and scaled to 0 to 100: the first ``validation``
    per cent of that scale are for validation, the next ``testing`` per cent for testing.

    Parameters
    ----------
    name : str
        Of the file; its folder, and all from ``_nohash_`` on, are left out.
    validation, testing : float
        In per cent.
    """
    speaker = _speaker(name.rpartition("/")[2])
    number = int(hashlib.sha1(speaker.encode(), usedforsecurity=False).hexdigest(), 16) % (_LARGEST_HASH + 1)
    percent = number * (100.0 / _LARGEST_HASH)
    if percent < validation:
        return "validation"
    return "testing" if percent < validation + testing else "training"


def _speaker(file_name: str) -> str:
    return file_name.partition(_SPEAKER_END)[0]


def _labels(words: Sequence[str] | None, version: str) -> tuple[str, ...]:
    if version not in WORDS:
        raise DatasetError(f"speech-commands: version is '0.01' or '0.02'; got {version!r}.")
    if words is None:
        return WORDS[version]
    if isinstance(words, str) or not isinstance(words, Sequence) or not words:
        raise DatasetError(f"speech-commands: words is a list of words, got {words!r}.")
    for word in words:
        if word not in WORDS[version]:
            raise DatasetError(
                f"speech-commands: version {version} has no word {word!r}. {nearest(str(word), WORDS[version])}"
            )
    return tuple(dict.fromkeys(words))


def _recordings(root: Path, words: Sequence[str]) -> list[str]:
    """``word/name.wav`` of every recording, sorted."""
    paths = []
    for word in words:
        if (root / word).is_dir():
            with os.scandir(root / word) as files:
                names = (file.name for file in files)
                paths += [f"{word}/{name}" for name in names if name.endswith(".wav") and not name.startswith(".")]
    strange = sorted(path for path in paths if _SPEAKER_END not in path)
    if strange:
        raise DatasetError(
            f"{root}: names of recordings read 'SPEAKER{_SPEAKER_END}NUMBER.wav'; {first_of(strange)} do not, so it is "
            "not known who speaks, nor in which split they are."
        )
    return sorted(paths)


def _splits(root: Path, recordings: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The split of each recording, and a sentence where it is not from the published lists."""
    present = [name for name in LISTS.values() if (root / name).is_file()]
    if not present:
        return {path: which_set(path) for path in recordings}, [
            "This copy has no validation_list.txt and testing_list.txt: splits are by the hash that those were made by."
        ]
    if len(present) < len(LISTS):
        raise DatasetError(
            f"{root} has {present[0]} and lacks the other list. Copy it from the published archive, or remove both: "
            "splits are then by the hash that they were made by."
        )
    splits: dict[str, str] = dict.fromkeys(recordings, "training")
    for split, name in LISTS.items():
        listed = _read_list(root / name)
        missing = [path for path in listed if path not in splits]
        if missing:
            raise DatasetError(
                f"{root / name} lists {len(listed)} recordings, and {first_of(missing)} of them missing. Unpack the "
                "published archive again."
            )
        twice = [path for path in listed if splits[path] != "training"]
        if twice or len(set(listed)) < len(listed):
            again = twice or [path for path in listed if listed.count(path) > 1]
            raise DatasetError(f"{root}: its lists name recordings more than once: {first_of(again)}.")
        splits.update(dict.fromkeys(listed, split))
    return splits, []


def _read_list(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as a list of recordings ({error}).") from error


def _take(path: str) -> Take:
    word, _, name = path.partition("/")
    return Take(path.removesuffix(".wav"), _speaker(name), word, path)


def _unknown_folders(root: Path, version: str) -> Iterator[str]:
    with os.scandir(root) as inside:
        folders = sorted(entry.name for entry in inside if entry.is_dir() and not entry.name.startswith((".", "_")))
    unknown = [folder for folder in folders if folder not in WORDS[version]]
    if unknown:
        yield f"Left out, as version {version} has no such words: {first_of(unknown)}."
