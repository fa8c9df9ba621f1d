"""Large files, written piece by piece: whole in the end, or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from earwitness.errors import StoreError


@dataclass
class Draft:
    """A file that is being written.

    Attributes
    ----------
    file : binary file, open for writing
    path : Path
        Where it goes in the end; may be changed until then, as where the name depends on the content.
    """

    file: BinaryIO
    path: Path


@contextmanager
def drafted(path: Path) -> Iterator[Draft]:
    """Write to a temporary file beside ``path``; in the end it is flushed to disk and moved into place.

    The same as :func:`earwitness.artifacts.write_atomically` for content that is not held in memory.

    Raises
    ------
    StoreError
        The folder is not writable or the disk is full; ``path`` is as it was.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                draft = Draft(file, path)
                yield draft
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, draft.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(
            f"Cannot write {path}: {error.strerror or error}. Is the folder writable, and the disk not full?"
        ) from error
