"""Pictures of a network's prototypes and of its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from earwitness.pictures import RANGE_DB, frequency_ticks, save_figure, show_map

_NUMBERED = 60


def draw_prototypes(
    paths: Sequence[Path],
    *,
    levels: Tensor,
    frequencies_hz: Tensor,
    duration_s: float,
    weights: Tensor,
    bands_hz: Tensor,
) -> Iterator[Path]:
    """One picture a prototype: its mel spectrogram and, beside it, its weights H over the same frequencies.

    Parameters
    ----------
    paths : sequence of Path, length M
        PNG files to write.
    levels : Tensor (M, F, T)
        In dB.
    frequencies_hz : Tensor (F,)
    duration_s : float
    weights : Tensor (M, F')
    bands_hz : Tensor (F',)
        Middle of each latent band.

    Raises
    ------
    StoreError
        A file cannot be written.
    """
    low, high = min(0.0, float(weights.min())), max(1e-9, float(weights.max()))
    for path, level, weight in zip(paths, levels, weights, strict=True):
        figure = Figure(figsize=(6.4, 2.9))
        figure.subplots_adjust(left=0.11, right=0.985, bottom=0.17, top=0.97, wspace=0.05)  # quicker than a layout
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
        shown = (level - level.max()).numpy()
        show_map(left, shown, frequencies_hz, duration_s, "magma", Normalize(-RANGE_DB, 0.0))
        left.set_xlabel("time in s")
        right.fill_betweenx(bands_hz.numpy(), weight.numpy(), step="mid", color="tab:blue", alpha=0.6)
        right.axvline(0, color="gray", linewidth=0.6)
        right.set_xlim(1.05 * low, 1.05 * high)
        right.tick_params(labelleft=False, labelsize=7)
        right.set_xlabel("weight H")
        yield save_figure(figure, path)


def draw_class_weights(path: Path, *, weights: Tensor, classes: Tensor, labels: Sequence[str]) -> Path:
    """W: what each prototype, in a column, says for and against each class, in a row.

    Parameters
    ----------
    path : Path
    weights : Tensor (M, K)
    classes : Tensor (M,), int64
    labels : sequence of str, length K

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    order = classes.argsort(stable=True)
    figure, axis = _wide(len(order), 1.6 + 0.24 * len(labels))
    most = max(1e-9, float(weights.abs().max()))
    image = axis.imshow(weights[order].T.numpy(), aspect="auto", cmap="RdBu_r", norm=Normalize(-most, most))
    axis.set_yticks(range(len(labels)), [_plain(label) for label in labels], fontsize=8)
    _columns(axis, order.tolist(), classes[order])
    figure.colorbar(image, ax=axis, label="weight W", pad=0.01)
    return save_figure(figure, path)


def draw_frequency_weights(
    path: Path, *, weights: Tensor, classes: Tensor, labels: Sequence[str], bands_hz: Tensor
) -> Path:
    """H: how much each frequency counts, in a row, for each prototype, in a column.

    Parameters
    ----------
    path : Path
    weights : Tensor (M, F')
    classes : Tensor (M,), int64
    labels : sequence of str, length K
        Written above their prototypes.
    bands_hz : Tensor (F',)

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    order = classes.argsort(stable=True)
    figure, axis = _wide(len(order), 4.4)
    image = axis.imshow(weights[order].T.numpy(), aspect="auto", cmap="viridis", origin="lower")
    hz = bands_hz.numpy()
    ticks, names = frequency_ticks(float(hz[0]), float(hz[-1]))
    axis.set_yticks(np.interp(ticks, hz, np.arange(len(hz))), names)
    axis.set_ylabel("frequency in Hz")
    _columns(axis, order.tolist(), classes[order])
    starts = _starts(classes[order])
    for start in starts:
        name = _plain(labels[int(classes[order][start])])
        axis.annotate(name, (start - 0.5, 1.01), xycoords=("data", "axes fraction"), rotation=35, fontsize=8)
    figure.colorbar(image, ax=axis, label="weight H", pad=0.01)
    return save_figure(figure, path)


def _wide(columns: int, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(max(6.0, min(16.0, 2.5 + 0.22 * columns)), height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _columns(axis: Axes, order: Sequence[int], classes: Tensor) -> None:
    """Numbers of prototypes, where there is room, and lines between classes."""
    step = -(-len(order) // _NUMBERED)
    axis.set_xticks(range(0, len(order), step), [str(j + 1) for j in order[::step]], fontsize=7)
    axis.set_xlabel("prototype" if step == 1 else f"prototype (one in {step} is numbered)")
    for start in _starts(classes)[1:]:
        axis.axvline(start - 0.5, color="black", linewidth=0.6)


def _starts(classes: Tensor) -> list[int]:
    found = classes.tolist()
    return [place for place in range(len(found)) if not place or found[place] != found[place - 1]]


def _plain(text: str) -> str:
    """A name as it is: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")
