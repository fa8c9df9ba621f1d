"""Checksums of single files, as the library soundata knows them: an extra, ``pip install 'earwitness[datasets]'``.

Soundata (version 1) brings the address and the MD5 of an index for each of its data sets; the index itself lists the
MD5 of every file. Its own downloader is not used: it unpacks without looking where members lead, and leaves what broke
off in the data set's folder.
"""

from __future__ import annotations

import importlib
import json

from earwitness.downloads import Received
from earwitness.errors import DatasetError
from earwitness_bench.datasets import fetch


def file_checksums(name: str, *, progress: Received | None = None) -> dict[str, str]:
    """Fetch soundata's index of a data set into earwitness' cache, once, and read it.

    Parameters
    ----------
    name : str
        What soundata calls the data set: ``"esc50"``.
    progress : callable, optional

    Returns
    -------
    dict of str to str
        ``"md5:…"`` by path below the data set's folder.

    Raises
    ------
    DatasetError
        Soundata is not installed or has another form, or the index cannot be fetched or is not the published one.
    """
    try:
        indexes = importlib.import_module(f"soundata.datasets.{name}").INDEXES
        version = indexes["default"]
        remote = indexes[version].remote
        index = fetch.Remote(remote.url, f"md5:{remote.checksum}", remote.filename)
    except ImportError as error:
        raise DatasetError(
            f"The published checksums of {name} come with soundata, which cannot be imported ({error}). Install it "
            "with: pip install 'earwitness[datasets]'"
        ) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise DatasetError(f"The installed soundata has no index of {name} ({error!r}). Install version 1.") from error
    path = fetch.single(index, progress=progress)
    try:
        document = json.loads(path.read_bytes())
        listed = [*document.get("metadata", {}).values()]
        listed += [file for clip in document["clips"].values() for file in clip.values()]
        return {path: f"md5:{md5}" for path, md5 in listed if path is not None}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{index.url} is not an index that is understood ({error!r}).") from error
