"""Downloads: a file comes whole, checked and into place, or not at all; and where downloads are kept."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from earwitness.errors import DownloadError

Received = Callable[[int, int | None], None]
"""Called with the bytes received and, where the server tells, the bytes to come in all."""

_TIMEOUT_S = 30
_CHUNK = 1 << 16


def cache_folder(name: str) -> Path:
    """Where earwitness keeps downloads called ``name``: ``earwitness/name`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "earwitness" / name


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(
    url: str, path: Path, *, max_bytes: int, sha256: str | None = None, progress: Received | None = None
) -> Path:
    """Fetch one file into a temporary one beside ``path``, check it, and move it into place.

    Parameters
    ----------
    url : str
        ``http`` or ``https``.
    path : Path
        Replaced if it exists; its parents are made.
    max_bytes : int
        A longer file is not the one that was published.
    sha256 : str, optional
        Checksum (hex) of the file; without it, the caller checks what came.
    progress : callable, optional

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    DownloadError
        The server does not answer or breaks off, the file is too long or another one, or ``path`` cannot be written.
        Nothing is left behind then, and ``path`` is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                digest = hashlib.sha256()
                for chunk in _pieces(url, max_bytes, progress):
                    file.write(chunk)
                    digest.update(chunk)
            if sha256 is not None and digest.hexdigest() != sha256:
                raise DownloadError(
                    f"{url} is not the file that was published: its SHA-256 is {digest.hexdigest()}, expected "
                    f"{sha256}. Nothing was kept; try again."
                )
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise DownloadError(
            f"Cannot write {path}: {error.strerror or error}. Is the folder writable, and the disk not full?"
        ) from error
    return path


def _pieces(url: str, max_bytes: int, progress: Received | None) -> Iterator[bytes]:
    """What the server sends, in full; DownloadError if it is too long or breaks off."""
    received, total = 0, None
    for chunk, total in _received(url):
        received += len(chunk)
        if received > max_bytes:
            raise DownloadError(f"{url} has more than {max_bytes} bytes: not the file that was published.")
        if progress:
            progress(received, total)
        yield chunk
    if total is not None and received < total:
        raise DownloadError(f"{url} broke off after {received} of {total} bytes. Try again.")


def _received(url: str) -> Iterator[tuple[bytes, int | None]]:
    """Pieces of what the server sends, the last one empty, and the bytes it has promised in all."""
    if not url.startswith(("https://", "http://")):
        raise DownloadError(f"Cannot download {url}: expected an address that begins with https://.")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
            chunk = b"."
            while chunk:
                chunk = response.read(_CHUNK)
                yield chunk, total
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(
            f"Cannot download {url}: {reason}. Is there a network? You can also fetch it elsewhere and say where it is."
        ) from error
