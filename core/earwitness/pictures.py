"""Pictures of explanations, over Hz and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import FuncNorm, Normalize, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from earwitness.errors import StoreError
from earwitness.explanation import Example

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
        image = show_map(axis, level, frequencies_hz, duration_s, "magma", Normalize(-RANGE_DB, 0.0))
        axis.set_title(name, loc="left", fontsize=10)
        figure.colorbar(image, ax=axis, label="dB", pad=0.01)
    shown = relevance.numpy()
    norm = PowerNorm(0.5, 0.0, max(float(shown.max()), 1e-12))  # quiet relevance stays visible beside the loudest
    image = show_map(axes[1], shown, frequencies_hz, duration_s, "viridis", norm)
    axes[1].set_title("relevance", loc="left", fontsize=10)
    figure.colorbar(image, ax=axes[1], label="share of the maximum", pad=0.01)
    axes[2].set_xlabel("time in s")
    figure.suptitle(f"{title}\n{verdict}", fontsize=10, x=0.01, ha="left", wrap=True)
    return save_figure(figure, path)


@dataclass(frozen=True, eq=False)
class PartMaps:
    """A column of :func:`draw_parts`.

    Attributes
    ----------
    title : str
    relevance : Tensor (F, N)
        Signed.
    heard : Tensor (F, N)
        Power spectrogram of its sound.
    """

    title: str
    relevance: Tensor
    heard: Tensor


def draw_parts(
    path: Path,
    *,
    title: str,
    frequencies_hz: Tensor,
    duration_s: float,
    loudest: float,
    parts: Sequence[PartMaps],
) -> Path:
    """Relevance and sound of each part, in a column of its own; all columns on the same scales.

    Parameters
    ----------
    path : Path
        PNG file to write.
    title : str
        Printed above.
    frequencies_hz : Tensor (F,)
    duration_s : float
    loudest : float
        Power of the recording's loudest bin.
    parts : sequence of PartMaps

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    figure = Figure(figsize=(1.2 + 3.4 * len(parts), 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(parts), sharex=True, sharey=True, squeeze=False)
    largest = max(1e-30, *(float(part.relevance.abs().max()) for part in parts))
    # Quiet relevance stays visible beside the loudest, on either side of zero.
    signed = FuncNorm((lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * np.square(x)), -1.0, 1.0)
    decibels = Normalize(-RANGE_DB, 0.0)
    for column, part in enumerate(parts):
        shown = (part.relevance / largest).numpy()
        upper = show_map(axes[0, column], shown, frequencies_hz, duration_s, "RdBu_r", signed)
        level = 10 * np.log10(np.maximum(part.heard.numpy() / max(loudest, 1e-20), 1e-20))
        lower = show_map(axes[1, column], level, frequencies_hz, duration_s, "magma", decibels)
        axes[0, column].set_title(part.title, loc="left", fontsize=10)
        axes[1, column].set_xlabel("time in s")
        if column:
            for axis in axes[:, column]:
                axis.set_ylabel("")
    figure.colorbar(upper, ax=axes[0], label="relevance, of the largest", pad=0.01, ticks=[-1, -0.25, 0, 0.25, 1])
    figure.colorbar(lower, ax=axes[1], label="what is heard of it, dB", pad=0.01)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", wrap=True)
    return save_figure(figure, path)


def draw_examples(path: Path, *, title: str, examples: Sequence[Example]) -> Path:
    """Similarity and contribution of each example over frequency, in a row of its own.

    Parameters
    ----------
    path : Path
        PNG file to write.
    title : str
        Printed above.
    examples : sequence of Example
        Compared band by band.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    figure = Figure(figsize=(10, 1.0 + 1.7 * len(examples)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(examples), 2, sharex=True, sharey="col", squeeze=False)
    for (left, right), example in zip(axes, examples, strict=True):
        bands = example.bands
        assert bands is not None
        frequencies_hz = bands.frequencies_hz.numpy()
        left.fill_between(frequencies_hz, bands.similarity.numpy(), step="mid", color="tab:blue", alpha=0.6)
        left.set_title(f"{example.name} (similarity {example.similarity:.3g})", loc="left", fontsize=10)
        contribution = bands.contribution.numpy()
        for part, colour in ((contribution.clip(0), "tab:red"), (contribution.clip(max=0), "tab:blue")):
            right.fill_between(frequencies_hz, part, step="mid", color=colour, alpha=0.6)
        right.set_title(f"contribution {example.contribution:+.3g}", loc="left", fontsize=10)
        left.set_ylim(0, 1)
    for axis, name in zip(axes[-1], ("similarity", "contribution to the class"), strict=True):
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        axis.set_xticks(*frequency_ticks(low, high))
        axis.set_xticks([], minor=True)
        axis.set_xlabel(f"frequency in Hz ({name} by band)")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", wrap=True)
    return save_figure(figure, path)


def frequency_ticks(low: float, high: float) -> tuple[list[int], list[str]]:
    """Frequencies in Hz within a range, and how they are written."""
    ticks = [f for f in (100, 300, 1000, 3000, 10000) if low <= f <= high]
    return ticks, [f"{f:g}" if f < 1000 else f"{f / 1000:g}k" for f in ticks]


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG file; StoreError where it cannot be written."""
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error.strerror}.") from error
    return path


def show_map(
    axis: Axes,
    values: NDArray[np.float32],
    frequencies_hz: Tensor,
    duration_s: float,
    colours: str,
    norm: Normalize,
) -> QuadMesh:
    """Draw a map on a logarithmic frequency axis that begins at 50 Hz.

    Parameters
    ----------
    axis : Axes
    values : array (F, N)
    frequencies_hz : Tensor (F,)
        Ascending.
    duration_s : float
    colours : str
        A colour map of matplotlib.
    norm : Normalize
    """
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
    axis.set_yticks(*frequency_ticks(low, high))
    axis.set_yticks([], minor=True)
    return image
