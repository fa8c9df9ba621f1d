"""The folder that an explanation is written to."""

from __future__ import annotations

import glob
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from earwitness.errors import StoreError

_WRITTEN = (
    "explanation.json",
    "explanation.png",
    "heard.wav",
    "heard_loud.wav",
    "rest.wav",
    "parts.png",
    "examples.png",
)


def folders_of(recordings: Sequence[Path], out: Path) -> list[Path]:
    """A folder for each recording, named after it: ``dog``, or ``dog-2``, ``dog-3``, … where others of that name are.

    Parameters
    ----------
    recordings : sequence of Path
    out : Path
        The folders lie in it.

    Returns
    -------
    list of Path
        For each recording the folder with its own earlier explanation; where there is none, the first that no other
        recording's explanation lies in, and that is not given away already.
    """
    own: dict[str, list[Path]] = {}
    taken: set[Path] = set()
    held: set[Path] = set()
    for folder in _numbered_folders(out, sorted({recording.stem for recording in recordings})):
        if os.path.exists(folder / "explanation.json"):  # false where one may not look; explaining will say so
            held.add(folder)
            own.setdefault(_explained_in(folder), []).append(folder)
    folders = []
    for recording in recordings:
        names = itertools.chain([recording.stem], (f"{recording.stem}-{number}" for number in itertools.count(2)))
        free = (folder for name in names if (folder := out / name) not in held)
        candidates = itertools.chain(own.get(os.path.realpath(recording), ()), free)
        folders.append(next(folder for folder in candidates if folder not in taken))
        taken.add(folders[-1])
    return folders


def seen_from(folder: Path, recording: Path) -> str:
    """Where a recording lies, seen from the folder of its explanation: what :func:`folders_of` knows it by later, from
    whatever folder it is asked."""
    return os.path.relpath(os.path.realpath(recording), os.path.realpath(folder))


def _numbered_folders(out: Path, stems: Sequence[str]) -> Iterator[Path]:
    """Those of these names, and no ``dog-my-favourite`` that somebody renamed so as to keep it."""
    for stem in stems:
        yield out / stem
        for path in sorted(out.glob(f"{glob.escape(stem)}-*")):
            if path.name.removeprefix(f"{stem}-").isdecimal():
                yield path


def _explained_in(folder: Path) -> str:
    """The recording whose explanation lies in a folder; nothing where that cannot be read."""
    try:
        document = json.loads((folder / "explanation.json").read_text(encoding="utf-8"))
        return os.path.realpath(os.path.join(os.path.realpath(folder), document["recording"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def clear(folder: Path, keep: Path) -> None:
    """Remove what an earlier explanation left, so that none of it is taken for a piece of the next one.

    Parameters
    ----------
    folder : Path
        Files that are not of an explanation stay.
    keep : Path
        The recording itself, should it lie there.
    """
    pieces = [*folder.glob("parts/part-*"), *folder.glob("examples/example-*")]
    for path in (*(folder / name for name in _WRITTEN), *pieces):
        if path.resolve() != keep.resolve():
            path.unlink(missing_ok=True)
    for name in ("parts", "examples"):
        with suppress(OSError):  # there is none, or it holds something else
            (folder / name).rmdir()


def writable(folder: Path) -> Path:
    """The folder, made if need be; StoreError where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".earwitness"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StoreError(
            f"Cannot write to the output folder {folder}: {error.strerror}. Choose another with --out."
        ) from error
    return folder
