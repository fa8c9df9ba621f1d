"""What every data set of sound files needs: to find them, read them mono, cut them to length, tell them apart."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from earwitness.audio.files import open_recording
from earwitness.errors import DatasetError

EXTENSIONS = frozenset(
    [
        ".wav",
        ".wave",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".caf",
        ".w64",
        ".rf64",
        ".m4a",
        ".aac",
        ".wma",
    ]
)
"""What is taken for a sound file. The last three cannot be decoded: listing them gets them named, not passed over."""

INAUDIBLE_CUT_S = 0.002
"""A clip this much longer or shorter than asked for counts as having the right length."""


def sound_files(folder: Path) -> list[Path]:
    """Sound files below a folder, sorted by path.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of Path
        Relative to ``folder``. Hidden files and folders are left out; linked folders are entered once, so a link to a
        parent does no harm.

    Raises
    ------
    DatasetError
        There is no such folder.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise DatasetError(f"{folder} {kind}. Give a folder of sound files.")
    found = []
    seen = {folder.resolve()}
    for root, directories, names in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(directories):
            target = (Path(root) / name).resolve()
            if not name.startswith(".") and target not in seen:
                seen.add(target)
                kept.append(name)
        directories[:] = kept
        paths = [Path(root) / name for name in names if not name.startswith(".")]
        found += [path.relative_to(folder) for path in paths if path.suffix.lower() in EXTENSIONS]
    return sorted(found, key=lambda path: path.as_posix())


def read_mono(path: Path, rate: int, n_samples: int, *, start: int = 0) -> Tensor:
    """Samples of a sound file: channels averaged, resampled, zero-padded at the end if it is shorter.

    Parameters
    ----------
    path : Path
    rate : int
        Of the result, in Hz.
    n_samples : int
        Length of the result at ``rate``. Nothing beyond it is decoded.
    start : int
        Its first sample, at ``rate``.

    Returns
    -------
    Tensor (n_samples,), float32

    Raises
    ------
    AudioError
        The file cannot be decoded, is truncated, or has NaN or infinite samples.
    """
    blocks: list[np.ndarray] = []
    missing = start + n_samples
    stream: Iterator[np.ndarray] = open_recording(path).blocks(rate)
    for block in stream:
        blocks.append(block)
        missing -= len(block)
        if missing < 0:  # strictly: a file of just this length is read to its end, where a truncation shows
            break
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return fit_length(torch.from_numpy(samples[start:]), n_samples)


def fit_length(waveform: Tensor, n_samples: int) -> Tensor:
    """Keep the first ``n_samples`` of a waveform (T,), or append zeros."""
    return F.pad(waveform[:n_samples], (0, max(0, n_samples - waveform.shape[0])))


def resampled_length(n_samples: int, rate: int, new_rate: int) -> int:
    """How many samples at ``new_rate`` Hz soxr makes of ``n_samples`` at ``rate`` Hz: the nearest integer, half up."""
    return (2 * n_samples * new_rate + rate) // (2 * rate)


def checksum(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits; remembered in this process until the file changes."""
    status = path.stat()
    return _checksum(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=65536)
def _checksum(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(*parts: object) -> str:
    """32 hexadecimal digits that change whenever one of the printable parts does."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).hexdigest()[:32]


def first_of(names: Sequence[str], count: int = 3) -> str:
    """The first few names and how many more there are: ``"a, b, c and 7 more"``."""
    shown = ", ".join(names[:count])
    return shown if len(names) <= count else f"{shown} and {len(names) - count} more"


def length_notes(lengths: Sequence[int], n_samples: int, rate: int) -> list[str]:
    """Say aloud what bringing clips to one length does to them.

    Parameters
    ----------
    lengths : sequence of int
        Samples that each clip has, at ``rate`` Hz.
    n_samples : int
        Samples that it is brought to.
    rate : int
        In Hz.

    Returns
    -------
    list of str
        Up to two sentences: the clips that were audibly cropped or padded, and those that differ by no more than
        ``INAUDIBLE_CUT_S``.
    """
    total = len(lengths)
    off = [length - n_samples for length in lengths]
    small = [d for d in off if d and abs(d) <= INAUDIBLE_CUT_S * rate]
    longer = [d for d in off if d > INAUDIBLE_CUT_S * rate]
    shorter = [-d for d in off if -d > INAUDIBLE_CUT_S * rate]
    notes = []
    if longer or shorter:
        parts = []
        if longer:
            parts.append(f"{len(longer)} cropped by up to {max(longer) / rate:.3g} s")
        if shorter:
            parts.append(f"{len(shorter)} zero-padded by up to {max(shorter) / rate:.3g} s")
        count = len(longer) + len(shorter)
        notes.append(
            f"{count} of {total} clips were cropped or zero-padded to {n_samples / rate:g} s: {', '.join(parts)}."
        )
    if small:
        most = max(abs(d) for d in small)
        notes.append(
            f"{len(small)} of {total} clips were cut or padded to {n_samples / rate:g} s by at most {most} samples "
            f"({1000 * most / rate:.2g} ms), which cannot be heard."
        )
    return notes
