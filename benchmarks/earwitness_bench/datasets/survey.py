"""What the files of a data set are (checksum, rate, length), found once and remembered until they change.

The identity of a result depends on what is in the files, so every file is read once. A data set of 100,000 files cannot
be read at each start: what was found is kept in earwitness' cache, and holds as long as a file keeps its size and the
time of its last change.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from earwitness.artifacts import write_atomically
from earwitness.audio.files import open_recording
from earwitness.downloads import cache_folder
from earwitness.errors import AudioError, DatasetError, StoreError
from earwitness_bench.datasets.recordings import checksum, first_of

SCHEMA = 1
SETTLED_S = 2.0
"""A file that changed less than this ago is not remembered: it could change again within one tick of the clock."""

_READERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Sound:
    """A sound file as it was found.

    Attributes
    ----------
    sha256 : str
        Of the file, 64 hexadecimal digits.
    rate : int
        In Hz.
    n_frames : int
        Samples per channel.
    """

    sha256: str
    rate: int
    n_frames: int


@dataclass(frozen=True)
class Survey:
    """The sound files that were asked for, by path: those that open, and for those that do not, why."""

    sounds: dict[str, Sound]
    damaged: dict[str, AudioError]


_Known = dict[str, tuple[int, int, str, int, int]]  # path: size, changed_ns, SHA-256, rate, frames


def survey(folder: Path, paths: Iterable[str]) -> Survey:
    """Look at sound files, or remember what they were when they were last looked at.

    Parameters
    ----------
    folder : Path
    paths : iterable of str
        Relative to ``folder``.

    Returns
    -------
    Survey

    Raises
    ------
    DatasetError
        Files are missing; the first few are named.
    """
    asked = list(dict.fromkeys(paths))
    states = _states(folder, asked)
    memory = cache_folder("surveys") / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.json"
    known = _recall(memory)
    changed = [path for path in asked if known.get(path, ())[:2] != states[path]]
    damaged = {}
    with ThreadPoolExecutor(_READERS) as readers:  # hashing and reading leave the interpreter's lock
        for path, found in zip(changed, readers.map(_look, [folder / path for path in changed]), strict=True):
            if isinstance(found, AudioError):
                damaged[path] = found
                known.pop(path, None)
            else:
                known[path] = (*states[path], found.sha256, found.rate, found.n_frames)
    if len(changed) > len(damaged):
        _remember(memory, known)
    return Survey({path: Sound(*known[path][2:]) for path in asked if path not in damaged}, damaged)


def _states(folder: Path, paths: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Size and time of last change of each file."""
    states, missing = {}, []
    root = os.fspath(folder)
    for path in paths:
        try:
            status = os.stat(os.path.join(root, path))  # a Path for each of 100,000 files would double the time
        except OSError:
            missing.append(path)
        else:
            states[path] = (status.st_size, status.st_mtime_ns)
    if missing:
        raise DatasetError(
            f"{folder} has {len(states)} of {len(paths)} files that its lists name: {first_of(missing)} missing. "
            "Unpack the published archive again, or fetch it again."
        )
    return states


def _look(path: Path) -> Sound | AudioError:
    try:
        recording = open_recording(path)
        return Sound(checksum(path), recording.rate, recording.n_frames)
    except AudioError as error:
        return error
    except OSError as error:
        return AudioError(f"{path} cannot be read: {error.strerror or error}.")


def _recall(memory: Path) -> _Known:
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        document = json.loads(memory.read_bytes())
        if document["schema"] == SCHEMA:
            return {path: tuple(found) for path, found in document["files"].items() if len(found) == 5}
    return {}


def _remember(memory: Path, known: _Known) -> None:
    settled = time.time_ns() - int(SETTLED_S * 1e9)
    files = {path: found for path, found in known.items() if found[1] < settled}
    with suppress(StoreError):  # a cache that cannot be written costs time, no more
        write_atomically(memory, json.dumps({"schema": SCHEMA, "files": files}, separators=(",", ":")).encode())
