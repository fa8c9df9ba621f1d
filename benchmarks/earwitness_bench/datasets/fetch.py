"""Downloads: an archive comes whole, checked and into place, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from earwitness.downloads import Received, download
from earwitness.errors import DatasetError, DownloadError

MAX_ARCHIVE_BYTES = 500_000_000
MAX_FILE_BYTES = 20_000_000
"""Of one unpacked file; the longest clip of ESC-10 has 0.3 MB."""

_CHUNK = 1 << 16
_PAPERS = ("README", "LICENSE", "LICENCE", "NOTICE", "ATTRIBUTION", "COPYING")


def archive(url: str, folder: Path, checksums: Mapping[str, str], *, progress: Received | None = None) -> Path:
    """Download a zip archive and unpack what is listed, with its licence and attribution.

    Parameters
    ----------
    url : str
        ``http`` or ``https``.
    folder : Path
        New or empty; its parents are made.
    checksums : mapping of str to str
        SHA-256 of each file to unpack, by its path below the archive's single top folder. Anything else in the archive
        is left out, but for top-level files named like a README or a licence.
    progress : callable, optional
        Called with the bytes received and the bytes to come in all, if known.

    Returns
    -------
    Path
        ``folder``.

    Raises
    ------
    DatasetError
        The server does not answer, the archive is too large, damaged, holds paths that lead out of it, or a file is
        missing or differs; or the folder cannot be written. Nothing is left behind then.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            packed, unpacked = Path(temporary) / "archive.zip", Path(temporary) / "unpacked"
            download(url, packed, max_bytes=MAX_ARCHIVE_BYTES, progress=progress)
            _unpack(packed, unpacked, checksums, url)
            if folder.is_dir():
                folder.rmdir()  # empty, or this raises
            os.replace(unpacked, folder)
    except DownloadError as error:
        raise DatasetError(str(error)) from error
    except OSError as error:
        raise DatasetError(f"Cannot write {folder}: {error.strerror or error}. Is it writable and empty?") from error
    return folder


def first_of(names: Sequence[str], count: int = 3) -> str:
    """The first few names and how many more there are: ``"a, b, c and 7 more"``."""
    shown = ", ".join(names[:count])
    return shown if len(names) <= count else f"{shown} and {len(names) - count} more"


def _unpack(packed: Path, folder: Path, checksums: Mapping[str, str], url: str) -> None:
    try:
        with zipfile.ZipFile(packed) as file:
            members = _members(file, url)
            missing = [path for path in checksums if path not in members]
            if missing:
                raise DatasetError(f"{url} lacks {first_of(missing)}: not the archive that was published.")
            differing = [
                path for path, expected in checksums.items() if _extract(file, members[path], folder / path) != expected
            ]
            if differing:
                raise DatasetError(
                    f"{url}: SHA-256 of {first_of(differing)} differs from the published one. "
                    "Nothing was kept; try again."
                )
            for path, member in members.items():
                if "/" not in path and path.upper().startswith(_PAPERS):
                    _extract(file, member, folder / path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise DatasetError(f"{url} is not a whole zip archive ({error}). Try again.") from error


def _members(file: zipfile.ZipFile, url: str) -> dict[str, zipfile.ZipInfo]:
    """Files of the archive by their path below its top folder."""
    found = {}
    for member in file.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise DatasetError(f"{url} holds {member.filename!r}, which leads out of its folder: refused.")
        if not member.is_dir() and len(path.parts) > 1:
            found["/".join(path.parts[1:])] = member
    return found


def _extract(file: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> str:
    """Unpack one file and return its SHA-256."""
    if member.file_size > MAX_FILE_BYTES:
        raise DatasetError(f"{member.filename} unpacks to {member.file_size} bytes: not what was published.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with file.open(member) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy, _CHUNK)
    with target.open("rb") as written:
        return _digest(written)


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
