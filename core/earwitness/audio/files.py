"""Sound files: the door where recordings enter, and the one where sounds leave.

Everything that decodes is accepted: any rate, any number of channels (averaged), clipped, hours long (streamed). What
does not is refused with one sentence: missing, a directory, empty, not audio, truncated, NaN or infinite samples.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from earwitness.errors import AudioError

CLIPPED_LEVEL = 0.999
"""Absolute level from which a sample counts as clipped."""

CONSTANT_RANGE = 1e-6
"""Peak-to-peak range below which a signal is constant."""

_BLOCK_S = 10.0
_UNKNOWN_LENGTHS = (0, 0xFFFFFFFF)  # what streaming encoders write for "until the end"


@dataclass(frozen=True)
class Recording:
    """A sound file that has been opened and looks sound.

    Attributes
    ----------
    path : Path
    rate : int
        In Hz.
    channels : int
    n_frames : int
        Samples per channel.
    """

    path: Path
    rate: int
    channels: int
    n_frames: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_frames / self.rate

    def is_constant(self) -> bool:
        """Whether all samples are equal (peak to peak below 1e-6), so that there is nothing to hear.

        Asked of the samples as they are stored: resampling makes the ends of a constant ring. As a rule the first
        block answers it.
        """
        low, high = np.inf, -np.inf
        for block, _ in self._decoded():
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            if not high - low < CONSTANT_RANGE:  # NaN counts as not constant, and is refused where it is read
                return False
        return True

    def blocks(self, rate: int) -> Iterator[NDArray[np.float32]]:
        """Mono float32 pieces at ``rate`` Hz, in order, in constant memory.

        Raises
        ------
        AudioError
            The file ends before its header says, cannot be decoded, or has NaN or infinite samples.
        """
        stream = soxr.ResampleStream(self.rate, rate, 1, dtype="float32", quality="HQ") if rate != self.rate else None
        read = 0
        for block, last in self._decoded():
            read += len(block)
            mono = block.mean(axis=1, dtype=np.float32)
            if not np.isfinite(mono).all():
                raise AudioError(f"{self.path} has NaN or infinite samples. Export it again from its source.")
            yield mono if stream is None else stream.resample_chunk(mono, last=last)
        if read < self.n_frames:
            raise AudioError(
                f"{self.path} is truncated: its header promises {self.n_frames} samples, {read} could be read. "
                "Copy it again from its source."
            )

    def _decoded(self) -> Iterator[tuple[NDArray[np.float32], bool]]:
        size = int(_BLOCK_S * self.rate)
        try:
            with soundfile.SoundFile(self.path) as file:
                read = 0
                while read < self.n_frames:
                    block = file.read(size, dtype="float32", always_2d=True)
                    read += len(block)
                    if not len(block):
                        return
                    yield block, read >= self.n_frames
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{self.path} is damaged: decoding stopped with '{error}'. Copy it again.") from error

    def windows(self, rate: int, n_window: int, n_hop: int) -> Iterator[tuple[int, Tensor]]:
        """Overlapping windows of the recording at ``rate`` Hz, in constant memory.

        Parameters
        ----------
        rate : int
            In Hz.
        n_window, n_hop : int
            In samples at ``rate``; ``n_hop <= n_window``.

        Yields
        ------
        (int, Tensor (n_window,) float32)
            First sample and samples. The last window ends where the recording ends, so it may overlap more; a
            recording shorter than a window comes as one short window.
        """
        kept: NDArray[np.float32] = np.zeros(0, np.float32)
        origin, start, covered = 0, 0, 0  # first sample in `kept`; of the next window; end of the last one
        for block in self.blocks(rate):
            kept = np.concatenate([kept, block])
            while origin + len(kept) >= start + n_window:
                yield start, torch.from_numpy(kept[start - origin : start - origin + n_window].copy())
                covered, start = start + n_window, start + n_hop
                # Should the recording end now, its last window begins up to one window before the next start.
                drop = max(0, start - n_window - origin)
                kept, origin = kept[drop:], origin + drop
        end = origin + len(kept)
        if end > covered:
            last = max(0, end - n_window)
            yield last, torch.from_numpy(kept[last - origin :].copy())


def open_recording(path: str | os.PathLike[str]) -> Recording:
    """Open a sound file and check what can be checked without decoding it.

    Parameters
    ----------
    path : path
        WAV, FLAC, Ogg Vorbis/Opus, MP3, AIFF, …: whatever libsndfile decodes.

    Returns
    -------
    Recording

    Raises
    ------
    AudioError
        No such file, a directory, empty, not audio, or truncated.
    """
    file = Path(path)
    if file.is_dir():
        raise AudioError(f"{file} is a directory. Give sound files, for example {file}/*.wav.")
    if not file.exists():
        raise AudioError(f"There is no file {file}.")
    if file.stat().st_size == 0:
        raise AudioError(f"{file} is empty (0 bytes).")
    try:
        info = soundfile.info(str(file))
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise AudioError(
            f"{file} is not a sound file that can be decoded ({_reason(error)}). Try WAV or FLAC."
        ) from error
    if info.frames <= 0 or info.samplerate <= 0:
        raise AudioError(f"{file} holds no samples.")
    missing = _missing_bytes(file)
    if missing:
        raise AudioError(f"{file} is truncated: {missing}. Copy it again from its source.")
    return Recording(file, info.samplerate, info.channels, info.frames)


def read_audio(path: str | os.PathLike[str]) -> tuple[Tensor, int]:
    """Read a whole sound file.

    Parameters
    ----------
    path : path

    Returns
    -------
    Tensor (channels, T), float32
        Nominally in [-1, 1].
    int
        Sampling rate in Hz.

    Raises
    ------
    AudioError
        See :func:`open_recording`; also NaN or infinite samples.
    """
    recording = open_recording(path)
    try:
        samples, rate = soundfile.read(recording.path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path} is damaged: decoding stopped with '{_reason(error)}'. Copy it again.") from error
    if len(samples) < recording.n_frames:
        raise AudioError(
            f"{path} is truncated: its header promises {recording.n_frames} samples, {len(samples)} could be read. "
            "Copy it again from its source."
        )
    if not np.isfinite(samples).all():
        raise AudioError(f"{path} has NaN or infinite samples. Export it again from its source.")
    return torch.from_numpy(np.ascontiguousarray(samples.T)), int(rate)


def write_audio(path: str | os.PathLike[str], waveform: Tensor, rate: int) -> Path:
    """Write a mono WAV file of 32-bit floats (no clipping, no rounding), whole or not at all.

    Parameters
    ----------
    path : path
    waveform : Tensor (T,), float32
    rate : int
        In Hz.

    Raises
    ------
    AudioError
        The folder cannot be written to.
    """
    target = Path(path)
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".wav", delete=False) as temporary:
            name = temporary.name
        try:
            soundfile.write(name, waveform.detach().cpu().numpy(), rate, subtype="FLOAT")
            os.chmod(name, 0o644)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except (OSError, soundfile.LibsndfileError) as error:
        raise AudioError(
            f"Cannot write {target}: {_reason(error)}. Is the folder writable, and the disk not full?"
        ) from error
    return target


def clipped_share(waveform: Tensor) -> float:
    """Share of samples at or beyond full scale; more than 0.1 % is worth a warning."""
    return float((waveform.abs() >= CLIPPED_LEVEL).float().mean())


def is_constant(waveforms: Tensor) -> Tensor:
    """Which rows (B,) of (B, T) are silent or constant (peak-to-peak below 1e-6): nothing to hear in them."""
    return (waveforms.amax(-1) - waveforms.amin(-1)) < CONSTANT_RANGE


def _reason(error: BaseException) -> str:
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return str(text).strip().rstrip(".")


def _missing_bytes(path: Path) -> str:
    """Say what is missing at the end of a WAV or Ogg file that was cut off; libsndfile passes over it silently."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            return _missing_in_wave(file, size)
        if head[:4] == b"OggS":
            file.seek(max(0, size - 65_307 - 27))  # the largest Ogg page
            tail = file.read()
            last = tail.rfind(b"OggS")
            complete = last >= 0 and len(tail) > last + 26 and tail[last + 5] & 4
            return "" if complete else "its last Ogg page is missing"
    return ""


def _missing_in_wave(file: object, size: int) -> str:
    read, seek, tell = file.read, file.seek, file.tell  # type: ignore[attr-defined]
    while True:
        header = read(8)
        if len(header) < 8:
            return ""
        name, length = struct.unpack("<4sI", header)
        if name == b"data":
            available = size - tell()
            if length in _UNKNOWN_LENGTHS or length <= available:
                return ""
            return f"its header promises {length} bytes of samples, {available} are there"
        seek(length + length % 2, 1)
