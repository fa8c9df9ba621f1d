"""What a publisher offers for download, under one name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from earwitness.downloads import Received, cache_folder
from earwitness_bench.datasets import fetch
from earwitness_bench.datasets.local_copy import find_folder


@dataclass(frozen=True)
class Publication:
    """A data set whose archives are known by their checksums.

    Attributes
    ----------
    name : str
        Of the data set, and of its folder.
    remotes : sequence of Remote
        What is downloaded, whole.
    aliases : sequence of str
        What its folder is called too.
    """

    name: str
    remotes: Sequence[fetch.Remote]
    aliases: Sequence[str] = ()

    def find(self, folder: str | os.PathLike[str] | None, *, download: bool) -> Path:
        """Its folder, fetched where it is asked for and not there; see ``local_copy.find_folder``."""
        return find_folder(
            self.name,
            folder,
            advice=f"Fetch it with: earwitness download {self.name}",
            aliases=self.aliases,
            fetch=self.download if download else None,
        )

    def download(self, folder: str | os.PathLike[str] | None = None, *, progress: Received | None = None) -> Path:
        """Fetch it, check it, and move it into place whole or not at all; see ``fetch.publication``.

        Parameters
        ----------
        folder : path, optional
            Where to: new or empty. Default: its folder in earwitness' cache.
        progress : callable, optional
        """
        target = Path(folder).expanduser() if folder is not None else cache_folder(self.name)
        return fetch.publication(self.remotes, target, progress=progress)
