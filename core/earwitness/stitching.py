"""Overlapping windows back into one sound or one picture, in constant memory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soundfile
import torch
from torch import Tensor

from earwitness.audio.files import forget_when_written
from earwitness.errors import AudioError
from earwitness.grid import Grid


class StitchedSound:
    """A WAV file (32-bit float) made of overlapping windows, each faded into the next.

    The fades sum to one, so what adds up within every window adds up in the whole. The file appears when the context
    is left without an error, and not at all otherwise.

    Parameters
    ----------
    path : Path
    rate : int
        In Hz.
    """

    def __init__(self, path: Path, rate: int) -> None:
        self.path = path
        try:
            handle, self._temporary = tempfile.mkstemp(dir=path.parent, suffix=".wav")
            os.close(handle)
            self._file = soundfile.SoundFile(self._temporary, "w", rate, 1, subtype="FLOAT", format="WAV")
        except (OSError, soundfile.LibsndfileError) as error:
            raise AudioError(f"Cannot write {path}: {error}. Is the folder writable?") from error
        self._origin = 0
        self._sum = torch.zeros(0, dtype=torch.float64)
        self._weight = torch.zeros(0, dtype=torch.float64)
        self.energy = 0.0
        self.n_samples = 0

    def __enter__(self) -> Self:
        return self

    def add(self, start: int, waveform: Tensor) -> None:
        """Add a window (T,) that begins at sample ``start``; windows come in order."""
        self._flush(start)
        length = waveform.shape[0]
        fade = torch.sin(torch.pi * (torch.arange(length, dtype=torch.float64) + 0.5) / length).square()
        missing = start + length - self._origin - len(self._sum)
        if missing > 0:
            self._sum = torch.cat([self._sum, torch.zeros(missing, dtype=torch.float64)])
            self._weight = torch.cat([self._weight, torch.zeros(missing, dtype=torch.float64)])
        place = slice(start - self._origin, start - self._origin + length)
        self._sum[place] += fade * waveform.double().cpu()
        self._weight[place] += fade

    def _flush(self, until: int) -> None:
        n_ready = min(until - self._origin, len(self._sum))
        if n_ready <= 0:
            return
        ready = (self._sum[:n_ready] / self._weight[:n_ready]).float().numpy()
        try:
            self._file.write(ready)
        except (OSError, soundfile.LibsndfileError) as error:
            raise AudioError(f"Cannot write {self.path}: {error}. Is the disk full?") from error
        self.energy += float(np.square(ready, dtype=np.float64).sum())
        self.n_samples += n_ready
        self._sum, self._weight = self._sum[n_ready:], self._weight[n_ready:]
        self._origin += n_ready

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush(self._origin + len(self._sum))
        finally:
            self._file.close()
            if kind is None:
                forget_when_written(self._temporary)
                os.chmod(self._temporary, 0o644)
                os.replace(self._temporary, self.path)
            else:
                os.unlink(self._temporary)


class StitchedPicture:
    """Maps of overlapping windows averaged onto a fixed number of columns.

    Parameters
    ----------
    duration_s : float
        Of the whole recording.
    frequencies_hz : Tensor (F,)
    n_columns : int
    names : tuple of str
        The maps that are kept.
    """

    def __init__(self, duration_s: float, frequencies_hz: Tensor, n_columns: int, names: tuple[str, ...]) -> None:
        self.duration_s = duration_s
        self.frequencies_hz = frequencies_hz
        self._sums = {name: torch.zeros(len(frequencies_hz), n_columns) for name in names}
        self._counts = torch.zeros(n_columns)

    def add(self, start_s: float, grid: Grid, maps: dict[str, Tensor]) -> None:
        """Add the maps (F, N) of a window that begins at ``start_s``."""
        n_columns = len(self._counts)
        place = ((grid.times_s + start_s) / self.duration_s * n_columns).long().clamp(0, n_columns - 1)
        self._counts.index_add_(0, place, torch.ones(len(place)))
        for name, values in maps.items():
            self._sums[name].index_add_(1, place, values.detach().float().cpu())

    def map(self, name: str) -> Tensor:
        """The averaged map (F, n_columns); 0 where there was no frame."""
        return self._sums[name] / self._counts.clamp_min(1)
