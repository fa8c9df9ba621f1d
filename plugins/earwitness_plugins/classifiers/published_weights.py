"""Weights that others have published: where they are kept, how they are fetched, and how it is known that it is they.

They are looked for in the folder that ``EARWITNESS_MODELS`` names, else in earwitness' cache, and checked by SHA-256
whenever they are read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from earwitness.downloads import Received, cache_folder, download, sha256_of
from earwitness.errors import CheckpointError, ConfigurationError, DownloadError, nearest

_ELSEWHERE = "set EARWITNESS_MODELS to a folder that has it"


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """A file of weights.

    Attributes
    ----------
    filename : str
        In the folder of models.
    sha256 : str
        Of the file, hex.
    n_bytes : int
        Its length; a download that goes on for longer is broken off.
    url : str or None
        Where its publisher serves it. None: nobody serves this file, and it has to be brought.
    origin : str
        Whose work it is, and its licence.
    """

    filename: str
    sha256: str
    n_bytes: int
    url: str | None
    origin: str


WEIGHTS = {
    "yamnet": PublishedWeights(
        filename="yamnet_521.pt",
        sha256="726e2c2222c4977caa73855e862bf3065c10af057e2c48d3b959f9602998b9e8",
        n_bytes=15_098_825,
        url=None,
        origin="Google's weights of YAMNet (Apache-2.0; tensorflow/models, research/audioset/yamnet)",
    ),
    "efficientat-mn04": PublishedWeights(
        filename="mn04_as_mAP_432.pt",
        sha256="899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
        n_bytes=4_066_513,
        url="https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/mn04_as_mAP_432.pt",
        origin="EfficientAT's weights (MIT; github.com/fschmid56/EfficientAT, release v0.0.1)",
    ),
}


def weights_folder() -> Path:
    """``EARWITNESS_MODELS``, else ``earwitness/models`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    own = os.environ.get("EARWITNESS_MODELS")
    return Path(own).expanduser() if own else cache_folder("models")


def published_weights(name: str, *, progress: Received | None = None) -> Path:
    """The file of a network's published weights, with the right checksum; fetched first where it is not there.

    Parameters
    ----------
    name : str
        One of ``WEIGHTS``.
    progress : callable, optional
        Called with the bytes received and, where the server tells, the bytes to come in all.

    Raises
    ------
    CheckpointError
        The file there is damaged or another one; or it is not there, and nobody serves it.
    DownloadError
        It cannot be fetched: no network, another file than the published one, …. Nothing is left behind.
    """
    weights = _weights(name)
    path = weights_folder() / weights.filename
    if not path.is_file():
        return _fetched(name, weights, path, progress)
    found = sha256_of(path)
    if found != weights.sha256:
        raise CheckpointError(
            f"{path} is damaged or another file: its SHA-256 is {found}, expected {weights.sha256}. "
            f"{'Remove it and try again' if weights.url else 'Replace it'}, or {_ELSEWHERE}."
        )
    return path


def _fetched(name: str, weights: PublishedWeights, path: Path, progress: Received | None) -> Path:
    if weights.url is None:
        raise CheckpointError(
            f"The weights of {name} are not at {path}: a PyTorch state dict of {weights.origin}. Nobody serves it in "
            f"that form. Put it there, or {_ELSEWHERE}."
        )
    try:
        return download(weights.url, path, max_bytes=weights.n_bytes, sha256=weights.sha256, progress=progress)
    except DownloadError as error:
        raise DownloadError(f"The weights of {name} are not at {path}. {error} Or {_ELSEWHERE}.") from error


def _weights(name: str) -> PublishedWeights:
    if name not in WEIGHTS:
        raise ConfigurationError(f"No published weights are known as {name!r}. {nearest(name, WEIGHTS)}")
    return WEIGHTS[name]
