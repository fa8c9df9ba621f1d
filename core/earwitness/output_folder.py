"""The folder that an explanation is written to."""

from __future__ import annotations

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
