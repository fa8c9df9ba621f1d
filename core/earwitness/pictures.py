"""Pictures of explanations, over Hz and seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from earwitness.errors import StoreError

RANGE_DB = 70.0
"""Dynamic range of spectrograms, below the recording's loudest bin."""


def draw_explanation(
    path: Path,
    *,
    title: str,
    verdict: str,
    frequencies_hz: Tensor,
    duration_s: float,
    recording: Tensor,
    relevance: Tensor,
    heard: Tensor,
) -> Path:
    """Recording, relevance and what is heard, one above the other.

    Parameters
    ----------
    path : Path
        PNG file to write.
    title, verdict : str
        Printed above.
    frequencies_hz : Tensor (F,)
    duration_s : float
    recording, heard : Tensor (F, N)
        Power spectrograms.
    relevance : Tensor (F, N), in [0, 1]

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    figure = Figure(figsize=(10, 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 1, sharex=True, sharey=True)
    peak = max(float(recording.max()), 1e-20)
    for axis, power, name in ((axes[0], recording, "recording"), (axes[2], heard, "what is heard")):
        level = 10 * np.log10(np.maximum(power.numpy() / peak, 1e-20))
        image = _show(axis, level, frequencies_hz, duration_s, "magma", Normalize(-RANGE_DB, 0.0))
        axis.set_title(name, loc="left", fontsize=10)
        figure.colorbar(image, ax=axis, label="dB", pad=0.01)
    shown = relevance.numpy()
    norm = PowerNorm(0.5, 0.0, max(float(shown.max()), 1e-12))  # quiet relevance stays visible beside the loudest
    image = _show(axes[1], shown, frequencies_hz, duration_s, "viridis", norm)
    axes[1].set_title("relevance", loc="left", fontsize=10)
    figure.colorbar(image, ax=axes[1], label="share of the maximum", pad=0.01)
    axes[2].set_xlabel("time in s")
    figure.suptitle(f"{title}\n{verdict}", fontsize=10, x=0.01, ha="left", wrap=True)
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error.strerror}.") from error
    return path


def _show(
    axis: Axes,
    values: NDArray[np.float32],
    frequencies_hz: Tensor,
    duration_s: float,
    colours: str,
    norm: Normalize,
) -> QuadMesh:
    """Draw a map on a logarithmic frequency axis that begins at 50 Hz."""
    low = max(50.0, float(frequencies_hz[1]))
    high = float(frequencies_hz[-1])
    rows = np.geomspace(low, high, 256)
    index = np.searchsorted(frequencies_hz.numpy(), rows).clip(0, len(frequencies_hz) - 1)
    image = axis.pcolormesh(
        np.linspace(0, duration_s, values.shape[1] + 1),
        np.geomspace(low, high, 257),
        values[index],
        cmap=colours,
        norm=norm,
        rasterized=True,
    )
    axis.set_yscale("log")
    axis.set_ylabel("frequency in Hz")
    ticks = [f for f in (100, 300, 1000, 3000, 10000) if low <= f <= high]
    axis.set_yticks(ticks, [f"{f:g}" if f < 1000 else f"{f / 1000:g}k" for f in ticks])
    axis.set_yticks([], minor=True)
    return image
