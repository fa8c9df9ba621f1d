"""Seeded randomness that batching cannot change: row i draws from clip i's own stream."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def stream_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts, the same on every machine and in every process."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Random:
    """Random draws for the rows of a batch.

    Parameters
    ----------
    seed : int
        Seed of the run.
    clip_ids : sequence of str, length B
        Identity of each row. Draws depend on it and on ``name``, never on the row's place in a batch: rows of the
        same clip draw the same.
    """

    def __init__(self, seed: int, clip_ids: Sequence[str]) -> None:
        self.seed = seed
        self.clip_ids = tuple(clip_ids)

    def generators(self, name: str) -> list[torch.Generator]:
        """One CPU generator per row for the draw called ``name``; the same name gives the same numbers again."""
        return [torch.Generator().manual_seed(stream_seed(self.seed, clip_id, name)) for clip_id in self.clip_ids]

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1): Tensor (B, *shape), float32, on the CPU."""
        return torch.stack(
            [torch.rand(shape, generator=generator, dtype=torch.float32) for generator in self.generators(name)]
        )

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers: Tensor (B, *shape), float32, on the CPU."""
        return torch.stack(
            [torch.randn(shape, generator=generator, dtype=torch.float32) for generator in self.generators(name)]
        )
