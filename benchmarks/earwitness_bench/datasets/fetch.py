"""Downloads of data sets: whole, checked and into place, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from earwitness.downloads import Received, cache_folder, download
from earwitness.errors import DatasetError, DownloadError
from earwitness_bench.datasets.recordings import first_of
from earwitness_bench.datasets.unpacking import Limits, unpack

MAX_ARCHIVE_BYTES = 12_000_000_000
MAX_FILE_BYTES = 50_000_000
"""Of one unpacked file; half a minute of stereo float samples at 96 kHz has 23 MB."""

MAX_UNPACKED_BYTES = 40_000_000_000
MAX_FILES = 500_000

RECEIPT = ".earwitness-download.json"
"""Left in a folder that was filled whole: what was unpacked to it."""

_PAPERS = ("README", "LICENSE", "LICENCE", "NOTICE", "ATTRIBUTION", "COPYING")
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Remote:
    """A file that a publisher offers.

    Attributes
    ----------
    url : str
        ``http`` or ``https``.
    checksum : str
        ``"sha256:…"`` or, where the publisher gives no other, ``"md5:…"``, which finds damage but not malice.
    name : str
        What it is called.
    """

    url: str
    checksum: str
    name: str

    @property
    def is_archive(self) -> bool:
        """Whether it is unpacked, rather than kept."""
        return self.name.endswith(_ARCHIVES)


def archive(url: str, folder: Path, checksums: Mapping[str, str], *, progress: Received | None = None) -> Path:
    """Download an archive of which the files are known one by one, and unpack those, with licence and attribution.

    Parameters
    ----------
    url : str
        ``http`` or ``https``, of a zip or tar archive.
    folder : Path
        New or empty; its parents are made.
    checksums : mapping of str to str
        ``"sha256:…"`` or ``"md5:…"`` of each file to unpack, by its path below the archive's single top folder.
        Anything else in the archive is left out, but for top-level files named like a README or a licence.
    progress : callable, optional
        Called with the bytes received and the bytes to come in all, if known.

    Returns
    -------
    Path
        ``folder``.

    Raises
    ------
    DatasetError
        The server does not answer, the archive is too large, damaged, hostile, or a file is missing or differs; or the
        folder cannot be written. Nothing is left behind then.
    """

    def wanted(path: str) -> bool:
        _, _, inner = path.partition("/")
        return inner in checksums or ("/" not in inner and inner.upper().startswith(_PAPERS))

    with _moved_into_place(folder) as (temporary, made):
        packed = download(url, temporary / "archive", max_bytes=MAX_ARCHIVE_BYTES, progress=progress)
        unpacked = temporary / "unpacked"
        paths = unpack(packed, unpacked, origin=url, limits=_limits(), wanted=wanted)
        _check_files(url, {path.partition("/")[2]: unpacked / path for path in paths}, checksums)
        for path in paths:
            target = made / path.partition("/")[2]
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(unpacked / path, target)
    return folder


def publication(remotes: Sequence[Remote], folder: Path, *, progress: Received | None = None) -> Path:
    """Download files that are each known by one checksum, and unpack the archives among them whole.

    Parameters
    ----------
    remotes : sequence of Remote
    folder : Path
        New or empty; its parents are made. A single top folder of an archive is left out, and so are hidden files. One
        that these files were unpacked to before is kept.
    progress : callable, optional
        Called, file by file, with the bytes received and the bytes to come in all, if known.

    Returns
    -------
    Path
        ``folder``.

    Raises
    ------
    DatasetError
        See :func:`archive`.
    """
    receipt = json.dumps([asdict(remote) for remote in remotes], indent=1)
    if folder.is_dir() and any(folder.iterdir()):
        if (folder / RECEIPT).is_file() and (folder / RECEIPT).read_text(encoding="utf-8") == receipt:
            return folder
        raise DatasetError(
            f"{folder} is not empty, and was not made by this download. Remove the folder or name another one."
        )
    with _moved_into_place(folder) as (temporary, made):
        (made / RECEIPT).write_text(receipt, encoding="utf-8")
        for remote in remotes:
            packed = download(remote.url, temporary / remote.name, max_bytes=MAX_ARCHIVE_BYTES, progress=progress)
            found, name = _digest(packed, remote.checksum), remote.checksum.partition(":")[0].upper()
            if found != remote.checksum:
                raise DatasetError(
                    f"{remote.url} is not what was published: its {name} is {found.partition(':')[2]}, expected "
                    f"{remote.checksum.partition(':')[2]}. Nothing was kept; try again."
                )
            if remote.is_archive:
                unpacked = temporary / f"{remote.name}-unpacked"
                unpacked.mkdir()
                unpack(packed, unpacked, origin=remote.url, limits=_limits(), wanted=_is_visible)
                _move(_without_top_folder(unpacked), made)
                packed.unlink()
            else:
                os.replace(packed, made / remote.name)
    return folder


def single(remote: Remote, *, progress: Received | None = None) -> Path:
    """Download one file into earwitness' cache, check it, and keep it: the next time it is there.

    Raises
    ------
    DatasetError
        See :func:`archive`.
    """
    path = cache_folder("files") / remote.checksum.replace(":", "-") / remote.name
    if path.is_file() and _digest(path, remote.checksum) == remote.checksum:
        return path
    return publication([remote], path.parent, progress=progress) / remote.name


def is_kept(folder: Path, checksums: Mapping[str, str], *, title: str) -> bool:
    """Whether a folder already holds the published files; False where it is new or empty.

    Raises
    ------
    DatasetError
        There is something else in it.
    """
    if not (folder.is_dir() and any(folder.iterdir())):
        return False
    differing = [
        path
        for path, expected in checksums.items()
        if not (folder / path).is_file() or _digest(folder / path, expected) != expected
    ]
    if differing:
        raise DatasetError(
            f"{folder} is not empty, and {first_of(differing)} of {title} is missing or differs from what was "
            "published. Remove the folder or name another one."
        )
    return True


@contextmanager
def _moved_into_place(folder: Path) -> Iterator[tuple[Path, Path]]:
    """A temporary folder beside ``folder``, and one in it that becomes ``folder`` if all goes well."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            yield Path(temporary), made
            if folder.is_dir():
                folder.rmdir()  # empty, or this raises
            os.replace(made, folder)
    except DownloadError as error:
        raise DatasetError(str(error)) from error
    except OSError as error:
        raise DatasetError(
            f"Cannot write {folder}: {error.strerror or error}. Is it writable and empty, and the disk not full?"
        ) from error


