"""Sound files: the door where recordings enter, and the one where sounds leave.

Everything that decodes is accepted: any rate, any number of channels (averaged), clipped, hours long (streamed). What
does not is refused with one sentence: missing, a directory, empty, not audio, truncated, NaN or infinite samples,
samples whose energy would overflow.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from earwitness.errors import AudioError, ConfigurationError

CLIPPED_LEVEL = 0.999
"""Absolute level from which a sample counts as clipped."""

LOUDEST = 1e9
"""Samples beyond are no sound. Integers that were never scaled stay below; powers of a spectrum overflow at 1e15."""

CONSTANT_RANGE = 1e-6
"""Peak-to-peak range below which a signal is constant."""

_BLOCK_S = 10.0
_BLOCK_VALUES = 2**20  # over all channels: a block of 10 s at a hostile rate, or of 1024 channels, would be gigabytes
_HIGHEST_RATE = 10_000_000
_UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile says of a streamed FLAC file
_UNKNOWN_LENGTHS = (0x7FFFF000, 0xFFFFFFFF)  # what SoX and ffmpeg write when they stream, for "until the end"
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255


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
            if high - low >= CONSTANT_RANGE:
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
        for block, last in self._decoded():
            mono = block.mean(axis=1, dtype=np.float32)
            yield mono if stream is None else stream.resample_chunk(mono, last=last)

    def _decoded(self) -> Iterator[tuple[NDArray[np.float32], bool]]:
        """Pieces (samples, channels) that can be used, each with whether it is the last; raises as :meth:`blocks`."""
        size = max(1, min(int(_BLOCK_S * self.rate), _BLOCK_VALUES // self.channels))
        read = 0
        try:
            with soundfile.SoundFile(self.path) as file:
                while read < self.n_frames:
                    block = file.read(size, dtype="float32", always_2d=True)
                    if not len(block):
                        raise AudioError(
                            f"{self.path} is truncated: its header promises {self.n_frames} samples, {read} could be "
                            "read. Copy it again from its source."
                        )
                    if not np.isfinite(block).all():
                        raise AudioError(f"{self.path} has NaN or infinite samples. Export it again from its source.")
                    if (peak := float(np.abs(block).max())) > LOUDEST:
                        raise AudioError(
                            f"{self.path} has samples of {peak:.3g}, where full scale is 1: their energy overflows. "
                            "Divide them by their maximum."
                        )
                    read += len(block)
                    yield block, read >= self.n_frames
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError(
                f"{self.path} is truncated or damaged: decoding stopped after {read} of {self.n_frames} samples "
                f"({_reason(error)}). Copy it again from its source."
            ) from error

    def windows(self, rate: int, n_window: int, n_hop: int) -> Iterator[tuple[int, Tensor]]:
        """Overlapping windows of the recording at ``rate`` Hz, in constant memory.

        Parameters
        ----------
        rate : int
            In Hz.
        n_window, n_hop : int
            In samples at ``rate``; ``0 < n_hop <= n_window``.

        Yields
        ------
        (int, Tensor (n_window,) float32)
            First sample and samples. The last window ends where the recording ends, so it may overlap more; a
            recording shorter than a window comes as one short window.

        Raises
        ------
        AudioError
            See :meth:`blocks`.
        ConfigurationError
            Windows do not overlap or touch.
        """
        if not 0 < n_hop <= n_window:
            raise ConfigurationError(f"Windows need 0 < n_hop <= n_window, got {n_hop} and {n_window} samples.")
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
        No such file, a directory, empty, not audio, without samples, or truncated (as far as that shows without
        decoding).
    """
    file = Path(path)
    if file.is_dir():
        raise AudioError(f"{file} is a directory. Give sound files, for example {file}/*.wav.")
    if not file.exists():
        raise AudioError(f"There is no file {file}.")
    if not file.is_file():
        raise AudioError(f"{file} is a device or a pipe. Save the sound to a file first.")
    if file.stat().st_size == 0:
        raise AudioError(f"{file} is empty (0 bytes).")
    try:
        info = soundfile.info(str(file))
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise AudioError(
            f"{file} is not a sound file that can be decoded ({_reason(error)}). Try WAV or FLAC."
        ) from error
    if info.frames <= 0:
        raise AudioError(f"{file} holds no samples.")
    if info.frames == _UNKNOWN_FRAMES:
        raise AudioError(f"{file} does not say how long it is: it was streamed. Encode it again, from file to file.")
    if not 0 < info.samplerate <= _HIGHEST_RATE:
        raise AudioError(f"{file} claims a sampling rate of {info.samplerate} Hz: its header is damaged.")
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
    samples = np.concatenate([block for block, _ in recording._decoded()])
    return torch.from_numpy(np.ascontiguousarray(samples.T)), recording.rate


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
        The waveform is not mono, or the folder cannot be written to.
    """
    target = Path(path)
    if waveform.ndim != 1:
        raise AudioError(f"Expected a mono waveform of shape (T,) for {target}, got {tuple(waveform.shape)}.")
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", suffix=".wav", delete=False) as temporary:
            name = temporary.name
        try:
            soundfile.write(name, waveform.detach().float().cpu().numpy(), rate, subtype="FLOAT")
            forget_when_written(name)
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


def forget_when_written(path: str | os.PathLike[str]) -> None:
    """Clear the time stamp that libsndfile puts into a float WAV's PEAK chunk, so that equal sounds are equal files."""
    with open(path, "r+b") as file:
        place = file.read(256).find(b"PEAK")
        if place >= 0:
            file.seek(place + 12)  # name, length and version come first
            file.write(bytes(4))


