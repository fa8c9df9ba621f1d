"""Small sound files, for trees that look like published data sets."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import soundfile


def write_sound(path: Path, n_frames: int, rate: int, *, channels: int = 1, settled: bool = False) -> Path:
    """A WAV file of noise that depends on its path alone; ``settled``: as if it had not changed for an hour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(zlib.crc32(path.name.encode())).uniform(-0.5, 0.5, (n_frames, channels))
    soundfile.write(path, noise, rate, subtype="PCM_16")
    if settled:
        age(path)
    return path


def age(path: Path, seconds: float = 3600) -> None:
    """Set the time of a file's last change back."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - int(seconds * 1e9)))
