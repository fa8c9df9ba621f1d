"""SPS and COMP of a batch of masks, against Quantus' Sparseness and Complexity called row by row.

    python benchmarks/perf/mask_shape.py

64 masks on the listening STFT of 5 s at 22 kHz. Row by row is how Quantus has to be called: it normalises a batch by
its largest map, and refuses a whole batch for one constant map. No bound is promised.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import numpy as np
import torch
from side_by_side import gate, ratios
from torch import Tensor

from earwitness.audio.stft import ListeningSTFT
from earwitness_bench.metrics.formulas import complexity, sparseness

with warnings.catch_warnings():
    import quantus

N_MASKS, RATE, SECONDS = 64, 22050, 5


def main() -> int:
    """Print the table."""
    stft = ListeningSTFT.for_rate(RATE)
    shape = (N_MASKS, stft.n_bins, stft.n_frames(SECONDS * RATE))
    masks = torch.rand(shape, generator=torch.Generator().manual_seed(0)) ** 3
    print(f"{torch.get_num_threads()} threads, {N_MASKS} masks of {shape[1]} x {shape[2]} cells")
    for name, ours, theirs in (
        ("SPS", sparseness, quantus.Sparseness(disable_warnings=True)),
        ("COMP", complexity, quantus.Complexity(disable_warnings=True)),
    ):
        median, _ = ratios(lambda peer=theirs: row_by_row(peer, masks), lambda own=ours: own(masks), rounds=3)
        deviation = float((ours(masks) - row_by_row(theirs, masks)).abs().max())
        gate(f"{name} of {N_MASKS} masks: times faster than quantus.{type(theirs).__name__} row by row", median)
        gate("  largest difference from it", deviation, at_most=1e-4)
    return 0


def row_by_row(metric: Callable[..., list[float]], masks: Tensor) -> Tensor:
    """Quantus' numbers (B,) for masks (B, F, N)."""
    rows = masks.numpy()[:, None, None]
    scores = [
        metric(model=None, x_batch=row, y_batch=np.zeros(1, int), a_batch=row.copy(), channel_first=True)[0]
        for row in rows
    ]
    return torch.tensor(np.array(scores), dtype=torch.float32)


if __name__ == "__main__":
    sys.exit(main())