def is_constant(waveforms: Tensor) -> Tensor:
    """Which rows (B,) of (B, T) are silent or constant (peak-to-peak below 1e-6): nothing to hear in them."""
    return (waveforms.amax(-1) - waveforms.amin(-1)) < CONSTANT_RANGE


def _reason(error: BaseException) -> str:
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return str(text).strip().rstrip(".")


def _missing_bytes(path: Path) -> str:
    """What is missing at the end of a WAV, AIFF, AU or Ogg file that was cut off, or ``""``.

    libsndfile passes over it silently. FLAC and MP3 show it when they are decoded.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        kind = head[:4]
        if kind in (b"RIFF", b"RIFX", b"RF64") and head[8:] == b"WAVE":
            promised, available = _sample_bytes(file, size, b"data", ">" if kind == b"RIFX" else "<")
        elif kind == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
            promised, available = _sample_bytes(file, size, b"SSND", ">")
        elif kind == b".snd":
            offset, promised = struct.unpack(">II", head[4:])
            available = size - offset
        elif kind == b"OggS":
            return "" if _ends_an_ogg_stream(file, size) else "its last Ogg page is missing or cut"
        else:
            return ""
    if promised in _UNKNOWN_LENGTHS or promised <= available:
        return ""
    return f"its header promises {promised} bytes of samples, {available} are there"


def _sample_bytes(file: BinaryIO, size: int, wanted: bytes, order: str) -> tuple[int, int]:
    """How many bytes of samples the chunks of a RIFF-like file promise, and how many are there."""
    long_length = None
    while len(header := file.read(8)) == 8:
        name, length = struct.unpack(f"{order}4sI", header)
        start = file.tell()
        if name == wanted:
            return (length if long_length is None else long_length), size - start
        if name == b"ds64" and len(sizes := file.read(16)) == 16:  # RF64: beyond 4 GiB
            long_length = struct.unpack("<QQ", sizes)[1]
        file.seek(start + length + length % 2)
    return 0, 0


def _ends_an_ogg_stream(file: BinaryIO, size: int) -> bool:
    """Whether the last page is whole and says that it is the last."""
    file.seek(max(0, size - 2 * _LARGEST_OGG_PAGE))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27 or not page[5] & 4:
        return False
    lacing = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(lacing)
