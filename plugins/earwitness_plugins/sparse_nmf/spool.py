"""Blocks of frames in a file, so that neither a spectrogram nor its activations need fit in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from earwitness.errors import StoreError
from earwitness_plugins.sparse_nmf.descent import BLOCK_FRAMES, SLOTS


class Spool:
    """Blocks of ``BLOCK_FRAMES`` frames in a file, read back by number; the last one may be shorter.

    Read and written with plain calls, not mapped: pages of the file then count as the system's cache, not as memory in
    use.

    Parameters
    ----------
    path : Path
        Made if need be; what is in it stays.
    rows : int
        Of each matrix.
    n_frames : int
        In all.
    parts : int
        Matrices (rows, n) of each block.

    Raises
    ------
    StoreError
        The folder cannot be written.
    """

    def __init__(self, path: Path, rows: int, n_frames: int, parts: int = 1) -> None:
        self.path, self.rows, self.n_frames, self.parts = path, rows, n_frames, parts
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise StoreError(f"Cannot write {path}: {error.strerror}. Is the folder writable?") from error

    def __len__(self) -> int:
        return math.ceil(self.n_frames / BLOCK_FRAMES)

    def __iter__(self) -> Iterator[Tensor]:
        return (self.read(number) for number in range(len(self)))

    def read(self, number: int, part: int = 0) -> Tensor:
        """Part of block ``number``: Tensor (rows, n), float32.

        Raises
        ------
        StoreError
            The file is too short: somebody else has changed it.
        """
        with self.path.open("rb") as file:
            file.seek(self._offset(number, part))
            values = np.fromfile(file, dtype=np.float32, count=self.rows * self._length(number))
        if values.size != self.rows * self._length(number):
            raise StoreError(f"{self.path} is shorter than what was written. Remove its folder and start again.")
        return torch.from_numpy(values).reshape(self.rows, -1)

    def write(self, number: int, block: Tensor, part: int = 0) -> None:
        """Put a matrix (rows, n) in its place.

        Raises
        ------
        StoreError
            The disk is full.
        """
        try:
            with self.path.open("r+b") as file:
                file.seek(self._offset(number, part))
                file.write(block.detach().to("cpu", torch.float32).contiguous().numpy().data)
        except OSError as error:
            raise StoreError(f"Cannot write {self.path}: {error.strerror}. Is the disk full?") from error

    def _length(self, number: int) -> int:
        return min(BLOCK_FRAMES, self.n_frames - number * BLOCK_FRAMES)

    def _offset(self, number: int, part: int) -> int:
        before = self.parts * number * BLOCK_FRAMES + part * self._length(number)
        return before * self.rows * np.dtype(np.float32).itemsize


def spooled(path: Path, stream: Iterable[Tensor], n_bins: int) -> Spool:
    """Write a stream of spectrograms (F, n), of any lengths, as blocks; what was in the file is gone."""
    path.unlink(missing_ok=True)
    spool = Spool(path, n_bins, 0)
    for block in reblocked(stream):
        spool.n_frames += block.shape[1]
        spool.write(len(spool) - 1, block)
    return spool


def reblocked(stream: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same frames in blocks of ``BLOCK_FRAMES``: (F, n), (F, n'), … -> (F, BLOCK_FRAMES), …, (F, the rest)."""
    waiting: list[Tensor] = []
    for piece in stream:
        waiting.append(piece)
        while sum(one.shape[1] for one in waiting) >= BLOCK_FRAMES:
            joined = torch.cat(waiting, dim=1)
            yield joined[:, :BLOCK_FRAMES]
            waiting = [joined[:, BLOCK_FRAMES:]]
    rest = torch.cat(waiting, dim=1) if waiting else None
    if rest is not None and rest.shape[1]:
        yield rest


class DiskShelf:
    """A :class:`~earwitness_plugins.sparse_nmf.descent.Shelf` in a file.

    A pass writes to slots that it does not read. So a pass that is killed has spoilt nothing, and can be run again.

    Parameters
    ----------
    path : Path
    n_restarts, n_patterns, n_frames : int
        R, K, N.
    device : torch.device or str
        Of what is read.
    """

    def __init__(
        self, path: Path, n_restarts: int, n_patterns: int, n_frames: int, *, device: torch.device | str
    ) -> None:
        self._spool = Spool(path, n_patterns, n_frames, SLOTS * n_restarts)
        self._n_restarts, self._device = n_restarts, device

    def fill(self, start: Iterable[Tensor]) -> None:
        """Blocks (R, K, n) into the first slot."""
        first = torch.zeros(self._n_restarts, dtype=torch.int64)
        for number, block in enumerate(start):
            self.write(number, first, block)

    def read(self, number: int, slots: Tensor) -> Tensor:
        return torch.stack([self._spool.read(number, part) for part in self._parts(slots)]).to(self._device)

    def write(self, number: int, slots: Tensor, activations: Tensor) -> None:
        for part, own in zip(self._parts(slots), activations, strict=True):
            self._spool.write(number, own, part)

    def _parts(self, slots: Tensor) -> list[int]:
        return [slot * self._n_restarts + restart for restart, slot in enumerate(slots.tolist())]
