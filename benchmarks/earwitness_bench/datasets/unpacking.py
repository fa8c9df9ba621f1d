"""Archives that strangers packed: only plain files come out, below the folder they are unpacked to, and not too much.

A member that leads out of the folder, a link, a device, a bomb or a name that is there twice refuses the whole archive.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from stat import S_ISDIR, S_ISREG
from typing import IO

from earwitness.errors import DatasetError

_CHUNK = 1 << 16
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zlib.error,
    UnicodeDecodeError,
)


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to.

    Attributes
    ----------
    file_bytes, total_bytes : int
        Of one file, and of all.
    files : int
    """

    file_bytes: int
    total_bytes: int
    files: int


@dataclass(frozen=True)
class _Member:
    path: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(packed: Path, folder: Path, *, origin: str, limits: Limits, wanted: Callable[[str], bool]) -> list[str]:
    """Unpack some files of a zip archive or of a tar archive, compressed or not.

    Parameters
    ----------
    packed, folder : Path
    origin : str
        What to call the archive in messages: its address.
    limits : Limits
    wanted : callable
        From a path below the folder (``audio/a.wav``) to whether it is unpacked. All members are checked.

    Returns
    -------
    list of str
        The paths of what was unpacked.

    Raises
    ------
    DatasetError
        The archive is damaged, or holds what none should hold.
    OSError
        The disk is full, or the folder cannot be written.
    """
    kind = "zip" if zipfile.is_zipfile(packed) or origin.endswith(".zip") else "tar"
    read = _zip_members if kind == "zip" else _tar_members
    total = 0
    paths: list[str] = []
    seen: set[str] = set()
    try:
        for member in read(packed, origin):
            total += member.size
            _check_size(member, total, len(seen) + 1, origin, limits)
            if member.path in seen:
                raise DatasetError(f"{origin} holds {member.path!r} twice: refused.")
            seen.add(member.path)
            if wanted(member.path):
                _extract(member, folder / member.path, origin)
                paths.append(member.path)
    except _BROKEN as error:
        raise DatasetError(f"{origin} is not a whole {kind} archive ({error}). Try again.") from error
    return paths


def _zip_members(packed: Path, origin: str) -> Iterator[_Member]:
    with zipfile.ZipFile(packed) as archive:
        for info in archive.infolist():
            path = _inside(info.filename, origin)
            mode = info.external_attr >> 16
            if info.is_dir() or S_ISDIR(mode):
                continue
            if mode & 0o170000 and not S_ISREG(mode):
                raise _not_a_file(info.filename, origin)
            yield _Member(path, info.file_size, partial(archive.open, info))


def _tar_members(packed: Path, origin: str) -> Iterator[_Member]:
    with tarfile.open(packed) as archive:
        for info in archive:
            path = _inside(info.name, origin)
            if info.isdir():
                continue
            if not info.isreg():
                raise _not_a_file(info.name, origin)
            yield _Member(path, info.size, partial(_open_in_tar, archive, info))


def _open_in_tar(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(info)
    if stream is None:
        raise tarfile.TarError(f"{info.name} has no content")
    return stream


def _inside(name: str, origin: str) -> str:
    """A member's path below the folder that it is unpacked to."""
    path = PurePosixPath(name.replace("\\", "/"))
    on_a_drive = bool(path.parts) and path.parts[0].endswith(":")
    if path.is_absolute() or ".." in path.parts or "\0" in name or on_a_drive:
        raise DatasetError(f"{origin} holds {name!r}, which leads out of its folder: refused.")
    return str(path)


def _not_a_file(name: str, origin: str) -> DatasetError:
    return DatasetError(f"{origin} holds {name!r}, which is a link or a device: refused.")


def _check_size(member: _Member, total: int, count: int, origin: str, limits: Limits) -> None:
    if member.size > limits.file_bytes:
        raise DatasetError(f"{origin}: {member.path} unpacks to {member.size} bytes: not what was published.")
    if total > limits.total_bytes or count > limits.files:
        raise DatasetError(
            f"{origin} unpacks to more than {limits.total_bytes} bytes or {limits.files} files: not what was published."
        )


def _extract(member: _Member, target: Path, origin: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with member.open() as source, target.open("xb") as copy:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > member.size:
                raise DatasetError(f"{origin}: {member.path} is longer than it says: refused.")
            copy.write(chunk)
    if written < member.size:
        raise EOFError(f"{member.path} ends early")