def _check_files(url: str, files: Mapping[str, Path], checksums: Mapping[str, str]) -> None:
    missing = [path for path in checksums if path not in files]
    if missing:
        raise DatasetError(f"{url} lacks {first_of(missing)}: not the archive that was published.")
    differing = [path for path, expected in checksums.items() if _digest(files[path], expected) != expected]
    if differing:
        algorithm = "MD5" if checksums[differing[0]].startswith("md5:") else "SHA-256"
        raise DatasetError(
            f"{url}: {algorithm} of {first_of(differing)} differs from the published one. Nothing was kept; try again."
        )


def _digest(path: Path, like: str) -> str:
    """Checksum of a file, by the algorithm and in the form of another."""
    algorithm = like.partition(":")[0]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
        return f"{algorithm}:{digest.hexdigest()}"


def _limits() -> Limits:
    return Limits(MAX_FILE_BYTES, MAX_UNPACKED_BYTES, MAX_FILES)


def _is_visible(path: str) -> bool:
    return not any(part.startswith(".") for part in PurePosixPath(path).parts)


def _without_top_folder(unpacked: Path) -> Path:
    inside = list(unpacked.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else unpacked


def _move(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if (target / path.name).exists():
            raise DatasetError(f"Two of the published files hold {path.name!r}: not what was published.")
        os.replace(path, target / path.name)
